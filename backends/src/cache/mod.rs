//! Short-lived data: implementations of [`raglan_pipeline::ports::Cache`].

mod in_process;

pub use in_process::InProcessCache;
