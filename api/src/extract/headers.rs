//! Reads headers: `Idempotency-Key`, `Prefer`, `If-None-Match`, `Last-Event-ID`.

use std::time::Duration;

use axum::{
    extract::FromRequestParts,
    http::{HeaderMap, header, request::Parts},
};
use bytes::Bytes;
use raglan_pipeline::{ports::Idempotency, submit::request_hash};
use serde_json::Value;

use super::PARSE_INLINE;
use crate::{
    auth::Caller,
    error::{ApiResult, Problem},
    state::ApiState,
};

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

#[cfg(test)]
mod tests {
    use super::*;

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
