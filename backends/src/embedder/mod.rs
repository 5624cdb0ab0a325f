//! Embedders: see [`raglan_pipeline::ports::Embedder`].

#[cfg(feature = "models")]
pub mod packed;
