//! Re-rankers: see [`raglan_pipeline::ports::Reranker`].

#[cfg(feature = "candle")]
pub mod packed;
