//! What the API is made of, and its bounds.

use std::{ops::Deref, sync::Arc, time::Duration};

use async_trait::async_trait;
use raglan_pipeline::{
    domain::{Job, JobId, LogPosition, Tenant},
    follow::{Follow, Followed},
    lifecycle::Lifecycle,
    pipelines::Pipelines,
    ports::{DocumentStore, PortResult},
    retrieval::Retriever,
    submit::Submit,
};
use serde::Serialize;
use sha2::{Digest, Sha256};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use utoipa::ToSchema;

use crate::{
    auth::{Caller, Tickets},
    error::{ApiResult, Problem},
};

/// Tells when a change of the documents has reached all searches.
#[async_trait]
pub trait Visibility: Send + Sync {
    /// Returns when every index of this process holds the change at this position.
    async fn wait_for(&self, position: LogPosition) -> PortResult<()>;
}

/// Tells how the parts of the process are.
#[async_trait]
pub trait Health: Send + Sync {
    /// Asks each part.
    async fn report(&self) -> HealthReport;
}

/// How the process is, as `GET /readyz` answers it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct HealthReport {
    /// Whether requests can be served. A degraded part does not hinder that.
    pub ready: bool,
    /// Each part.
    pub parts: Vec<PartHealth>,
}

/// How one part is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct PartHealth {
    /// Its name.
    pub name: String,
    /// Its state.
    pub state: PartState,
    /// What is wrong, or what it does; empty where there is nothing to say.
    pub detail: String,
}

/// The state of a part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum PartState {
    /// It works.
    Ok,
    /// It works less well, or is missing where it can be done without.
    Degraded,
    /// It does not work.
    Failing,
    /// It does not work yet.
    Starting,
}

/// A key that clients may come with. The key itself is not kept.
#[derive(Clone)]
pub struct ApiKey {
    /// What the operator calls it.
    pub name: String,
    /// Whose data it opens.
    pub tenant: Tenant,
    /// SHA-256 of the key.
    pub sha256: [u8; 32],
}

impl ApiKey {
    /// A key from its plain text, of which only the hash is kept.
    #[must_use]
    pub fn from_plain(name: impl Into<String>, tenant: Tenant, key: &str) -> Self {
        Self { name: name.into(), tenant, sha256: Sha256::digest(key.as_bytes()).into() }
    }
}

impl std::fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ApiKey")
            .field("name", &self.name)
            .field("tenant", &self.tenant)
            .finish_non_exhaustive()
    }
}

/// The bounds of requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// The most bytes of a JSON body (all routes but documents and uploads).
    pub body_bytes: usize,
    /// The most bytes of a request with documents as JSON or NDJSON.
    pub documents_bytes: usize,
    /// The most documents of one request.
    pub documents: usize,
    /// The most bytes of one file, and of one document's text.
    pub file_bytes: usize,
    /// The most files of one request.
    pub files: usize,
    /// The most bytes of one request with files.
    pub files_bytes: usize,
    /// The longest `external_id`, in Unicode scalar values.
    pub external_id_chars: usize,
    /// The longest `title`, in Unicode scalar values.
    pub title_chars: usize,
    /// The longest `uri`, in Unicode scalar values.
    pub uri_chars: usize,
    /// The most bytes of a document's metadata, as JSON.
    pub metadata_bytes: usize,
    /// The longest wait that a request may ask for.
    pub wait: Duration,
    /// How long a body may stand still.
    pub body_idle: Duration,
    /// How many requests with documents are read at once; each holds its documents in memory.
    pub ingests: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            body_bytes: 1 << 20,
            documents_bytes: 64 << 20,
            documents: 50_000,
            file_bytes: 32 << 20,
            files: 1_000,
            files_bytes: 512 << 20,
            external_id_chars: 512,
            title_chars: 1_000,
            uri_chars: 2_048,
            metadata_bytes: 16 << 10,
            wait: Duration::from_secs(60),
            body_idle: Duration::from_secs(30),
            ingests: 8,
        }
    }
}

