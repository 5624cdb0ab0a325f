//! The words of the business: jobs and their states, documents, chunks, passages, events.
//!
//! Nothing here knows a database, a queue or a wire format. Bodies that travel over HTTP live in
//! [`crate::view`], messages that travel over a queue in [`crate::message`].

mod document;
mod event;
mod filter;
mod ids;
mod job;
mod passage;
mod text;
mod webhook;

pub use document::*;
pub use event::*;
pub use filter::*;
pub use ids::*;
pub use job::*;
pub use passage::*;
pub use text::*;
pub use webhook::*;

/// A point in time, always UTC. Stored with millisecond precision.
pub type Timestamp = chrono::DateTime<chrono::Utc>;

/// Free key/value data that a client attaches to a job or a document.
pub type Metadata = serde_json::Map<String, serde_json::Value>;

/// The present, cut to the millisecond that every store keeps, so that a value read back is equal
/// to the value written.
#[must_use]
pub fn now() -> Timestamp {
    truncate(chrono::Utc::now())
}

/// Cuts a time to the millisecond.
#[must_use]
pub fn truncate(at: Timestamp) -> Timestamp {
    chrono::DateTime::from_timestamp_millis(at.timestamp_millis()).unwrap_or(at)
}
