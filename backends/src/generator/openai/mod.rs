//! Any server that speaks OpenAI's chat completions: vLLM, TGI, a hosted API.

mod wire;

#[cfg(test)]
mod tests;

use std::{fmt, pin::Pin, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use eventsource_stream::{Event, EventStreamError, Eventsource};
use futures::{Stream, StreamExt, stream::BoxStream};
use raglan_pipeline::{
    decorators::{
        breaker::{BreakerSettings, CircuitBreaker},
        retry::{Backoff, RetryPolicy, retry},
    },
    domain::{FinishReason, Usage},
    generation::prompt::says_not_found,
    ports::{Generated, GenerationRequest, Generator, ModelError},
    secret::Secret,
};
use reqwest::{Response, header::CONTENT_TYPE};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use url::Url;

use self::wire::{ChatRequest, piece};
use crate::{
    http_client::describe,
    model_server::{Server, json, masked},
};

/// The most that is read of one answer, its JSON included.
const LONGEST_STREAM: usize = 16 * 1024 * 1024;
/// How long the token counts are waited for once the text is complete.
const USAGE_WAIT: Duration = Duration::from_secs(2);

/// How a server wants to be told the most tokens of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum MaxTokensField {
    /// `max_tokens`, which nearly all know.
    #[default]
    MaxTokens,
    /// `max_completion_tokens`, which OpenAI's reasoning models insist on.
    MaxCompletionTokens,
}

/// Which server to ask, and how patiently.
#[derive(Debug, Clone)]
pub struct OpenAiSettings {
    /// The address up to and including the version, for example `https://api.example.com/v1`.
    pub base_url: Url,
    /// The model to ask for.
    pub model: String,
    /// The key, where the server wants one.
    pub api_key: Option<Secret>,
    /// How to say how long the answer may be.
    pub max_tokens_field: MaxTokensField,
    /// The most tokens a prompt may have: the model's window less the longest answer. None for no limit.
    pub context_tokens: Option<usize>,
    /// How long a connection may take.
    pub connect_timeout: Duration,
    /// How long the first piece of text may take, from the request on.
    pub first_token_timeout: Duration,
    /// How long each further piece may take.
    pub idle_timeout: Duration,
    /// How often a request is tried again before its first piece of text. After it, never: that is for the caller to decide.
    pub max_retries: u32,
    /// The back-off before try `n` is a random time up to this times 2ⁿ ("full jitter").
    pub backoff: Duration,
    /// No wait is longer. A server that asks for more is not waited for: the caller is told.
    pub max_backoff: Duration,
    /// After so many failed requests in a row the server is left alone…
    pub breaker_failures: u32,
    /// …for this long.
    pub breaker_pause: Duration,
}

impl OpenAiSettings {
    /// The usual patience with this server and model.
    #[must_use]
    pub fn new(base_url: Url, model: impl Into<String>) -> Self {
        Self {
            base_url,
            model: model.into(),
            api_key: None,
            max_tokens_field: MaxTokensField::default(),
            context_tokens: Some(6_000),
            connect_timeout: Duration::from_secs(5),
            first_token_timeout: Duration::from_secs(60),
            idle_timeout: Duration::from_secs(30),
            max_retries: 2,
            backoff: Duration::from_millis(250),
            max_backoff: Duration::from_secs(5),
            breaker_failures: 5,
            breaker_pause: Duration::from_secs(15),
        }
    }
}

/// Asks an OpenAI-compatible server and passes its stream on.
pub struct OpenAiGenerator {
    server: Server,
    settings: OpenAiSettings,
    breaker: Arc<CircuitBreaker>,
}

impl fmt::Debug for OpenAiGenerator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenAiGenerator").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl OpenAiGenerator {
    /// Checks the settings and builds the client. Nothing is sent.
    ///
    /// # Errors
    /// [`ModelError::Permanent`] with what is wrong with the settings.
    pub fn new(settings: OpenAiSettings) -> Result<Self, ModelError> {
        let key = settings.api_key.clone();
        let server =
            Server::new(&settings.base_url, &["chat", "completions"], key, settings.connect_timeout)?;
        let breaker = CircuitBreaker::new(
            "generator",
            BreakerSettings {
                consecutive_failures: settings.breaker_failures,
                open_for: settings.breaker_pause,
                ..BreakerSettings::default()
            },
        );
        Ok(Self { server, settings, breaker })
    }

    /// Sends the request until its first piece of text is there (or its end, where there is none), again and again while that may help.
    async fn open(&self, request: &GenerationRequest) -> Result<(Reader, Option<String>), ModelError> {
        let settings = &self.settings;
        let body = json(&ChatRequest::new(&settings.model, request, settings.max_tokens_field))?;
        let tries = RetryPolicy {
            attempts: settings.max_retries.saturating_add(1),
            backoff: Backoff { base: settings.backoff, factor: 2.0, max: settings.max_backoff },
            patience: settings.max_backoff,
        };
        let patience = settings.first_token_timeout;
        let once = |_| {
            let begun = timeout(patience, self.begin(body.clone()));
            let late =
                move || ModelError::try_later(format!("the model server wrote nothing within {patience:?}"));
            async move { begun.await.unwrap_or_else(|_| Err(late())) }
        };
        retry(&tries, once).await
    }

    async fn begin(&self, body: Bytes) -> Result<(Reader, Option<String>), ModelError> {
        let response = self.server.post(body, "text/event-stream").await?;
        if !response.status().is_success() {
            return Err(self.server.refusal(response).await);
        }
        let content_type = response.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let content_type = content_type.unwrap_or_default().to_ascii_lowercase();
        if content_type.starts_with("application/json") || content_type.starts_with("text/html") {
            let words = self.server.said(response).await.words();
            let message = format!("the model server did not answer with an event stream: {words}");
            return Err(ModelError::Permanent(message));
        }
        let mut reader = Reader::new(response, self.settings.api_key.clone());
        let first = reader.next(self.settings.first_token_timeout).await?;
        Ok((reader, first))
    }
}

