//! What came to the receiver of webhooks, job by job.

use std::collections::{BTreeMap, BTreeSet};

use raglan_tests::{Receiver, eventually};
use serde_json::Value;

/// How the webhooks of a run came out.
#[derive(Debug, Default)]
pub struct Delivered {
    /// Requests that came.
    pub requests: usize,
    /// Jobs with more than one webhook id.
    pub two_ids: Vec<String>,
    /// Webhooks that say something else than the job does.
    pub wrong: Vec<String>,
}

/// Waits until the receiver has heard of every job, and compares what it heard.
pub async fn collect(receiver: &Receiver, jobs: &BTreeMap<String, Value>) -> Delivered {
    eventually("a webhook for every job", async || {
        let told: BTreeSet<String> = receiver.received().iter().map(|one| job_of(&one.json())).collect();
        jobs.keys().all(|job| told.contains(job)).then_some(())
    })
    .await;
    let mut delivered = Delivered::default();
    let mut ids: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for webhook in receiver.received() {
        delivered.requests += 1;
        let said = webhook.json();
        let job = job_of(&said);
        ids.entry(job.clone()).or_default().insert(webhook.header("webhook-id").to_owned());
        if said["type"] != "job.succeeded" || jobs.get(&job) != Some(&said["data"]) {
            delivered.wrong.push(format!("{said:#}"));
        }
    }
    delivered.two_ids.extend(ids.iter().filter(|(_, ids)| ids.len() != 1).map(|entry| format!("{entry:?}")));
    let all: BTreeSet<&String> = ids.values().flatten().collect();
    assert_eq!(all.len(), ids.len(), "an id was used for two jobs");
    delivered
}

fn job_of(said: &Value) -> String {
    said["data"]["job_id"].as_str().unwrap().to_owned()
}

impl Delivered {
    /// The rows of the table about webhooks.
    pub fn rows(&self) -> Vec<(&'static str, String)> {
        vec![
            ("webhook requests received", self.requests.to_string()),
            ("jobs with another number of ids than one", self.two_ids.len().to_string()),
            ("webhooks that disagree with their job", self.wrong.len().to_string()),
        ]
    }

    /// Fails where a promise was broken.
    pub fn check(&self) {
        assert!(self.two_ids.is_empty(), "not one webhook id: {:#?}", self.two_ids);
        assert!(self.wrong.is_empty(), "wrong webhooks: {:#?}", self.wrong);
    }
}
