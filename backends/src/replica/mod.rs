//! What the indexes share, which are replicas of the store's change log.

#[cfg(any(feature = "tantivy", feature = "usearch"))]
mod embedded;
pub(crate) mod terms;

#[cfg(any(feature = "tantivy", feature = "usearch"))]
pub(crate) use embedded::{Held, Progress, blocking, search_threads};
