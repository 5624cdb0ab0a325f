//! `POST /v1/tickets`: a way in for browsers, which can set no header on a WebSocket.

use axum::{Json, extract::State, http::StatusCode};
use chrono::{DateTime, Utc};
use raglan_pipeline::{domain::now, submit::delta};
use serde::Serialize;
use utoipa::ToSchema;

use crate::{
    auth::{Caller, TICKET_LIFE},
    error::ApiResult,
    openapi::Overloaded,
    state::ApiState,
};

/// A ticket.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct TicketView {
    /// Send it as `?ticket=` when opening a WebSocket. It opens one.
    ticket: String,
    /// After this it opens none.
    expires_at: DateTime<Utc>,
}

/// Get a ticket for one WebSocket.
///
/// For pages, which cannot send an `Authorization` header with a WebSocket. Single use, within 30 seconds.
#[utoipa::path(
    post,
    path = "/v1/tickets",
    tag = "Following a job",
    operation_id = "create_ticket",
    responses((status = 201, description = "A ticket", body = TicketView), Overloaded)
)]
pub(crate) async fn create_ticket(
    State(state): State<ApiState>,
    caller: Caller,
) -> ApiResult<(StatusCode, Json<TicketView>)> {
    let ticket = state.tickets.issue(&caller).await?;
    Ok((StatusCode::CREATED, Json(TicketView { ticket, expires_at: now() + delta(TICKET_LIFE) })))
}
