//! The public form of jobs, events and passages: what HTTP bodies, streams and webhooks carry. Types of their
//! own, so that the domain can change without breaking a client.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize, Serializer};
use serde_json::Value;
use url::Url;
use uuid::Uuid;

use crate::domain::{
    Citation, Degraded, Event, FinishReason, IngestionResult, Job, JobError, JobId, JobKind, JobResult,
    JobStatus, Metadata, Passage, Progress, QueryResult, Ranks, Retrieved, Timings, Usage,
};

/// Builds public forms; knows the address under which clients reach the API.
#[derive(Debug, Clone, Default)]
pub struct Views {
    base: Option<Url>,
}

/// A job as clients see it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct JobView {
    /// The job's id (UUID version 7).
    pub job_id: Uuid,
    /// `query` or `ingestion`.
    #[cfg_attr(feature = "openapi", schema(value_type = String, example = "query"))]
    pub kind: JobKind,
    /// Where it stands: `queued`, `retrieving`, `generating`, `parsing`, `embedding`, `indexing`, or, at the end, `succeeded`, `failed`, `cancelled`, `expired`.
    #[cfg_attr(feature = "openapi", schema(value_type = String, example = "generating"))]
    pub status: JobStatus,
    /// Which attempt of its present stage this is; 0 before the first.
    pub attempt: u32,
    /// When it was accepted.
    pub created_at: DateTime<Utc>,
    /// When work on it began.
    pub started_at: Option<DateTime<Utc>>,
    /// When it ended.
    pub completed_at: Option<DateTime<Utc>>,
    /// When it must have ended.
    pub deadline: DateTime<Utc>,
    /// When it will be forgotten; set when it has ended.
    pub expires_at: Option<DateTime<Utc>>,
    /// About how many jobs are before it (only while it is queued).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue_position: Option<u64>,
    /// About how long until it ends, in milliseconds, where that can be told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eta_ms: Option<u64>,
    /// How far it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub progress: Option<ProgressView>,
    /// What it brought, once it has succeeded.
    pub result: Option<ResultView>,
    /// Why it failed, once it has.
    pub error: Option<JobErrorView>,
    /// The client's own data, as it was given.
    #[cfg_attr(feature = "openapi", schema(value_type = Object))]
    pub metadata: Metadata,
    /// Where to go from here.
    pub urls: Urls,
}

/// How far a job is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ProgressView {
    /// Units finished.
    pub done: u64,
    /// Units in all.
    pub total: u64,
    /// What is counted.
    pub unit: String,
    /// Chunks written so far (ingestion).
    pub chunks: u64,
    /// Tokens that the embedding model has read so far (ingestion).
    pub tokens: u64,
    /// Tokens that it read in each of the last ten seconds; null until that can be told (ingestion).
    pub tokens_per_s: Option<u64>,
}

/// Why a job failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct JobErrorView {
    /// Stable, for programs.
    pub code: String,
    /// For people.
    pub message: String,
    /// Whether the same request may succeed later.
    pub retryable: bool,
}

/// Links of a job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Urls {
    /// The job itself.
    #[serde(rename = "self")]
    pub this: String,
    /// Its events, as Server-Sent Events.
    pub events: String,
    /// Its events, over a WebSocket.
    pub ws: String,
    /// Where to cancel it.
    pub cancel: String,
    /// Its passages (queries).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub passages: Option<String>,
}

/// What a job brought.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(untagged)]
pub enum ResultView {
    /// Of a query.
    Query(QueryResultView),
    /// Of an ingestion.
    Ingestion(IngestionResultView),
}

/// The answer to a question.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct QueryResultView {
    /// The text, with markers such as `[1]`.
    pub answer: String,
    /// Whether the documents hold an answer; `false` where `answer` says that they do not.
    pub found: bool,
    /// The sources named in the text.
    pub citations: Vec<CitationView>,
    /// Tokens used.
    pub usage: UsageView,
    /// What wrote the answer.
    pub model: String,
    /// Why the text ended: `stop`, `length` or `content_filter`.
    #[cfg_attr(feature = "openapi", schema(value_type = String, example = "stop"))]
    pub finish_reason: FinishReason,
    /// The state of the documents that was searched.
    pub index_generation: String,
    /// Whether it came from the cache.
    pub cached: bool,
    /// What could not take part: `embedder`, `vector_index`, `keyword_index`, `reranker`, `passages_evicted`, `query_truncated`.
    #[cfg_attr(feature = "openapi", schema(value_type = Vec<String>))]
    pub degraded: Vec<Degraded>,
    /// Where the time went.
    pub timings: TimingsView,
}

