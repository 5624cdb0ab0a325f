//! Re-rankers: see [`raglan_pipeline::ports::Reranker`].

#[cfg(feature = "models")]
pub mod local;
#[cfg(feature = "http")]
pub mod remote;
