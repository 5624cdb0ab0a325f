//! Reads requests: bodies, query strings, paths and headers. Whatever is wrong is told as a problem that names the field.

use std::time::Duration;

use axum::{
    body::Body,
    extract::{FromRequest, FromRequestParts, Path, Request},
    http::{HeaderMap, StatusCode, header, request::Parts},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use raglan_pipeline::{
    domain::{Collection, DeliveryId, DocumentId, JobId},
    ports::Idempotency,
    submit::request_hash,
};
use serde::de::{DeserializeOwned, IgnoredAny};
use serde_json::{Value, error::Category};
use url::form_urlencoded;
use uuid::Uuid;

use crate::{
    auth::Caller,
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

/// The one value of a header; more than one is an error.
fn single<'a>(headers: &'a HeaderMap, name: &'static str) -> ApiResult<Option<&'a str>> {
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(Problem::bad_header(name, "is given twice"));
    }
    value
        .to_str()
        .map(Some)
        .map_err(|_| Problem::bad_header(name, "has characters that are not visible ASCII"))
}

/// The client's `Idempotency-Key`.
pub(crate) struct IdempotencyKey(Option<String>);

impl FromRequestParts<ApiState> for IdempotencyKey {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &ApiState) -> ApiResult<Self> {
        let Some(key) = single(&parts.headers, "Idempotency-Key")? else { return Ok(Self(None)) };
        if !(1..=255).contains(&key.len()) || !key.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(Problem::bad_header("Idempotency-Key", "must be 1 to 255 visible ASCII characters"));
        }
        Ok(Self(Some(key.to_owned())))
    }
}

impl IdempotencyKey {
    /// Whether there is one, so that the request must be hashed.
    pub(crate) fn is_given(&self) -> bool {
        self.0.is_some()
    }

    /// The key with the hash of all that makes the request the same one.
    pub(crate) fn with(self, caller: &Caller, route: &str, body: &[u8]) -> Option<Idempotency> {
        let request_hash = request_hash(&[route.as_bytes(), caller.tenant.as_str().as_bytes(), body]);
        self.0.map(|key| Idempotency { key, request_hash })
    }
}

/// A JSON body in a form that does not depend on the order of its fields or on white space.
pub(crate) async fn canonical(bytes: Bytes) -> ApiResult<Vec<u8>> {
    if bytes.len() <= PARSE_INLINE {
        return Ok(canonical_now(&bytes));
    }
    tokio::task::spawn_blocking(move || canonical_now(&bytes)).await.map_err(|_| Problem::internal())
}

fn canonical_now(bytes: &[u8]) -> Vec<u8> {
    fn sorted(value: Value) -> Value {
        match value {
            Value::Object(fields) => {
                let mut fields: Vec<(String, Value)> =
                    fields.into_iter().map(|(k, v)| (k, sorted(v))).collect();
                fields.sort_by(|a, b| a.0.cmp(&b.0));
                Value::Object(fields.into_iter().collect())
            }
            Value::Array(items) => Value::Array(items.into_iter().map(sorted).collect()),
            plain => plain,
        }
    }
    match serde_json::from_slice(bytes) {
        Ok(value) => sorted(value).to_string().into_bytes(),
        Err(_) => bytes.to_vec(),
    }
}

/// How long the client prefers to wait for the end (`Prefer: wait=N`, RFC 7240), cut to the longest allowed.
pub(crate) struct Preference {
    /// None where it did not say.
    pub(crate) wait: Option<Duration>,
}

impl FromRequestParts<ApiState> for Preference {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &ApiState) -> ApiResult<Self> {
        let mut wait = None;
        for value in parts.headers.get_all("Prefer") {
            let value = value.to_str().map_err(|_| Problem::bad_header("Prefer", "is not ASCII"))?;
            for preference in value.split(',') {
                let (name, value) = preference.split_once('=').unwrap_or((preference, ""));
                if name.trim().eq_ignore_ascii_case("wait") {
                    let seconds = value.split(';').next().unwrap_or_default().trim().trim_matches('"');
                    let seconds: u32 = seconds.parse().map_err(|_| {
                        Problem::bad_header("Prefer", "wait must be a whole number of seconds")
                    })?;
                    wait.get_or_insert(Duration::from_secs(seconds.into()).min(state.limits().wait));
                }
            }
        }
        Ok(Self { wait })
    }
}

/// Which revisions the client has (`If-None-Match`).
pub(crate) struct Known(Option<String>);

impl FromRequestParts<ApiState> for Known {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &ApiState) -> ApiResult<Self> {
        let values: Vec<&str> = parts
            .headers
            .get_all(header::IF_NONE_MATCH)
            .iter()
            .map(|value| value.to_str().map_err(|_| Problem::bad_header("If-None-Match", "is not ASCII")))
            .collect::<ApiResult<_>>()?;
        Ok(Self((!values.is_empty()).then(|| values.join(","))))
    }
}

impl Known {
    /// Whether the client named any.
    pub(crate) fn is_given(&self) -> bool {
        self.0.is_some()
    }

    /// Whether the client has this one.
    pub(crate) fn holds(&self, tag: &str) -> bool {
        self.0.as_deref().is_some_and(|tags| {
            tags.split(',').map(str::trim).any(|held| held == "*" || held.trim_start_matches("W/") == tag)
        })
    }
}

/// The last event that the client has: `Last-Event-ID`, which a browser sends when it reconnects, before `?after=`.
pub(crate) fn last_event(headers: &HeaderMap, after: Option<u64>) -> ApiResult<u64> {
    match single(headers, "Last-Event-ID")? {
        Some(id) => {
            id.trim().parse().map_err(|_| Problem::bad_header("Last-Event-ID", "is not the id of an event"))
        }
        None => Ok(after.unwrap_or(0)),
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

    #[test]
    fn canonical_json_ignores_order_and_space() {
        let (one, same) = (br#"{"b":1,"a":{"d":2,"c":3}}"#, br#"{ "a": {"c":3, "d":2}, "b":1 }"#);
        assert_eq!(canonical_now(one), canonical_now(same));
        assert_ne!(canonical_now(br#"{"a":[1,2]}"#), canonical_now(br#"{"a":[2,1]}"#));
    }

    #[test]
    fn entity_tags_match_by_the_weak_comparison() {
        let known = |tags: &str| Known(Some(tags.to_owned()));
        assert!(known(r#""3""#).holds(r#""3""#));
        assert!(known(r#""1", W/"3""#).holds(r#""3""#));
        assert!(known("*").holds(r#""3""#));
        assert!(!known(r#""33""#).holds(r#""3""#));
        assert!(!Known(None).holds(r#""3""#));
    }
}
