//! `GET /v1/jobs/{job_id}/ws`: a job's events over a WebSocket; and what both kinds of socket have in common.

use std::time::Duration;

use axum::{
    extract::{
        State,
        ws::{
            CloseFrame, Message, Utf8Bytes, WebSocket, WebSocketUpgrade, rejection::WebSocketUpgradeRejection,
        },
    },
    http::StatusCode,
    response::Response,
};
use futures::{FutureExt, SinkExt, Stream, StreamExt, stream::BoxStream};
use raglan_pipeline::{
    domain::{Event, JobId},
    view::{self, EventView},
};
use serde::{Deserialize, Serialize};
use tokio::{
    sync::OwnedSemaphorePermit,
    time::{Instant, Interval, MissedTickBehavior, interval_at, timeout},
};
use tokio_util::sync::CancellationToken;
use utoipa::IntoParams;

use crate::{
    auth::Caller,
    error::{ApiResult, Problem},
    extract::{ApiPath, ApiQuery},
    openapi::{NotFound, Overloaded},
    state::{ApiState, StreamSettings},
};

/// Everything was sent.
pub(crate) const NORMAL: u16 = 1000;
/// The server stops; connect again to resume.
pub(crate) const GOING_AWAY: u16 = 1001;
/// Bytes that are read at once.
const READ_BUFFER: usize = 4 << 10;
/// So many frames at most go out together.
const FRAMES_AT_ONCE: usize = 32;
/// How long the other side may take to answer a close.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);
/// So many pings without any sign of life end the socket.
const SILENT_PINGS: u32 = 3;

/// Where to begin, and the ticket of a browser.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct SocketQuery {
    /// The `seq` of the last event that you have; all are sent where absent.
    after: Option<u64>,
    /// A ticket of `POST /v1/tickets`, where no header can be set.
    #[serde(rename = "ticket")]
    #[param(rename = "ticket")]
    _ticket: Option<String>,
}

