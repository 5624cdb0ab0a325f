use std::time::Duration;

use async_trait::async_trait;

use super::PortResult;
use crate::domain::{Delivery, DeliveryAttempt, DeliveryId, DeliveryStatus, JobId, Timestamp};

/// A lease grows to so many times what was asked for at most.
pub const LONGEST_LEASE: u32 = 64;

/// The record of webhook deliveries. They are made by the [`super::JobStore`], with the end of a job.
///
/// **Contract**
/// - A delivery is handed to one caller at a time: [`due`](Self::due) moves its next try on by the lease given. One that is handed out again although nobody
///   has tried it since is leased for as long as it has been due by then, if that is more, up to [`LONGEST_LEASE`] times the lease given: where many wait on
///   their queue, they are not put there over and over.
/// - [`record`](Self::record) appends the attempt and sets what comes next in one write; for a delivery that is
///   over it changes nothing and returns none.
/// - Ids and attempts survive restarts.
#[async_trait]
pub trait DeliveryStore: Send + Sync {
    /// A delivery, or none.
    async fn get(&self, id: DeliveryId) -> PortResult<Option<Delivery>>;

    /// A job's deliveries, oldest first.
    async fn of_job(&self, job: JobId) -> PortResult<Vec<Delivery>>;

    /// Pending deliveries whose next try is due, oldest first, each leased to the caller for `lease`.
    async fn due(&self, limit: usize, lease: Duration) -> PortResult<Vec<Delivery>>;

    /// A try of a delivery begins: it is leased for `lease` from now at least. None where there is no such delivery or it is over.
    async fn begin(&self, id: DeliveryId, lease: Duration) -> PortResult<Option<Delivery>>;

    /// Ends the leases of these, so that each is due when it was before: for a caller who could do nothing with what it got. What is not
    /// leased any more stays as it is.
    async fn release(&self, ids: &[DeliveryId]) -> PortResult<()>;

    /// For a process that knows itself to be the only one: ends all leases, so that each delivery is due when it was before. Returns
    /// how many there were.
    async fn recover(&self) -> PortResult<u64>;

    /// When the earliest pending delivery is due; none where nothing is pending.
    async fn next_due(&self) -> PortResult<Option<Timestamp>>;

    /// Writes down a try: `status` afterwards, and when the next try is due (pending only).
    async fn record(
        &self,
        id: DeliveryId,
        attempt: DeliveryAttempt,
        status: DeliveryStatus,
        next_at: Option<Timestamp>,
    ) -> PortResult<Option<Delivery>>;

    /// Makes a delivery that is over pending again, due now, under the same id. None where there is no such delivery; a pending one becomes due now.
    async fn replay(&self, id: DeliveryId) -> PortResult<Option<Delivery>>;
}
