//! Answers about jobs: their headers, their place in the queue, and waiting for them.

use std::time::Duration;

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use futures::StreamExt;
use raglan_pipeline::{
    domain::{EventType, Job, JobStatus},
    ports::PortResult,
    submit::{SubmitError, SubmitRequest, Submitted},
    view::{JobView, Views},
};

use crate::{
    error::{ApiResult, Problem, seconds},
    extract::Preference,
    state::{ApiState, unknown_job},
};

/// When to ask again for a job that runs.
const ASK_AGAIN: Duration = Duration::from_secs(1);
/// At most so many events are looked at before the job itself is.
const EVENTS_AT_ONCE: usize = 64;

/// The entity tag of a job.
pub(crate) fn tag(job: &Job) -> String {
    format!("\"{}\"", job.revision)
}

/// A job as an answer, with its `ETag` and, while it runs, `Retry-After`.
pub(crate) async fn job_answer(state: &ApiState, job: &Job, status: StatusCode) -> Response {
    let mut response = (status, Json(job_view(state, job).await)).into_response();
    job_headers(job, &mut response);
    response
}

/// A job that has not changed since the client last saw it.
pub(crate) fn not_modified(job: &Job) -> Response {
    let mut response = StatusCode::NOT_MODIFIED.into_response();
    job_headers(job, &mut response);
    response
}

fn job_headers(job: &Job, response: &mut Response) {
    let headers = response.headers_mut();
    if let Ok(tag) = HeaderValue::from_str(&tag(job)) {
        headers.insert(header::ETAG, tag);
    }
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("private, no-cache"));
    if !job.status.is_final() {
        headers.insert(header::RETRY_AFTER, seconds(ASK_AGAIN));
    }
}

/// A job's public form, with its place in the queue.
async fn job_view(state: &ApiState, job: &Job) -> JobView {
    let mut view = state.lifecycle.views.job(job);
    if job.status == JobStatus::Queued
        && let Ok(depth) = state.lifecycle.broker.depth(job.stage).await
    {
        // All that wait in this stage, less the job itself: at most so many are before it.
        view.queue_position = Some(depth.ready.saturating_sub(1));
    }
    view
}

/// Stores a job and answers: `202`, or `200` where it has ended within the time that the client prefers to wait.
///
/// The caller's part `settle` is told what came of it, even when the client has left by then.
pub(crate) async fn accept(
    state: &ApiState,
    request: SubmitRequest,
    preference: Preference,
    settle: impl FnOnce(&Result<Submitted, SubmitError>) + Send + 'static,
) -> ApiResult {
    let submit = state.submit.clone();
    // A task of its own: a client that leaves must not cut it off between the commit and the queue.
    let task = tokio::spawn(async move {
        let submitted = submit.submit(request).await;
        settle(&submitted);
        submitted
    });
    let Submitted { job, created } = task.await.map_err(|_| Problem::internal())??;
    if created {
        state.follow.accepted(&job);
    }
    let job = match preference.wait {
        Some(wait) => until_ended(state, job, wait).await?,
        None => job,
    };
    let status = if job.status.is_final() && (preference.wait.is_some() || !created) {
        StatusCode::OK
    } else {
        StatusCode::ACCEPTED
    };
    let mut response = job_answer(state, &job, status).await;
    let headers = response.headers_mut();
    let location = state.lifecycle.views.link(&Views::job_path(job.id));
    if let Ok(location) = HeaderValue::from_str(&location) {
        headers.insert(header::LOCATION, location);
    }
    if let Some(wait) = preference.wait
        && let Ok(applied) = HeaderValue::from_str(&format!("wait={}", wait.as_secs()))
    {
        headers.insert("preference-applied", applied);
    }
    if !created {
        headers.insert("idempotent-replayed", HeaderValue::from_static("true"));
    }
    Ok(response)
}

/// Waits until a job has ended, at most for this time; the job as it then is.
pub(crate) async fn until_ended(state: &ApiState, job: Job, wait: Duration) -> ApiResult<Job> {
    watch(state, job, wait, EventType::is_final, |job| job.status.is_final()).await
}

/// Waits until a job is not in this revision any more, at most for this time; the job as it then is.
pub(crate) async fn until_changed(state: &ApiState, job: Job, wait: Duration) -> ApiResult<Job> {
    let revision = job.revision;
    // The text of an answer changes nothing of the job itself.
    watch(state, job, wait, |kind| kind != EventType::AnswerDelta, move |job| job.revision != revision).await
}

/// Reads the job anew at each event that `wakes`, until it is `enough`, the time is up or the server stops.
async fn watch(
    state: &ApiState,
    job: Job,
    wait: Duration,
    wakes: impl Fn(EventType) -> bool,
    enough: impl Fn(&Job) -> bool,
) -> ApiResult<Job> {
    if enough(&job) || wait.is_zero() {
        return Ok(job);
    }
    let id = job.id;
    let waiting = async {
        let Some(followed) = state.follow.follow(&job.tenant, id, 0).await? else { return Ok(()) };
        let mut events = followed.events.ready_chunks(EVENTS_AT_ONCE);
        while let Some(events) = events.next().await {
            if events.iter().any(|event| wakes(event.kind)) {
                match state.lifecycle.jobs.get(id).await? {
                    Some(job) if !enough(&job) => {}
                    _ => break,
                }
            }
        }
        PortResult::Ok(())
    };
    tokio::select! {
        waited = tokio::time::timeout(wait, waiting) => if let Ok(failed @ Err(_)) = waited { failed? },
        () = state.shutdown.cancelled() => {}
    }
    state.lifecycle.jobs.get(id).await?.ok_or_else(unknown_job)
}
