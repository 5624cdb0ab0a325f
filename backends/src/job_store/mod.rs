//! The record of jobs: see [`raglan_pipeline::ports::JobStore`].

mod record;
mod sqlite;

pub use sqlite::SqliteJobStore;
