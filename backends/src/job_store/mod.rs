//! The record of jobs: see [`raglan_pipeline::ports::JobStore`].

#[cfg(feature = "postgres")]
mod postgres;
mod record;
mod row;
#[cfg(feature = "sqlite")]
mod sqlite;

#[cfg(feature = "postgres")]
pub use postgres::PostgresJobStore;
#[cfg(feature = "sqlite")]
pub use sqlite::SqliteJobStore;