/// A source of an answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct CitationView {
    /// The number in the text: 1 for `[1]`.
    pub marker: u32,
    /// The cited document.
    pub document_id: Uuid,
    /// The client's own id of it.
    pub external_id: String,
    /// The cited chunk.
    pub chunk_id: Uuid,
    /// The document's title.
    pub title: String,
    /// Where the document came from.
    pub uri: Option<String>,
    /// The cited text, verbatim.
    pub text: String,
    /// First character of it in the document's text, in Unicode scalar values from 0.
    pub start: usize,
    /// One past its last character.
    pub end: usize,
    /// The passage's score.
    #[serde(serialize_with = "shortest")]
    pub score: f32,
}

/// Tokens used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct UsageView {
    /// Read.
    pub prompt_tokens: u64,
    /// Written.
    pub completion_tokens: u64,
}

/// Milliseconds spent in each part; a part that was not run is absent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct TimingsView {
    /// Waiting for the first worker.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queued_ms: Option<u64>,
    /// Finding passages.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retrieval_ms: Option<u64>,
    /// Writing the answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub generation_ms: Option<u64>,
    /// Taking documents in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ingestion_ms: Option<u64>,
}

/// The report of an ingestion.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct IngestionResultView {
    /// Documents counted.
    pub documents: DocumentCountsView,
    /// Chunks counted.
    pub chunks: ChunkCountsView,
    /// The documents that were not taken in, each with its reason (the first 1,000).
    pub failures: Vec<DocumentFailureView>,
    /// Tokens that the embedding model read for it.
    pub tokens: u64,
    /// The embedding model; null where there is none (keyword mode).
    pub model: Option<String>,
    /// Where the time went.
    pub timings: TimingsView,
}

/// Documents of an ingestion.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct DocumentCountsView {
    /// New.
    pub created: u64,
    /// Replaced.
    pub updated: u64,
    /// As they were.
    pub unchanged: u64,
    /// Not taken in.
    pub failed: u64,
}

/// Chunks of an ingestion.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ChunkCountsView {
    /// Embedded and written.
    pub embedded: u64,
    /// Kept.
    pub unchanged: u64,
    /// Removed.
    pub deleted: u64,
}

/// A document that was not taken in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct DocumentFailureView {
    /// The client's id of it, or its file name.
    pub external_id: String,
    /// Stable, for programs: `empty`, `encrypted`, `too_large`, `unsupported`, `corrupt`, `timeout`, `conflict`.
    pub code: String,
    /// For people.
    pub message: String,
}

/// A passage that was found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PassageView {
    /// Its document.
    pub document_id: Uuid,
    /// The client's own id of the document.
    pub external_id: String,
    /// The chunk.
    pub chunk_id: Uuid,
    /// The document's title.
    pub title: String,
    /// Where the document came from.
    pub uri: Option<String>,
    /// Its headings, the outermost first.
    pub heading_path: Vec<String>,
    /// Its text, verbatim.
    pub text: String,
    /// First character of it in the document's text, in Unicode scalar values from 0.
    pub start: usize,
    /// One past its last character.
    pub end: usize,
    /// How well it fits, higher is better; comparable within one search only.
    #[serde(serialize_with = "shortest")]
    pub score: f32,
    /// Its place in each ranking, from 1.
    pub ranks: RanksView,
    /// The document's metadata.
    #[cfg_attr(feature = "openapi", schema(value_type = Object))]
    pub metadata: Metadata,
}

/// Places in the rankings, from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct RanksView {
    /// By vector.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vector: Option<u32>,
    /// By words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keyword: Option<u32>,
    /// After re-ranking.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rerank: Option<u32>,
}

