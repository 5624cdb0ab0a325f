//! The page for people, and the page that explains the API. Both are in the binary and load nothing from elsewhere.

use std::sync::LazyLock;

use axum::{
    Router,
    http::{HeaderValue, header},
    middleware::map_response,
    response::{IntoResponse, Response},
    routing::get,
};
use base64::{Engine, engine::general_purpose::STANDARD};
use sha2::{Digest, Sha256};
use utoipa_swagger_ui::{Config, SwaggerUi};

const PAGE: &str = include_str!("../web/index.html");

/// The policy of the page: its own script and style, by their hashes, and its own server.
static PAGE_POLICY: LazyLock<HeaderValue> = LazyLock::new(|| {
    let policy = format!(
        "default-src 'none'; script-src '{}'; style-src '{}'; connect-src 'self'; img-src data:; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        hash(between("<script>", "</script>")),
        hash(between("<style>", "</style>")),
    );
    // Base64 and ASCII words are valid in a header.
    HeaderValue::from_str(&policy).unwrap_or(HeaderValue::from_static("default-src 'none'"))
});

/// The policy of the documentation, whose styles stand in its markup.
const DOCS_POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; connect-src 'self'; img-src 'self' data:; \
     base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
);

/// The pages.
pub(crate) fn routes() -> Router {
    let docs = Router::from(SwaggerUi::new("/docs").config(Config::from("/openapi.json")))
        .layer(map_response(async |response: Response| with_policy(response, DOCS_POLICY)));
    Router::new().route("/", get(page)).merge(docs)
}

async fn page() -> Response {
    with_policy(
        ([(header::CONTENT_TYPE, "text/html; charset=utf-8")], PAGE).into_response(),
        PAGE_POLICY.clone(),
    )
}

fn with_policy(mut response: Response, policy: HeaderValue) -> Response {
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_SECURITY_POLICY, policy);
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    response
}

/// What stands between two marks of the page; empty where they are missing.
fn between(open: &str, close: &str) -> &'static str {
    PAGE.split_once(open).and_then(|(_, rest)| rest.split_once(close)).map_or("", |(inner, _)| inner)
}

fn hash(text: &str) -> String {
    format!("sha256-{}", STANDARD.encode(Sha256::digest(text.as_bytes())))
}