/// Follow a job over a WebSocket.
///
/// Every event is one text frame. The socket closes with 1000 after the job's last event, and with 1001 when the server stops.
#[utoipa::path(
    get,
    path = "/v1/jobs/{job_id}/ws",
    tag = "Following a job",
    operation_id = "follow_job_ws",
    params(("job_id" = uuid::Uuid, Path, description = "The job"), SocketQuery),
    responses(
        (status = 101, description = "The socket is open; each frame is an event", body = EventView),
        (status = 426, description = "This is not a WebSocket handshake", body = crate::error::ProblemBody, content_type = "application/problem+json"),
        NotFound, Overloaded
    )
)]
pub(crate) async fn follow_job_ws(
    State(state): State<ApiState>,
    caller: Caller,
    ApiPath(id): ApiPath<JobId>,
    ApiQuery(query): ApiQuery<SocketQuery>,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> ApiResult<Response> {
    let opening = Opening::new(&state, upgrade)?;
    let events = state.followed(&caller, id, query.after.unwrap_or(0)).await?.events;
    let shutdown = state.shutdown.clone();
    Ok(opening.run(move |connection| carry(connection, events, shutdown)))
}

/// Sends events until the last one.
async fn carry(
    mut connection: Connection,
    mut events: BoxStream<'static, Event>,
    shutdown: CancellationToken,
) {
    loop {
        tokio::select! {
            event = events.next() => match event {
                Some(event) => {
                    if connection.send_ready(event, &mut events, view::event).await.is_err() {
                        return;
                    }
                }
                None => return connection.close(NORMAL, "nothing more will come").await,
            },
            // What a client says on this socket means nothing, but must be read for pings and closes.
            incoming = connection.receive() => if matches!(incoming, Incoming::Gone) { return },
            () = shutdown.cancelled() => return connection.close(GOING_AWAY, "the server stops").await,
        }
    }
}

/// A socket that may be opened: the handshake is right and there is room.
pub(crate) struct Opening {
    upgrade: WebSocketUpgrade,
    permit: OwnedSemaphorePermit,
    settings: StreamSettings,
}

impl Opening {
    pub(crate) fn new(
        state: &ApiState,
        upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
    ) -> ApiResult<Self> {
        let upgrade = upgrade.map_err(|_| {
            let detail = "this is a WebSocket; connect with a WebSocket client";
            Problem::new(StatusCode::UPGRADE_REQUIRED, "websocket_required", detail)
        })?;
        let permit = state.sockets.clone().try_acquire_owned().map_err(|_| {
            Problem::unavailable(
                "too_many_sockets",
                "too many WebSockets are open; try again",
                Duration::from_secs(5),
            )
        })?;
        Ok(Self { upgrade, permit, settings: state.settings.streams.clone() })
    }

    /// Opens the socket and runs it.
    pub(crate) fn run<F>(self, serve: impl FnOnce(Connection) -> F + Send + 'static) -> Response
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let Self { upgrade, permit, settings } = self;
        upgrade
            .max_message_size(settings.message_bytes)
            .max_frame_size(settings.message_bytes)
            // What clients send is small, and thousands of them send nothing.
            .read_buffer_size(READ_BUFFER)
            .on_upgrade(move |socket| async move {
                metrics::gauge!("raglan_sockets").increment(1.0);
                serve(Connection::new(socket, &settings)).await;
                metrics::gauge!("raglan_sockets").decrement(1.0);
                drop(permit);
            })
    }
}

fn frame<T: Serialize>(value: &T) -> Result<Message, Closed> {
    Ok(Message::Text(serde_json::to_string(value).map_err(|_| Closed)?.into()))
}

/// What came from the client.
#[derive(Debug)]
pub(crate) enum Incoming {
    /// A text frame.
    Text(Utf8Bytes),
    /// A binary frame.
    Binary,
    /// The client has left, or must be taken as having left.
    Gone,
}

/// The client has left or does not read.
#[derive(Debug)]
pub(crate) struct Closed;

/// An open socket, which pings and gives up a client that does not read or does not answer.
pub(crate) struct Connection {
    socket: WebSocket,
    write_timeout: Duration,
    ping: Interval,
    /// Pings since the client was last heard.
    silent: u32,
}

impl Connection {
    fn new(socket: WebSocket, settings: &StreamSettings) -> Self {
        let mut ping = interval_at(Instant::now() + settings.ping_every, settings.ping_every);
        ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { socket, write_timeout: settings.write_timeout, ping, silent: 0 }
    }

    /// Sends JSON as one text frame.
    pub(crate) async fn send_json<T: Serialize + Sync>(&mut self, value: &T) -> Result<(), Closed> {
        self.send(frame(value)?).await
    }

    /// Sends the first of a stream's items that has come, and those behind it that are there already, each as one text frame.
    pub(crate) async fn send_ready<I, T, S>(
        &mut self,
        first: I,
        rest: &mut S,
        mut view: impl FnMut(I) -> T,
    ) -> Result<(), Closed>
    where
        T: Serialize + Sync,
        S: Stream<Item = I> + Unpin,
    {
        let mut frames = vec![frame(&view(first))?];
        while frames.len() < FRAMES_AT_ONCE
            && let Some(Some(next)) = rest.next().now_or_never()
        {
            frames.push(frame(&view(next))?);
        }
        self.in_time(async |socket| {
            for frame in frames {
                socket.feed(frame).await?;
            }
            socket.flush().await
        })
        .await
    }

    async fn send(&mut self, message: Message) -> Result<(), Closed> {
        self.in_time(async |socket| socket.send(message).await).await
    }

    async fn in_time(
        &mut self,
        write: impl AsyncFnOnce(&mut WebSocket) -> Result<(), axum::Error>,
    ) -> Result<(), Closed> {
        match timeout(self.write_timeout, write(&mut self.socket)).await {
            Ok(sent) => sent.map_err(|_| Closed),
            Err(_) => {
                metrics::counter!("raglan_slow_readers_total", "transport" => "ws").increment(1);
                Err(Closed)
            }
        }
    }

    /// What the client sends next. Keeps the socket alive meanwhile. Cancel-safe.
    pub(crate) async fn receive(&mut self) -> Incoming {
        loop {
            tokio::select! {
                message = self.socket.recv() => {
                    self.silent = 0;
                    match message {
                        Some(Ok(Message::Text(text))) => return Incoming::Text(text),
                        Some(Ok(Message::Binary(_))) => return Incoming::Binary,
                        Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                        Some(Ok(Message::Close(_)) | Err(_)) | None => return Incoming::Gone,
                    }
                }
                _ = self.ping.tick() => {
                    self.silent += 1;
                    if self.silent > SILENT_PINGS || self.send(Message::Ping(bytes::Bytes::new())).await.is_err() {
                        return Incoming::Gone;
                    }
                }
            }
        }
    }

    /// Closes the socket, and waits a moment for the client to agree, so that it reads everything before.
    pub(crate) async fn close(mut self, code: u16, reason: &'static str) {
        let frame = CloseFrame { code, reason: Utf8Bytes::from_static(reason) };
        if self.send(Message::Close(Some(frame))).await.is_ok() {
            let agreed = async { while let Some(Ok(_)) = self.socket.recv().await {} };
            // A client that does not answer is let go all the same.
            let _ = timeout(CLOSE_TIMEOUT, agreed).await;
        }
    }
}
