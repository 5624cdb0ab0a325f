//! The door: checks a request, stores the job durably, and puts it on its queue.

use std::{sync::Arc, time::Duration};

use chrono::TimeDelta;
use serde_json::json;
use sha2::{Digest, Sha256};
use tokio_util::task::TaskTracker;

use crate::{
    domain::{
        EventType, Job, JobId, JobSpec, Metadata, Priority, QuerySpec, Stage, Tenant, WebhookTarget, now,
    },
    lifecycle::Lifecycle,
    pipelines::Pipelines,
    ports::{Accepted, Ended, Ending, ErrorKind, Idempotency, NewJob, PortError, PortResult, WebhookSender},
};

/// The bounds of requests.
#[derive(Debug, Clone, PartialEq)]
pub struct SubmitSettings {
    /// The longest question, in Unicode scalar values.
    pub max_query_chars: usize,
    /// The most passages of one answer.
    pub max_top_k: usize,
    /// The most tokens of one answer.
    pub max_answer_tokens: u32,
    /// The deadline of a query that names none.
    pub query_deadline: Duration,
    /// The deadline of an ingestion that names none.
    pub ingestion_deadline: Duration,
    /// The longest deadline that a request may ask for.
    pub max_deadline: Duration,
    /// Beyond so many jobs waiting in a stage, new ones are refused.
    pub max_waiting: u64,
    /// The most bytes of a job's metadata, as JSON.
    pub max_metadata_bytes: usize,
}

impl Default for SubmitSettings {
    fn default() -> Self {
        Self {
            max_query_chars: 8_000,
            max_top_k: 100,
            max_answer_tokens: 8_192,
            query_deadline: Duration::from_secs(120),
            ingestion_deadline: Duration::from_secs(6 * 3_600),
            max_deadline: Duration::from_secs(24 * 3_600),
            max_waiting: 100_000,
            max_metadata_bytes: 16_384,
        }
    }
}

/// A request for a job.
#[derive(Debug, Clone, PartialEq)]
pub struct SubmitRequest {
    /// The job's id. Ingestions choose it before, since their blobs lie under it.
    pub id: JobId,
    /// Whose it is.
    pub tenant: Tenant,
    /// What is asked.
    pub spec: JobSpec,
    /// How urgent it is.
    pub priority: Priority,
    /// How long it may take; the default of its kind where absent.
    pub deadline: Option<Duration>,
    /// Whom to call back.
    pub webhook: Option<WebhookTarget>,
    /// The client's data.
    pub metadata: Metadata,
    /// The client's idempotency key with a hash of the request (see [`request_hash`]).
    pub idempotency: Option<Idempotency>,
}

/// What came of a request.
#[derive(Debug, Clone, PartialEq)]
pub struct Submitted {
    /// The job: a new one, or the first one of the same idempotency key.
    pub job: Job,
    /// Whether it is new.
    pub created: bool,
}