/// How streams to clients are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamSettings {
    /// A comment is sent this often on Server-Sent Events.
    pub keep_alive: Duration,
    /// A ping is sent this often on WebSockets; three without an answer end the socket.
    pub ping_every: Duration,
    /// How long a client may take to read what was sent.
    pub write_timeout: Duration,
    /// The most WebSockets at once.
    pub sockets: usize,
    /// The most jobs followed on one socket.
    pub subscriptions: usize,
    /// The most bytes of one message from a client.
    pub message_bytes: usize,
}

impl Default for StreamSettings {
    fn default() -> Self {
        Self {
            keep_alive: Duration::from_secs(10),
            ping_every: Duration::from_secs(20),
            write_timeout: Duration::from_secs(30),
            sockets: 10_000,
            subscriptions: 1_000,
            message_bytes: 64 << 10,
        }
    }
}

/// How the API is set up.
#[derive(Debug, Clone, Default)]
pub struct ApiSettings {
    /// Who may come in. Empty switches authentication off: everybody is the tenant `default`.
    pub keys: Vec<ApiKey>,
    /// Host names beside the loopback ones that requests may name while authentication is off.
    pub hosts: Vec<String>,
    /// Origins (`https://app.example`) whose pages may call the API.
    pub cors_origins: Vec<String>,
    /// Bounds.
    pub limits: Limits,
    /// Streams.
    pub streams: StreamSettings,
}

/// What the API is put together from.
pub struct ApiParts {
    /// Takes jobs.
    pub submit: Arc<Submit>,
    /// Follows jobs.
    pub follow: Follow,
    /// The ports of jobs.
    pub lifecycle: Arc<Lifecycle>,
    /// Searches.
    pub retriever: Arc<Retriever>,
    /// The record of documents.
    pub documents: Arc<dyn DocumentStore>,
    /// The pipelines that requests choose from.
    pub pipelines: Arc<Pipelines>,
    /// When changes are visible.
    pub visibility: Arc<dyn Visibility>,
    /// How the parts are.
    pub health: Arc<dyn Health>,
    /// The metrics, in Prometheus' text format.
    pub metrics: Arc<dyn Fn() -> String + Send + Sync>,
    /// Settings.
    pub settings: ApiSettings,
    /// Cancelled when the server stops: waits and streams end, so that clients resume elsewhere.
    pub shutdown: CancellationToken,
}

/// What handlers share.
#[derive(Clone)]
pub(crate) struct ApiState(Arc<Shared>);

/// The parts, and what the API itself keeps.
pub(crate) struct Shared {
    parts: ApiParts,
    pub(crate) tickets: Tickets,
    pub(crate) sockets: Arc<Semaphore>,
    pub(crate) ingests: Arc<Semaphore>,
}

impl Deref for ApiState {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.0
    }
}

impl Deref for Shared {
    type Target = ApiParts;

    fn deref(&self) -> &ApiParts {
        &self.parts
    }
}

impl ApiState {
    pub(crate) fn new(parts: ApiParts) -> Self {
        let sockets = Arc::new(Semaphore::new(parts.settings.streams.sockets.min(Semaphore::MAX_PERMITS)));
        let ingests = Arc::new(Semaphore::new(parts.settings.limits.ingests.min(Semaphore::MAX_PERMITS)));
        let tickets = Tickets::new(parts.lifecycle.cache.clone());
        Self(Arc::new(Shared { parts, tickets, sockets, ingests }))
    }

    /// The bounds of requests.
    pub(crate) fn limits(&self) -> &Limits {
        &self.settings.limits
    }

    /// A job of this caller. Another tenant's is as good as none.
    pub(crate) async fn owned(&self, caller: &Caller, id: JobId) -> ApiResult<Job> {
        match self.lifecycle.jobs.get(id).await? {
            Some(job) if job.tenant == caller.tenant => Ok(job),
            _ => Err(unknown_job()),
        }
    }

    /// The events of a job of this caller.
    pub(crate) async fn followed(&self, caller: &Caller, id: JobId, after: u64) -> ApiResult<Followed> {
        self.follow.follow(&caller.tenant, id, after).await?.ok_or_else(unknown_job)
    }
}

/// The answer about a job that is not there.
pub(crate) fn unknown_job() -> Problem {
    Problem::not_found(
        "unknown_job",
        "there is no such job; it may have been removed after its retention time",
    )
    .field("job_id")
}
