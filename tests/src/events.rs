//! Following jobs, by Server-Sent Events and by WebSocket.

use std::{net::SocketAddr, pin::Pin};

use bytes::{Bytes, BytesMut};
use futures::{SinkExt, Stream, StreamExt};
use reqwest::{RequestBuilder, StatusCode};
use serde_json::Value;
use tokio::net::{TcpSocket, TcpStream};
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{self, Message, client::IntoClientRequest},
};

use crate::within;

/// One event of a job, whichever way it came.
#[derive(Debug, Clone)]
pub struct ServerEvent {
    /// Its number.
    pub seq: u64,
    /// The job.
    pub job_id: String,
    /// Its type.
    pub kind: String,
    /// Its details.
    pub data: Value,
    /// All of it, as it came.
    pub whole: Value,
}

impl ServerEvent {
    /// Reads the one event shape.
    ///
    /// # Panics
    /// Where it is not one.
    #[must_use]
    pub fn read(whole: Value) -> Self {
        let text =
            |name: &str| whole[name].as_str().unwrap_or_else(|| panic!("no {name} in {whole}")).to_owned();
        assert!(text("at").ends_with('Z'), "{whole}");
        Self {
            seq: whole["seq"].as_u64().unwrap_or_else(|| panic!("no seq in {whole}")),
            job_id: text("job_id"),
            kind: text("type"),
            data: whole["data"].clone(),
            whole,
        }
    }

    /// Whether nothing follows it.
    #[must_use]
    pub fn is_final(&self) -> bool {
        matches!(self.kind.as_str(), "job.succeeded" | "job.failed" | "job.cancelled" | "job.expired")
    }
}

/// One thing on an event stream.
#[derive(Debug, Clone)]
pub enum SseItem {
    /// An event; its `id` and `event` fields agree with its data.
    Event(ServerEvent),
    /// A comment.
    Comment(String),
}

/// A stream of Server-Sent Events, read byte by byte. Dropped, the connection is cut.
pub struct Sse {
    /// The status of the answer.
    pub status: StatusCode,
    bytes: Pin<Box<dyn Stream<Item = reqwest::Result<Bytes>> + Send>>,
    pending: BytesMut,
}

impl Sse {
    /// Opens a stream.
    ///
    /// # Panics
    /// Where it is neither an event stream nor 204.
    pub async fn open(request: RequestBuilder) -> Self {
        let request = request.header("accept", "text/event-stream");
        let response = within("an event stream", request.send()).await.unwrap();
        let status = response.status();
        if status != StatusCode::NO_CONTENT {
            assert_eq!(status, StatusCode::OK, "{response:?}");
            let kind = response.headers()["content-type"].to_str().unwrap();
            assert!(kind.starts_with("text/event-stream"), "{kind}");
        }
        Self { status, bytes: Box::pin(response.bytes_stream()), pending: BytesMut::new() }
    }

    /// The next event or comment; none where the stream has ended.
    ///
    /// # Panics
    /// Where the stream breaks, or what comes is no event.
    pub async fn item(&mut self) -> Option<SseItem> {
        let (mut id, mut event, mut data) = (None, None, Vec::new());
        loop {
            let line = self.line().await?;
            match line.split_once(':') {
                _ if line.is_empty() => {
                    if data.is_empty() {
                        continue;
                    }
                    let whole: Value = serde_json::from_str(&data.join("\n")).unwrap();
                    let read = ServerEvent::read(whole);
                    assert_eq!(id.as_deref(), Some(read.seq.to_string().as_str()), "the id is the seq");
                    assert_eq!(event.as_deref(), Some(read.kind.as_str()), "the event is the type");
                    return Some(SseItem::Event(read));
                }
                Some(("", comment)) => return Some(SseItem::Comment(comment.trim().to_owned())),
                Some((field, value)) => {
                    let value = value.strip_prefix(' ').unwrap_or(value).to_owned();
                    match field {
                        "id" => id = Some(value),
                        "event" => event = Some(value),
                        "data" => data.push(value),
                        "retry" => {}
                        _ => panic!("unknown field in an event stream: {line:?}"),
                    }
                }
                None => panic!("not a line of an event stream: {line:?}"),
            }
        }
    }

    async fn line(&mut self) -> Option<String> {
        loop {
            if let Some(at) = self.pending.iter().position(|byte| *byte == b'\n') {
                let line = self.pending.split_to(at + 1);
                return Some(
                    String::from_utf8(line[..at].to_vec()).unwrap().trim_end_matches('\r').to_owned(),
                );
            }
            let piece = within("the next piece of an event stream", self.bytes.next()).await?;
            self.pending.extend_from_slice(&piece.unwrap());
        }
    }

