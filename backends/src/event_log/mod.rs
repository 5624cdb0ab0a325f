//! The events of jobs: implementations of [`raglan_pipeline::ports::EventLog`].

mod in_process;

pub use in_process::{EventLogSettings, InProcessEventLog};
