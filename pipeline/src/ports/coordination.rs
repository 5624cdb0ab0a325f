use std::time::Duration;

use async_trait::async_trait;
use uuid::Uuid;

use super::PortResult;
use crate::domain::LogPosition;

/// Where a replica of some process is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplicaReport {
    /// Which process.
    pub instance: Uuid,
    /// Which of its replicas.
    pub replica: String,
    /// The position of the last change that it holds.
    pub position: LogPosition,
}

/// What the processes know of each other.
#[async_trait]
pub trait Coordination: Send + Sync {
    /// Tells where a replica is; it counts for `ttl`.
    async fn report(&self, instance: Uuid, replica: &str, position: LogPosition, ttl: Duration) -> PortResult<()>;

    /// Takes back all reports of a process.
    async fn withdraw(&self, instance: Uuid) -> PortResult<()>;

    /// All reports that count.
    async fn positions(&self) -> PortResult<Vec<ReplicaReport>>;

    /// Takes or renews the lease `name` until `now + ttl`. True where this process holds it then.
    async fn lead(&self, name: &str, instance: Uuid, ttl: Duration) -> PortResult<bool>;

    /// Gives the lease back, where this process holds it.
    async fn resign(&self, name: &str, instance: Uuid) -> PortResult<()>;
}
