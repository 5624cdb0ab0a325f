use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use super::PortResult;

/// What a key is for; keys of different namespaces never meet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Namespace {
    /// The passages of a job between retrieval and generation.
    Passages,
    /// Answers by question and state of the documents.
    Answers,
    /// Vectors of questions.
    QueryVectors,
    /// Tickets that open a WebSocket, each once.
    Tickets,
}

impl Namespace {
    /// The prefix of its keys.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Passages => "passages",
            Self::Answers => "answers",
            Self::QueryVectors => "query-vectors",
            Self::Tickets => "tickets",
        }
    }
}

/// Short-lived data that can always be made again.
///
/// **Contract**
/// - A value is there from [`put`](Self::put) until its TTL at the longest, and never after it; it may go earlier.
/// - Namespaces are apart.
/// - Of two calls of [`take`](Self::take) at once, on whatever replica, one gets the value.
/// - Callers treat an error as a miss: a cache that is down makes a job slower, never wrong.
#[async_trait]
pub trait Cache: Send + Sync {
    /// The value, or none.
    async fn get(&self, namespace: Namespace, key: &str) -> PortResult<Option<Bytes>>;

    /// Stores a value for at most `ttl`.
    async fn put(&self, namespace: Namespace, key: &str, value: Bytes, ttl: Duration) -> PortResult<()>;

    /// The value, or none; it is removed.
    async fn take(&self, namespace: Namespace, key: &str) -> PortResult<Option<Bytes>>;

    /// Removes a value.
    async fn remove(&self, namespace: Namespace, key: &str) -> PortResult<()>;
}
