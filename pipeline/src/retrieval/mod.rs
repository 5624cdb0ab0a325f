//! From a question to passages: both searches at once, fused, checked against the store, de-duplicated, re-ranked,
//! neighbours put together.

mod duplicates;
mod fusion;
mod neighbours;
mod rerank;
mod search;
mod stage;

pub use fusion::{Fused, fuse};
pub use search::{EmbedderSlot, Retriever, RetrieverParts, SearchRequest, SearchTimings, Searched};
pub use stage::{RetrievalStage, answer_key};
pub(crate) use stage::{query_of, read, stash};
