//! Jobs: one, many, cancel, passages, remove.

use axum::{
    Json,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use raglan_pipeline::{
    domain::{JobId, JobKind, JobStatus, Retrieved},
    ports::{JobFilter, Namespace},
    view::{self, JobView, PassageView},
};
use serde::{Deserialize, Serialize};
use std::time::Duration;
use utoipa::{IntoParams, ToSchema};

use crate::{
    answer,
    auth::Caller,
    error::{ApiResult, Problem},
    extract::{ApiPath, ApiQuery, Known, cursor, page_limit, read_cursor, wait_of},
    openapi::{
        Conflict, Gone, NotFound,
        names::{KindName, StatusName},
    },
    state::{ApiState, unknown_job},
};

/// How long to wait.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct WaitQuery {
    /// Hold the answer for up to so many seconds, until the job has ended; with `If-None-Match`, until it has changed.
    #[param(maximum = 60)]
    wait: Option<u64>,
}

/// Read a job.
///
/// Cheap to poll: send the `ETag` back as `If-None-Match`. With `wait` it is a long poll.
#[utoipa::path(
    get,
    path = "/v1/jobs/{job_id}",
    tag = "Jobs",
    operation_id = "get_job",
    params(
        ("job_id" = uuid::Uuid, Path, description = "The job"),
        ("If-None-Match" = Option<String>, Header, description = "The `ETag` of the job as you have it"),
        WaitQuery,
    ),
    responses(
        (status = 200, description = "The job", body = JobView, headers(
            ("ETag" = String, description = "Its revision"),
            ("Retry-After" = Option<u64>, description = "When to ask again, in seconds, while it runs"),
        )),
        (status = 304, description = "It is as you have it", headers(
            ("ETag" = String, description = "Its revision"),
            ("Retry-After" = Option<u64>, description = "When to ask again, in seconds, while it runs"),
        )),
        NotFound
    )
)]
pub(crate) async fn get_job(
    State(state): State<ApiState>,
    caller: Caller,
    ApiPath(id): ApiPath<JobId>,
    ApiQuery(query): ApiQuery<WaitQuery>,
    known: Known,
) -> ApiResult<Response> {
    let wait = wait_of(query.wait, state.limits().wait)?;
    let mut job = state.owned(&caller, id).await?;
    match wait {
        Some(wait) if !known.is_given() => job = answer::until_ended(&state, job, wait).await?,
        Some(wait) if known.holds(&answer::tag(&job)) && !job.status.is_final() => {
            job = answer::until_changed(&state, job, wait).await?;
        }
        _ => {}
    }
    if known.holds(&answer::tag(&job)) {
        return Ok(answer::not_modified(&job));
    }
    Ok(answer::job_answer(&state, &job, StatusCode::OK).await)
}

/// Which jobs to list.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct JobsQuery {
    /// Only in this status.
    #[param(value_type = Option<StatusName>, inline, example = "failed")]
    status: Option<JobStatus>,
    /// Only of this kind: `query` or `ingestion`.
    #[param(value_type = Option<KindName>, inline, example = "query")]
    kind: Option<JobKind>,
    /// How many, from 1 to 200.
    #[param(minimum = 1, maximum = 200, default = 50)]
    limit: Option<u32>,
    /// The `next_cursor` of the page before.
    cursor: Option<String>,
}

/// A page of jobs.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct JobsPage {
    /// The jobs, newest first.
    jobs: Vec<JobView>,
    /// Where the next page begins; null on the last.
    next_cursor: Option<String>,
}

/// List jobs, newest first.
#[utoipa::path(
    get,
    path = "/v1/jobs",
    tag = "Jobs",
    operation_id = "list_jobs",
    params(JobsQuery),
    responses((status = 200, description = "A page of jobs", body = JobsPage))
)]
pub(crate) async fn list_jobs(
    State(state): State<ApiState>,
    caller: Caller,
    ApiQuery(query): ApiQuery<JobsQuery>,
) -> ApiResult<Json<JobsPage>> {
    let limit = page_limit(query.limit)?;
    let before = read_cursor("jobs", query.cursor.as_deref())?.map(JobId);
    let filter = JobFilter {
        tenant: Some(caller.tenant),
        status: query.status,
        kind: query.kind,
        before,
        // One more tells whether there is a next page.
        limit: limit + 1,
    };
    let mut jobs = state.lifecycle.jobs.list(&filter).await?;
    let more = jobs.len() > limit;
    jobs.truncate(limit);
    let next_cursor = jobs.last().filter(|_| more).map(|job| cursor("jobs", job.id.0));
    let jobs = jobs.iter().map(|job| state.lifecycle.views.job(job)).collect();
    Ok(Json(JobsPage { jobs, next_cursor }))
}

