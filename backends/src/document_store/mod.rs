//! The record of documents: see [`raglan_pipeline::ports::DocumentStore`].

#[cfg(feature = "postgres")]
mod postgres;
mod rows;
mod rules;
#[cfg(feature = "sqlite")]
mod sqlite;

#[cfg(feature = "postgres")]
pub use postgres::PostgresDocumentStore;
#[cfg(feature = "sqlite")]
pub use sqlite::SqliteDocumentStore;
