//! Embedders: see [`raglan_pipeline::ports::Embedder`].

#[cfg(feature = "models")]
pub mod local;
#[cfg(any(feature = "models", feature = "http"))]
mod prefixes;
#[cfg(feature = "http")]
pub mod remote;
#[cfg(any(feature = "models", feature = "http"))]
mod unit;
