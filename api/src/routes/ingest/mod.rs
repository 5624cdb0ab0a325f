//! `POST /v1/documents`: documents as JSON, NDJSON or files, taken in by a job.

mod document;
mod json;
mod multipart;
mod ndjson;
mod workspace;

use std::time::Duration;

use axum::{
    extract::{Request, State},
    response::Response,
};
use raglan_pipeline::{
    domain::{Collection, IngestionSpec, JobId, JobSpec, Metadata, PipelineName, Priority, WebhookTarget},
    ports::{ErrorKind, PortError},
    submit::{SubmitError, SubmitRequest},
    view::JobView,
};
use serde::Deserialize;
use tokio::sync::OwnedSemaphorePermit;
use url::Url;
use utoipa::IntoParams;

use self::workspace::Workspace;
pub(crate) use self::{document::DocumentInput, json::DocumentsRequest};
use crate::{
    answer,
    auth::Caller,
    error::{ApiResult, Problem},
    extract::{ApiQuery, IdempotencyKey, Preference, check_length, media_type},
    openapi::{Conflict, Invalid, Overloaded, TooLarge, Unsupported, names::PriorityName},
    state::ApiState,
};

/// How long a request waits for others that are being read.
const PERMIT_TIMEOUT: Duration = Duration::from_secs(20);

/// What holds for all documents of a request, where the body does not say it.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct IngestQuery {
    /// Where documents go that name no collection.
    #[param(value_type = Option<String>, example = "default")]
    collection: Option<Collection>,
    /// Which indexing pipeline of the configuration takes them in.
    #[param(value_type = Option<String>, example = "default")]
    pipeline: Option<PipelineName>,
    /// `interactive`, `normal` or `batch`.
    #[param(value_type = Option<PriorityName>, inline, example = "batch")]
    priority: Option<Priority>,
    /// The job ends after so many seconds, finished or not.
    #[param(minimum = 1)]
    deadline_s: Option<u64>,
    /// Where to call back when the job has ended.
    webhook_url: Option<Url>,
}

/// What holds for the job: of the query string, overlaid with what the body says.
#[derive(Debug, Default)]
struct Options {
    collection: Option<Collection>,
    pipeline: Option<PipelineName>,
    priority: Option<Priority>,
    deadline_s: Option<u64>,
    webhook: Option<WebhookTarget>,
}

impl From<IngestQuery> for Options {
    fn from(query: IngestQuery) -> Self {
        let IngestQuery { collection, pipeline, priority, deadline_s, webhook_url } = query;
        let webhook = webhook_url.map(|url| WebhookTarget { url, events: Vec::new() });
        Self { collection, pipeline, priority, deadline_s, webhook }
    }
}

/// What a body brought, once it is read whole.
struct Gathered {
    /// The manifest, one item a line.
    manifest: Vec<u8>,
    /// How many items it has.
    documents: u64,
    options: Options,
    /// What the body says, for telling whether a repeated request is the same; empty where that is not asked.
    digest: Vec<u8>,
}

/// What the readers of bodies work with.
struct Reading<'a> {
    state: &'a ApiState,
    caller: &'a Caller,
    workspace: &'a Workspace,
    options: Options,
    /// Whether [`Gathered::digest`] is needed.
    hash: bool,
}

