//! The one place that composes: which engine is behind which port.

mod embedded;
mod health;
mod models;
mod secrets;

pub use embedded::{Embedded, EmbeddedParts, lock};
pub use models::{Models, embedding_model};
