//! A job: a question to answer or documents to take in, and the states it goes through.

use serde::{Deserialize, Serialize};

use super::{
    Collection, DocumentId, GenerationOptions, JobId, Metadata, MetadataFilter, PipelineName, Tenant,
    Timestamp, WebhookTarget,
};

/// What a job does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobKind {
    /// Answers a question.
    Query,
    /// Takes documents in.
    Ingestion,
}

/// Where a job stands. The last four are final: nothing leaves them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobStatus {
    /// Stored and waiting for a worker of its first stage.
    Queued,
    /// Query: its passages are looked for (or wait for the generation worker).
    Retrieving,
    /// Query: its answer is written.
    Generating,
    /// Ingestion: its files are read.
    Parsing,
    /// Ingestion: its chunks are embedded.
    Embedding,
    /// Ingestion: the indexes catch up with it.
    Indexing,
    /// Ended with a result.
    Succeeded,
    /// Ended with an error.
    Failed,
    /// Ended by its client.
    Cancelled,
    /// Ended by its deadline before any worker had started it.
    Expired,
}

impl JobStatus {
    /// All of them, in the order of a job's life.
    pub const ALL: [Self; 10] = [
        Self::Queued,
        Self::Retrieving,
        Self::Generating,
        Self::Parsing,
        Self::Embedding,
        Self::Indexing,
        Self::Succeeded,
        Self::Failed,
        Self::Cancelled,
        Self::Expired,
    ];

    /// Whether the job has ended.
    #[must_use]
    pub fn is_final(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Cancelled | Self::Expired)
    }

    /// The name used on the wire and in stores.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Retrieving => "retrieving",
            Self::Generating => "generating",
            Self::Parsing => "parsing",
            Self::Embedding => "embedding",
            Self::Indexing => "indexing",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::Expired => "expired",
        }
    }

    /// Reads [`Self::as_str`] back.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.as_str() == name)
    }
}

/// A stage of the work: a queue, and the role of the worker that takes from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Finds the passages for a question.
    Retrieval,
    /// Writes the answer from the passages.
    Generation,
    /// Parses, chunks, embeds and indexes documents.
    Ingestion,
    /// Sends webhooks. No job waits in this stage; it carries deliveries.
    Webhook,
}

impl Stage {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Retrieval, Self::Generation, Self::Ingestion, Self::Webhook];

    /// The name of its queue.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Retrieval => "retrieval",
            Self::Generation => "generation",
            Self::Ingestion => "ingestion",
            Self::Webhook => "webhook",
        }
    }

    /// Reads [`Self::as_str`] back.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|stage| stage.as_str() == name)
    }

    /// What a job's status becomes when a worker of this stage takes it.
    #[must_use]
    pub fn running_status(self) -> JobStatus {
        match self {
            Self::Retrieval => JobStatus::Retrieving,
            Self::Generation => JobStatus::Generating,
            Self::Ingestion | Self::Webhook => JobStatus::Parsing,
        }
    }
}

/// How urgent a job is. Lower classes wait, but are never starved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Priority {
    /// A person waits for it.
    Interactive,
    /// The default.
    #[default]
    Normal,
    /// Nobody waits for it.
    Batch,
}

impl Priority {
    /// All of them, the most urgent first.
    pub const ALL: [Self; 3] = [Self::Interactive, Self::Normal, Self::Batch];

    /// The name used on the wire and in stores.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Interactive => "interactive",
            Self::Normal => "normal",
            Self::Batch => "batch",
        }
    }
}

/// Whether an answer may come from the cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CacheMode {
    /// An equal question over the same state of the documents may be answered from the cache.
    #[default]
    Use,
    /// The work is always done.
    Bypass,
}

/// What a query job was asked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct QuerySpec {
    /// The question.
    pub query: String,
    /// Where to look.
    pub collection: Collection,
    /// Which query pipeline answers.
    pub pipeline: PipelineName,
    /// Only documents with this metadata.
    #[serde(default)]
    pub filter: MetadataFilter,
    /// How many passages the answer is written from.
    pub top_k: usize,
    /// How the answer is written.
    pub generation: GenerationOptions,
    /// Whether the cache may answer.
    #[serde(default)]
    pub cache: CacheMode,
}

/// What an ingestion job was given. The documents themselves lie in the blob store, since they
/// may be large and must outlive the process.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct IngestionSpec {
    /// Which indexing pipeline takes them in.
    pub pipeline: PipelineName,
    /// The blob with the manifest: one item a line, as JSON.
    pub manifest: String,
    /// How many items the manifest has.
    pub documents: u64,
}

