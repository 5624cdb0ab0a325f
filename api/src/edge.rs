//! What every request passes first and every response last: its id, its span, its metrics, and the form of its errors.

use std::{any::Any, time::Instant};

use axum::{
    extract::{FromRequestParts, MatchedPath, Request},
    http::{HeaderMap, HeaderName, HeaderValue, Version, header, request::Parts},
    middleware::Next,
    response::{IntoResponse, Response},
};
use tracing::{Instrument, error, info_span};
use uuid::Uuid;

use crate::{
    error::{PROBLEM_JSON, Problem},
    unread::Unread,
};

/// The header with the request's id.
pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The id of the request: the client's where it sent one that can be used, else ours.
#[derive(Debug, Clone)]
pub(crate) struct RequestId(HeaderValue);

impl RequestId {
    fn of(headers: &HeaderMap) -> Self {
        let sent = headers.get(REQUEST_ID).filter(|id| {
            (1..=128).contains(&id.len())
                && id.as_bytes().iter().all(|b| b.is_ascii_alphanumeric() || b"-_.:/+=@".contains(b))
        });
        Self(sent.cloned().unwrap_or_else(|| {
            // A UUID is a valid header value.
            HeaderValue::from_str(&Uuid::now_v7().to_string()).unwrap_or(HeaderValue::from_static("none"))
        }))
    }

    fn as_str(&self) -> &str {
        self.0.to_str().unwrap_or_default()
    }
}

impl<S: Send + Sync> FromRequestParts<S> for RequestId {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        Ok(parts.extensions.get::<Self>().cloned().unwrap_or_else(|| Self::of(&parts.headers)))
    }
}

/// Runs a request in its span, and finishes its response.
pub(crate) async fn finish(request: Request, next: Next) -> Response {
    let (mut request, unread) = Unread::lend(request);
    let id = RequestId::of(request.headers());
    let (method, version) = (request.method().clone(), request.version());
    // The route and not the path: paths hold ids, and would make a metric of each.
    let route = request.extensions().get::<MatchedPath>().map_or("none", MatchedPath::as_str).to_owned();
    let span = info_span!("request", %method, route, request_id = id.as_str());
    request.extensions_mut().insert(id.clone());
    let begun = Instant::now();
    let mut response = next.run(request).instrument(span).await;
    let status = response.status();
    let refused = status.is_client_error() || status.is_server_error();
    if refused && !unread.read_away().await && version <= Version::HTTP_11 {
        // Said, so that no client sends its next request on a connection that is about to be closed.
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    let labels =
        [("method", method.as_str().to_owned()), ("route", route), ("status", status.as_u16().to_string())];
    metrics::counter!("raglan_http_requests_total", &labels).increment(1);
    metrics::histogram!("raglan_http_request_seconds", &labels[..2]).record(begun.elapsed().as_secs_f64());
    if let Some(problem) = response.extensions_mut().remove::<Problem>() {
        response = problem.render(response, id.as_str());
    } else if (status.is_client_error() || status.is_server_error()) && !is_json(&response) {
        // An error of the framework, in plain text or without a body. Its headers (Allow, for one) stay.
        response = Problem::of_status(status).render(response, id.as_str());
    }
    let headers = response.headers_mut();
    headers.insert(REQUEST_ID, id.0);
    headers.entry(header::X_CONTENT_TYPE_OPTIONS).or_insert(HeaderValue::from_static("nosniff"));
    response
}

fn is_json(response: &Response) -> bool {
    response
        .headers()
        .get(header::CONTENT_TYPE)
        .is_some_and(|kind| kind == PROBLEM_JSON || kind.as_bytes().starts_with(b"application/json"))
}

/// What a panic in a handler answers.
pub(crate) fn panicked(cause: Box<dyn Any + Send + 'static>) -> Response {
    let cause = cause
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| cause.downcast_ref::<&str>().copied())
        .unwrap_or("unknown");
    error!(cause, "handler panicked");
    Problem::internal().into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id_for(sent: &'static str) -> String {
        let headers = HeaderMap::from_iter([(REQUEST_ID, HeaderValue::from_static(sent))]);
        RequestId::of(&headers).as_str().to_owned()
    }

    #[test]
    fn a_usable_request_id_is_kept_and_any_other_replaced() {
        assert_eq!(id_for("abc-123"), "abc-123");
        for bad in ["", "with space", "<script>"] {
            assert!(Uuid::parse_str(&id_for(bad)).is_ok(), "{bad:?}");
        }
    }
}
