//! What a stage is to the worker that runs it.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{
    domain::{Job, JobError, JobStatus, Progress},
    job_events::JobEvents,
    ports::{ModelError, Outcome, Place, PortError},
};

/// What a stage gets beside the job.
#[derive(Clone)]
pub struct StageContext {
    /// Cancelled when the job is no longer this worker's: it was cancelled, its deadline passed, its lease went, or the worker stops. The stage
    /// leaves as soon as it can; what it returns then counts for nothing.
    pub cancel: CancellationToken,
    /// What the next heartbeat writes to the store.
    pub report: Arc<watch::Sender<Report>>,
    /// What the job's followers hear of the stage.
    pub events: Arc<JobEvents>,
}

/// How far a stage is.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Report {
    /// A finer status within the stage.
    pub status: Option<JobStatus>,
    /// Progress.
    pub progress: Option<Progress>,
}

/// Why a stage did not finish.
#[derive(Debug)]
pub enum StageError {
    /// The job fails: trying again would not help.
    Permanent(JobError),
    /// Try again, after this time where one is given; `error` is the job's when the attempts are used up.
    Retry {
        /// What happened.
        error: JobError,
        /// The delay that was asked for.
        after: Option<Duration>,
    },
    /// The stage left because it was cancelled.
    Cancelled,
}

impl From<PortError> for StageError {
    fn from(error: PortError) -> Self {
        let after = error.retry_after();
        let code = if error.is_transient() { "dependency_unavailable" } else { "internal" };
        // Even what should not happen is tried again: a later attempt, perhaps elsewhere, may do better.
        Self::Retry { error: JobError::retryable(code, error.to_string()), after }
    }
}

impl StageError {
    /// A model's error, with the code that the job gets from it.
    #[must_use]
    pub fn from_model(error: ModelError, code: &str) -> Self {
        match error {
            ModelError::TooLong(message) => Self::Permanent(JobError::permanent("too_long", message)),
            ModelError::Permanent(message) => Self::Permanent(JobError::permanent(code, message)),
            ModelError::TryLater { message, after } => {
                Self::Retry { error: JobError::retryable(code, message), after }
            }
            ModelError::Cancelled => Self::Cancelled,
        }
    }
}

/// A stage of the work on a job. It runs with a lease that the worker keeps alive, and tells by its outcome how the worker leaves the job.
#[async_trait]
pub trait JobStage: Send + Sync {
    /// Waits until one more job could be begun soon. The worker asks before it takes a message, so that what cannot be begun here stays on the
    /// queue for others, and keeps the place until the job is left.
    async fn place(&self) -> Place {
        Place::default()
    }

    /// Does the work.
    async fn run(&self, job: &Job, context: &StageContext) -> Result<Outcome, StageError>;
}

/// Milliseconds since `begun`.
pub(crate) fn millis(begun: std::time::Instant) -> u64 {
    u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX)
}
