//! The ports: what the stages need of the outside, one trait a file. The doc comment of each trait is its
//! contract, and [`crate::contract`] has it as a suite that every implementation runs.
//!
//! All are object-safe and taken as `Arc<dyn Port>`.

mod blob_store;
mod broker;
mod cache;
mod coordination;
mod delivery_store;
mod document_store;
mod embedder;
mod error;
mod event_log;
mod generator;
mod index;
mod job_store;
mod parser;
mod reranker;
mod webhook_sender;

pub use blob_store::*;
pub use broker::*;
pub use cache::*;
pub use coordination::*;
pub use delivery_store::*;
pub use document_store::*;
pub use embedder::*;
pub use error::*;
pub use event_log::*;
pub use generator::*;
pub use index::*;
pub use job_store::*;
pub use parser::*;
pub use reranker::*;
pub use webhook_sender::*;
