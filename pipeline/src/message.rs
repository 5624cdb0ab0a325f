//! What travels over the queues: small, tagged and versioned, so that old and new processes can share a queue during a deployment.

use serde::{Deserialize, Serialize};

use crate::domain::{DeliveryId, JobId, Stage};

/// A message. It names work and never carries it: the record is in the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Message {
    /// A job waits for a stage.
    #[serde(rename = "job.v1")]
    Job {
        /// Which job.
        job_id: JobId,
        /// Which stage. A message for a stage that the job has left is dropped.
        stage: Stage,
    },
    /// A webhook delivery is due.
    #[serde(rename = "delivery.v1")]
    Delivery {
        /// Which.
        delivery_id: DeliveryId,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wire_form_is_tagged_with_its_version() {
        let message = Message::Job { job_id: JobId(uuid::Uuid::nil()), stage: Stage::Retrieval };
        assert_eq!(
            serde_json::to_string(&message).unwrap(),
            r#"{"type":"job.v1","job_id":"00000000-0000-0000-0000-000000000000","stage":"retrieval"}"#
        );
    }
}