/// An event as clients see it, the same on every transport.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct EventView {
    /// Strictly increasing within the job, not always by one.
    pub seq: u64,
    /// The job.
    pub job_id: Uuid,
    /// What happened, for example `answer.delta`.
    #[serde(rename = "type")]
    pub kind: String,
    /// When.
    pub at: DateTime<Utc>,
    /// The details, by type.
    #[cfg_attr(feature = "openapi", schema(value_type = Object))]
    pub data: Value,
}

impl Views {
    /// Views whose links begin with `base`, or with the path alone where there is none.
    #[must_use]
    pub fn new(base: Option<Url>) -> Self {
        Self { base }
    }

    /// The path of a job, without the address.
    #[must_use]
    pub fn job_path(id: JobId) -> String {
        format!("/v1/jobs/{id}")
    }

    /// A link to a path of the API.
    #[must_use]
    pub fn link(&self, path: &str) -> String {
        match &self.base {
            Some(base) => format!("{}{path}", base.as_str().trim_end_matches('/')),
            None => path.to_owned(),
        }
    }

    fn ws_link(&self, path: &str) -> String {
        let link = self.link(path);
        match link.strip_prefix("http") {
            Some(rest) if self.base.is_some() => format!("ws{rest}"),
            _ => link,
        }
    }

    /// A job.
    #[must_use]
    pub fn job(&self, job: &Job) -> JobView {
        let path = Self::job_path(job.id);
        JobView {
            job_id: job.id.0,
            kind: job.kind(),
            status: job.status,
            attempt: job.attempt,
            created_at: job.created_at,
            started_at: job.started_at,
            completed_at: job.completed_at,
            deadline: job.deadline,
            expires_at: job.expires_at,
            queue_position: None,
            eta_ms: eta_ms(job),
            progress: job.progress.as_ref().map(progress),
            result: job.result.as_ref().map(|result| result_view(result, job.timings)),
            error: job.error.as_ref().map(error),
            metadata: job.metadata.clone(),
            urls: Urls {
                this: self.link(&path),
                events: self.link(&format!("{path}/events")),
                ws: self.ws_link(&format!("{path}/ws")),
                cancel: self.link(&format!("{path}/cancel")),
                passages: (job.kind() == JobKind::Query).then(|| self.link(&format!("{path}/passages"))),
            },
        }
    }

    /// A job as JSON, for events and webhooks.
    #[must_use]
    pub fn job_json(&self, job: &Job) -> Value {
        to_json(&self.job(job))
    }
}

/// What was found, as JSON for the `job.retrieved` event.
#[must_use]
pub fn retrieved_json(retrieved: &Retrieved) -> Value {
    let passages: Vec<PassageView> = retrieved.passages.iter().map(passage).collect();
    serde_json::json!({
        "passages": to_json(&passages),
        "degraded": to_json(&retrieved.degraded),
        "index_generation": retrieved.index_generation,
    })
}

/// A passage.
#[must_use]
pub fn passage(passage: &Passage) -> PassageView {
    let Passage { record, score, ranks: Ranks { vector, keyword, rerank } } = passage;
    PassageView {
        document_id: record.document_id.0,
        external_id: record.external_id.clone(),
        chunk_id: record.chunk_id.0,
        title: record.title.clone(),
        uri: record.uri.clone(),
        heading_path: record.heading_path.clone(),
        text: record.text.clone(),
        start: record.start,
        end: record.end,
        score: *score,
        ranks: RanksView { vector: *vector, keyword: *keyword, rerank: *rerank },
        metadata: record.metadata.clone(),
    }
}

/// An event.
#[must_use]
pub fn event(event: Event) -> EventView {
    let Event { seq, job_id, kind, at, data } = event;
    EventView { seq, job_id: job_id.0, kind: kind.as_str().to_owned(), at, data }
}

fn to_json<T: Serialize>(value: &T) -> Value {
    // These types have string keys and no failing serialiser; null stands for what cannot be.
    serde_json::to_value(value).unwrap_or(Value::Null)
}

