use std::time::Duration;

use async_trait::async_trait;
use url::Url;

/// A webhook request, before it is signed.
#[derive(Debug, Clone, PartialEq)]
pub struct WebhookRequest {
    /// Where to.
    pub url: Url,
    /// The `webhook-id`: the same on every try.
    pub id: String,
    /// The `webhook-timestamp`, in seconds since 1970.
    pub timestamp: i64,
    /// The JSON body.
    pub body: String,
}

/// What a receiver answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebhookResponse {
    /// The HTTP status.
    pub status: u16,
    /// Its `Retry-After`, where it sent one.
    pub retry_after: Option<Duration>,
}

/// Why a webhook got no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WebhookError {
    /// The address may not be called: trying again is no use.
    #[error("the webhook's address is not allowed: {0}")]
    Forbidden(String),
    /// No answer; trying again may help.
    #[error("{0}")]
    Failed(String),
}

/// Signs and sends webhooks.
///
/// **Contract**: signs as Standard Webhooks 1.0.0 says; follows no redirect; connects only to an address that was checked after DNS resolution; gives up after 15 s.
#[async_trait]
pub trait WebhookSender: Send + Sync {
    /// Whether this address could be called at all, as far as can be told without resolving it.
    ///
    /// # Errors
    /// [`WebhookError::Forbidden`] with the reason.
    fn check(&self, url: &Url) -> Result<(), WebhookError>;

    /// Sends one request.
    async fn send(&self, request: &WebhookRequest) -> Result<WebhookResponse, WebhookError>;
}
