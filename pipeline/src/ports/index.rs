use async_trait::async_trait;

use super::{PortError, PortResult};
use crate::domain::{Change, ChunkId, Collection, LogPosition, MetadataFilter, Tenant};

/// A chunk that an index found.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Hit {
    /// The chunk. It may have gone from the store already: the caller checks.
    pub chunk_id: ChunkId,
    /// Higher is better.
    pub score: f32,
}

/// Where to search, and how much to bring.
#[derive(Debug, Clone, PartialEq)]
pub struct SearchScope {
    /// Whose documents.
    pub tenant: Tenant,
    /// In which collection.
    pub collection: Collection,
    /// Only documents with this metadata.
    pub filter: MetadataFilter,
    /// At most so many hits.
    pub limit: usize,
}

/// An index that is fed from the store's change log and is the record of nothing.
///
/// **Contract**
/// - [`apply`](Self::apply) takes changes in order and is idempotent; a change that was applied is found by the next search that
///   begins after `apply` returned (read your write).
/// - [`position`](Self::position) is that of the last change applied. After a restart it is the position that was last saved, and the
///   changes after it are applied again.
/// - What was torn on disk is found when opened, and the index starts empty at position 0.
#[async_trait]
pub trait Replica: Send + Sync {
    /// Its name in logs, metrics and `/readyz`.
    fn name(&self) -> &'static str;

    /// The position of the last change it holds; 0 when empty.
    fn position(&self) -> LogPosition;

    /// The history (see [`super::DocumentStore::history`]) that it was fed from; none when empty.
    fn history(&self) -> Option<uuid::Uuid>;

    /// Applies changes, in order.
    async fn apply(&self, changes: Vec<Change>) -> PortResult<()>;

    /// Saves what it holds, with its position.
    async fn save(&self) -> PortResult<()>;

    /// Throws everything away and begins at position 0 of this history.
    async fn reset(&self, history: uuid::Uuid) -> PortResult<()>;

    /// How many chunks it holds.
    async fn count(&self) -> PortResult<u64>;
}

/// Nearest neighbours by cosine.
///
/// **Contract**, beside that of [`Replica`]: hits come best first; `score` is the cosine, so higher is better and 1 is equal; only chunks of
/// the scope's tenant and collection that match its filter; a vector of another dimension than the index's is
/// `Invalid`, naming both; chunks without a vector of the index's model are passed over.
#[async_trait]
pub trait VectorIndex: Replica {
    /// The chunks nearest to a unit vector.
    async fn search(&self, vector: &[f32], scope: &SearchScope) -> PortResult<Vec<Hit>>;

    /// With what a search would fail now without being tried; none where it would be tried. So nobody makes a vector that is of no use.
    fn refusal(&self) -> Option<PortError> {
        None
    }
}

/// Best matches by words (BM25).
///
/// **Contract**, beside that of [`Replica`]: hits come best first with scores above 0; documents and questions are tokenised alike; any text
/// is a valid question (operators mean nothing), and one without a searchable word finds nothing; only chunks of the scope's tenant and collection that match its filter.
#[async_trait]
pub trait KeywordIndex: Replica {
    /// The chunks that fit the words best.
    async fn search(&self, text: &str, scope: &SearchScope) -> PortResult<Vec<Hit>>;
}