/// What a job was asked to do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum JobSpec {
    /// A question.
    Query(QuerySpec),
    /// Documents.
    Ingestion(IngestionSpec),
}

impl JobSpec {
    /// The kind of job this asks for.
    #[must_use]
    pub fn kind(&self) -> JobKind {
        match self {
            Self::Query(_) => JobKind::Query,
            Self::Ingestion(_) => JobKind::Ingestion,
        }
    }

    /// The stage a job of this kind begins in.
    #[must_use]
    pub fn first_stage(&self) -> Stage {
        match self {
            Self::Query(_) => Stage::Retrieval,
            Self::Ingestion(_) => Stage::Ingestion,
        }
    }
}

/// How far a job is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Units finished, failed ones included.
    pub done: u64,
    /// Units in all.
    pub total: u64,
    /// What is counted, for example `documents`.
    pub unit: String,
    /// Chunks written so far (ingestion only).
    #[serde(default)]
    pub chunks: u64,
    /// Tokens that the embedding model has read so far (ingestion only).
    #[serde(default)]
    pub tokens: u64,
    /// Tokens that it read in each of the last seconds; none until that can be told (ingestion only).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens_per_s: Option<u64>,
    /// About how long until the job ends, in milliseconds from the time of this report; none until that can be told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eta_ms: Option<u64>,
}

/// Milliseconds spent in each part of a job. A part that was not run is absent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Timings {
    /// From acceptance to the first worker, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queued_ms: Option<u64>,
    /// Retrieval, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retrieval_ms: Option<u64>,
    /// Generation, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation_ms: Option<u64>,
    /// Ingestion, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ingestion_ms: Option<u64>,
}

/// Tokens read and written by a model. Zero where no language model was used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Tokens of the prompt.
    pub prompt_tokens: u64,
    /// Tokens of the answer.
    pub completion_tokens: u64,
}

/// A source of an answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Citation {
    /// The number in the answer's text: `1` for `[1]`.
    pub marker: u32,
    /// The cited document.
    pub document_id: DocumentId,
    /// The client's own id of that document.
    pub external_id: String,
    /// The cited chunk.
    pub chunk_id: super::ChunkId,
    /// The document's title.
    pub title: String,
    /// Where the document came from, if known.
    pub uri: Option<String>,
    /// The cited text, verbatim from the document.
    pub text: String,
    /// First character of `text` in the document's text, counted in Unicode scalar values.
    pub start: usize,
    /// One past the last character of `text`.
    pub end: usize,
    /// The passage's retrieval score.
    pub score: f32,
}

/// A part of the system that could not take part in an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Degraded {
    /// Nothing could be embedded: keyword search alone found the passages, or words alone chose the sentences.
    Embedder,
    /// The vector index failed: keyword search alone answered.
    VectorIndex,
    /// The keyword index failed: vector search alone answered.
    KeywordIndex,
    /// The re-ranker failed or was too slow: the fused order stands.
    Reranker,
    /// The passages had gone from the cache and were retrieved a second time.
    PassagesEvicted,
    /// The question was longer than the embedding model reads: its end was not embedded.
    QueryTruncated,
}

/// The result of a query job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct QueryResult {
    /// The answer, with citation markers such as `[1]`.
    pub answer: String,
    /// Whether the documents hold an answer at all. `false` means that `answer` says so.
    pub found: bool,
    /// The sources that the answer names, each checked against the passages.
    pub citations: Vec<Citation>,
    /// Tokens used.
    pub usage: Usage,
    /// The generator that wrote it.
    pub model: String,
    /// Why the text ended.
    pub finish_reason: super::FinishReason,
    /// The state of the documents that was searched.
    pub index_generation: String,
    /// Whether it came from the cache.
    pub cached: bool,
    /// What was down or left out.
    pub degraded: Vec<Degraded>,
}

/// Counts of an ingestion's documents.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DocumentCounts {
    /// New to the collection.
    pub created: u64,
    /// Replaced by a new version.
    pub updated: u64,
    /// Equal to what was there.
    pub unchanged: u64,
    /// Not taken in; each has its reason among the failures.
    pub failed: u64,
}

/// Counts of an ingestion's chunks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChunkCounts {
    /// Embedded (or, without a model, written) anew.
    pub embedded: u64,
    /// Kept as they were.
    pub unchanged: u64,
    /// Removed.
    pub deleted: u64,
}

