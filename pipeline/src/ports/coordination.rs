use std::time::Duration;

use async_trait::async_trait;
use uuid::Uuid;

use super::PortResult;
use crate::domain::LogPosition;

/// Where a replica of some process stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplicaReport {
    /// The process, by an id that it gave itself when it started.
    pub instance: Uuid,
    /// The replica, by its name within the process.
    pub replica: String,
    /// The position in the change log that it holds.
    pub position: LogPosition,
}

/// What processes that share a record know of each other: where the replicas of all of them stand, and which of them does what only one should do.
///
/// **Contract**
/// - A report holds until its time to live has run out, or a later one of the same instance and replica takes its place, which may also
///   be lower. It is seen by all processes when [`report`](Self::report) returns.
/// - A name is led by one instance at a time: the first to ask, until it resigns or its time has run out; asking again prolongs it. Time
///   is one clock's, not that of the processes. A leader that is stopped for longer than its time wakes up beside the next one: what is
///   led must bear that for a moment.
#[async_trait]
pub trait Coordination: Send + Sync {
    /// Says where a replica of an instance stands, for `ttl` from now.
    async fn report(
        &self,
        instance: Uuid,
        replica: &str,
        position: LogPosition,
        ttl: Duration,
    ) -> PortResult<()>;

    /// Takes all reports of an instance back: it stops, and nobody should wait for it.
    async fn withdraw(&self, instance: Uuid) -> PortResult<()>;

    /// Where the replicas of all instances stand, by instance and name; those whose time has run out are not among them.
    async fn positions(&self) -> PortResult<Vec<ReplicaReport>>;

    /// Asks to lead `name` until `ttl` from now. True where this instance does, since now or still.
    async fn lead(&self, name: &str, instance: Uuid, ttl: Duration) -> PortResult<bool>;

    /// Leads `name` no more. Nothing happens where another instance does.
    async fn resign(&self, name: &str, instance: Uuid) -> PortResult<()>;
}
