//! The one place that composes: which engine is behind which port.

mod core;
mod distributed;
mod embedded;
mod folder;
mod generators;
mod health;
mod indexes;
mod model_servers;
mod models;
mod secrets;

pub use distributed::{Distributed, DistributedParts, Problems, destroy, migrate};
pub use embedded::{Embedded, EmbeddedParts};
pub use folder::lock;
pub(crate) use generators::language_model;
pub use model_servers::{remote_embedder, remote_reranker};
pub use models::{Models, embedding_model, placement};