/// Cancel a job.
///
/// Reaches the work: the model stops. A job that has ended is answered as it is, so this may be repeated.
#[utoipa::path(
    post,
    path = "/v1/jobs/{job_id}/cancel",
    tag = "Jobs",
    operation_id = "cancel_job",
    params(("job_id" = uuid::Uuid, Path, description = "The job")),
    responses(
        (status = 200, description = "The job, which has ended now", body = JobView, headers(
            ("ETag" = String, description = "Its revision"),
        )),
        NotFound
    )
)]
pub(crate) async fn cancel_job(
    State(state): State<ApiState>,
    caller: Caller,
    ApiPath(id): ApiPath<JobId>,
) -> ApiResult<Response> {
    let submit = state.submit.clone();
    // A task of its own, so that a client that leaves does not cut it off between the commit and its event.
    let task = tokio::spawn(async move { submit.cancel(&caller.tenant, id).await });
    let job = task.await.map_err(|_| Problem::internal())??.ok_or_else(unknown_job)?;
    Ok(answer::job_answer(&state, &job, StatusCode::OK).await)
}

/// What was found for a question.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct PassagesView {
    /// The best first.
    passages: Vec<PassageView>,
    /// What could not take part: `embedder`, `vector_index`, `keyword_index`, `reranker`, `query_truncated`.
    #[schema(value_type = Vec<String>)]
    degraded: Vec<raglan_pipeline::domain::Degraded>,
    /// The state of the documents that was searched.
    index_generation: String,
}

/// Read what was found for a question.
///
/// Kept for a while (an hour by default); after that `410`.
#[utoipa::path(
    get,
    path = "/v1/jobs/{job_id}/passages",
    tag = "Jobs",
    operation_id = "get_job_passages",
    params(("job_id" = uuid::Uuid, Path, description = "The job")),
    responses(
        (status = 200, description = "The passages", body = PassagesView),
        NotFound, Conflict, Gone
    )
)]
pub(crate) async fn get_passages(
    State(state): State<ApiState>,
    caller: Caller,
    ApiPath(id): ApiPath<JobId>,
) -> ApiResult<Json<PassagesView>> {
    let job = state.owned(&caller, id).await?;
    if job.kind() != JobKind::Query {
        return Err(Problem::not_found("no_passages", "only questions have passages"));
    }
    if let Some(bytes) = state.lifecycle.cache.get(Namespace::Passages, &id.to_string()).await? {
        // Of another version of the program, perhaps: then they are as good as gone.
        if let Ok(found) = serde_json::from_slice::<Retrieved>(&bytes) {
            return Ok(Json(PassagesView {
                passages: found.passages.iter().map(view::passage).collect(),
                degraded: found.degraded,
                index_generation: found.index_generation,
            }));
        }
    }
    Err(if job.timings.retrieval_ms.is_some() {
        Problem::new(StatusCode::GONE, "passages_gone", "the passages were kept for a while and are gone now")
    } else if job.status.is_final() {
        Problem::not_found(
            "no_passages",
            "the job ended without searching: it was cached, cancelled or failed before",
        )
    } else {
        Problem::conflict("not_retrieved", "the passages are not found yet; follow the job or try again")
            .retry_after(Duration::from_secs(1))
    })
}

/// Remove a job with all that is kept for it.
#[utoipa::path(
    delete,
    path = "/v1/jobs/{job_id}",
    tag = "Jobs",
    operation_id = "delete_job",
    params(("job_id" = uuid::Uuid, Path, description = "The job")),
    responses((status = 204, description = "It is gone"), NotFound, Conflict)
)]
pub(crate) async fn delete_job(
    State(state): State<ApiState>,
    caller: Caller,
    ApiPath(id): ApiPath<JobId>,
) -> ApiResult<Response> {
    let job = state.owned(&caller, id).await?;
    if !job.status.is_final() || !state.lifecycle.remove(&job).await? {
        return Err(Problem::conflict("job_running", "the job has not ended; cancel it first"));
    }
    state.follow.removed(id);
    Ok(StatusCode::NO_CONTENT.into_response())
}
