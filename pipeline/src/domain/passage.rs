//! What retrieval finds.

use serde::{Deserialize, Serialize};

use super::{ChunkId, Degraded, DocumentId, Metadata};

/// Which searches take part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SearchMode {
    /// Vectors and keywords, fused.
    #[default]
    Hybrid,
    /// Vectors alone.
    Vector,
    /// Keywords alone.
    Keyword,
}

/// The place a passage had in each ranking, from 1; absent where it was not found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ranks {
    /// In the vector search.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vector: Option<u32>,
    /// In the keyword search.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keyword: Option<u32>,
    /// After re-ranking.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rerank: Option<u32>,
}

/// A live chunk with its document, as the store answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PassageRecord {
    /// The chunk.
    pub chunk_id: ChunkId,
    /// Its document.
    pub document_id: DocumentId,
    /// The client's id of the document.
    pub external_id: String,
    /// The document's title.
    pub title: String,
    /// Where the document came from.
    pub uri: Option<String>,
    /// The document's metadata.
    pub metadata: Metadata,
    /// The chunk's headings from the outermost in.
    pub heading_path: Vec<String>,
    /// The chunk's text, verbatim from the document.
    pub text: String,
    /// Number of the chunk in its document, from 0.
    pub ordinal: u32,
    /// First character in the document's text, in Unicode scalar values.
    pub start: usize,
    /// One past the last character.
    pub end: usize,
}

/// A chunk that was found, with how well it fits.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Passage {
    /// The chunk and its document.
    #[serde(flatten)]
    pub record: PassageRecord,
    /// How well it fits, higher is better. Comparable within one search only.
    pub score: f32,
    /// The places it had.
    pub ranks: Ranks,
}

/// What a search brought.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Retrieved {
    /// The best first.
    pub passages: Vec<Passage>,
    /// What could not take part.
    pub degraded: Vec<Degraded>,
    /// The state of the documents that was searched.
    pub index_generation: String,
}
