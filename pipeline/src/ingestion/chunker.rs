//! Cuts a parsed document into chunks by the embedding model's tokens.

/// placeholder until merge
#[derive(Debug, Clone, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct ChunkerSettings {}