/// Why a request was refused. Nothing was stored.
#[derive(Debug, thiserror::Error)]
pub enum SubmitError {
    /// A field is not as it must be.
    #[error("{message}")]
    Invalid {
        /// The field, for example `top_k` or `webhook.url`.
        field: &'static str,
        /// What is wrong with it.
        message: String,
    },
    /// The idempotency key belongs to another request.
    #[error("this Idempotency-Key was used for another request")]
    KeyReused,
    /// Too much is waiting.
    #[error("too many jobs are waiting; try again later")]
    Overloaded {
        /// When to try again.
        retry_after: Duration,
    },
    /// The store failed.
    #[error(transparent)]
    Port(#[from] PortError),
}

/// A hash of a request body, to tell whether a repeated idempotency key comes with the same request.
#[must_use]
pub fn request_hash(parts: &[&[u8]]) -> String {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update((part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    format!("{:x}", hasher.finalize())
}

/// So many accepted jobs may be on their way to their queues at once; beyond that their clients wait for it, so that jobs are not accepted faster than queues
/// take them.
const ON_THEIR_WAY: usize = 1_024;

/// Accepts jobs.
pub struct Submit {
    lifecycle: Arc<Lifecycle>,
    pipelines: Arc<Pipelines>,
    webhooks: Arc<dyn WebhookSender>,
    settings: SubmitSettings,
    /// Jobs on their way to their queues.
    publishing: TaskTracker,
}

impl Submit {
    /// A door to this lifecycle.
    #[must_use]
    pub fn new(
        lifecycle: Arc<Lifecycle>,
        pipelines: Arc<Pipelines>,
        webhooks: Arc<dyn WebhookSender>,
        settings: SubmitSettings,
    ) -> Self {
        let publishing = TaskTracker::new();
        // It never waits for more than what is in it.
        publishing.close();
        Self { lifecycle, pipelines, webhooks, settings, publishing }
    }

    /// The bounds of requests.
    #[must_use]
    pub fn settings(&self) -> &SubmitSettings {
        &self.settings
    }

    /// Accepts a job: it is durable when this returns.
    ///
    /// The job's first event is logged after the commit, and its message published while the client has its answer already; should either fail, followers
    /// read the store and the sweeper publishes. Must be called within a tokio runtime.
    pub async fn submit(&self, request: SubmitRequest) -> Result<Submitted, SubmitError> {
        self.check(&request)?;
        self.admit(request.spec.first_stage()).await?;
        let created_at = now();
        let deadline = request.deadline.unwrap_or(match request.spec {
            JobSpec::Query(_) => self.settings.query_deadline,
            JobSpec::Ingestion(_) => self.settings.ingestion_deadline,
        });
        let new = NewJob {
            id: request.id,
            tenant: request.tenant,
            spec: request.spec,
            priority: request.priority,
            metadata: request.metadata,
            webhook: request.webhook,
            created_at,
            deadline: created_at + delta(deadline),
            due_at: created_at + delta(self.lifecycle.settings.republish_after),
            idempotency: request.idempotency,
        };
        match self.lifecycle.jobs.accept(new).await? {
            Accepted::New(job) => {
                metrics::counter!("raglan_jobs_accepted_total", "stage" => job.stage.as_str()).increment(1);
                // Before the answer: whatever its client does with the job, a cancel too, is logged after it.
                self.lifecycle.announce(&job, EventType::Queued, json!({"status": job.status})).await;
                self.publish(&job).await;
                Ok(Submitted { job, created: true })
            }
            Accepted::Existing(job) => Ok(Submitted { job, created: false }),
            Accepted::KeyReused => Err(SubmitError::KeyReused),
        }
    }

    /// Puts an accepted job on its way to its queue.
    async fn publish(&self, job: &Job) {
        if self.publishing.len() >= ON_THEIR_WAY {
            self.lifecycle.enqueue(job, Duration::ZERO).await;
            return;
        }
        let (lifecycle, job) = (self.lifecycle.clone(), job.clone());
        self.publishing.spawn(async move { lifecycle.enqueue(&job, Duration::ZERO).await });
    }

    /// Waits until every job that was accepted here is on its queue, or was refused by it.
    pub async fn published(&self) {
        self.publishing.wait().await;
    }

    /// Cancels a job of this tenant; one that has ended is returned as it is. None where there is none.
    pub async fn cancel(&self, tenant: &Tenant, id: JobId) -> PortResult<Option<Job>> {
        match self.lifecycle.jobs.get(id).await? {
            Some(job) if job.tenant == *tenant => {}
            _ => return Ok(None),
        }
        Ok(match self.lifecycle.end(id, Ending::Cancel).await? {
            Ended::Now(job) | Ended::Before(job) => Some(*job),
            Ended::Missing => None,
        })
    }

    /// Refuses at the door what could not be served in time.
    async fn admit(&self, stage: Stage) -> Result<(), SubmitError> {
        // The queue's own count is the cheapest honest measure. A broker that cannot be asked refuses nobody: the job is
        // stored, and published when the broker is back.
        let waiting = match self.lifecycle.broker.depth(stage).await {
            Ok(depth) => depth.ready + depth.delayed,
            Err(_) => 0,
        };
        if waiting < self.settings.max_waiting {
            return Ok(());
        }
        metrics::counter!("raglan_jobs_refused_total", "stage" => stage.as_str()).increment(1);
        Err(SubmitError::Overloaded { retry_after: Duration::from_secs(5) })
    }

    fn check(&self, request: &SubmitRequest) -> Result<(), SubmitError> {
        match &request.spec {
            JobSpec::Query(query) => self.check_query(query)?,
            JobSpec::Ingestion(ingestion) => {
                if !self.pipelines.indexing.contains_key(&ingestion.pipeline) {
                    return Err(unknown_pipeline(&ingestion.pipeline, self.pipelines.indexing.keys()));
                }
            }
        }
        if let Some(deadline) = request.deadline
            && (deadline.is_zero() || deadline > self.settings.max_deadline)
        {
            let most = self.settings.max_deadline.as_secs();
            return Err(invalid("deadline_s", format!("must be from 1 to {most}")));
        }
        if let Some(webhook) = &request.webhook {
            self.webhooks.check(&webhook.url).map_err(|error| invalid("webhook.url", error.to_string()))?;
            if let Some(event) = webhook.events.iter().find(|event| !event.is_final()) {
                let message = format!("{} is never sent to a webhook; only the endings are", event.as_str());
                return Err(invalid("webhook.events", message));
            }
        }
        let bytes = serde_json::to_vec(&request.metadata).map_or(0, |json| json.len());
        if bytes > self.settings.max_metadata_bytes {
            let most = self.settings.max_metadata_bytes;
            return Err(invalid("metadata", format!("has {bytes} bytes as JSON; {most} at most")));
        }
        Ok(())
    }

    fn check_query(&self, query: &QuerySpec) -> Result<(), SubmitError> {
        check_question(&query.query, self.settings.max_query_chars)?;
        if !self.pipelines.query.contains_key(&query.pipeline) {
            return Err(unknown_pipeline(&query.pipeline, self.pipelines.query.keys()));
        }
        check_top_k(query.top_k, self.settings.max_top_k)?;
        check_filter(&query.filter)?;
        let most = self.settings.max_answer_tokens;
        if !(1..=most).contains(&query.generation.max_tokens) {
            return Err(invalid("generation.max_tokens", format!("must be from 1 to {most}")));
        }
        if !(0.0..=2.0).contains(&query.generation.temperature) {
            return Err(invalid("generation.temperature", "must be from 0 to 2"));
        }
        Ok(())
    }
}

/// Checks a question.
pub fn check_question(question: &str, max_chars: usize) -> Result<(), SubmitError> {
    if question.trim().is_empty() {
        return Err(invalid("query", "must not be empty"));
    }
    let chars = question.chars().count();
    if chars > max_chars {
        return Err(invalid("query", format!("has {chars} characters; {max_chars} at most")));
    }
    Ok(())
}

/// Checks a number of passages.
pub fn check_top_k(top_k: usize, most: usize) -> Result<(), SubmitError> {
    if (1..=most).contains(&top_k) {
        return Ok(());
    }
    Err(invalid("top_k", format!("must be from 1 to {most}")))
}

/// Checks a filter.
pub fn check_filter(filter: &crate::domain::MetadataFilter) -> Result<(), SubmitError> {
    match filter.first_invalid_key() {
        None => Ok(()),
        Some(key) => Err(invalid(
            "filter",
            format!(
                "the value of {key:?} must be a string, a number, a boolean, or a non-empty list of these"
            ),
        )),
    }
}

fn invalid(field: &'static str, message: impl Into<String>) -> SubmitError {
    SubmitError::Invalid { field, message: message.into() }
}

fn unknown_pipeline<'a>(
    name: &crate::domain::PipelineName,
    known: impl Iterator<Item = &'a crate::domain::PipelineName>,
) -> SubmitError {
    let known: Vec<&str> = known.map(crate::domain::PipelineName::as_str).collect();
    invalid("pipeline", format!("there is no pipeline {:?}; there are: {}", name.as_str(), known.join(", ")))
}

/// A duration for arithmetic with times; what does not fit is the longest there is.
#[must_use]
pub fn delta(duration: Duration) -> TimeDelta {
    TimeDelta::from_std(duration).unwrap_or(TimeDelta::MAX)
}

impl SubmitError {
    /// Whether the store behind the door failed (rather than the request).
    #[must_use]
    pub fn port_kind(&self) -> Option<ErrorKind> {
        match self {
            Self::Port(error) => Some(error.kind()),
            _ => None,
        }
    }
}
