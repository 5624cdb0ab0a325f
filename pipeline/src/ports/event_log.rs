use async_trait::async_trait;
use futures::stream::BoxStream;

use super::PortResult;
use crate::domain::{Event, JobId, NewEvent};

/// What a follower of a job gets.
#[derive(Debug, Clone, PartialEq)]
pub enum Followed {
    /// The next event.
    Event(Event),
    /// Events were lost for this reader (it was too slow, or they are no longer kept). What follows continues after this sequence number.
    Missed {
        /// The number of the last event that is lost.
        up_to: u64,
    },
}

/// The events of each job, in order, for any number of readers.
///
/// **Contract**
/// - [`append`](Self::append) gives each event of a job a number higher than `floor` and than all before it, and returns the last of them. The events
///   of one call come one after the other, all of them or none; but one that is too large for the log is left out, and where no other is left the
///   call fails with `Invalid`.
/// - [`follow`](Self::follow) brings what is kept after `after`, then what comes, without a gap or a repetition between the two. A late reader gets the past.
/// - The stream never ends by itself; the reader stops at a final event.
/// - A slow reader never holds an appender or another reader up, also where its stream is not polled for long; it gets `Missed` and goes on with what is kept.
/// - After the time to live (counted from the last event) a job's events may be forgotten.
#[async_trait]
pub trait EventLog: Send + Sync {
    /// Adds events in this order, one at least; returns the sequence number of the last one.
    async fn append_all(&self, job: JobId, floor: u64, events: Vec<NewEvent>) -> PortResult<u64>;

    /// Adds an event; returns its sequence number.
    async fn append(&self, job: JobId, floor: u64, event: NewEvent) -> PortResult<u64> {
        self.append_all(job, floor, vec![event]).await
    }

    /// Follows a job from the event after `after`; 0 is from the beginning.
    async fn follow(&self, job: JobId, after: u64) -> PortResult<BoxStream<'static, Followed>>;

    /// All kept events of a job, in order.
    async fn read(&self, job: JobId) -> PortResult<Vec<Event>>;

    /// Forgets a job's events.
    async fn forget(&self, job: JobId) -> PortResult<()>;
}
