//! Reads requests: bodies, query strings, paths and headers. Whatever is wrong is told as a problem that names the field.

mod body;
mod headers;

use std::time::Duration;

use axum::{
    extract::{FromRequest, FromRequestParts, Path, Request},
    http::{StatusCode, request::Parts},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use raglan_pipeline::domain::{Collection, DeliveryId, DocumentId, JobId};
use serde::de::{DeserializeOwned, IgnoredAny};
use serde_json::error::Category;
use url::form_urlencoded;
use uuid::Uuid;

pub(crate) use self::{
    body::{BodyReader, check_length, expect_json, media_type, read_body},
    headers::{IdempotencyKey, Known, Preference, canonical, last_event},
};
use crate::{
    error::{ApiResult, Problem},
    state::ApiState,
};

/// Above this, JSON is parsed on a thread for blocking work.
const PARSE_INLINE: usize = 128 << 10;

/// A JSON body.
pub(crate) struct ApiJson<T> {
    /// What it says.
    pub(crate) value: T,
    /// As it came.
    pub(crate) bytes: Bytes,
}

impl<T: DeserializeOwned + Send + 'static> FromRequest<ApiState> for ApiJson<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &ApiState) -> ApiResult<Self> {
        expect_json(request.headers())?;
        let limits = state.limits();
        let bytes = read_body(request, limits.body_bytes, limits.body_idle).await?;
        Ok(Self { value: parse_json(bytes.clone()).await?, bytes })
    }
}

/// Parses JSON, away from the runtime's threads where it is large.
pub(crate) async fn parse_json<T: DeserializeOwned + Send + 'static>(bytes: Bytes) -> ApiResult<T> {
    if bytes.len() <= PARSE_INLINE {
        return from_json(&bytes);
    }
    tokio::task::spawn_blocking(move || from_json(&bytes)).await.unwrap_or_else(|_| Err(Problem::internal()))
}

/// Parses JSON; an error names its place or its field.
pub(crate) fn from_json<T: DeserializeOwned>(bytes: &[u8]) -> ApiResult<T> {
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Err(Problem::bad_request("invalid_json", "the body is empty; send a JSON object"));
    }
    // A list would be taken for the fields of a struct in their order.
    if bytes.iter().find(|b| !b.is_ascii_whitespace()) == Some(&b'[') {
        return Err(Problem::bad_request("invalid_json", "the body must be a JSON object, not a list"));
    }
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
        let path = error.path().to_string();
        let error = error.into_inner();
        // An enum that is given a boolean, for one, counts as a syntax error of JSON that is right.
        let message = without_position(&error.to_string());
        let of_a_field = match error.classify() {
            Category::Data => true,
            Category::Syntax => !message.starts_with("recursion limit") && is_json(bytes),
            Category::Eof | Category::Io => false,
        };
        if !of_a_field {
            return bad_json(&error);
        }
        let (field, detail) = explain(&path, &message);
        let problem = Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid_field", detail);
        if field.is_empty() { problem } else { problem.field(field) }
    })?;
    deserializer.end().map_err(|error| bad_json(&error))?;
    Ok(value)
}

fn is_json(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_ok_and(|text| serde_json::from_str::<IgnoredAny>(text).is_ok())
}

fn bad_json(error: &serde_json::Error) -> Problem {
    let detail = format!(
        "the body is not JSON: {} (line {}, column {})",
        without_position(&error.to_string()),
        error.line(),
        error.column()
    );
    Problem::bad_request("invalid_json", detail)
}

fn without_position(message: &str) -> String {
    message.rsplit_once(" at line ").map_or(message, |(words, _)| words).to_owned()
}

