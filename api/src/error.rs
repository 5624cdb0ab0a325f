//! Errors as RFC 9457 `application/problem+json`: one shape for everything that goes wrong.

use std::time::Duration;

use axum::{
    body::Body,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use raglan_pipeline::{
    ports::{ErrorKind, PortError},
    submit::SubmitError,
};
use serde::{Deserialize, Serialize};
use tracing::{error, warn};
use utoipa::ToSchema;

/// The media type of problems.
pub const PROBLEM_JSON: &str = "application/problem+json";

/// What went wrong, as RFC 9457 wants it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ProblemBody {
    /// Names the kind of problem: `urn:raglan:problem:` and the code.
    #[serde(rename = "type")]
    #[schema(example = "urn:raglan:problem:invalid_field")]
    pub kind: String,
    /// The status in words.
    #[schema(example = "Unprocessable Content")]
    pub title: String,
    /// The HTTP status.
    #[schema(example = 422)]
    pub status: u16,
    /// What happened this time, and what to do about it.
    #[schema(example = "must be from 1 to 50")]
    pub detail: String,
    /// Stable, for programs.
    #[schema(example = "invalid_field")]
    pub code: String,
    /// The field, parameter or header at fault, as a path such as `generation.max_tokens`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "top_k")]
    pub field: Option<String>,
    /// The `x-request-id` of the request, for asking the operator about it.
    pub request_id: String,
    /// Where several things are wrong: each of them (the first 100).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<ProblemItem>,
}

/// One of several things that are wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ProblemItem {
    /// The line of an NDJSON body, from 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line: Option<u64>,
    /// The field at fault.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// What is wrong.
    pub detail: String,
}

/// A problem on its way to the client. It becomes a body where the request's id is known (see [`crate::edge`]).
#[derive(Debug, Clone)]
pub(crate) struct Problem(Box<Parts>);

#[derive(Debug, Clone)]
struct Parts {
    status: StatusCode,
    code: &'static str,
    detail: String,
    field: Option<String>,
    errors: Vec<ProblemItem>,
    retry_after: Option<Duration>,
    challenge: Option<&'static str>,
}

/// The result of a handler.
pub(crate) type ApiResult<T = Response> = Result<T, Problem>;

impl Problem {
    pub(crate) fn new(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Self {
        Self(Box::new(Parts {
            status,
            code,
            detail: detail.into(),
            field: None,
            errors: Vec::new(),
            retry_after: None,
            challenge: None,
        }))
    }

    /// A body that cannot be read at all.
    pub(crate) fn bad_request(code: &'static str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code, detail)
    }

    /// A header that is not as it must be.
    pub(crate) fn bad_header(name: &'static str, detail: impl Into<String>) -> Self {
        Self::bad_request("invalid_header", detail).field(name)
    }

    /// A parameter of the query string or the path that is not as it must be.
    pub(crate) fn bad_parameter(name: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::bad_request("invalid_parameter", detail).field(name)
    }

    /// A field of the body that is not as it must be.
    pub(crate) fn invalid(field: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid_field", detail).field(field)
    }

    pub(crate) fn not_found(code: &'static str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, code, detail)
    }

    pub(crate) fn conflict(code: &'static str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, code, detail)
    }

    pub(crate) fn too_large(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", detail)
    }

    pub(crate) fn unsupported(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", detail)
    }

    /// Something is full or down for now.
    pub(crate) fn unavailable(code: &'static str, detail: impl Into<String>, after: Duration) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, code, detail).retry_after(after)
    }

    /// A fault of ours. The cause belongs in the log, not in the answer.
    pub(crate) fn internal() -> Self {
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal",
            "the request failed through a fault of the server; its log has the cause under this request_id",
        )
    }

    /// What is known of an error that names only its status.
    pub(crate) fn of_status(status: StatusCode) -> Self {
        let (code, detail) = match status {
            StatusCode::NOT_FOUND => ("not_found", "there is nothing at this path; /docs lists the routes"),
            StatusCode::METHOD_NOT_ALLOWED => (
                "method_not_allowed",
                "this path does not know this method; the Allow header lists those it knows",
            ),
            StatusCode::PAYLOAD_TOO_LARGE => ("too_large", "the body is too large"),
            StatusCode::UNSUPPORTED_MEDIA_TYPE => {
                ("unsupported_media_type", "this media type is not taken here")
            }
            StatusCode::FORBIDDEN => ("forbidden", "this is not allowed"),
            status if status.is_server_error() => return Self::internal().status(status),
            _ => ("bad_request", "the request cannot be understood"),
        };
        Self::new(status, code, detail)
    }

