//! Sending webhooks: one try at a time, on a fixed schedule that survives restarts.

mod schedule;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::json;
use tracing::{info, warn};

pub use schedule::{MAX_ATTEMPTS, next_delay};

use crate::{
    domain::{Delivery, DeliveryAttempt, DeliveryId, DeliveryStatus, Job, now},
    lifecycle::Lifecycle,
    ports::{PortResult, WebhookError, WebhookRequest, WebhookResponse, WebhookSender},
    submit::delta,
};

/// How long a delivery that is being tried is left alone. Longer than a try takes.
const TRY: Duration = Duration::from_secs(60);

/// Sends webhooks.
pub struct DeliveryStage {
    lifecycle: Arc<Lifecycle>,
    sender: Arc<dyn WebhookSender>,
}

/// What a try showed.
enum Verdict {
    Delivered,
    /// Not tried again.
    Refused(String),
    TryAgain {
        error: String,
        after: Option<Duration>,
    },
}

impl DeliveryStage {
    /// A stage that sends through `sender`.
    #[must_use]
    pub fn new(lifecycle: Arc<Lifecycle>, sender: Arc<dyn WebhookSender>) -> Self {
        Self { lifecycle, sender }
    }

    /// Tries a delivery once and records the try. A message that comes early, late or twice is harmless: only a pending
    /// delivery is tried, and the receiver can tell a second copy by its id.
    pub async fn attempt(&self, id: DeliveryId) -> PortResult<()> {
        let Some(delivery) = self.lifecycle.deliveries.begin(id, TRY).await? else { return Ok(()) };
        let Some(job) = self.lifecycle.jobs.get(delivery.job_id).await? else { return Ok(()) };
        let at = now();
        let begun = Instant::now();
        let answered = self.sender.send(&self.request(&delivery, &job, at.timestamp())).await;
        let duration_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        let status = answered.as_ref().ok().map(|response| response.status);
        let verdict = judge(answered);
        let tries = delivery.attempts.len() + 1;
        let (state, next_at, error) = match verdict {
            Verdict::Delivered => (DeliveryStatus::Delivered, None, None),
            Verdict::Refused(error) => (DeliveryStatus::Dead, None, Some(error)),
            Verdict::TryAgain { error, after } => match next_delay(tries, after, &mut rand::rng()) {
                Some(delay) => (DeliveryStatus::Pending, Some(now() + delta(delay)), Some(error)),
                None => (DeliveryStatus::Dead, None, Some(error)),
            },
        };
        metrics::counter!("raglan_webhook_attempts_total", "outcome" => outcome(state)).increment(1);
        match &error {
            None => info!(delivery_id = %id, job_id = %job.id, duration_ms, "webhook delivered"),
            Some(error) => {
                warn!(delivery_id = %id, job_id = %job.id, tries, error, dead = state == DeliveryStatus::Dead, "webhook not delivered");
            }
        }
        let attempt = DeliveryAttempt { at, status, error, duration_ms };
        self.lifecycle.deliveries.record(id, attempt, state, next_at).await?;
        Ok(())
    }

    fn request(&self, delivery: &Delivery, job: &Job, timestamp: i64) -> WebhookRequest {
        let body = json!({
            "type": delivery.event.as_str(),
            "timestamp": delivery.created_at,
            "data": self.lifecycle.views.job_json(job),
        });
        WebhookRequest {
            url: delivery.url.clone(),
            id: delivery.id.webhook_id(),
            timestamp,
            body: body.to_string(),
        }
    }
}

fn outcome(state: DeliveryStatus) -> &'static str {
    match state {
        DeliveryStatus::Delivered => "delivered",
        DeliveryStatus::Dead => "dead",
        DeliveryStatus::Pending => "failed",
    }
}

fn judge(answered: Result<WebhookResponse, WebhookError>) -> Verdict {
    match answered {
        Ok(WebhookResponse { status: 200..=299, .. }) => Verdict::Delivered,
        Ok(WebhookResponse { status: 410, .. }) => {
            Verdict::Refused("the receiver answered 410: it wants no more".to_owned())
        }
        Ok(WebhookResponse { status, retry_after }) => {
            Verdict::TryAgain { error: format!("the receiver answered {status}"), after: retry_after }
        }
        Err(WebhookError::Forbidden(reason)) => {
            Verdict::Refused(format!("the webhook's address is not allowed: {reason}"))
        }
        Err(WebhookError::Failed(reason)) => Verdict::TryAgain { error: reason, after: None },
    }
}
