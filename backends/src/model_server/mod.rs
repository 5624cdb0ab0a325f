//! Asking a server that runs models, with JSON over HTTP: what generators, embedders and re-rankers elsewhere have in common.

mod said;
mod server;
#[cfg(test)]
pub(crate) mod testing;

use std::time::Duration;

use bytes::Bytes;
use raglan_pipeline::{
    decorators::retry::{Backoff, RetryPolicy, retry},
    ports::ModelError,
    secret::Secret,
};
use reqwest::Response;
use serde::{Serialize, de::DeserializeOwned};
use tokio::{sync::Semaphore, time::timeout};
use url::Url;

pub(crate) use self::{
    said::{ErrorBody, Said, classify},
    server::{Server, json, masked},
};
use crate::http_client::describe;

/// The most that is read of an answer: vectors of 4,096 numbers for a thousand texts.
const LONGEST_ANSWER: usize = 64 * 1024 * 1024;

/// Which server to ask, and how patiently.
#[derive(Debug, Clone)]
pub struct ServerSettings {
    /// The address that the names of the calls are put behind: up to and including the version, where the server has one.
    pub base_url: Url,
    /// The key, where the server wants one.
    pub api_key: Option<Secret>,
    /// How long a connection may take.
    pub connect_timeout: Duration,
    /// How long an answer may take, all tries together.
    pub timeout: Duration,
    /// How often a request is made that failed in a way that may pass.
    pub tries: RetryPolicy,
    /// The most requests under way at once; the others wait.
    pub requests: usize,
}

impl ServerSettings {
    /// The usual patience with this server.
    #[must_use]
    pub fn new(base_url: Url) -> Self {
        Self {
            base_url,
            api_key: None,
            connect_timeout: Duration::from_secs(5),
            timeout: Duration::from_secs(30),
            tries: RetryPolicy {
                attempts: 3,
                backoff: Backoff { max: Duration::from_secs(2), ..Backoff::default() },
                patience: Duration::from_secs(5),
            },
            requests: 8,
        }
    }
}

/// One call of a server: JSON goes there, JSON comes back. Dropping the future of an answer closes its connection.
#[derive(Debug)]
pub(crate) struct Call {
    server: Server,
    timeout: Duration,
    tries: RetryPolicy,
    places: Semaphore,
}

impl Call {
    /// Checks the settings and builds the client. Nothing is sent.
    ///
    /// # Errors
    /// [`ModelError::Permanent`] with what is wrong with the settings.
    pub(crate) fn new(settings: ServerSettings, name: &str) -> Result<Self, ModelError> {
        let ServerSettings { base_url, api_key, connect_timeout, timeout, tries, requests } = settings;
        Ok(Self {
            server: Server::new(&base_url, &[name], api_key, connect_timeout)?,
            timeout,
            tries,
            places: Semaphore::new(requests.clamp(1, Semaphore::MAX_PERMITS)),
        })
    }

    /// Asks, again and again while the error says that this may help and the time lasts. Waiting for a place does not count.
    ///
    /// # Errors
    /// What the caller must do, see [`ModelError`].
    pub(crate) async fn ask<A: DeserializeOwned>(&self, request: &impl Serialize) -> Result<A, ModelError> {
        let body = json(request)?;
        // The semaphore is never closed.
        let _place = self.places.acquire().await;
        let patience = self.timeout;
        match timeout(patience, retry(&self.tries, |_| self.ask_once(body.clone()))).await {
            Ok(answer) => answer,
            Err(_) => {
                Err(ModelError::try_later(format!("the model server did not answer within {patience:?}")))
            }
        }
    }

    async fn ask_once<A: DeserializeOwned>(&self, body: Bytes) -> Result<A, ModelError> {
        let response = self.server.post(body, "application/json").await?;
        if !response.status().is_success() {
            return Err(self.server.refusal(response).await);
        }
        let answer = whole(response).await?;
        serde_json::from_slice(&answer).map_err(|error| {
            ModelError::Permanent(format!("the model server's answer is not what was asked for: {error}"))
        })
    }
}

async fn whole(mut response: Response) -> Result<Vec<u8>, ModelError> {
    let mut body = Vec::new();
    loop {
        match response.chunk().await {
            Ok(Some(chunk)) if body.len() + chunk.len() > LONGEST_ANSWER => {
                return Err(ModelError::Permanent("the model server's answer is endless".to_owned()));
            }
            Ok(Some(chunk)) => body.extend_from_slice(&chunk),
            Ok(None) => return Ok(body),
            Err(error) => {
                let words = format!("the model server's answer broke off: {}", describe(error));
                return Err(ModelError::try_later(words));
            }
        }
    }
}

/// The first half of a text, cut between characters; none where it is too short to be cut.
pub(crate) fn half(text: &str) -> Option<&str> {
    /// A text of so few bytes is not what a server finds too long.
    const SHORT: usize = 64;
    (text.len() > SHORT).then(|| &text[..text.floor_char_boundary(text.len() / 2)])
}

/// What is sent in place of a text in which nothing can be read: servers refuse empty texts.
pub(crate) const BLANK: &str = ".";