/// The field and the words for a value that is of the wrong kind.
fn explain(path: &str, message: &str) -> (String, String) {
    let path = if path == "." || path == "?" { "" } else { path };
    let under = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
    if let Some(name) = quoted(message, "missing field `") {
        return (under(name), "is missing".to_owned());
    }
    if let Some(name) = quoted(message, "duplicate field `") {
        let field =
            if path == name || path.ends_with(&format!(".{name}")) { path.to_owned() } else { under(name) };
        return (field, "is given twice".to_owned());
    }
    if let Some(name) = quoted(message, "unknown field `") {
        let known = names(message);
        let nearest =
            nearest(name, &known).map(|near| format!("; did you mean {near:?}?")).unwrap_or_default();
        let detail = format!("there is no such field{nearest} (there are: {})", known.join(", "));
        let field =
            if path == name || path.ends_with(&format!(".{name}")) { path.to_owned() } else { under(name) };
        return (field, detail);
    }
    if let Some(name) = quoted(message, "unknown variant `") {
        return (path.to_owned(), format!("{name:?} is not one of: {}", names(message).join(", ")));
    }
    let mut words = message.to_owned();
    for (from, to) in [
        ("expected usize", "expected a whole number"),
        ("expected u64", "expected a whole number"),
        ("expected u32", "expected a whole number"),
        ("expected f32", "expected a number"),
        ("a map", "an object"),
        ("a sequence", "a list"),
        ("sequence,", "list,"),
        ("map,", "object,"),
        ("expected value", "is a value of the wrong kind"),
    ] {
        words = words.replace(from, to);
    }
    if let Some((before, _)) = words.split_once("expected struct ") {
        words = format!("{before}expected an object");
    }
    (path.to_owned(), words)
}

fn quoted<'a>(message: &'a str, before: &str) -> Option<&'a str> {
    message.strip_prefix(before)?.split('`').next()
}

/// The names in backticks after `expected`.
fn names(message: &str) -> Vec<&str> {
    message
        .split_once("expected")
        .map_or_else(Vec::new, |(_, list)| list.split('`').skip(1).step_by(2).collect())
}

/// The known name that was probably meant.
pub(crate) fn nearest<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    known
        .iter()
        .map(|known| (strsim::jaro_winkler(&name.to_lowercase(), known), *known))
        .filter(|(likeness, _)| *likeness >= 0.75)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, known)| known)
}

/// The parameters of a query string.
pub(crate) struct ApiQuery<T>(pub(crate) T);

impl<T: DeserializeOwned> FromRequestParts<ApiState> for ApiQuery<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &ApiState) -> ApiResult<Self> {
        let pairs = form_urlencoded::parse(parts.uri.query().unwrap_or_default().as_bytes());
        serde_path_to_error::deserialize(serde_urlencoded::Deserializer::new(pairs)).map(Self).map_err(
            |error| {
                let path = error.path().to_string();
                let (field, detail) = explain(&path, &error.into_inner().to_string());
                Problem::bad_parameter(field, detail)
            },
        )
    }
}

/// An id in the path.
pub(crate) struct ApiPath<T>(pub(crate) T);

/// What can stand in a path.
pub(crate) trait PathPart: Sized {
    /// What the path calls it.
    const NAME: &'static str;

    fn parse(part: &str) -> Result<Self, String>;
}

macro_rules! path_part {
    ($kind:ty, $name:literal, $what:literal) => {
        impl PathPart for $kind {
            const NAME: &'static str = $name;

            fn parse(part: &str) -> Result<Self, String> {
                Uuid::try_parse(part)
                    .map(Self)
                    .map_err(|_| concat!("is not the id of ", $what, " (a UUID)").to_owned())
            }
        }
    };
}

path_part!(JobId, "job_id", "a job");
path_part!(DocumentId, "document_id", "a document");
path_part!(DeliveryId, "delivery_id", "a delivery");

impl PathPart for Collection {
    const NAME: &'static str = "name";

    fn parse(part: &str) -> Result<Self, String> {
        Self::new(part).map_err(|error| error.to_string())
    }
}

