//! For operators: health, readiness, metrics, and the description of this API.

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing,
};
use serde::Serialize;
use tokio_util::sync::CancellationToken;
use utoipa::ToSchema;

use crate::state::{ApiState, Health, HealthReport};

/// That the process lives.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Alive {
    /// Always `ok`.
    status: &'static str,
}

/// Whether the process lives.
#[utoipa::path(
    get,
    path = "/healthz",
    tag = "Operations",
    operation_id = "healthz",
    security(()),
    responses((status = 200, description = "It does", body = Alive))
)]
pub(crate) async fn healthz() -> Json<Alive> {
    Json(Alive { status: "ok" })
}

/// Whether the process can serve: each part with its state.
#[utoipa::path(
    get,
    path = "/readyz",
    tag = "Operations",
    operation_id = "readyz",
    security(()),
    responses(
        (status = 200, description = "It can; parts may be degraded", body = HealthReport),
        (status = 503, description = "It cannot, yet or any more", body = HealthReport),
    )
)]
pub(crate) async fn readyz(State(state): State<ApiState>) -> Response {
    readiness(state.health.as_ref(), &state.shutdown).await
}

async fn readiness(health: &dyn Health, shutdown: &CancellationToken) -> Response {
    let report = health.report().await;
    // A process that stops is given no new work.
    let ready = report.ready && !shutdown.is_cancelled();
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(HealthReport { ready, ..report })).into_response()
}

/// Metrics in Prometheus' text format.
#[utoipa::path(
    get,
    path = "/metrics",
    tag = "Operations",
    operation_id = "metrics",
    responses((status = 200, description = "The metrics", body = String, content_type = "text/plain"))
)]
pub(crate) async fn metrics(State(state): State<ApiState>) -> Response {
    exposition((state.metrics)())
}

fn exposition(metrics: String) -> Response {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], metrics).into_response()
}

/// `/healthz`, `/readyz` and `/metrics` alone, for a process that serves no API. Nobody needs a key: it is for the operator's own network.
pub fn operations_router(
    health: Arc<dyn Health>,
    metrics: Arc<dyn Fn() -> String + Send + Sync>,
    shutdown: CancellationToken,
) -> Router {
    let ready = move || {
        let (health, shutdown) = (health.clone(), shutdown.clone());
        async move { readiness(health.as_ref(), &shutdown).await }
    };
    let measured = move || {
        let text = metrics();
        async move { exposition(text) }
    };
    Router::new()
        .route("/healthz", routing::get(healthz))
        .route("/readyz", routing::get(ready))
        .route("/metrics", routing::get(measured))
}

/// This API, as OpenAPI.
#[utoipa::path(
    get,
    path = "/openapi.json",
    tag = "Operations",
    operation_id = "openapi",
    security(()),
    responses((status = 200, description = "The OpenAPI document", body = Object))
)]
pub(crate) async fn openapi() -> Response {
    ([(header::CONTENT_TYPE, "application/json")], crate::openapi::json()).into_response()
}
