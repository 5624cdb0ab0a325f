//! Asking a server that runs models, with JSON over HTTP: what embedders and re-rankers elsewhere have in common.

mod said;
#[cfg(test)]
pub(crate) mod testing;

use std::{fmt, time::Duration};

use raglan_pipeline::{
    decorators::retry::{Backoff, RetryPolicy, retry},
    ports::ModelError,
    secret::Secret,
};
use reqwest::{
    Client, Response,
    header::{ACCEPT, CONTENT_TYPE},
    redirect::Policy,
};
use serde::{Serialize, de::DeserializeOwned};
use tokio::{sync::Semaphore, time::timeout};
use url::Url;

pub(crate) use self::said::{ErrorBody, Said, classify};
use crate::http_client::{USER_AGENT, describe, retry_after};

/// The most that is read of an error's body.
const LONGEST_ERROR: usize = 64 * 1024;
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
pub(crate) struct Call {
    client: Client,
    endpoint: Url,
    settings: ServerSettings,
    places: Semaphore,
}

impl fmt::Debug for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Call").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl Call {
    /// Checks the settings and builds the client. Nothing is sent.
    ///
    /// # Errors
    /// [`ModelError::Permanent`] with what is wrong with the settings.
    pub(crate) fn new(settings: ServerSettings, name: &str) -> Result<Self, ModelError> {
        let endpoint = endpoint(&settings.base_url, &[name])?;
        let client = Client::builder()
            .user_agent(USER_AGENT)
            .redirect(Policy::none())
            .connect_timeout(settings.connect_timeout)
            .build()
            .map_err(|error| {
                ModelError::Permanent(format!(
                    "the HTTP client for the model server could not be built: {}",
                    describe(error)
                ))
            })?;
        let places = Semaphore::new(settings.requests.clamp(1, Semaphore::MAX_PERMITS));
        Ok(Self { client, endpoint, settings, places })
    }

    /// Asks, again and again while the error says that this may help and the time lasts. Waiting for a place does not count.
    ///
    /// # Errors
    /// What the caller must do, see [`ModelError`].
    pub(crate) async fn ask<A: DeserializeOwned>(&self, body: &impl Serialize) -> Result<A, ModelError> {
        let body = serde_json::to_vec(body).map_err(|error| {
            ModelError::Permanent(format!("the request cannot be written as JSON: {error}"))
        })?;
        let body = bytes::Bytes::from(body);
        // The semaphore is never closed.
        let _place = self.places.acquire().await;
        let patience = self.settings.timeout;
        match timeout(patience, retry(&self.settings.tries, |_| self.ask_once(body.clone()))).await {
            Ok(answer) => answer,
            Err(_) => {
                Err(ModelError::try_later(format!("the model server did not answer within {patience:?}")))
            }
        }
    }

    async fn ask_once<A: DeserializeOwned>(&self, body: bytes::Bytes) -> Result<A, ModelError> {
        let mut request = self.client.post(self.endpoint.clone());
        if let Some(key) = &self.settings.api_key {
            request = request.bearer_auth(key.expose());
        }
        let request =
            request.header(CONTENT_TYPE, "application/json").header(ACCEPT, "application/json").body(body);
        let response = request.send().await.map_err(|error| {
            ModelError::try_later(format!("the model server cannot be reached: {}", describe(error)))
        })?;
        if !response.status().is_success() {
            return Err(refusal(response, self.settings.api_key.as_ref()).await);
        }
        let answer = whole(response).await?;
        serde_json::from_slice(&answer).map_err(|error| {
            ModelError::Permanent(format!("the model server's answer is not what was asked for: {error}"))
        })
    }
}

/// The address of a call: the server's, with these names behind its path.
///
/// # Errors
/// [`ModelError::Permanent`] where the server's address cannot be one.
pub(crate) fn endpoint(base_url: &Url, names: &[&str]) -> Result<Url, ModelError> {
    let wrong = |what: &str| Err(ModelError::Permanent(format!("the model server's base_url {what}")));
    if !matches!(base_url.scheme(), "http" | "https") {
        return wrong("is neither http nor https");
    }
    if !base_url.username().is_empty() || base_url.password().is_some() {
        return wrong("holds a user name or password; a key belongs into api_key");
    }
    let mut endpoint = base_url.clone();
    match endpoint.path_segments_mut() {
        Ok(mut path) => drop(path.pop_if_empty().extend(names)),
        Err(()) => return wrong("cannot have a path"),
    }
    Ok(endpoint)
}

/// The error that an answer with an error's status is.
pub(crate) async fn refusal(response: Response, api_key: Option<&Secret>) -> ModelError {
    let (status, asked) = (response.status(), retry_after(response.headers()));
    let body = masked(api_key, &beginning(response).await);
    match classify(status, &Said::read(&body)) {
        ModelError::TryLater { message, after } => ModelError::TryLater { message, after: after.or(asked) },
        error => error,
    }
}

/// A text without the key that may stand in it.
pub(crate) fn masked(key: Option<&Secret>, text: &str) -> String {
    key.map_or_else(|| text.to_owned(), |key| key.mask(text))
}

/// The beginning of a body, as far as it can be read: enough for an error's message.
pub(crate) async fn beginning(mut response: Response) -> String {
    let mut body = Vec::new();
    while let Ok(Some(chunk)) = response.chunk().await {
        body.extend_from_slice(&chunk);
        if body.len() >= LONGEST_ERROR {
            body.truncate(LONGEST_ERROR);
            break;
        }
    }
    String::from_utf8_lossy(&body).into_owned()
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
