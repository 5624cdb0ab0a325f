//! The record of documents: see [`raglan_pipeline::ports::DocumentStore`].

mod sqlite;

pub use sqlite::SqliteDocumentStore;
