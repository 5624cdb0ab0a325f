use async_trait::async_trait;
use bytes::Bytes;

use super::PortResult;

/// Files by key: what clients upload, and the manifests of ingestion jobs.
///
/// **Contract**
/// - A key is letters, digits and `._-/`, without empty, `.` or `..` parts; any other is `Invalid`.
/// - A blob is there whole, durably, once [`put`](Self::put) has returned, or absent; a reader never sees half of one.
/// - Removing what is not there is no error.
#[async_trait]
pub trait BlobStore: Send + Sync {
    /// Stores a blob, replacing any before it.
    async fn put(&self, key: &str, data: Bytes) -> PortResult<()>;

    /// The blob, or none.
    async fn get(&self, key: &str) -> PortResult<Option<Bytes>>;

    /// Removes a blob.
    async fn remove(&self, key: &str) -> PortResult<()>;

    /// Removes all blobs whose key begins with `prefix` followed by `/`.
    async fn remove_all(&self, prefix: &str) -> PortResult<()>;
}
