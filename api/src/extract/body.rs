//! Reads bodies: their media type, and their bytes within a size and a time.

use std::time::Duration;

use axum::{
    body::Body,
    extract::Request,
    http::{HeaderMap, StatusCode, header},
};
use bytes::{Bytes, BytesMut};
use futures::StreamExt;

use crate::error::{ApiResult, Problem};

/// Refuses bodies that do not say they are JSON.
pub(crate) fn expect_json(headers: &HeaderMap) -> ApiResult<()> {
    match media_type(headers)?.as_deref() {
        Some("application/json") => Ok(()),
        Some(kind) if kind.starts_with("application/") && kind.ends_with("+json") => Ok(()),
        Some(kind) => {
            Err(Problem::unsupported(format!("send application/json, not {kind}")).field("Content-Type"))
        }
        None => Err(Problem::unsupported("send Content-Type: application/json").field("Content-Type")),
    }
}

/// The media type of a body, in lower case and without parameters.
pub(crate) fn media_type(headers: &HeaderMap) -> ApiResult<Option<String>> {
    if let Some(encoding) = headers.get(header::CONTENT_ENCODING)
        && encoding != "identity"
    {
        let detail = "compressed bodies are not taken; send the body as it is";
        return Err(Problem::unsupported(detail).field("Content-Encoding"));
    }
    let Some(value) = headers.get(header::CONTENT_TYPE) else { return Ok(None) };
    let Ok(value) = value.to_str() else {
        return Err(Problem::unsupported("the Content-Type is not a media type").field("Content-Type"));
    };
    let kind = value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    if !kind.contains('/') {
        return Err(Problem::unsupported(format!("{kind:?} is not a media type")).field("Content-Type"));
    }
    Ok(Some(kind))
}

/// A body piece by piece, within a size and without standing still for longer than `idle`.
pub(crate) struct BodyReader {
    stream: axum::body::BodyDataStream,
    left: usize,
    most: usize,
    idle: Duration,
}

impl BodyReader {
    pub(crate) fn new(body: Body, most: usize, idle: Duration) -> Self {
        Self { stream: body.into_data_stream(), left: most, most, idle }
    }

    pub(crate) async fn next(&mut self) -> ApiResult<Option<Bytes>> {
        let piece = tokio::time::timeout(self.idle, self.stream.next()).await.map_err(|_| {
            let detail = format!("the body stood still for {} s", self.idle.as_secs());
            Problem::new(StatusCode::REQUEST_TIMEOUT, "body_timeout", detail)
        })?;
        match piece {
            None => Ok(None),
            Some(Ok(piece)) => {
                self.left = self.left.checked_sub(piece.len()).ok_or_else(|| body_too_large(self.most))?;
                Ok(Some(piece))
            }
            Some(Err(_)) => Err(Problem::bad_request("broken_body", "the body ended before it was whole")),
        }
    }
}

fn body_too_large(most: usize) -> Problem {
    Problem::too_large(format!("the body has more than {most} bytes"))
}

/// Refuses a body that says itself that it is too large, before reading any of it.
pub(crate) fn check_length(headers: &HeaderMap, most: usize) -> ApiResult<()> {
    let length =
        headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    match length {
        Some(length) if length > most as u64 => Err(body_too_large(most)),
        _ => Ok(()),
    }
}

/// A whole body.
pub(crate) async fn read_body(request: Request, most: usize, idle: Duration) -> ApiResult<Bytes> {
    check_length(request.headers(), most)?;
    let mut reader = BodyReader::new(request.into_body(), most, idle);
    let Some(first) = reader.next().await? else { return Ok(Bytes::new()) };
    let Some(second) = reader.next().await? else { return Ok(first) };
    let mut whole = BytesMut::from(first.as_ref());
    whole.extend_from_slice(&second);
    while let Some(piece) = reader.next().await? {
        whole.extend_from_slice(&piece);
    }
    Ok(whole.freeze())
}
