//! The one place that composes: which engine is behind which port.

mod embedded;
mod health;
mod models;
mod secrets;

pub use embedded::{Embedded, EmbeddedParts};
pub use models::{Models, embedding_model};
pub use secrets::signing_secrets;
