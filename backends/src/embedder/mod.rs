//! Embedders: see [`raglan_pipeline::ports::Embedder`].

#[cfg(feature = "models")]
pub mod packed;
#[cfg(any(feature = "models", feature = "http"))]
mod prefixes;
#[cfg(feature = "http")]
pub mod remote;
#[cfg(any(feature = "models", feature = "http"))]
mod unit;
