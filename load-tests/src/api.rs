//! A client of the server that is measured.

use anyhow::{Context, bail};
use clap::Args;
use reqwest::RequestBuilder;
use serde_json::Value;

/// Where the server is.
#[derive(Debug, Clone, Args)]
pub struct Server {
    /// Its address.
    #[arg(long, default_value = "http://127.0.0.1:8765")]
    pub url: String,
    /// A key, where the server wants one.
    #[arg(long, env = "RAGLAN_API_KEY", hide_env_values = true)]
    pub key: Option<String>,
}

/// Talks to it.
#[derive(Debug, Clone)]
pub struct Api {
    http: reqwest::Client,
    server: Server,
}

impl Api {
    pub fn new(server: Server) -> Self {
        Self { http: reqwest::Client::new(), server }
    }

    pub fn get(&self, path: &str) -> RequestBuilder {
        self.authorised(self.http.get(format!("{}{path}", self.server.url)))
    }

    pub fn post(&self, path: &str) -> RequestBuilder {
        self.authorised(self.http.post(format!("{}{path}", self.server.url)))
    }

    fn authorised(&self, request: RequestBuilder) -> RequestBuilder {
        match &self.server.key {
            Some(key) => request.bearer_auth(key),
            None => request,
        }
    }
}

/// Sends a request; the answer as JSON, or the server's own words about what is wrong.
pub async fn send(request: RequestBuilder) -> anyhow::Result<Value> {
    let response = request.send().await.context("the server does not answer")?;
    let (status, url) = (response.status(), response.url().clone());
    let body = response.bytes().await?;
    if !status.is_success() {
        bail!("{url}: {status}: {}", String::from_utf8_lossy(&body));
    }
    serde_json::from_slice(&body).with_context(|| format!("{url}: not JSON"))
}
