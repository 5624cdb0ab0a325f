//! Following a job over its WebSocket, across cuts.

use std::time::Duration;

use futures::StreamExt;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, connect_async,
    tungstenite::{Error, Message, client::IntoClientRequest, http::HeaderValue},
};

use super::{Api, ApiError};

/// An event as the server sends it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ServerEvent {
    /// Its number.
    pub seq: u64,
    /// The job.
    pub job_id: String,
    /// What happened.
    #[serde(rename = "type")]
    pub kind: String,
    /// When.
    pub at: String,
    /// The details.
    pub data: Value,
}

impl ServerEvent {
    /// Whether it is the last.
    pub fn is_final(&self) -> bool {
        matches!(self.kind.as_str(), "job.succeeded" | "job.failed" | "job.cancelled" | "job.expired")
    }
}

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// How often a cut connection is made again before giving up, counted from the last event.
const RECONNECTS: u32 = 8;

/// Reads the events of one job. A cut is mended by connecting again from the last event.
pub struct Follower {
    api: Api,
    job_id: String,
    after: u64,
    socket: Option<Socket>,
    ended: bool,
    failures: u32,
}

impl Follower {
    /// Follows a job from its beginning.
    pub fn new(api: &Api, job_id: &str) -> Self {
        Self {
            api: api.clone(),
            job_id: job_id.to_owned(),
            after: 0,
            socket: None,
            ended: false,
            failures: 0,
        }
    }

    /// The next event; none after the last.
    pub async fn next(&mut self) -> Result<Option<ServerEvent>, ApiError> {
        while !self.ended {
            let mut socket = match self.socket.take() {
                Some(socket) => socket,
                None => match self.connect().await {
                    Ok(socket) => socket,
                    Err(error) => {
                        self.pause(error).await?;
                        continue;
                    }
                },
            };
            match socket.next().await {
                Some(Ok(Message::Text(text))) => {
                    let event: ServerEvent = serde_json::from_str(text.as_str())
                        .map_err(|error| ApiError::Unexpected(error.to_string()))?;
                    self.failures = 0;
                    self.after = event.seq;
                    self.ended = event.is_final();
                    self.socket = Some(socket);
                    return Ok(Some(event));
                }
                Some(Ok(_)) => self.socket = Some(socket),
                Some(Err(error)) => self.pause(self.api.unreachable(&error)).await?,
                None => {
                    let reason = "the server closed the connection".to_owned();
                    self.pause(ApiError::Unexpected(reason)).await?;
                }
            }
        }
        Ok(None)
    }

    /// Waits before the next try, or gives up with `error`.
    async fn pause(&mut self, error: ApiError) -> Result<(), ApiError> {
        let hopeless = matches!(error, ApiError::Refused { status, .. } if status < 500 && status != 429);
        self.failures += 1;
        if hopeless || self.failures > RECONNECTS {
            return Err(error);
        }
        tokio::time::sleep(Duration::from_millis(100) * 2u32.pow(self.failures.min(6))).await;
        Ok(())
    }

    async fn connect(&self) -> Result<Socket, ApiError> {
        let link = self.api.link(&format!("/v1/jobs/{}/ws?after={}", self.job_id, self.after));
        // http becomes ws, https becomes wss.
        let link = link.replacen("http", "ws", 1);
        let mut request = link.into_client_request().map_err(|error| self.api.unreachable(&error))?;
        if let Some(key) = self.api.key()
            && let Ok(mut value) = HeaderValue::from_str(&format!("Bearer {}", key.expose()))
        {
            value.set_sensitive(true);
            request.headers_mut().insert("authorization", value);
        }
        match connect_async(request).await {
            Ok((socket, _)) => Ok(socket),
            Err(Error::Http(response)) => Err(ApiError::Refused {
                status: response.status().as_u16(),
                code: String::new(),
                message: format!("the server answered {} to the WebSocket", response.status()),
                retry_after: None,
            }),
            Err(error) => Err(self.api.unreachable(&error)),
        }
    }
}
