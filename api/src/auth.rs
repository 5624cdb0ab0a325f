//! Who calls: keys, single-use tickets, and what stands in for both while authentication is off.

use std::{net::IpAddr, sync::Arc, time::Duration};

use axum::{
    extract::{FromRequestParts, Request, State},
    http::{HeaderMap, Method, StatusCode, Uri, header, request::Parts},
    middleware::Next,
    response::Response,
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use raglan_pipeline::{
    domain::Tenant,
    ports::{Cache, Namespace, PortResult},
};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use url::form_urlencoded;

use crate::{
    error::{ApiResult, Problem},
    state::{ApiSettings, ApiState},
};

/// How long a ticket opens a WebSocket.
pub(crate) const TICKET_LIFE: Duration = Duration::from_secs(30);

/// Who a request comes from. Handlers that take it run only for callers who were let in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Caller {
    /// Whose data it may see.
    pub(crate) tenant: Tenant,
}

impl FromRequestParts<ApiState> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &ApiState) -> Result<Self, Problem> {
        // A route that forgot the layer below must not be open.
        parts.extensions.get::<Self>().cloned().ok_or_else(unauthorized)
    }
}

/// Lets a request in with its key or ticket, and tells handlers who it comes from.
pub(crate) async fn authenticate(
    State(state): State<ApiState>,
    mut request: Request,
    next: Next,
) -> ApiResult<Response> {
    let caller = identify(&state, request.headers(), request.uri()).await?;
    request.extensions_mut().insert(caller);
    Ok(next.run(request).await)
}