#[async_trait]
impl Generator for OpenAiGenerator {
    fn model(&self) -> &str {
        &self.settings.model
    }

    fn context_tokens(&self) -> Option<usize> {
        self.settings.context_tokens
    }

    async fn generate(
        &self,
        request: GenerationRequest,
        cancel: CancellationToken,
    ) -> Result<BoxStream<'static, Result<Generated, ModelError>>, ModelError> {
        let permit = self.breaker.acquire().map_err(|wait| ModelError::TryLater {
            message: "the model server failed too often and is left alone for a while".to_owned(),
            after: Some(wait),
        })?;
        let opened = tokio::select! {
            biased;
            () = cancel.cancelled() => Err(ModelError::Cancelled),
            opened = self.open(&request) => opened,
        };
        permit.settle(&opened);
        let (mut reader, first) = opened?;
        let idle = self.settings.idle_timeout;
        let stream = async_stream::stream! {
            let mut answer = String::new();
            let mut next = Ok(first);
            loop {
                match next {
                    Ok(Some(text)) => {
                        answer.push_str(&text);
                        yield Ok(Generated::Delta(text));
                    }
                    Ok(None) => {
                        let found = !answer.trim().is_empty() && !says_not_found(&answer);
                        yield Ok(Generated::End { reason: reader.finish.unwrap_or(FinishReason::Stop), usage: reader.usage, found, degraded: Vec::new() });
                        return;
                    }
                    Err(error) => {
                        // The connection goes before the caller hears of it.
                        drop(reader);
                        yield Err(error);
                        return;
                    }
                }
                next = tokio::select! {
                    biased;
                    () = cancel.cancelled() => Err(ModelError::Cancelled),
                    next = reader.next(idle) => next,
                };
            }
        };
        Ok(Box::pin(stream))
    }
}

/// The events of one answer. Dropping it closes the connection.
struct Reader {
    events: Pin<Box<dyn Stream<Item = Result<Event, EventStreamError<BodyError>>> + Send>>,
    api_key: Option<Secret>,
    finish: Option<FinishReason>,
    usage: Usage,
}

/// Why no more of a body came.
#[derive(Debug)]
enum BodyError {
    Broken(reqwest::Error),
    TooMuch,
}

impl Reader {
    fn new(response: Response, api_key: Option<Secret>) -> Self {
        let mut read = 0;
        let bytes = response.bytes_stream().map(move |chunk| {
            let chunk = chunk.map_err(BodyError::Broken)?;
            read += chunk.len();
            if read > LONGEST_STREAM { Err(BodyError::TooMuch) } else { Ok(chunk) }
        });
        Self { events: Box::pin(bytes.eventsource()), api_key, finish: None, usage: Usage::default() }
    }

    /// The next piece of text; none at the end. Each event may take `patience`.
    async fn next(&mut self, patience: Duration) -> Result<Option<String>, ModelError> {
        loop {
            // A complete text is not held up, and not lost, by a server that does not end well.
            let complete = self.finish.is_some();
            let patience = if complete { patience.min(USAGE_WAIT) } else { patience };
            let event = match timeout(patience, self.events.next()).await {
                Ok(Some(Ok(event))) if event.data.trim() == "[DONE]" => return Ok(None),
                Ok(Some(Ok(event))) => event,
                _ if complete => return Ok(None),
                Ok(Some(Err(error))) => return Err(ModelError::try_later(broken(error))),
                Ok(None) => {
                    return Err(ModelError::try_later(
                        "the model server's answer ended before it was complete",
                    ));
                }
                Err(_) => {
                    return Err(ModelError::try_later(format!(
                        "the model server wrote nothing more within {patience:?}"
                    )));
                }
            };
            // Only an error repeats what the server said, so only then is it read again with the key masked.
            let piece = piece(&event.data).or_else(|_| piece(&masked(self.api_key.as_ref(), &event.data)))?;
            self.finish = piece.finish.or(self.finish);
            self.usage = piece.usage.unwrap_or(self.usage);
            if piece.text.is_some() {
                return Ok(piece.text);
            }
        }
    }
}

fn broken(error: EventStreamError<BodyError>) -> String {
    match error {
        EventStreamError::Transport(BodyError::Broken(error)) => {
            format!("the model server's answer broke off: {}", describe(error))
        }
        EventStreamError::Transport(BodyError::TooMuch) => "the model server's answer is endless".to_owned(),
        EventStreamError::Utf8(_) | EventStreamError::Parser(_) => {
            "the model server's answer is not an event stream".to_owned()
        }
    }
}
