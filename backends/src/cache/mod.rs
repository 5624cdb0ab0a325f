//! Short-lived data: implementations of [`raglan_pipeline::ports::Cache`].

mod in_process;
#[cfg(feature = "redis")]
mod redis;

pub use self::in_process::InProcessCache;
#[cfg(feature = "redis")]
pub use self::redis::RedisCache;
