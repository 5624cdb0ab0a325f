//! The address of a call, and how JSON goes there.

use std::{fmt, time::Duration};

use bytes::Bytes;
use raglan_pipeline::{ports::ModelError, secret::Secret};
use reqwest::{
    Client, Response,
    header::{ACCEPT, CONTENT_TYPE},
    redirect::Policy,
};
use serde::Serialize;
use url::Url;

use super::said::{Said, classify};
use crate::http_client::{USER_AGENT, describe, retry_after};

/// The most that is read of an error's body.
const LONGEST_ERROR: usize = 64 * 1024;

/// A call of a server that runs models.
pub(crate) struct Server {
    client: Client,
    endpoint: Url,
    api_key: Option<Secret>,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("endpoint", &self.endpoint.as_str()).finish_non_exhaustive()
    }
}

impl Server {
    /// Checks the address, behind whose path the call's names are put, and builds the client. Nothing is sent.
    ///
    /// # Errors
    /// [`ModelError::Permanent`] with what is wrong with the settings.
    pub(crate) fn new(
        base_url: &Url,
        names: &[&str],
        api_key: Option<Secret>,
        connect_timeout: Duration,
    ) -> Result<Self, ModelError> {
        let endpoint = endpoint(base_url, names)?;
        let client = Client::builder()
            .user_agent(USER_AGENT)
            .redirect(Policy::none())
            .connect_timeout(connect_timeout)
            .build()
            .map_err(|error| {
                ModelError::Permanent(format!(
                    "the HTTP client for the model server could not be built: {}",
                    describe(error)
                ))
            })?;
        Ok(Self { client, endpoint, api_key })
    }

    /// Sends JSON; answers with what begins to come back, whatever its status. Dropping that closes the connection.
    ///
    /// # Errors
    /// [`ModelError::TryLater`] where nothing does.
    pub(crate) async fn post(&self, body: Bytes, accept: &'static str) -> Result<Response, ModelError> {
        let mut request = self.client.post(self.endpoint.clone());
        if let Some(key) = &self.api_key {
            request = request.bearer_auth(key.expose());
        }
        let request = request.header(CONTENT_TYPE, "application/json").header(ACCEPT, accept).body(body);
        request.send().await.map_err(|error| {
            ModelError::try_later(format!("the model server cannot be reached: {}", describe(error)))
        })
    }

    /// The error that an answer with an error's status is.
    pub(crate) async fn refusal(&self, response: Response) -> ModelError {
        let (status, asked) = (response.status(), retry_after(response.headers()));
        match classify(status, &self.said(response).await) {
            ModelError::TryLater { message, after } => {
                ModelError::TryLater { message, after: after.or(asked) }
            }
            error => error,
        }
    }

    /// What an answer says that is none: the beginning of its body, as far as it can be read, without the key that may stand in it.
    pub(crate) async fn said(&self, mut response: Response) -> Said {
        let mut body = Vec::new();
        while let Ok(Some(chunk)) = response.chunk().await {
            body.extend_from_slice(&chunk);
            if body.len() >= LONGEST_ERROR {
                body.truncate(LONGEST_ERROR);
                break;
            }
        }
        Said::read(&masked(self.api_key.as_ref(), &String::from_utf8_lossy(&body)))
    }

    /// Where it is sent.
    #[cfg(test)]
    pub(crate) fn endpoint(&self) -> &str {
        self.endpoint.as_str()
    }
}

/// A request's body.
///
/// # Errors
/// [`ModelError::Permanent`] where it cannot be JSON.
pub(crate) fn json(request: &impl Serialize) -> Result<Bytes, ModelError> {
    let body = serde_json::to_vec(request);
    body.map(Bytes::from)
        .map_err(|error| ModelError::Permanent(format!("the request cannot be written as JSON: {error}")))
}

/// The address of a call: the server's, with these names behind its path.
fn endpoint(base_url: &Url, names: &[&str]) -> Result<Url, ModelError> {
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

/// A text without the key that may stand in it.
pub(crate) fn masked(key: Option<&Secret>, text: &str) -> String {
    key.map_or_else(|| text.to_owned(), |key| key.mask(text))
}