impl<T: PathPart> FromRequestParts<ApiState> for ApiPath<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &ApiState) -> ApiResult<Self> {
        let Path(part) = Path::<String>::from_request_parts(parts, state)
            .await
            .map_err(|_| Problem::bad_parameter(T::NAME, "is not UTF-8"))?;
        T::parse(&part).map(Self).map_err(|detail| Problem::bad_parameter(T::NAME, detail))
    }
}

/// How many entries a page has.
pub(crate) fn page_limit(limit: Option<u32>) -> ApiResult<usize> {
    match limit.unwrap_or(50) {
        limit @ 1..=200 => Ok(limit as usize),
        _ => Err(Problem::bad_parameter("limit", "must be from 1 to 200")),
    }
}

/// Where the next page begins, for the client to give back. `kind` tells lists apart.
pub(crate) fn cursor(kind: &str, last: Uuid) -> String {
    URL_SAFE_NO_PAD.encode(format!("{kind}:{last}"))
}

/// Reads [`cursor`] back.
pub(crate) fn read_cursor(kind: &str, cursor: Option<&str>) -> ApiResult<Option<Uuid>> {
    let Some(cursor) = cursor else { return Ok(None) };
    URL_SAFE_NO_PAD
        .decode(cursor)
        .ok()
        .and_then(|bytes| {
            Uuid::try_parse(std::str::from_utf8(&bytes).ok()?.strip_prefix(kind)?.strip_prefix(':')?).ok()
        })
        .map(Some)
        .ok_or_else(|| Problem::bad_parameter("cursor", "is not a next_cursor of this list"))
}

/// A wait in seconds from a query string.
pub(crate) fn wait_of(seconds: Option<u64>, most: Duration) -> ApiResult<Option<Duration>> {
    match seconds.map(Duration::from_secs) {
        Some(wait) if wait > most => {
            Err(Problem::bad_parameter("wait", format!("must be from 0 to {}", most.as_secs())))
        }
        wait => Ok(wait),
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code)]
    struct Outer {
        count: Option<u32>,
        inner: Option<Inner>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code)]
    struct Inner {
        max_tokens: u32,
    }

    fn problem(json: &str) -> (Option<String>, String) {
        let item = from_json::<Outer>(json.as_bytes()).map(|_| ()).unwrap_err().into_item(None);
        (item.field, item.detail)
    }

    #[test]
    fn json_errors_name_the_field_and_say_what_is_wanted() {
        let (field, detail) = problem(r#"{"inner": {"max_tokens": "x"}}"#);
        assert_eq!(field.as_deref(), Some("inner.max_tokens"));
        assert!(detail.contains("expected a whole number"), "{detail}");
        let (field, detail) = problem(r#"{"inner": {"max_token": 1}}"#);
        assert_eq!(field.as_deref(), Some("inner.max_token"));
        assert!(detail.contains(r#"did you mean "max_tokens"?"#), "{detail}");
        assert_eq!(problem(r#"{"inner": {}}"#).0.as_deref(), Some("inner.max_tokens"));
        assert_eq!(
            problem(r#"{"count": 1, "count": 2}"#),
            (Some("count".to_owned()), "is given twice".to_owned())
        );
        assert_eq!(problem(r#"[1]"#).0, None);
        let (field, detail) = problem("{\n  \"count\": 1,,\n}");
        assert_eq!(field, None);
        assert!(detail.contains("line 2"), "{detail}");
        assert!(problem("{} x").1.contains("trailing"));
    }

    #[test]
    fn cursors_round_trip_and_lists_do_not_mix() {
        let id = Uuid::now_v7();
        assert_eq!(read_cursor("jobs", Some(&cursor("jobs", id))).unwrap(), Some(id));
        assert!(read_cursor("documents", Some(&cursor("jobs", id))).is_err());
        for bad in ["", "x", "!!!!", "am9iczo"] {
            assert!(read_cursor("jobs", Some(bad)).is_err(), "{bad:?}");
        }
    }
}
