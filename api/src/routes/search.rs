//! `POST /v1/search`: retrieval alone, answered at once.

use std::time::Duration;

use axum::{Json, extract::State};
use raglan_pipeline::{
    domain::{Collection, Degraded, MetadataFilter, PipelineName, SearchMode},
    retrieval::{SearchRequest as Search, SearchTimings},
    submit::{check_filter, check_question, check_top_k},
    view::{self, PassageView},
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::collections::unknown_collection;
use crate::{
    auth::Caller,
    error::{ApiResult, Problem},
    extract::ApiJson,
    openapi::{Invalid, NotFound, Overloaded, TooLarge, Unsupported, names::ModeName},
    state::ApiState,
};

/// A search.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct SearchRequest {
    /// What to look for, in words.
    #[schema(example = "retention of events", min_length = 1, max_length = 8000)]
    query: String,
    /// Where to look.
    #[serde(default)]
    #[schema(value_type = String, default = "default", example = "default")]
    collection: Collection,
    /// Which query pipeline's settings to use.
    #[serde(default)]
    #[schema(value_type = String, default = "default", example = "default")]
    pipeline: PipelineName,
    /// How many passages; the pipeline's own number where absent.
    #[schema(example = 5, minimum = 1)]
    top_k: Option<usize>,
    /// `hybrid`, `vector` or `keyword`; the pipeline's own choice where absent.
    #[schema(value_type = Option<ModeName>, inline, example = "hybrid")]
    mode: Option<SearchMode>,
    /// At most so many passages of one document; the pipeline's own choice where absent.
    #[schema(example = 1, minimum = 1)]
    per_document: Option<usize>,
    /// Only documents with this metadata.
    #[serde(default)]
    #[schema(value_type = Object, example = json!({"lang": "en"}))]
    filter: MetadataFilter,
}

/// What was found.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct SearchView {
    /// The best first.
    passages: Vec<PassageView>,
    /// What could not take part: `embedder`, `vector_index`, `keyword_index`, `reranker`, `query_truncated`.
    #[schema(value_type = Vec<String>)]
    degraded: Vec<Degraded>,
    /// The state of the documents that was searched.
    index_generation: String,
    /// Where the time went.
    timings: SearchTimingsView,
}

/// Milliseconds spent in each part; a part that was not run is absent.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct SearchTimingsView {
    /// Embedding the question.
    #[serde(skip_serializing_if = "Option::is_none")]
    embed_ms: Option<f64>,
    /// Searching by vector.
    #[serde(skip_serializing_if = "Option::is_none")]
    vector_ms: Option<f64>,
    /// Searching by words.
    #[serde(skip_serializing_if = "Option::is_none")]
    keyword_ms: Option<f64>,
    /// Re-ranking.
    #[serde(skip_serializing_if = "Option::is_none")]
    rerank_ms: Option<f64>,
    /// All of it.
    total_ms: f64,
}

impl From<SearchTimings> for SearchTimingsView {
    fn from(timings: SearchTimings) -> Self {
        // To the microsecond.
        let ms = |spent: Duration| spent.as_micros() as f64 / 1_000.0;
        Self {
            embed_ms: timings.embed.map(ms),
            vector_ms: timings.vector.map(ms),
            keyword_ms: timings.keyword.map(ms),
            rerank_ms: timings.rerank.map(ms),
            total_ms: ms(timings.total),
        }
    }
}

/// Search.
///
/// The passages that a question would be answered from, without a job and without an answer.
#[utoipa::path(
    post,
    path = "/v1/search",
    tag = "Search",
    operation_id = "search",
    request_body = SearchRequest,
    responses(
        (status = 200, description = "What was found", body = SearchView),
        NotFound, TooLarge, Unsupported, Invalid, Overloaded
    )
)]
pub(crate) async fn search(
    State(state): State<ApiState>,
    caller: Caller,
    body: ApiJson<SearchRequest>,
) -> ApiResult<Json<SearchView>> {
    let asked = body.value;
    let limits = state.submit.settings();
    check_question(&asked.query, limits.max_query_chars)?;
    check_filter(&asked.filter)?;
    let pipeline = state.pipelines.query.get(&asked.pipeline).ok_or_else(|| {
        let known: Vec<&str> = state.pipelines.query.keys().map(PipelineName::as_str).collect();
        let detail =
            format!("there is no pipeline {:?}; there are: {}", asked.pipeline.as_str(), known.join(", "));
        Problem::invalid("pipeline", detail)
    })?;
    let top_k = asked.top_k.unwrap_or(pipeline.select.top_k);
    check_top_k(top_k, limits.max_top_k)?;
    if asked.per_document == Some(0) {
        return Err(Problem::invalid("per_document", "must be at least 1"));
    }
    if state.documents.collection(&caller.tenant, &asked.collection).await?.is_none() {
        return Err(unknown_collection(&asked.collection).field("collection"));
    }
    let search = Search {
        tenant: caller.tenant,
        collection: asked.collection,
        query: asked.query,
        filter: asked.filter,
        top_k,
        mode: asked.mode,
        per_document: asked.per_document,
    };
    let found = state.retriever.search(pipeline, &search).await?;
    Ok(Json(SearchView {
        passages: found.retrieved.passages.iter().map(view::passage).collect(),
        degraded: found.retrieved.degraded,
        index_generation: found.retrieved.index_generation,
        timings: found.timings.into(),
    }))
}