    pub(crate) fn field(mut self, field: impl Into<String>) -> Self {
        self.0.field = Some(field.into());
        self
    }

    pub(crate) fn errors(mut self, errors: Vec<ProblemItem>) -> Self {
        self.0.errors = errors;
        self
    }

    pub(crate) fn retry_after(mut self, after: Duration) -> Self {
        self.0.retry_after = Some(after);
        self
    }

    pub(crate) fn challenge(mut self, challenge: &'static str) -> Self {
        self.0.challenge = Some(challenge);
        self
    }

    fn status(mut self, status: StatusCode) -> Self {
        self.0.status = status;
        self
    }

    /// The code and detail, for transports that have no status.
    pub(crate) fn words(&self) -> (&'static str, &str) {
        (self.0.code, &self.0.detail)
    }

    /// Puts the field under a longer path.
    pub(crate) fn under(mut self, path: &str) -> Self {
        self.0.field = self.0.field.map(|field| format!("{path}.{field}"));
        self
    }

    /// Whether the document at hand is at fault, so that others may be better.
    pub(crate) fn is_about_the_document(&self) -> bool {
        matches!(self.0.status, StatusCode::BAD_REQUEST | StatusCode::UNPROCESSABLE_ENTITY)
    }

    /// The field and detail, for lists of problems.
    pub(crate) fn into_item(self, line: Option<u64>) -> ProblemItem {
        ProblemItem { line, field: self.0.field, detail: self.0.detail }
    }

    /// Writes the body, now that the request's id is known.
    pub(crate) fn render(self, mut response: Response, request_id: &str) -> Response {
        let parts = *self.0;
        let body = ProblemBody {
            kind: format!("urn:raglan:problem:{}", parts.code),
            title: parts.status.canonical_reason().unwrap_or("Error").to_owned(),
            status: parts.status.as_u16(),
            detail: parts.detail,
            code: parts.code.to_owned(),
            field: parts.field,
            request_id: request_id.to_owned(),
            errors: parts.errors,
        };
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON));
        headers.remove(header::CONTENT_LENGTH);
        // Strings and numbers only: it serialises.
        *response.body_mut() = Body::from(serde_json::to_vec(&body).unwrap_or_default());
        response
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = self.0.status.into_response();
        if let Some(after) = self.0.retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, seconds(after));
        }
        if let Some(challenge) = self.0.challenge {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
        }
        response.extensions_mut().insert(self);
        response
    }
}

/// A duration as whole seconds, at least one.
pub(crate) fn seconds(duration: Duration) -> HeaderValue {
    HeaderValue::from(duration.as_millis().div_ceil(1_000).clamp(1, 86_400) as u64)
}

impl From<PortError> for Problem {
    fn from(failure: PortError) -> Self {
        let after = failure.retry_after().unwrap_or(Duration::from_secs(2));
        match failure.kind() {
            ErrorKind::Unavailable | ErrorKind::Timeout => {
                warn!(error = %failure, "request failed: a part is not available");
                Self::unavailable(
                    "unavailable",
                    "a part of the server is not available now; try again",
                    after,
                )
            }
            ErrorKind::Overloaded => {
                Self::unavailable("overloaded", "the server is full now; try again", after)
            }
            ErrorKind::Conflict => Self::conflict(
                "conflict",
                "the request contradicts a change that was made at the same time; try again",
            ),
            ErrorKind::Invalid | ErrorKind::Corrupt | ErrorKind::Internal => {
                error!(error = %failure, "request failed");
                Self::internal()
            }
        }
    }
}

impl From<SubmitError> for Problem {
    fn from(error: SubmitError) -> Self {
        match error {
            SubmitError::Invalid { field, message } => Self::invalid(field, message),
            SubmitError::KeyReused => Self::conflict(
                "idempotency_key_reused",
                "this Idempotency-Key was used for another request; use a new key for a new request",
            )
            .field("Idempotency-Key"),
            SubmitError::Overloaded { retry_after } => {
                Self::unavailable("overloaded", "too many jobs are waiting; try again later", retry_after)
            }
            SubmitError::Port(error) => error.into(),
        }
    }
}
