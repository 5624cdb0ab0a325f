use std::time::Duration;

use async_trait::async_trait;

use super::PortResult;
use crate::domain::{
    Job, JobError, JobId, JobKind, JobResult, JobSpec, JobStatus, Metadata, Priority, Progress, Stage,
    Tenant, Timestamp, WebhookTarget,
};

/// A job to be accepted.
#[derive(Debug, Clone, PartialEq)]
pub struct NewJob {
    /// Its id, chosen by the caller.
    pub id: JobId,
    /// Whose it is.
    pub tenant: Tenant,
    /// What is asked.
    pub spec: JobSpec,
    /// How urgent it is.
    pub priority: Priority,
    /// The client's data.
    pub metadata: Metadata,
    /// Whom to call back.
    pub webhook: Option<WebhookTarget>,
    /// When it is accepted.
    pub created_at: Timestamp,
    /// When it must have ended.
    pub deadline: Timestamp,
    /// When the sweeper puts it on its queue, should nobody have taken it by then.
    pub due_at: Timestamp,
    /// The client's idempotency key, with a hash of the request.
    pub idempotency: Option<Idempotency>,
}

/// An idempotency key, unique within a tenant until its job is forgotten.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Idempotency {
    /// The key that the client sent.
    pub key: String,
    /// A hash of the request that it sent it with.
    pub request_hash: String,
}

/// What came of accepting a job.
#[derive(Debug, Clone, PartialEq)]
pub enum Accepted {
    /// It is stored and durable.
    New(Job),
    /// The same request was accepted before: this is its job. Nothing was stored.
    Existing(Job),
    /// The key was used for another request. Nothing was stored.
    KeyReused,
}

/// What came of a worker's try to take a job.
#[derive(Debug, Clone, PartialEq)]
pub enum Taken {
    /// The job is the worker's until its lease ends; `job.fence` is what its writes must name.
    Yes(Box<Job>),
    /// As `Yes`, but the store has not noted it yet (see [`JobStore::claim`]).
    Claimed(Box<Job>),
    /// Another worker has a live lease on it, until then.
    Busy(Timestamp),
    /// Nothing to do: it has ended, is in another stage, or is not there.
    Over,
}

/// How a worker leaves a job that it took.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// The stage is done; the job waits for `to`, with its attempts counted anew.
    Advance {
        /// The next stage.
        to: Stage,
        /// When the sweeper puts it on the queue, should nobody have taken it by then.
        due_at: Timestamp,
        /// How long the stage took, in milliseconds.
        took_ms: u64,
    },
    /// The stage failed and will be tried again by whoever takes it after `due_at`.
    Retry {
        /// When.
        due_at: Timestamp,
    },
    /// The worker stops: the attempt does not count, and anybody may take it at once.
    HandBack {
        /// When the sweeper puts it on the queue, should nobody have taken it by then.
        due_at: Timestamp,
    },
    /// The job ends well.
    Succeed {
        /// With this.
        result: Box<JobResult>,
        /// How long the last stage took, in milliseconds; none where no stage ran (an answer from the cache).
        took_ms: Option<u64>,
    },
    /// The job ends badly.
    Fail(JobError),
}

/// How a job is ended by somebody who has not taken it.
#[derive(Debug, Clone, PartialEq)]
pub enum Ending {
    /// Its client cancelled it.
    Cancel,
    /// Its deadline passed: `expired` where no worker ever took it, else `failed` with code `deadline`.
    Deadline,
    /// It cannot go on.
    Fail(JobError),
}

/// What came of ending a job from outside.
#[derive(Debug, Clone, PartialEq)]
pub enum Ended {
    /// It ended by this call.
    Now(Box<Job>),
    /// It had ended before.
    Before(Box<Job>),
    /// There is no such job.
    Missing,
}

/// Which jobs to list, newest first.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct JobFilter {
    /// Only this tenant's. None is for operators.
    pub tenant: Option<Tenant>,
    /// Only in this status.
    pub status: Option<JobStatus>,
    /// Only of this kind.
    pub kind: Option<JobKind>,
    /// Only those older than this job (the last of the page before).
    pub before: Option<JobId>,
    /// At most so many.
    pub limit: usize,
}