/// Send documents.
///
/// As JSON (one document, or `{"documents": […]}`), as NDJSON (one document a line), or as files (multipart). A document with an `external_id` that
/// the collection has already replaces it, and only what changed is embedded. Answers with a job; a file that cannot be read fails alone, with its reason in the job's result.
#[utoipa::path(
    post,
    path = "/v1/documents",
    tag = "Documents and collections",
    operation_id = "submit_documents",
    params(
        ("Idempotency-Key" = Option<String>, Header, description = "1 to 255 visible ASCII characters. The same key with the same request gives the first job again; with another request `409`."),
        ("Prefer" = Option<String>, Header, description = "`wait=N`: hold the answer for up to N seconds and give the finished job with `200`."),
        IngestQuery,
    ),
    request_body(description = "The documents", content(
        (DocumentsRequest = "application/json"),
        (DocumentInput = "application/x-ndjson"),
        (multipart::FilesForm = "multipart/form-data"),
    )),
    responses(
        (status = 202, description = "Accepted and durable", body = JobView, headers(
            ("Location" = String, description = "The job"),
            ("Retry-After" = u64, description = "When to ask for it, in seconds"),
            ("ETag" = String, description = "The job's revision"),
            ("Idempotent-Replayed" = Option<String>, description = "`true` where the job is of an earlier request"),
        )),
        (status = 200, description = "The finished job (`Prefer: wait`, or a repeated request)", body = JobView, headers(
            ("Location" = String, description = "The job"),
            ("ETag" = String, description = "The job's revision"),
        )),
        Conflict, TooLarge, Unsupported, Invalid, Overloaded
    )
)]
pub(crate) async fn submit_documents(
    State(state): State<ApiState>,
    caller: Caller,
    key: IdempotencyKey,
    preference: Preference,
    ApiQuery(query): ApiQuery<IngestQuery>,
    request: Request,
) -> ApiResult<Response> {
    let limits = state.limits();
    let kind = media_type(request.headers())?.unwrap_or_default();
    let most = if kind == "multipart/form-data" { limits.files_bytes } else { limits.documents_bytes };
    check_length(request.headers(), most)?;
    let permit = ingest_permit(&state).await?;
    let id = JobId::generate();
    let workspace = Workspace::new(state.lifecycle.blobs.clone(), id);
    let canonical_query = request.uri().query().unwrap_or_default().to_owned();
    let reading = Reading {
        state: &state,
        caller: &caller,
        workspace: &workspace,
        options: query.into(),
        hash: key.is_given(),
    };
    let gathered = match kind.as_str() {
        "application/json" => json::read(reading, request).await?,
        "application/x-ndjson" | "application/ndjson" | "application/jsonl" => {
            ndjson::read(reading, request).await?
        }
        "multipart/form-data" => multipart::read(reading, request).await?,
        _ => {
            let detail = "send application/json, application/x-ndjson or multipart/form-data";
            return Err(Problem::unsupported(detail).field("Content-Type"));
        }
    };
    let Gathered { manifest, documents, options, mut digest } = gathered;
    digest.extend_from_slice(canonical_query.as_bytes());
    let manifest = workspace.put_manifest(manifest).await?;
    // The documents are out of memory now.
    drop(permit);
    let pipeline = options.pipeline.unwrap_or_default();
    let request = SubmitRequest {
        id,
        spec: JobSpec::Ingestion(IngestionSpec { pipeline, manifest, documents }),
        priority: options.priority.unwrap_or_default(),
        deadline: options.deadline_s.map(Duration::from_secs),
        webhook: options.webhook,
        metadata: Metadata::new(),
        idempotency: key.with(&caller, "POST /v1/documents", &digest),
        tenant: caller.tenant,
    };
    answer::accept(&state, request, preference, move |submitted| match submitted {
        Ok(submitted) if submitted.created => workspace.keep(),
        // It may have been stored nevertheless, and a job without its files would be worse than files without a job.
        Err(SubmitError::Port(error)) if is_uncertain(error) => workspace.keep(),
        _ => drop(workspace),
    })
    .await
}

fn is_uncertain(error: &PortError) -> bool {
    matches!(error.kind(), ErrorKind::Timeout | ErrorKind::Internal)
}

/// Leave to hold documents in memory. Others are waited for a while.
pub(crate) async fn ingest_permit(state: &ApiState) -> ApiResult<OwnedSemaphorePermit> {
    let permit = tokio::time::timeout(PERMIT_TIMEOUT, state.ingests.clone().acquire_owned()).await;
    permit.ok().and_then(Result::ok).ok_or_else(|| {
        Problem::unavailable(
            "overloaded",
            "too many documents are being received; try again",
            Duration::from_secs(5),
        )
    })
}
