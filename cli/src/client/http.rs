//! Requests and their errors.

use std::time::Duration;

use clap::Args;
use raglan_pipeline::secret::Secret;
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use serde::de::DeserializeOwned;
use serde_json::Value;
use url::Url;

/// Which server to talk to.
#[derive(Debug, Clone, Args)]
pub struct Connection {
    /// Address of the server.
    #[arg(long, env = "RAGLAN_URL", default_value = "http://127.0.0.1:8765", global = true)]
    pub url: Url,
    /// API key, where the server wants one.
    #[arg(long, env = "RAGLAN_API_KEY", hide_env_values = true, global = true)]
    pub key: Option<Secret>,
}

/// Why a request failed, in words for a person.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// Nobody answered.
    #[error(
        "no answer from {url}: {reason}\nIs the server running? `raglan serve` starts one; --url names another address."
    )]
    Unreachable {
        /// Where.
        url: String,
        /// Why.
        reason: String,
    },
    /// The server refused.
    #[error("{message}")]
    Refused {
        /// The HTTP status.
        status: u16,
        /// The stable code, where there is one.
        code: String,
        /// What is wrong.
        message: String,
        /// When to try again, where the server said so.
        retry_after: Option<Duration>,
    },
    /// The answer was not what it should be.
    #[error("the server at this address does not answer like Raglan: {0}")]
    Unexpected(String),
}

/// A server.
#[derive(Debug, Clone)]
pub struct Api {
    http: reqwest::Client,
    connection: Connection,
}

impl Api {
    /// A client for this server.
    pub fn new(connection: Connection) -> anyhow::Result<Self> {
        let http = reqwest::Client::builder()
            .user_agent(concat!("raglan/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(Duration::from_secs(10))
            .build()?;
        Ok(Self { http, connection })
    }

    /// The address of a path on the server.
    pub fn link(&self, path: &str) -> String {
        format!("{}{path}", self.connection.url.as_str().trim_end_matches('/'))
    }

    /// The key, where there is one.
    pub fn key(&self) -> Option<&Secret> {
        self.connection.key.as_ref()
    }

    /// A request to a path.
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self.http.request(method, self.link(path));
        match &self.connection.key {
            Some(key) => request.bearer_auth(key.expose()),
            None => request,
        }
    }

    /// Reads JSON.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ApiError> {
        self.send(self.request(Method::GET, path)).await
    }

    /// Sends JSON and reads JSON.
    pub async fn post<T: DeserializeOwned>(&self, path: &str, body: &Value) -> Result<T, ApiError> {
        self.send(self.request(Method::POST, path).json(body)).await
    }

    /// Removes.
    pub async fn delete(&self, path: &str) -> Result<(), ApiError> {
        self.checked(self.request(Method::DELETE, path)).await.map(|_| ())
    }

    /// Sends a request and reads JSON.
    pub async fn send<T: DeserializeOwned>(&self, request: RequestBuilder) -> Result<T, ApiError> {
        let response = self.checked(request).await?;
        let text = response.text().await.map_err(|error| ApiError::Unexpected(error.to_string()))?;
        serde_json::from_str(&text).map_err(|error| ApiError::Unexpected(error.to_string()))
    }

    /// Sends a request; an answer that is an error becomes one.
    pub async fn checked(&self, request: RequestBuilder) -> Result<Response, ApiError> {
        let response = request.send().await.map_err(|error| self.unreachable(&error))?;
        let status = response.status();
        if status.is_success() || status == StatusCode::NOT_MODIFIED {
            return Ok(response);
        }
        let retry_after = response
            .headers()
            .get("retry-after")
            .and_then(|value| value.to_str().ok()?.parse().ok())
            .map(Duration::from_secs);
        let text = response.text().await.unwrap_or_default();
        let problem: Value = serde_json::from_str(&text).unwrap_or_default();
        let field = |name: &str| problem.get(name).and_then(Value::as_str);
        let message = match (field("detail").or(field("title")), field("field")) {
            (Some(detail), Some(name)) => format!("{name}: {detail}"),
            (Some(detail), None) => detail.to_owned(),
            (None, _) => format!("the server answered {status}"),
        };
        // Of many lines, the first that is wrong says what to look for.
        let first = &problem["errors"][0];
        let message = match (first["line"].as_u64(), first["detail"].as_str()) {
            (Some(line), Some(detail)) => format!("{message} (line {line}: {detail})"),
            _ => message,
        };
        Err(ApiError::Refused {
            status: status.as_u16(),
            code: field("code").unwrap_or_default().to_owned(),
            message,
            retry_after,
        })
    }

    /// What went wrong below HTTP.
    pub fn unreachable(&self, error: &dyn std::error::Error) -> ApiError {
        let mut reason = error.to_string();
        let mut source = error.source();
        while let Some(inner) = source {
            reason = inner.to_string();
            source = inner.source();
        }
        ApiError::Unreachable { url: self.connection.url.to_string(), reason }
    }
}
