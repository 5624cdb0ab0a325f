//! Documents, their chunks, and the ordered log of changes that the indexes follow.

use serde::{Deserialize, Serialize};

use super::{ChunkCounts, ChunkId, Collection, DocumentId, JobId, Metadata, Tenant, Timestamp};

/// What is known of a document apart from its text.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Document {
    /// Its id, the same for all its versions.
    pub id: DocumentId,
    /// Whose it is.
    pub tenant: Tenant,
    /// Where it lies.
    pub collection: Collection,
    /// The client's id, unique within the collection.
    pub external_id: String,
    /// Its title; empty where none is known.
    pub title: String,
    /// Where it came from.
    pub uri: Option<String>,
    /// The media type of its source, for example `text/markdown`.
    pub media_type: String,
    /// The client's data, filterable.
    pub metadata: Metadata,
    /// Hash of everything that decides its chunks (source, metadata in what is embedded, indexing pipeline, model).
    /// Equal fingerprints mean that there is nothing to do.
    pub fingerprint: String,
    /// The live version, from 1.
    pub version: u64,
    /// How many chunks it has.
    pub chunks: u64,
    /// Bytes of its source.
    pub bytes: u64,
    /// When it was first taken in.
    pub created_at: Timestamp,
    /// When its live version was published.
    pub updated_at: Timestamp,
}

/// A chunk as the chunker makes it: content, which decides its id, and place, which does not.
#[derive(Debug, Clone, PartialEq)]
pub struct Chunk {
    /// Its id, derived from its content.
    pub id: ChunkId,
    /// SHA-256 (hex) of all that is embedded and indexed of it.
    pub content_hash: String,
    /// Its headings from the outermost in, without the document's title.
    pub heading_path: Vec<String>,
    /// Its text, verbatim from the document's text.
    pub text: String,
    /// Where it stands.
    pub place: Placement,
    /// Its vector, where there is a model.
    pub embedding: Option<StoredEmbedding>,
}

/// Where a chunk stands in one version of its document.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placement {
    /// Its number in the document, from 0.
    pub ordinal: u32,
    /// First character in the document's text, in Unicode scalar values.
    pub start: usize,
    /// One past the last character.
    pub end: usize,
}

/// A vector together with the model that made it; vectors of different models are never compared.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredEmbedding {
    /// The model's id (see [`crate::ports::EmbedderInfo::model`]).
    pub model: String,
    /// Unit length.
    pub vector: Vec<f32>,
}

/// A new version of a document, whole, ready to be written beside the live one.
#[derive(Debug, Clone, PartialEq)]
pub struct StagedDocument {
    /// The document; its `version`, `created_at` and `updated_at` are set by the store.
    pub document: Document,
    /// The document's text, to which the placements refer.
    pub text: String,
    /// Chunks that the store does not have yet.
    pub new_chunks: Vec<Chunk>,
    /// Chunks of the live version that stay, with their new places.
    pub kept_chunks: Vec<(ChunkId, Placement)>,
    /// The job that takes it in.
    pub job: Option<JobId>,
    /// Tokens that the embedding model read for it.
    pub tokens: u64,
}

/// What was done for the live version of a document, and by which job: kept with it, so that a job which is begun again can count what its
/// earlier attempts have done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Receipt {
    /// The job.
    pub job: JobId,
    /// Whether there was no live version before.
    pub created: bool,
    /// Its chunks: written anew, kept, removed.
    pub chunks: ChunkCounts,
    /// Tokens that the embedding model read for it.
    pub tokens: u64,
}

/// A position in the change log. 0 is before the first change; each change has the next number or a higher one.
pub type LogPosition = u64;

/// What a version that was published changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Published {
    /// The log's position after it.
    pub position: LogPosition,
    /// Chunks removed with the version before.
    pub deleted_chunks: u64,
    /// Whether a newer version, or one of a later job, had been published already, so that this one was dropped.
    pub superseded: bool,
    /// Whether there was no live version before.
    pub created: bool,
}

/// A chunk as an index needs it.
#[derive(Debug, Clone, PartialEq)]
pub struct IndexChunk {
    /// Its id.
    pub id: ChunkId,
    /// Its headings from the outermost in.
    pub heading_path: Vec<String>,
    /// Its text.
    pub text: String,
    /// Its vector, where there is one.
    pub embedding: Option<StoredEmbedding>,
}

/// One entry of the change log, filled from the record. A replica that applies all of them in
/// order holds what the store holds; applying one twice changes nothing.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    /// Its place in the log.
    pub position: LogPosition,
    /// What changed.
    pub kind: ChangeKind,
}

/// What changed.
#[derive(Debug, Clone, PartialEq)]
pub enum ChangeKind {
    /// Chunks were added to a document. They may not be visible yet: what a search finds is checked
    /// against the store before it is shown.
    PutChunks {
        /// The document, with the metadata to filter by.
        document: Box<Document>,
        /// The chunks added.
        chunks: Vec<IndexChunk>,
    },
    /// A document's title, metadata or uri changed; its chunks did not.
    PutDocument {
        /// The document as it is now.
        document: Box<Document>,
    },
    /// Chunks went.
    DeleteChunks {
        /// Their document.
        document_id: DocumentId,
        /// Which.
        chunk_ids: Vec<ChunkId>,
    },
    /// A document went with all its chunks.
    DeleteDocument {
        /// Which.
        document_id: DocumentId,
    },
}

/// A collection with its counts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CollectionInfo {
    /// Its name.
    pub name: Collection,
    /// What it is for, in the client's words.
    pub description: String,
    /// Live documents.
    pub documents: u64,
    /// Live chunks.
    pub chunks: u64,
    /// When it was made.
    pub created_at: Timestamp,
}