async fn identify(state: &ApiState, headers: &HeaderMap, uri: &Uri) -> ApiResult<Caller> {
    if state.settings.keys.is_empty() {
        return Ok(Caller { tenant: Tenant::default() });
    }
    if let Some(value) = headers.get(header::AUTHORIZATION) {
        let key = value
            .to_str()
            .ok()
            .and_then(|value| value.split_once(' '))
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
            .map(|(_, key)| key.trim());
        return key.and_then(|key| holder(&state.settings, key)).ok_or_else(|| {
            Problem::new(StatusCode::UNAUTHORIZED, "invalid_key", "the API key is not known")
                .challenge(r#"Bearer realm="raglan", error="invalid_token""#)
        });
    }
    // Only where a browser can send no header.
    if uri.path().ends_with("/ws")
        && let Some(ticket) = query_value(uri, "ticket")
    {
        return state.tickets.redeem(&ticket).await?.ok_or_else(|| {
            Problem::new(
                StatusCode::UNAUTHORIZED,
                "invalid_ticket",
                "the ticket was used, is too old, or was never given out",
            )
            .challenge(r#"Bearer realm="raglan", error="invalid_token""#)
            .field("ticket")
        });
    }
    Err(unauthorized())
}

fn unauthorized() -> Problem {
    Problem::new(StatusCode::UNAUTHORIZED, "unauthorized", "send an API key: Authorization: Bearer <key>")
        .challenge(r#"Bearer realm="raglan""#)
}

/// Whose key this is. Every key is compared in full, so that time tells nothing.
fn holder(settings: &ApiSettings, key: &str) -> Option<Caller> {
    let hash: [u8; 32] = Sha256::digest(key.as_bytes()).into();
    let mut found = None;
    for known in &settings.keys {
        if bool::from(known.sha256.ct_eq(&hash)) {
            found = Some(Caller { tenant: known.tenant.clone() });
        }
    }
    found
}

fn query_value(uri: &Uri, name: &str) -> Option<String> {
    form_urlencoded::parse(uri.query()?.as_bytes())
        .find(|(key, _)| key == name)
        .map(|(_, value)| value.into_owned())
}

/// While authentication is off, whoever reaches the socket is let in; so a browser must not be led here by a foreign page.
///
/// A page under a foreign name that resolves to this machine (DNS rebinding) gives itself away by its `Host`; one that sends a
/// form, a fetch or a WebSocket across origins by its `Origin`.
pub(crate) async fn guard(
    State(state): State<ApiState>,
    request: Request,
    next: Next,
) -> ApiResult<Response> {
    let probe = matches!(request.uri().path(), "/healthz" | "/readyz");
    if state.settings.keys.is_empty() && !probe {
        check_host(&state.settings, request.headers(), request.uri())?;
        check_origin(&state.settings, &request)?;
    }
    Ok(next.run(request).await)
}

fn authority<'a>(headers: &'a HeaderMap, uri: &'a Uri) -> Option<&'a str> {
    match headers.get(header::HOST) {
        Some(host) => host.to_str().ok(),
        None => uri.authority().map(|authority| authority.as_str()),
    }
}

fn check_host(settings: &ApiSettings, headers: &HeaderMap, uri: &Uri) -> ApiResult<()> {
    let Some(authority) = authority(headers, uri) else {
        return Err(Problem::bad_header("Host", "a Host header is needed"));
    };
    let host = host_of(authority);
    if is_loopback(host) || settings.hosts.iter().any(|known| host_of(known).eq_ignore_ascii_case(host)) {
        return Ok(());
    }
    Err(Problem::new(
        StatusCode::FORBIDDEN,
        "host_not_allowed",
        format!("without API keys only local requests are answered, and {host:?} is not a local name; configure keys or this host"),
    )
    .field("Host"))
}

fn check_origin(settings: &ApiSettings, request: &Request) -> ApiResult<()> {
    let headers = request.headers();
    let reads = matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS);
    // A WebSocket is opened by a GET, and no same-origin rule protects it.
    if reads && !headers.contains_key(header::UPGRADE) {
        return Ok(());
    }
    let Some(origin) = headers.get(header::ORIGIN) else {
        let cross = headers.get("sec-fetch-site").is_some_and(|site| site == "cross-site");
        return if cross { Err(foreign_origin()) } else { Ok(()) };
    };
    let Ok(origin) = origin.to_str() else { return Err(foreign_origin()) };
    let own = origin
        .split_once("://")
        .zip(authority(headers, request.uri()))
        .is_some_and(|((_, from), to)| from.eq_ignore_ascii_case(to));
    if own || settings.cors_origins.iter().any(|allowed| allowed.trim_end_matches('/') == origin) {
        return Ok(());
    }
    Err(foreign_origin())
}

fn foreign_origin() -> Problem {
    Problem::new(
        StatusCode::FORBIDDEN,
        "origin_not_allowed",
        "pages of this origin may not call the API; allow the origin in the configuration",
    )
    .field("Origin")
}

/// The host without its port.
fn host_of(authority: &str) -> &str {
    if authority.starts_with('[') {
        return authority.split_inclusive(']').next().unwrap_or(authority);
    }
    authority.rsplit_once(':').map_or(authority, |(host, _)| host)
}

fn is_loopback(host: &str) -> bool {
    let name = host.trim_end_matches('.').to_ascii_lowercase();
    name == "localhost"
        || name.ends_with(".localhost")
        || name.trim_matches(['[', ']']).parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Tickets that were given out and not used: a page exchanges its key for one, and opens a WebSocket with it, on whichever replica answers.
pub(crate) struct Tickets {
    cache: Arc<dyn Cache>,
}

impl Tickets {
    pub(crate) fn new(cache: Arc<dyn Cache>) -> Self {
        Self { cache }
    }

    /// A new ticket for this caller.
    pub(crate) async fn issue(&self, caller: &Caller) -> PortResult<String> {
        let ticket = URL_SAFE_NO_PAD.encode(rand::random::<[u8; 32]>());
        let tenant = Bytes::copy_from_slice(caller.tenant.as_str().as_bytes());
        self.cache.put(Namespace::Tickets, &Self::key(&ticket), tenant, TICKET_LIFE).await?;
        Ok(ticket)
    }

    /// Whose ticket this is. It is used up.
    async fn redeem(&self, ticket: &str) -> PortResult<Option<Caller>> {
        let tenant = self.cache.take(Namespace::Tickets, &Self::key(ticket)).await?;
        Ok(tenant
            .and_then(|bytes| Tenant::new(std::str::from_utf8(&bytes).ok()?).ok())
            .map(|tenant| Caller { tenant }))
    }

    /// Kept by hash, so that whoever sees the keys of the cache can open nothing.
    fn key(ticket: &str) -> String {
        URL_SAFE_NO_PAD.encode(Sha256::digest(ticket.as_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_names() {
        for host in [
            "localhost",
            "localhost:8080",
            "LOCALHOST.",
            "app.localhost:1",
            "127.0.0.1:9",
            "127.8.8.8",
            "[::1]:80",
            "[::1]",
        ] {
            assert!(is_loopback(host_of(host)), "{host}");
        }
        for host in [
            "example.com",
            "localhost.example.com",
            "127.0.0.1.nip.io",
            "10.0.0.1",
            "[::2]:1",
            "0.0.0.0:80",
            "",
        ] {
            assert!(!is_loopback(host_of(host)), "{host}");
        }
    }
}
