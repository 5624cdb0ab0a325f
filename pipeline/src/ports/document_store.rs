use async_trait::async_trait;

use super::PortResult;
use crate::domain::{
    Change, ChunkId, Collection, CollectionInfo, Document, DocumentId, LogPosition, MetadataFilter,
    PassageRecord, Published, Receipt, StagedDocument, Tenant,
};

/// A version that was written but is not live.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Staged {
    /// The document.
    pub document_id: DocumentId,
    /// The version that [`DocumentStore::publish`] makes live.
    pub version: u64,
    /// The log's position after it: an index at this position knows all its chunks.
    pub position: LogPosition,
}

/// Which documents to list, by id, oldest first.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct DocumentFilter {
    /// Only in this collection.
    pub collection: Option<Collection>,
    /// Only those whose external id begins so.
    pub external_id_prefix: Option<String>,
    /// Only those with this metadata.
    pub metadata: MetadataFilter,
    /// Only those after this document (the last of the page before).
    pub after: Option<DocumentId>,
    /// At most so many.
    pub limit: usize,
}

/// The record of documents, their chunks and vectors, and of the order in which they changed.
///
/// **Contract**
/// - A reader sees a document's live version, whole, or nothing: [`stage`](Self::stage) shows nothing, and [`publish`](Self::publish)
///   replaces everything in one step. Versions are published in order; an older one than the live one, or one
///   of an earlier job than the live one's, is dropped (`superseded`): of two jobs at once, the document is what the later one sent.
/// - (tenant, collection, external id) is unique: [`resolve`](Self::resolve) called twice, even at once, gives one id.
/// - A chunk's content never changes; its placement belongs to a version.
/// - [`passages`](Self::passages) answers only live chunks, of that tenant and collection, in the order asked.
/// - A delete takes effect for all readers when it returns.
/// - Every change has a position; [`changes`](Self::changes) gives them in order, and applying all of them from 0 to an empty
///   index makes it hold what the store holds (chunks of staged versions included). Changes that no longer matter may be left out of it, except deletes.
#[async_trait]
pub trait DocumentStore: Send + Sync {
    /// The id of the document with this external id, made now if there is none. A document that was never published is not visible.
    async fn resolve(
        &self,
        tenant: &Tenant,
        collection: &Collection,
        external_id: &str,
    ) -> PortResult<DocumentId>;

    /// A live document, or none.
    async fn get(&self, tenant: &Tenant, id: DocumentId) -> PortResult<Option<Document>>;

    /// The text of a live document, or none.
    async fn text(&self, tenant: &Tenant, id: DocumentId) -> PortResult<Option<String>>;

    /// The ids of the live chunks of a document with the model of each one's vector, in order.
    async fn chunk_ids(&self, id: DocumentId) -> PortResult<Vec<(ChunkId, Option<String>)>>;

    /// What was done for the live version of a document; none where there is none, or no job was named with it.
    async fn receipt(&self, id: DocumentId) -> PortResult<Option<Receipt>>;

    /// A page of live documents.
    async fn list(&self, tenant: &Tenant, filter: &DocumentFilter) -> PortResult<Vec<Document>>;

    /// Writes new versions beside the live ones, all in one transaction. Makes their collections where missing.
    async fn stage(&self, documents: Vec<StagedDocument>) -> PortResult<Vec<Staged>>;

    /// Makes staged versions live and removes what they replace, all in one transaction, in the order given.
    async fn publish(&self, staged: &[Staged]) -> PortResult<Vec<Published>>;

    /// Removes a document. None where there is none; else the log's position after it.
    async fn delete(&self, tenant: &Tenant, id: DocumentId) -> PortResult<Option<LogPosition>>;

    /// Live chunks with their documents, in the order of `ids`, those that are not live left out.
    async fn passages(
        &self,
        tenant: &Tenant,
        collection: &Collection,
        ids: &[ChunkId],
    ) -> PortResult<Vec<PassageRecord>>;

    /// Changes after a position, in order, at most about `limit` chunks of them (at least one change, where there is one).
    async fn changes(&self, after: LogPosition, limit: usize) -> PortResult<Vec<Change>>;

    /// The position of the last change.
    async fn head(&self) -> PortResult<LogPosition>;

    /// The position before which deletes may have been left out of the log: a replica that stands before it (and not at 0) must start anew.
    async fn horizon(&self) -> PortResult<LogPosition>;

    /// An id of this store's history, made with the database: a replica of another history must start anew.
    async fn history(&self) -> PortResult<uuid::Uuid>;

    /// Removes what staged versions older than `age` left, and log entries that no replica needs. Returns how many versions went.
    async fn clean(&self, age: std::time::Duration) -> PortResult<u64>;

    /// A collection, or none.
    async fn collection(&self, tenant: &Tenant, name: &Collection) -> PortResult<Option<CollectionInfo>>;

    /// All collections of a tenant, by name.
    async fn collections(&self, tenant: &Tenant) -> PortResult<Vec<CollectionInfo>>;

    /// Makes a collection or changes its description. True when it was made.
    async fn put_collection(&self, tenant: &Tenant, name: &Collection, description: &str)
    -> PortResult<bool>;

    /// Removes a collection with all its documents. None where there is none; else the log's position after it.
    async fn delete_collection(&self, tenant: &Tenant, name: &Collection) -> PortResult<Option<LogPosition>>;
}
