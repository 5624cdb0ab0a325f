//! Webhook targets and deliveries.

use serde::{Deserialize, Serialize};
use url::Url;

use super::{DeliveryId, EventType, JobId, Tenant, Timestamp};

/// Whom to call back about a job, and about what.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WebhookTarget {
    /// Where to.
    pub url: Url,
    /// About which endings; all where empty.
    #[serde(default)]
    pub events: Vec<EventType>,
}

impl WebhookTarget {
    /// Whether it wants to hear of this event.
    #[must_use]
    pub fn wants(&self, event: EventType) -> bool {
        event.is_final() && (self.events.is_empty() || self.events.contains(&event))
    }
}

/// Where a delivery stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeliveryStatus {
    /// Waiting for its next try.
    Pending,
    /// The receiver took it.
    Delivered,
    /// Given up: tries used up, refused for good (`410`), or an address that is not allowed.
    Dead,
}

/// One try of a delivery.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeliveryAttempt {
    /// When it began.
    pub at: Timestamp,
    /// The receiver's HTTP status, where it answered.
    pub status: Option<u16>,
    /// What went wrong, where something did.
    pub error: Option<String>,
    /// How long it took, in milliseconds.
    pub duration_ms: u64,
}

/// One event of one job for one URL. Written in the same transaction as the job's end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delivery {
    /// Its id; [`DeliveryId::webhook_id`] is what the receiver sees.
    pub id: DeliveryId,
    /// The job it tells of.
    pub job_id: JobId,
    /// Whose job.
    pub tenant: Tenant,
    /// Where to.
    pub url: Url,
    /// What it tells.
    pub event: EventType,
    /// Where it stands.
    pub status: DeliveryStatus,
    /// The tries so far.
    pub attempts: Vec<DeliveryAttempt>,
    /// When it is tried next; none when it is over.
    pub next_at: Option<Timestamp>,
    /// When it was made.
    pub created_at: Timestamp,
}
