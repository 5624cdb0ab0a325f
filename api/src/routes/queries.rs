//! `POST /v1/queries`: a question, as a job.

use std::time::Duration;

use axum::{extract::State, response::Response};
use raglan_pipeline::{
    domain::{
        CacheMode, Collection, EventType, GenerationOptions, JobId, JobSpec, Metadata, MetadataFilter,
        PipelineName, Priority, QuerySpec, WebhookTarget,
    },
    pipelines::SelectSettings,
    submit::SubmitRequest,
    view::JobView,
};
use serde::Deserialize;
use url::Url;
use utoipa::ToSchema;

use crate::{
    answer,
    auth::Caller,
    checks::check_metadata,
    error::ApiResult,
    extract::{ApiJson, IdempotencyKey, Preference, canonical},
    openapi::{
        Conflict, Invalid, Overloaded, TooLarge, Unsupported,
        names::{CacheName, EndingName, PriorityName},
    },
    state::ApiState,
};

/// A question.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct QueryRequest {
    /// The question, in words.
    #[schema(example = "How long are events kept?", min_length = 1, max_length = 8000)]
    query: String,
    /// Where to look.
    #[serde(default)]
    #[schema(value_type = String, default = "default", example = "default")]
    collection: Collection,
    /// Which query pipeline of the configuration answers.
    #[serde(default)]
    #[schema(value_type = String, default = "default", example = "default")]
    pipeline: PipelineName,
    /// Only documents with this metadata: every key, each equal to the value or to one of a list of values.
    #[serde(default)]
    #[schema(value_type = Object, example = json!({"lang": ["en", "de"]}))]
    filter: MetadataFilter,
    /// How many passages the answer is written from; the pipeline's own number where absent.
    #[schema(example = 5, minimum = 1)]
    top_k: Option<usize>,
    /// How the answer is written.
    #[serde(default)]
    generation: GenerationRequest,
    /// How urgent it is: `interactive`, `normal` or `batch`. Lower classes wait, but are never starved.
    #[serde(default)]
    #[schema(value_type = PriorityName, default = "normal")]
    priority: Priority,
    /// The job ends after so many seconds, finished or not.
    #[schema(example = 120, minimum = 1)]
    deadline_s: Option<u64>,
    /// Whom to call back when it has ended.
    webhook: Option<WebhookRequest>,
    /// `use`: an equal question over the same documents may be answered from the cache. `bypass`: never.
    #[serde(default)]
    #[schema(value_type = CacheName, default = "use")]
    cache: CacheMode,
    /// Your own data, given back with the job (16 KiB at most).
    #[serde(default)]
    #[schema(value_type = Object, example = json!({"ticket": "42"}))]
    metadata: Metadata,
}

/// How an answer is written.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct GenerationRequest {
    /// The most tokens of the answer.
    #[schema(default = 512, minimum = 1)]
    max_tokens: Option<u32>,
    /// 0 is always the likeliest word.
    #[schema(default = 0.0, minimum = 0, maximum = 2)]
    temperature: Option<f32>,
}

/// Whom to call back.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct WebhookRequest {
    /// Where to. Signed as Standard Webhooks 1.0.0 says.
    #[schema(example = "https://example.com/hooks/raglan")]
    url: Url,
    /// About which endings: `job.succeeded`, `job.failed`, `job.cancelled`, `job.expired`; all where empty.
    #[serde(default)]
    #[schema(value_type = Vec<EndingName>, inline, example = json!(["job.succeeded", "job.failed"]))]
    events: Vec<EventType>,
}

impl From<WebhookRequest> for WebhookTarget {
    fn from(request: WebhookRequest) -> Self {
        Self { url: request.url, events: request.events }
    }
}

/// Ask a question.
///
/// Answers with a job at once. Follow it, poll it, or be called back; or wait for its end here with `Prefer: wait=N`.
#[utoipa::path(
    post,
    path = "/v1/queries",
    tag = "Jobs",
    operation_id = "submit_query",
    request_body = QueryRequest,
    params(
        ("Idempotency-Key" = Option<String>, Header, description = "1 to 255 visible ASCII characters. The same key with the same request gives the first job again; with another request `409`."),
        ("Prefer" = Option<String>, Header, description = "`wait=N`: hold the answer for up to N seconds and give the finished job with `200`."),
    ),
    responses(
        (status = 202, description = "Accepted and durable", body = JobView, headers(
            ("Location" = String, description = "The job"),
            ("Retry-After" = u64, description = "When to ask for it, in seconds"),
            ("ETag" = String, description = "The job's revision"),
            ("Idempotent-Replayed" = Option<String>, description = "`true` where the job is of an earlier request"),
            ("Preference-Applied" = Option<String>, description = "The wait that was granted"),
        )),
        (status = 200, description = "The finished job (`Prefer: wait`, or a repeated request)", body = JobView, headers(
            ("Location" = String, description = "The job"),
            ("ETag" = String, description = "The job's revision"),
            ("Idempotent-Replayed" = Option<String>, description = "`true` where the job is of an earlier request"),
            ("Preference-Applied" = Option<String>, description = "The wait that was granted"),
        )),
        Conflict, TooLarge, Unsupported, Invalid, Overloaded
    )
)]
pub(crate) async fn submit_query(
    State(state): State<ApiState>,
    caller: Caller,
    key: IdempotencyKey,
    preference: Preference,
    body: ApiJson<QueryRequest>,
) -> ApiResult<Response> {
    let asked = body.value;
    check_metadata("metadata", &asked.metadata, usize::MAX)?;
    let select = state.pipelines.query.get(&asked.pipeline).map(|pipeline| &pipeline.select);
    let top_k =
        asked.top_k.unwrap_or_else(|| select.map_or(SelectSettings::default().top_k, |select| select.top_k));
    let usual = GenerationOptions::default();
    let canonical = if key.is_given() { canonical(body.bytes).await? } else { Vec::new() };
    let request = SubmitRequest {
        id: JobId::generate(),
        spec: JobSpec::Query(QuerySpec {
            query: asked.query,
            collection: asked.collection,
            pipeline: asked.pipeline,
            filter: asked.filter,
            top_k,
            generation: GenerationOptions {
                max_tokens: asked.generation.max_tokens.unwrap_or(usual.max_tokens),
                temperature: asked.generation.temperature.unwrap_or(usual.temperature),
            },
            cache: asked.cache,
        }),
        priority: asked.priority,
        deadline: asked.deadline_s.map(Duration::from_secs),
        webhook: asked.webhook.map(Into::into),
        metadata: asked.metadata,
        idempotency: key.with(&caller, "POST /v1/queries", &canonical),
        tenant: caller.tenant,
    };
    answer::accept(&state, request, preference, |_| {}).await
}
