//! The embedded backends and the stages put together in this process, with faults on purpose: what a user of the binary cannot
//! bring about at will.
#![allow(clippy::unwrap_used, missing_docs)]

mod degraded;
mod fencing;
mod reranking;
mod world;
