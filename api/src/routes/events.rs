//! `GET /v1/jobs/{job_id}/events`: a job's events as Server-Sent Events.

use std::{convert::Infallible, time::Duration};

use axum::{
    extract::State,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{
        IntoResponse, Response,
        sse::{Event as SseEvent, KeepAlive, Sse},
    },
};
use futures::{FutureExt, StreamExt, stream::BoxStream};
use raglan_pipeline::{
    domain::{Event, JobId},
    follow::Followed,
    view::{self, EventView},
};
use serde::Deserialize;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use utoipa::IntoParams;

use crate::{
    auth::Caller,
    error::ApiResult,
    extract::{ApiPath, ApiQuery, last_event},
    openapi::NotFound,
    state::ApiState,
};

/// How many events wait for the client beside those that the connection holds.
const BUFFER: usize = 16;

/// Where to begin.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct AfterQuery {
    /// The `seq` of the last event that you have; all are sent where absent.
    after: Option<u64>,
}

/// Follow a job by Server-Sent Events.
///
/// Each event has its `seq` as `id`, its type as `event` and the whole event as `data`. The stream ends after the job's last event; a reader who
/// has that already gets `204`. After a cut, reconnect with `Last-Event-ID`: nothing is lost, and what is no longer kept comes as `stream.snapshot`.
#[utoipa::path(
    get,
    path = "/v1/jobs/{job_id}/events",
    tag = "Following a job",
    operation_id = "follow_job",
    params(
        ("job_id" = uuid::Uuid, Path, description = "The job"),
        ("Last-Event-ID" = Option<u64>, Header, description = "The `id` of the last event that you have; goes before `after`"),
        AfterQuery,
    ),
    responses(
        (status = 200, description = "The events; the schema is that of each one's `data`", body = EventView, content_type = "text/event-stream"),
        (status = 204, description = "There is nothing more to come"),
        NotFound
    )
)]
pub(crate) async fn follow_job(
    State(state): State<ApiState>,
    caller: Caller,
    ApiPath(id): ApiPath<JobId>,
    ApiQuery(query): ApiQuery<AfterQuery>,
    headers: HeaderMap,
) -> ApiResult<Response> {
    let after = last_event(&headers, query.after)?;
    let Followed { ended, mut events } = state.followed(&caller, id, after).await?;
    // A browser reconnects when a stream ends, until it is told by 204 that nothing will come.
    let first = if ended { events.next().now_or_never() } else { None };
    let events = match first {
        Some(None) => return Ok(StatusCode::NO_CONTENT.into_response()),
        Some(Some(event)) => futures::stream::iter([event]).chain(events).boxed(),
        None => events,
    };
    let streams = &state.settings.streams;
    let (sender, receiver) = mpsc::channel(BUFFER);
    tokio::spawn(pump(events, sender, streams.write_timeout, state.shutdown.clone()));
    let stream = ReceiverStream::new(receiver).map(|event| Ok::<_, Infallible>(to_sse(event)));
    let keep_alive = KeepAlive::new().interval(streams.keep_alive).text("keep-alive");
    let mut response = Sse::new(stream).keep_alive(keep_alive).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // Proxies that buffer would hold the events back.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    Ok(response)
}

/// Moves events towards the client. A client that reads nothing for too long is let go; it resumes when it is back.
async fn pump(
    mut events: BoxStream<'static, Event>,
    sender: mpsc::Sender<Event>,
    write_timeout: Duration,
    shutdown: CancellationToken,
) {
    loop {
        let event = tokio::select! {
            event = events.next() => event,
            () = sender.closed() => return,
            () = shutdown.cancelled() => return,
        };
        let Some(event) = event else { return };
        match tokio::time::timeout(write_timeout, sender.send(event)).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return,
            Err(_) => {
                metrics::counter!("raglan_slow_readers_total", "transport" => "sse").increment(1);
                return;
            }
        }
    }
}

fn to_sse(event: Event) -> SseEvent {
    // JSON has no line breaks of its own, so this is one `data:` line.
    let (seq, kind) = (event.seq, event.kind.as_str());
    let data = serde_json::to_string(&view::event(event)).unwrap_or_default();
    SseEvent::default().id(seq.to_string()).event(kind).data(data)
}
