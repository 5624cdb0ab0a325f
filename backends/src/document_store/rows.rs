//! What the rows of a document store's tables hold, in whichever engine they lie.

use raglan_pipeline::{
    domain::{
        ChunkCounts, ChunkId, Collection, CollectionInfo, Document, DocumentId, IndexChunk, JobId,
        LogPosition, PassageRecord, Receipt, StoredEmbedding, Tenant,
    },
    ports::PortResult,
};
use uuid::Uuid;

use crate::database::codec::{RowExt, corrupt, int, vector_of};

/// A document's identity and where its versions stand.
#[derive(Debug, Clone)]
pub(super) struct Identity {
    /// Its id.
    pub id: DocumentId,
    /// Whose it is.
    pub tenant: Tenant,
    /// Where it lies.
    pub collection: Collection,
    /// The client's id.
    pub external_id: String,
    /// The live version, where there is one.
    pub live_version: Option<u64>,
    /// The last version that was staged, 0 before the first.
    pub last_version: u64,
}

impl Identity {
    pub fn of(row: &impl RowExt) -> PortResult<Self> {
        Ok(Self {
            id: DocumentId(row.uuid("id")?),
            tenant: row.parsed("tenant")?,
            collection: row.parsed("collection")?,
            external_id: row.string("external_id")?,
            live_version: row.optional_number("live_version")?,
            last_version: row.number("last_version")?,
        })
    }
}

/// What publishing needs of a version.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Version {
    /// The version that was live when this one was staged.
    pub base_version: Option<u64>,
    /// The log's position when it was staged.
    pub position: u64,
    /// The job that took it in.
    pub job: Option<JobId>,
    /// What the indexes keep of the document beside its chunks: title, uri, metadata (as JSON).
    pub attributes: (String, Option<String>, String),
}

impl Version {
    pub fn of(row: &impl RowExt) -> PortResult<Self> {
        Ok(Self {
            base_version: row.optional_number("base_version")?,
            position: row.number("position")?,
            job: row.optional_uuid("job")?.map(JobId),
            attributes: (row.string("title")?, row.optional_string("uri")?, row.string("metadata")?),
        })
    }
}

/// An entry of the log as it is stored.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Entry {
    /// Its place.
    pub position: LogPosition,
    /// The document it is about.
    pub document_id: DocumentId,
    /// What changed.
    pub kind: EntryKind,
}

/// What changed.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum EntryKind {
    /// Chunks were written by a version.
    PutChunks(u64),
    /// Title, uri or metadata changed.
    PutDocument,
    /// These chunks went.
    DeleteChunks(Vec<ChunkId>),
    /// The document went.
    DeleteDocument,
}

/// What changed, as it is stored.
pub(super) struct EntryColumns {
    pub kind: &'static str,
    pub version: Option<i64>,
    /// The ids one behind the other.
    pub chunk_ids: Option<Vec<u8>>,
}

impl EntryKind {
    pub fn columns(&self) -> PortResult<EntryColumns> {
        let (kind, version, chunk_ids) = match self {
            Self::PutChunks(version) => ("put_chunks", Some(int(*version)?), None),
            Self::PutDocument => ("put_document", None, None),
            Self::DeleteChunks(ids) => {
                ("delete_chunks", None, Some(ids.iter().flat_map(|id| id.0.into_bytes()).collect()))
            }
            Self::DeleteDocument => ("delete_document", None, None),
        };
        Ok(EntryColumns { kind, version, chunk_ids })
    }
}

impl Entry {
    pub fn of(row: &impl RowExt) -> PortResult<Self> {
        let kind = match row.text("kind")? {
            "put_chunks" => EntryKind::PutChunks(row.number("version")?),
            "put_document" => EntryKind::PutDocument,
            "delete_chunks" => EntryKind::DeleteChunks(chunk_ids(row.bytes("chunk_ids")?)?),
            "delete_document" => EntryKind::DeleteDocument,
            other => return Err(corrupt("kind of change", other)),
        };
        Ok(Self {
            position: row.number("position")?,
            document_id: DocumentId(row.uuid("document_id")?),
            kind,
        })
    }
}

fn chunk_ids(bytes: &[u8]) -> PortResult<Vec<ChunkId>> {
    let (ids, []) = bytes.as_chunks::<16>() else {
        return Err(corrupt("list of chunks", format!("{} bytes", bytes.len())));
    };
    Ok(ids.iter().map(|id| ChunkId(Uuid::from_bytes(*id))).collect())
}

/// A document with one of its versions.
pub(super) fn document(row: &impl RowExt) -> PortResult<Document> {
    Ok(Document {
        id: DocumentId(row.uuid("id")?),
        tenant: row.parsed("tenant")?,
        collection: row.parsed("collection")?,
        external_id: row.string("external_id")?,
        title: row.string("title")?,
        uri: row.optional_string("uri")?,
        media_type: row.string("media_type")?,
        metadata: row.json("metadata")?,
        fingerprint: row.string("fingerprint")?,
        version: row.number("version")?,
        chunks: row.number("chunks")?,
        bytes: row.number("bytes")?,
        created_at: row.time("created_at")?,
        updated_at: row.time("updated_at")?,
    })
}

/// What was done for a version.
pub(super) fn receipt(row: &impl RowExt) -> PortResult<Receipt> {
    let (chunks, embedded): (u64, u64) = (row.number("chunks")?, row.number("embedded")?);
    let unchanged = chunks.saturating_sub(embedded);
    Ok(Receipt {
        job: JobId(row.uuid("job")?),
        created: row.flag("created")?,
        chunks: ChunkCounts { embedded, unchanged, deleted: row.number("deleted")? },
        tokens: row.number("tokens")?,
    })
}

/// A chunk's id with the model of its vector.
pub(super) fn chunk_and_model(row: &impl RowExt) -> PortResult<(ChunkId, Option<String>)> {
    Ok((ChunkId(row.uuid("id")?), row.optional_string("model")?))
}

/// A chunk as an index needs it.
pub(super) fn index_chunk(row: &impl RowExt) -> PortResult<IndexChunk> {
    let embedding = match (row.optional_string("model")?, row.optional_bytes("vector")?) {
        (None, None) => None,
        (Some(model), Some(vector)) => Some(StoredEmbedding { model, vector: vector_of(vector)? }),
        _ => return Err(corrupt("vector", "it has no model, or the model no vector")),
    };
    Ok(IndexChunk {
        id: ChunkId(row.uuid("id")?),
        heading_path: row.json("heading_path")?,
        text: row.string("text")?,
        embedding,
    })
}

/// A live chunk with its document.
pub(super) fn passage(row: &impl RowExt) -> PortResult<PassageRecord> {
    Ok(PassageRecord {
        chunk_id: ChunkId(row.uuid("id")?),
        document_id: DocumentId(row.uuid("document_id")?),
        external_id: row.string("external_id")?,
        title: row.string("title")?,
        uri: row.optional_string("uri")?,
        metadata: row.json("metadata")?,
        heading_path: row.json("heading_path")?,
        text: row.string("text")?,
        ordinal: row.number("ordinal")?,
        start: row.number("start_char")?,
        end: row.number("end_char")?,
    })
}

/// A collection with its counts.
pub(super) fn collection(row: &impl RowExt) -> PortResult<CollectionInfo> {
    Ok(CollectionInfo {
        name: row.parsed("name")?,
        description: row.string("description")?,
        documents: row.number("documents")?,
        chunks: row.number("chunks")?,
        created_at: row.time("created_at")?,
    })
}