/// Why one document of an ingestion was not taken in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DocumentFailure {
    /// The client's id of the document, or its file name.
    pub external_id: String,
    /// Stable, for programs: `empty`, `encrypted`, `too_large`, `unsupported`, `corrupt`, ….
    pub code: String,
    /// For people: what is wrong and what to do.
    pub message: String,
}

/// The result of an ingestion job.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct IngestionResult {
    /// Documents counted.
    pub documents: DocumentCounts,
    /// Chunks counted.
    pub chunks: ChunkCounts,
    /// The documents that failed, at most [`IngestionResult::MAX_FAILURES`] of them, in the order in which they were sent.
    pub failures: Vec<DocumentFailure>,
    /// Tokens that the embedding model read for what was taken in.
    #[serde(default)]
    pub tokens: u64,
    /// The embedding model that was used; none in keyword mode.
    pub model: Option<String>,
}

impl IngestionResult {
    /// How many failures are listed; `documents.failed` counts all.
    pub const MAX_FAILURES: usize = 1_000;
}

/// What a job that succeeded brought.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum JobResult {
    /// An answer.
    Query(QueryResult),
    /// A report of what was taken in.
    Ingestion(IngestionResult),
}

/// Why a job failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobError {
    /// Stable, for programs: `deadline`, `generator_unavailable`, ….
    pub code: String,
    /// For people.
    pub message: String,
    /// Whether the same job might succeed if it were submitted again.
    pub retryable: bool,
}

impl JobError {
    /// An error that a later submission might not meet.
    #[must_use]
    pub fn retryable(code: &str, message: impl Into<String>) -> Self {
        Self { code: code.to_owned(), message: message.into(), retryable: true }
    }

    /// An error that the same submission would meet again.
    #[must_use]
    pub fn permanent(code: &str, message: impl Into<String>) -> Self {
        Self { code: code.to_owned(), message: message.into(), retryable: false }
    }

    /// The job's time was up while it ran.
    #[must_use]
    pub fn deadline() -> Self {
        Self::retryable("deadline", "the job's deadline passed before it was finished")
    }
}

/// A job as the store keeps it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Job {
    /// Its id.
    pub id: JobId,
    /// Whose it is.
    pub tenant: Tenant,
    /// What was asked.
    pub spec: JobSpec,
    /// Where it stands.
    pub status: JobStatus,
    /// The stage that it waits for or runs in.
    pub stage: Stage,
    /// How often its present stage was taken by a worker; 0 before the first.
    pub attempt: u32,
    /// Grows each time a worker takes the job and when it is ended from outside. A write must name
    /// the fence it was given, so a worker whose lease went changes nothing.
    pub fence: u64,
    /// How often the job's events may have been lost; the high part of their sequence numbers.
    pub epoch: u32,
    /// How urgent it is.
    pub priority: Priority,
    /// The client's data, given back as it came.
    pub metadata: Metadata,
    /// Whom to call back.
    pub webhook: Option<WebhookTarget>,
    /// When it was accepted.
    pub created_at: Timestamp,
    /// When a worker first took it.
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub completed_at: Option<Timestamp>,
    /// When it must have ended.
    pub deadline: Timestamp,
    /// When it is forgotten: the retention time after its end. None while it runs.
    pub expires_at: Option<Timestamp>,
    /// How far it is, where that is known.
    pub progress: Option<Progress>,
    /// What it brought.
    pub result: Option<JobResult>,
    /// Why it failed.
    pub error: Option<JobError>,
    /// Where its time went.
    pub timings: Timings,
    /// Changes with every write to the job; the `ETag`.
    pub revision: u64,
}

impl Job {
    /// The kind of job.
    #[must_use]
    pub fn kind(&self) -> JobKind {
        self.spec.kind()
    }

    /// The lowest sequence number its next event may have, less one: events of a later epoch come
    /// after all events of an earlier one, even where the log forgot those.
    #[must_use]
    pub fn event_floor(&self) -> u64 {
        u64::from(self.epoch) << 24
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_names_round_trip() {
        for status in JobStatus::ALL {
            assert_eq!(JobStatus::parse(status.as_str()), Some(status));
            assert_eq!(serde_json::to_value(status).unwrap(), status.as_str());
        }
        assert_eq!(JobStatus::ALL.iter().filter(|s| s.is_final()).count(), 4);
    }
}