    /// The next event, comments passed over.
    pub async fn next(&mut self) -> Option<ServerEvent> {
        loop {
            match self.item().await? {
                SseItem::Event(event) => return Some(event),
                SseItem::Comment(_) => {}
            }
        }
    }

    /// Events until this one, with it.
    ///
    /// # Panics
    /// Where the stream ends before.
    pub async fn until(&mut self, last: impl Fn(&ServerEvent) -> bool) -> Vec<ServerEvent> {
        let mut events = Vec::new();
        loop {
            let event = self.next().await.unwrap_or_else(|| panic!("the stream ended after {events:#?}"));
            let done = last(&event);
            events.push(event);
            if done {
                return events;
            }
        }
    }

    /// All events until the stream ends.
    pub async fn rest(&mut self) -> Vec<ServerEvent> {
        let mut events = Vec::new();
        while let Some(event) = self.next().await {
            events.push(event);
        }
        events
    }
}

/// A WebSocket.
pub struct Socket {
    stream: WebSocketStream<TcpStream>,
    /// The code it was closed with.
    pub closed: Option<u16>,
}

impl Socket {
    /// Connects to a path of a server.
    ///
    /// # Panics
    /// Where the server refuses.
    pub async fn connect(url: &str, path: &str, key: Option<&str>) -> Self {
        match Self::open(url, path, key, None).await {
            Ok(socket) => socket,
            Err(error) => panic!("{path}: {error}"),
        }
    }

    /// Connects with a receive buffer of so many bytes, so that the server soon notices that nobody reads.
    ///
    /// # Panics
    /// Where the server refuses.
    pub async fn connect_narrow(url: &str, path: &str, bytes: u32) -> Self {
        match Self::open(url, path, None, Some(bytes)).await {
            Ok(socket) => socket,
            Err(error) => panic!("{path}: {error}"),
        }
    }

    /// Connects, or tells how the server refused.
    ///
    /// # Errors
    /// Where the handshake fails.
    pub async fn open(
        url: &str,
        path: &str,
        key: Option<&str>,
        buffer: Option<u32>,
    ) -> Result<Self, Box<tungstenite::Error>> {
        let address: SocketAddr = url.strip_prefix("http://").unwrap().parse().unwrap();
        let socket = TcpSocket::new_v4().unwrap();
        if let Some(bytes) = buffer {
            socket.set_recv_buffer_size(bytes).unwrap();
        }
        let connected = within("a connection", socket.connect(address)).await.unwrap();
        let mut request = format!("ws://{address}{path}").into_client_request().unwrap();
        if let Some(key) = key {
            request.headers_mut().insert("authorization", format!("Bearer {key}").parse().unwrap());
        }
        let (stream, _) =
            within("a WebSocket handshake", client_async(request, connected)).await.map_err(Box::new)?;
        Ok(Self { stream, closed: None })
    }

    /// Sends JSON.
    ///
    /// # Panics
    /// Where the socket is broken.
    pub async fn send(&mut self, command: &Value) {
        self.send_text(&command.to_string()).await;
    }

    /// Sends a text frame.
    ///
    /// # Panics
    /// Where the socket is broken.
    pub async fn send_text(&mut self, text: &str) {
        within("sending on a WebSocket", self.stream.send(Message::text(text))).await.unwrap();
    }

    /// The next text frame as JSON; none once the socket is closed or cut.
    ///
    /// # Panics
    /// Where a frame is no JSON.
    pub async fn next(&mut self) -> Option<Value> {
        loop {
            match within("the next frame of a WebSocket", self.stream.next()).await {
                Some(Ok(Message::Text(text))) => return Some(serde_json::from_str(text.as_str()).unwrap()),
                Some(Ok(Message::Close(frame))) => self.closed = frame.map(|frame| frame.code.into()),
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return None,
            }
        }
    }

    /// The next event; none once the socket is closed or cut.
    pub async fn event(&mut self) -> Option<ServerEvent> {
        self.next().await.map(ServerEvent::read)
    }

    /// All events until the socket is closed or cut.
    pub async fn events(&mut self) -> Vec<ServerEvent> {
        let mut events = Vec::new();
        while let Some(event) = self.event().await {
            events.push(event);
        }
        events
    }
}
