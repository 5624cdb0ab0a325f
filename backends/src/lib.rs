//! How Raglan does it: one folder per port, one file per engine. The only crate that names drivers and model runtimes.

pub mod blob_store;
pub mod broker;
pub mod cache;
#[cfg(feature = "postgres")]
pub mod coordination;
#[cfg(any(feature = "sqlite", feature = "postgres"))]
pub mod database;
#[cfg(any(feature = "sqlite", feature = "postgres"))]
pub mod delivery_store;
#[cfg(any(feature = "sqlite", feature = "postgres"))]
pub mod document_store;
pub mod embedder;
pub mod event_log;
pub mod generator;
#[cfg(feature = "http")]
mod http_client;
#[cfg(any(feature = "sqlite", feature = "postgres"))]
pub mod job_store;
pub mod keyword_index;
#[cfg(feature = "http")]
pub mod model_server;
#[cfg(feature = "models")]
pub mod models;
#[cfg(feature = "parsers")]
pub mod parser;
#[cfg(feature = "redis")]
pub mod redis_client;
#[cfg(any(feature = "qdrant", feature = "tantivy", feature = "usearch"))]
mod replica;
pub mod reranker;
#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::print_stdout, dead_code)]
// each backend's tests use what they need of it
mod test_servers;
pub mod vector_index;
#[cfg(feature = "http")]
pub mod webhook_sender;
