//! What happens to a job, as its followers see it.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{JobId, JobStatus, Timestamp};

/// The kinds of event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum EventType {
    /// Accepted.
    #[serde(rename = "job.queued")]
    Queued,
    /// Its passages are looked for.
    #[serde(rename = "job.retrieving")]
    Retrieving,
    /// Its passages, before any text.
    #[serde(rename = "job.retrieved")]
    Retrieved,
    /// Its answer is begun. What was streamed by an earlier attempt is void.
    #[serde(rename = "job.generating")]
    Generating,
    /// The next piece of the answer's text, in `data.text`.
    #[serde(rename = "answer.delta")]
    AnswerDelta,
    /// A stage failed and will be tried again; text streamed so far is void.
    #[serde(rename = "job.retrying")]
    Retrying,
    /// An ingestion got further.
    #[serde(rename = "document.progress")]
    DocumentProgress,
    /// What a reader missed is gone: the job as it stands, with the text so far.
    #[serde(rename = "stream.snapshot")]
    Snapshot,
    /// Ended with a result.
    #[serde(rename = "job.succeeded")]
    Succeeded,
    /// Ended with an error.
    #[serde(rename = "job.failed")]
    Failed,
    /// Ended by its client.
    #[serde(rename = "job.cancelled")]
    Cancelled,
    /// Ended by its deadline before it had started.
    #[serde(rename = "job.expired")]
    Expired,
}

impl EventType {
    /// All of them.
    pub const ALL: [Self; 12] = [
        Self::Queued,
        Self::Retrieving,
        Self::Retrieved,
        Self::Generating,
        Self::AnswerDelta,
        Self::Retrying,
        Self::DocumentProgress,
        Self::Snapshot,
        Self::Succeeded,
        Self::Failed,
        Self::Cancelled,
        Self::Expired,
    ];

    /// The name on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "job.queued",
            Self::Retrieving => "job.retrieving",
            Self::Retrieved => "job.retrieved",
            Self::Generating => "job.generating",
            Self::AnswerDelta => "answer.delta",
            Self::Retrying => "job.retrying",
            Self::DocumentProgress => "document.progress",
            Self::Snapshot => "stream.snapshot",
            Self::Succeeded => "job.succeeded",
            Self::Failed => "job.failed",
            Self::Cancelled => "job.cancelled",
            Self::Expired => "job.expired",
        }
    }

    /// Reads [`Self::as_str`] back.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == name)
    }

    /// Whether nothing follows it.
    #[must_use]
    pub fn is_final(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Cancelled | Self::Expired)
    }

    /// The event that ends a job in `status`; none for a status that is not final.
    #[must_use]
    pub fn ending(status: JobStatus) -> Option<Self> {
        match status {
            JobStatus::Succeeded => Some(Self::Succeeded),
            JobStatus::Failed => Some(Self::Failed),
            JobStatus::Cancelled => Some(Self::Cancelled),
            JobStatus::Expired => Some(Self::Expired),
            _ => None,
        }
    }
}

/// One event of one job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Strictly increasing within the job; not always by one.
    pub seq: u64,
    /// The job.
    pub job_id: JobId,
    /// What happened.
    #[serde(rename = "type")]
    pub kind: EventType,
    /// When.
    pub at: Timestamp,
    /// The details, by kind.
    pub data: Value,
}

/// An event before the log has given it its number.
#[derive(Debug, Clone, PartialEq)]
pub struct NewEvent {
    /// What happened.
    pub kind: EventType,
    /// When.
    pub at: Timestamp,
    /// The details, by kind.
    pub data: Value,
}

impl NewEvent {
    /// An event of now.
    #[must_use]
    pub fn now(kind: EventType, data: Value) -> Self {
        Self { kind, at: super::now(), data }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_match_the_wire_and_endings_match_statuses() {
        for kind in EventType::ALL {
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.as_str());
            assert_eq!(EventType::parse(kind.as_str()), Some(kind));
        }
        for status in JobStatus::ALL {
            assert_eq!(EventType::ending(status).is_some(), status.is_final());
            assert!(EventType::ending(status).is_none_or(EventType::is_final));
        }
    }
}
