//! Webhook deliveries: what was sent about a job, and sending it again.

use axum::{Json, extract::State};
use chrono::{DateTime, Utc};
use raglan_pipeline::domain::{Delivery, DeliveryId, DeliveryStatus, JobId};
use serde::Serialize;
use tracing::warn;
use url::Url;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::{
    auth::Caller,
    error::{ApiResult, Problem},
    extract::ApiPath,
    openapi::{NotFound, names::DeliveryStatusName},
    state::ApiState,
};

/// One event of one job for one URL, however often it is tried.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct DeliveryView {
    /// Its id.
    delivery_id: Uuid,
    /// What the receiver sees as `webhook-id`, the same on every try.
    #[schema(example = "msg_0198f0c2a7d17b6e9b0e0c5d1f2a3b4c")]
    webhook_id: String,
    /// The job it tells of.
    job_id: Uuid,
    /// Where to.
    url: Url,
    /// What it tells, for example `job.succeeded`.
    event: String,
    /// `pending`, `delivered`, or `dead` (given up).
    #[schema(value_type = DeliveryStatusName, inline, example = "pending")]
    status: DeliveryStatus,
    /// The tries so far.
    attempts: Vec<AttemptView>,
    /// When it is tried next; null when it is over.
    next_at: Option<DateTime<Utc>>,
    /// When it was made.
    created_at: DateTime<Utc>,
}

/// One try.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct AttemptView {
    /// When it began.
    at: DateTime<Utc>,
    /// The receiver's HTTP status; null where it did not answer.
    status: Option<u16>,
    /// What went wrong, where something did.
    error: Option<String>,
    /// How long it took.
    duration_ms: u64,
}

/// The deliveries of a job.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct DeliveriesView {
    /// Oldest first.
    deliveries: Vec<DeliveryView>,
}

fn to_view(delivery: Delivery) -> DeliveryView {
    DeliveryView {
        delivery_id: delivery.id.0,
        webhook_id: delivery.id.webhook_id(),
        job_id: delivery.job_id.0,
        url: delivery.url,
        event: delivery.event.as_str().to_owned(),
        status: delivery.status,
        attempts: delivery
            .attempts
            .into_iter()
            .map(|attempt| AttemptView {
                at: attempt.at,
                status: attempt.status,
                error: attempt.error,
                duration_ms: attempt.duration_ms,
            })
            .collect(),
        next_at: delivery.next_at,
        created_at: delivery.created_at,
    }
}

/// List the webhook deliveries of a job.
#[utoipa::path(
    get,
    path = "/v1/jobs/{job_id}/deliveries",
    tag = "Webhooks",
    operation_id = "list_job_deliveries",
    params(("job_id" = Uuid, Path, description = "The job")),
    responses((status = 200, description = "Its deliveries with every try", body = DeliveriesView), NotFound)
)]
pub(crate) async fn list_deliveries(
    State(state): State<ApiState>,
    caller: Caller,
    ApiPath(id): ApiPath<JobId>,
) -> ApiResult<Json<DeliveriesView>> {
    state.owned(&caller, id).await?;
    let deliveries = state.lifecycle.deliveries.of_job(id).await?;
    Ok(Json(DeliveriesView { deliveries: deliveries.into_iter().map(to_view).collect() }))
}

/// Send a webhook again.
///
/// Under the same `webhook-id`, so that a receiver that had it already can tell. One that is pending is tried now.
#[utoipa::path(
    post,
    path = "/v1/deliveries/{delivery_id}/replay",
    tag = "Webhooks",
    operation_id = "replay_delivery",
    params(("delivery_id" = Uuid, Path, description = "The delivery")),
    responses((status = 200, description = "The delivery, pending again", body = DeliveryView), NotFound)
)]
pub(crate) async fn replay_delivery(
    State(state): State<ApiState>,
    caller: Caller,
    ApiPath(id): ApiPath<DeliveryId>,
) -> ApiResult<Json<DeliveryView>> {
    let unknown = || Problem::not_found("unknown_delivery", "there is no such delivery").field("delivery_id");
    let known = state.lifecycle.deliveries.get(id).await?;
    if known.is_none_or(|delivery| delivery.tenant != caller.tenant) {
        return Err(unknown());
    }
    let delivery = state.lifecycle.deliveries.replay(id).await?.ok_or_else(unknown)?;
    if let Err(error) = state.lifecycle.publish_deliveries().await {
        warn!(delivery_id = %id, %error, "replayed webhook not published; the sweeper will");
    }
    Ok(Json(to_view(delivery)))
}
