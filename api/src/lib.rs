//! The HTTP surface of Raglan: routes, Server-Sent Events, WebSockets, the OpenAPI document and a page.
//!
//! Everything here turns a request into calls of `raglan_pipeline` and what comes of them into a response. What a job
//! is, and what happens to it, is decided there.

mod answer;
mod auth;
mod checks;
mod edge;
mod error;
mod extract;
mod openapi;
mod routes;
mod serve;
mod state;
mod unread;

pub use axum::Router;
use axum::{
    extract::DefaultBodyLimit,
    http::{HeaderName, HeaderValue, Method, header},
    middleware::{from_fn, from_fn_with_state},
};
use tower::util::option_layer;
use tower_http::{
    catch_panic::CatchPanicLayer,
    cors::{AllowOrigin, CorsLayer},
};
use utoipa_axum::{router::OpenApiRouter, routes};

pub use crate::{
    error::{PROBLEM_JSON, ProblemBody, ProblemItem},
    routes::{
        operations::operations_router,
        uploads::{remove_old_uploads, sweep_uploads},
    },
    serve::serve,
    state::{
        ApiKey, ApiParts, ApiSettings, Health, HealthReport, Limits, PartHealth, PartState, StreamSettings,
        Visibility,
    },
};
use crate::{
    routes::{
        collections, deliveries, documents, events, ingest, jobs, multiplex, operations, page, queries,
        search, socket, tickets, uploads,
    },
    state::ApiState,
};

/// The whole API over these parts.
pub fn router(parts: ApiParts) -> Router {
    let state = ApiState::new(parts);
    let closed =
        Router::from(closed_routes()).route_layer(from_fn_with_state(state.clone(), auth::authenticate));
    let cors = cors(&state.settings.cors_origins);
    Router::from(open_routes())
        .merge(closed)
        .with_state(state.clone())
        .merge(page::routes())
        .layer(DefaultBodyLimit::disable())
        .layer(CatchPanicLayer::custom(edge::panicked))
        .layer(from_fn_with_state(state, auth::guard))
        .layer(option_layer(cors))
        .layer(from_fn(edge::finish))
}

/// The OpenAPI document.
#[must_use]
pub fn openapi() -> utoipa::openapi::OpenApi {
    let (_, mut document) = OpenApiRouter::with_openapi(openapi::skeleton())
        .merge(closed_routes())
        .merge(open_routes())
        .split_for_parts();
    openapi::complete(&mut document);
    document
}

/// The OpenAPI document as text, as `GET /openapi.json` answers it.
#[must_use]
pub fn openapi_json() -> bytes::Bytes {
    openapi::json()
}

/// Routes that need a key, where there are keys.
fn closed_routes() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new()
        .routes(routes!(queries::submit_query))
        .routes(routes!(jobs::list_jobs))
        .routes(routes!(jobs::get_job, jobs::delete_job))
        .routes(routes!(jobs::cancel_job))
        .routes(routes!(jobs::get_passages))
        .routes(routes!(events::follow_job))
        .routes(routes!(socket::follow_job_ws))
        .routes(routes!(multiplex::follow_jobs_ws))
        .routes(routes!(tickets::create_ticket))
        .routes(routes!(deliveries::list_deliveries))
        .routes(routes!(deliveries::replay_delivery))
        .routes(routes!(documents::list_documents, ingest::submit_documents))
        .routes(routes!(documents::get_document, documents::delete_document))
        .routes(routes!(uploads::create_upload))
        .routes(routes!(collections::list_collections))
        .routes(routes!(
            collections::get_collection,
            collections::put_collection,
            collections::delete_collection
        ))
        .routes(routes!(search::search))
        .routes(routes!(operations::metrics))
}

/// Routes for everybody.
fn open_routes() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new()
        .routes(routes!(operations::healthz))
        .routes(routes!(operations::readyz))
        .routes(routes!(operations::openapi))
}

fn cors(origins: &[String]) -> Option<CorsLayer> {
    let origins: Vec<HeaderValue> = origins
        .iter()
        .filter_map(|origin| HeaderValue::from_str(origin.trim_end_matches('/')).ok())
        .collect();
    if origins.is_empty() {
        return None;
    }
    let headers = |standard: &[HeaderName], own: &[&'static str]| -> Vec<HeaderName> {
        standard.iter().cloned().chain(own.iter().copied().map(HeaderName::from_static)).collect()
    };
    let layer = CorsLayer::new()
        .allow_origin(AllowOrigin::list(origins))
        .allow_methods([Method::GET, Method::POST, Method::PUT, Method::DELETE])
        .allow_headers(headers(
            &[header::AUTHORIZATION, header::CONTENT_TYPE, header::IF_NONE_MATCH],
            &["idempotency-key", "prefer", "last-event-id", "x-request-id"],
        ))
        .expose_headers(headers(
            &[header::LOCATION, header::ETAG, header::RETRY_AFTER, header::WWW_AUTHENTICATE],
            &["x-request-id", "idempotent-replayed", "preference-applied"],
        ))
        .max_age(std::time::Duration::from_secs(3_600));
    Some(layer)
}
