//! Embedders: see [`raglan_pipeline::ports::Embedder`].

#[cfg(feature = "candle")]
pub mod packed;
