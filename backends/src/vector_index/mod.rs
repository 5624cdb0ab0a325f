//! Vector indexes: nearest neighbours by cosine. See [`raglan_pipeline::ports::VectorIndex`].

#[cfg(feature = "usearch")]
mod compaction;
#[cfg(feature = "usearch")]
mod files;
#[cfg(feature = "usearch")]
mod graph;
#[cfg(feature = "usearch")]
mod plan;
#[cfg(feature = "qdrant")]
pub mod qdrant;
#[cfg(feature = "usearch")]
mod rows;
#[cfg(feature = "usearch")]
mod shard;
#[cfg(feature = "usearch")]
mod table;
#[cfg(feature = "usearch")]
pub mod usearch;
