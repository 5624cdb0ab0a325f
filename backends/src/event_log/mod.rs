//! The events of jobs: implementations of [`raglan_pipeline::ports::EventLog`].

mod in_process;
#[cfg(feature = "redis")]
mod redis;

pub use self::in_process::{EventLogSettings, InProcessEventLog};
#[cfg(feature = "redis")]
pub use self::redis::{RedisEventLog, RedisEventLogSettings};