/// The record of jobs.
///
/// **Contract**
/// - [`accept`](Self::accept) has committed durably when it returns `New`. Of two calls at once with one
///   idempotency key, one gets `New`, the other `Existing` or `KeyReused`.
/// - A job is taken by one worker at a time ([`claim`](Self::claim) may let two begin, of which one counts): [`take`](Self::take) is a compare-and-set on (job, stage,
///   no live lease), sets the stage's running status, and raises `attempt` by one and `fence`
///   above every one that was given out for the job.
/// - [`extend`](Self::extend) and [`finish`](Self::finish) change nothing and say so (`None`) unless the job is unfinished and
///   its fence is the one named. So a stage completes once, and a worker whose lease went writes nothing.
/// - A final status is never left. What ends a job (finish or [`end`](Self::end)) writes, in the same
///   transaction, the [`crate::domain::Delivery`] that its webhook asks for.
/// - Every write raises `revision`.
/// - An unfinished job always has a due time: it is never forgotten by [`due`](Self::due).
/// - Listing is by id, newest first, and stable under inserts.
#[async_trait]
pub trait JobStore: Send + Sync {
    /// Stores a job as `queued` in its first stage.
    async fn accept(&self, job: NewJob) -> PortResult<Accepted>;

    /// A job, or none.
    async fn get(&self, id: JobId) -> PortResult<Option<Job>>;

    /// A page of jobs.
    async fn list(&self, filter: &JobFilter) -> PortResult<Vec<Job>>;

    /// Takes a job for a stage until `now + lease`; its due time becomes the lease's end.
    async fn take(&self, id: JobId, stage: Stage, lease: Duration) -> PortResult<Taken>;

    /// Takes a job as [`take`](Self::take) does, for work that is likely over in a moment and does no harm where two do it at once. A store to which a write is
    /// dear may answer `Claimed` and note nothing: then the claim holds against others only from the first [`extend`](Self::extend) on, and both `extend` and
    /// [`finish`](Self::finish) answer none where another took or ended the job meanwhile. A job that is finished first is written once. A claim can be used
    /// through the store value that gave it, and until its lease ends.
    ///
    /// A job that was taken in this stage before is taken: attempts that end with their workers must be counted.
    async fn claim(&self, id: JobId, stage: Stage, lease: Duration) -> PortResult<Taken> {
        self.take(id, stage, lease).await
    }

    /// Prolongs a lease to `now + lease`, and records status (same stage) and progress where given. None when the job is no longer the caller's.
    async fn extend(
        &self,
        id: JobId,
        fence: u64,
        lease: Duration,
        status: Option<JobStatus>,
        progress: Option<Progress>,
    ) -> PortResult<Option<Job>>;

    /// Leaves a job. None when it is no longer the caller's: then nothing was written.
    async fn finish(&self, id: JobId, fence: u64, outcome: Outcome) -> PortResult<Option<Job>>;

    /// Ends a job from outside, whoever has it.
    async fn end(&self, id: JobId, ending: Ending) -> PortResult<Ended>;

    /// Unfinished jobs whose due time has passed, the longest overdue first. Each is returned to one caller: its due time
    /// moves on by `postpone`, doubled for each time it was returned before since it was last taken (at most 64 times
    /// `postpone`), so that a job which merely waits in a long queue is not published over and over.
    async fn due(&self, limit: usize, postpone: Duration) -> PortResult<Vec<Job>>;

    /// Unfinished jobs whose deadline has passed.
    async fn overdue(&self, limit: usize) -> PortResult<Vec<Job>>;

    /// For a process that knows itself to be the only one: ends all leases, makes every unfinished job due
    /// now and raises its epoch. Returns how many there are.
    async fn recover(&self) -> PortResult<u64>;

    /// Removes a job that has ended, with its deliveries. False when there is none or it has not ended.
    async fn remove(&self, id: JobId) -> PortResult<bool>;

    /// Removes jobs whose `expires_at` has passed, with their deliveries; returns them.
    async fn remove_expired(&self, limit: usize) -> PortResult<Vec<Job>>;

    /// How many unfinished jobs wait (have no live lease) in each stage.
    async fn waiting(&self) -> PortResult<Vec<(Stage, u64)>>;
}