/// A score with the digits that an `f32` has. As it is, it would be written with other digits into a [`Value`] (which holds `f64`) than
/// into text, and a job's last event and webhook would not be equal to the job.
#[allow(clippy::trivially_copy_pass_by_ref)] // serde passes references
fn shortest<S: Serializer>(score: &f32, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(score.to_string().parse().unwrap_or_else(|_| f64::from(*score)))
}

/// Progress, as jobs and `document.progress` events carry it.
#[must_use]
pub fn progress(progress: &Progress) -> ProgressView {
    let Progress { done, total, unit, chunks, tokens, tokens_per_s, eta_ms: _ } = progress;
    ProgressView {
        done: *done,
        total: *total,
        unit: unit.clone(),
        chunks: *chunks,
        tokens: *tokens,
        tokens_per_s: *tokens_per_s,
    }
}

/// What the job's worker told last, while it works.
fn eta_ms(job: &Job) -> Option<u64> {
    let runs = job.status != JobStatus::Queued && !job.status.is_final();
    job.progress.as_ref().filter(|_| runs)?.eta_ms
}

fn error(error: &JobError) -> JobErrorView {
    let JobError { code, message, retryable } = error;
    JobErrorView { code: code.clone(), message: message.clone(), retryable: *retryable }
}

fn timings(timings: Timings) -> TimingsView {
    let Timings { queued_ms, retrieval_ms, generation_ms, ingestion_ms } = timings;
    TimingsView { queued_ms, retrieval_ms, generation_ms, ingestion_ms }
}

fn result_view(result: &JobResult, spent: Timings) -> ResultView {
    match result {
        JobResult::Query(result) => ResultView::Query(query_result(result, spent)),
        JobResult::Ingestion(result) => ResultView::Ingestion(ingestion_result(result, spent)),
    }
}

fn query_result(result: &QueryResult, spent: Timings) -> QueryResultView {
    let Usage { prompt_tokens, completion_tokens } = result.usage;
    QueryResultView {
        answer: result.answer.clone(),
        found: result.found,
        citations: result.citations.iter().map(citation).collect(),
        usage: UsageView { prompt_tokens, completion_tokens },
        model: result.model.clone(),
        finish_reason: result.finish_reason,
        index_generation: result.index_generation.clone(),
        cached: result.cached,
        degraded: result.degraded.clone(),
        timings: timings(spent),
    }
}

fn citation(citation: &Citation) -> CitationView {
    CitationView {
        marker: citation.marker,
        document_id: citation.document_id.0,
        external_id: citation.external_id.clone(),
        chunk_id: citation.chunk_id.0,
        title: citation.title.clone(),
        uri: citation.uri.clone(),
        text: citation.text.clone(),
        start: citation.start,
        end: citation.end,
        score: citation.score,
    }
}

fn ingestion_result(result: &IngestionResult, spent: Timings) -> IngestionResultView {
    let (documents, chunks) = (result.documents, result.chunks);
    IngestionResultView {
        documents: DocumentCountsView {
            created: documents.created,
            updated: documents.updated,
            unchanged: documents.unchanged,
            failed: documents.failed,
        },
        chunks: ChunkCountsView {
            embedded: chunks.embedded,
            unchanged: chunks.unchanged,
            deleted: chunks.deleted,
        },
        failures: result
            .failures
            .iter()
            .map(|failure| DocumentFailureView {
                external_id: failure.external_id.clone(),
                code: failure.code.clone(),
                message: failure.message.clone(),
            })
            .collect(),
        tokens: result.tokens,
        model: result.model.clone(),
        timings: timings(spent),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_score_reads_the_same_in_an_event_as_in_an_answer() {
        #[derive(Serialize)]
        struct Scored {
            #[serde(serialize_with = "shortest")]
            score: f32,
        }
        for score in [0.858_956_6, 1.0, 0.1, f32::MIN_POSITIVE, 1e30, -2.5] {
            let scored = Scored { score };
            let text = serde_json::to_string(&scored).unwrap();
            assert_eq!(to_json(&scored), serde_json::from_str::<Value>(&text).unwrap());
            assert_eq!(text, format!("{{\"score\":{}}}", serde_json::to_string(&score).unwrap()));
        }
    }
}
