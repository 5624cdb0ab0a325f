//! Documents as JSON: one, or a list.

use axum::extract::Request;
use raglan_pipeline::domain::{Collection, Metadata, PipelineName, Priority};
use serde::{Deserialize, de::IgnoredAny};
use utoipa::ToSchema;

use super::{
    Gathered, Options, Reading,
    document::{DocumentInput, Manifest},
};
use crate::{
    error::{ApiResult, Problem},
    extract::{canonical, parse_json, read_body},
    openapi::names::PriorityName,
    routes::queries::WebhookRequest,
};

/// After so many documents others get a turn on the thread.
const YIELD_EVERY: usize = 64;

/// One document, or many.
#[derive(ToSchema)]
#[serde(untagged)]
#[allow(dead_code, reason = "describes the body; which of the two it is is found out before it is read")]
pub(crate) enum DocumentsRequest {
    /// Many.
    Many(DocumentsInput),
    /// One.
    One(OneInput),
}

/// Many documents.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct DocumentsInput {
    /// The documents.
    documents: Vec<DocumentInput>,
    /// Where documents go that name no collection.
    #[schema(value_type = Option<String>, example = "default")]
    collection: Option<Collection>,
    /// Which indexing pipeline of the configuration takes them in.
    #[schema(value_type = Option<String>, example = "default")]
    pipeline: Option<PipelineName>,
    /// `interactive`, `normal` or `batch`.
    #[schema(value_type = Option<PriorityName>, inline, example = "batch")]
    priority: Option<Priority>,
    /// The job ends after so many seconds, finished or not.
    #[schema(minimum = 1)]
    deadline_s: Option<u64>,
    /// Whom to call back when the job has ended.
    webhook: Option<WebhookRequest>,
}

/// One document, with what holds for its job.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct OneInput {
    /// Your own id of it, unique within its collection: sent again, the document is replaced. Made up where absent.
    #[schema(example = "handbook/returns.md", max_length = 512)]
    external_id: Option<String>,
    /// Its title; what its content names where absent.
    #[schema(example = "Returns", max_length = 1000)]
    title: Option<String>,
    /// Its text. Either this or the `uri` of an upload.
    #[schema(example = "Goods may be sent back within 30 days.")]
    text: Option<String>,
    /// Where it came from; without `text`, the `uri` that `POST /v1/uploads` answered.
    #[schema(example = "https://example.com/handbook/returns", max_length = 2048)]
    uri: Option<String>,
    /// Where it goes.
    #[schema(value_type = Option<String>, default = "default", example = "default")]
    collection: Option<Collection>,
    /// Your own data, to filter by (16 KiB at most).
    #[serde(default)]
    #[schema(value_type = Object, example = json!({"lang": "en"}))]
    metadata: Metadata,
    /// What `text` is: `text/plain`, `text/markdown` or `text/html`.
    #[schema(default = "text/plain", example = "text/markdown")]
    media_type: Option<String>,
    /// Which indexing pipeline of the configuration takes it in.
    #[schema(value_type = Option<String>, example = "default")]
    pipeline: Option<PipelineName>,
    /// `interactive`, `normal` or `batch`.
    #[schema(value_type = Option<PriorityName>, inline, example = "batch")]
    priority: Option<Priority>,
    /// The job ends after so many seconds, finished or not.
    #[schema(minimum = 1)]
    deadline_s: Option<u64>,
    /// Whom to call back when the job has ended.
    webhook: Option<WebhookRequest>,
}

/// Tells which of the two a body is.
#[derive(Deserialize)]
struct Probe {
    documents: Option<IgnoredAny>,
}

pub(super) async fn read(mut reading: Reading<'_>, request: Request) -> ApiResult<Gathered> {
    let limits = reading.state.limits();
    let body = read_body(request, limits.documents_bytes, limits.body_idle).await?;
    let digest = if reading.hash { canonical(body.clone()).await? } else { Vec::new() };
    let many = parse_json::<Probe>(body.clone()).await?.documents.is_some();
    let (documents, said) = if many {
        let DocumentsInput { documents, collection, pipeline, priority, deadline_s, webhook } =
            parse_json(body).await?;
        (documents, Options { collection, pipeline, priority, deadline_s, webhook: webhook.map(Into::into) })
    } else {
        let one: OneInput = parse_json(body).await?;
        let document = DocumentInput {
            external_id: one.external_id,
            title: one.title,
            text: one.text,
            uri: one.uri,
            collection: one.collection,
            metadata: one.metadata,
            media_type: one.media_type,
        };
        let said = Options {
            collection: None,
            pipeline: one.pipeline,
            priority: one.priority,
            deadline_s: one.deadline_s,
            webhook: one.webhook.map(Into::into),
        };
        (vec![document], said)
    };
    let query = std::mem::take(&mut reading.options);
    reading.options = Options {
        collection: said.collection.or(query.collection),
        pipeline: said.pipeline.or(query.pipeline),
        priority: said.priority.or(query.priority),
        deadline_s: said.deadline_s.or(query.deadline_s),
        webhook: said.webhook.or(query.webhook),
    };
    if documents.is_empty() {
        return Err(Problem::invalid("documents", "must not be empty"));
    }
    let mut manifest = Manifest::new();
    for (n, document) in documents.into_iter().enumerate() {
        if n % YIELD_EVERY == 0 {
            tokio::task::yield_now().await;
        }
        let added = manifest.add(&reading, document).await;
        added.map_err(|problem| if many { problem.under(&format!("documents[{n}]")) } else { problem })?;
    }
    let (manifest, documents) = manifest.finish();
    Ok(Gathered { manifest, documents, options: reading.options, digest })
}
