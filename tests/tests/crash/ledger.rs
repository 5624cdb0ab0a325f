//! What the clients were promised, and whether it was kept.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Mutex,
};

use raglan_tests::{Api, is_final, within};
use reqwest::RequestBuilder;
use serde_json::Value;

use crate::client::Client;

/// Every job that was accepted, by its idempotency key.
#[derive(Default)]
pub struct Ledger {
    entries: Mutex<BTreeMap<String, Entry>>,
}

#[derive(Debug, Clone, Default)]
struct Entry {
    /// Every job id that was answered for the key; one, if all is well.
    ids: BTreeSet<String>,
    /// Tries that the death of the process cut off, so that the client could not know what came of them.
    cut_off: usize,
    /// The job when it was first seen ended.
    ended: Option<Value>,
}

/// How it came out.
#[derive(Debug, Default)]
pub struct Account {
    /// Jobs that were accepted.
    pub accepted: usize,
    /// Submissions that were cut off and sent again.
    pub cut_off: usize,
    /// Jobs whose end was seen by their client, between kills, and compared at the end.
    pub seen_ended: usize,
    /// Accepted and not there, or there and not ended.
    pub lost: Vec<String>,
    /// Keys with two jobs, and jobs that nobody was told of.
    pub duplicated: Vec<String>,
    /// Jobs whose end was another one when it was looked at again, or that tell of two ends.
    pub ended_twice: Vec<String>,
    /// Jobs that ended otherwise than well.
    pub not_succeeded: Vec<String>,
    /// Each job as it stands at the end.
    pub jobs: BTreeMap<String, Value>,
}

impl Ledger {
    /// Submits under a key until it is accepted; the job's id. The first answer counts, however often it is asked.
    pub async fn submit(
        &self,
        client: &Client,
        key: &str,
        build: impl Fn(&reqwest::Client, &str) -> RequestBuilder,
    ) -> String {
        let (status, body, cut_off) =
            client.send(|http, url| build(http, url).header("idempotency-key", key)).await;
        assert!(matches!(status.as_u16(), 200 | 202), "{key}: {status}: {body:#}");
        let id = body["job_id"].as_str().unwrap().to_owned();
        let mut entries = self.entries.lock().unwrap();
        let entry = entries.entry(key.to_owned()).or_default();
        entry.ids.insert(id.clone());
        entry.cut_off += cut_off;
        id
    }

    /// Follows a job to its end, and writes down how it ended.
    pub async fn follow(&self, client: &Client, key: &str, id: &str) -> Value {
        let path = format!("/v1/jobs/{id}?wait=10");
        let job = within(&format!("the end of job {id}"), async {
            loop {
                let job = client.get(&path).await;
                if is_final(&job) {
                    return job;
                }
            }
        })
        .await;
        let mut entries = self.entries.lock().unwrap();
        entries.get_mut(key).unwrap().ended.get_or_insert_with(|| job.clone());
        job
    }

    /// Looks at every job once more, now that nothing crashes.
    pub async fn settle(&self, api: &Api, kind: &str) -> Account {
        let entries = self.entries.lock().unwrap().clone();
        let mut account = Account { accepted: entries.len(), ..Account::default() };
        let mut known = BTreeSet::new();
        for (key, entry) in &entries {
            known.extend(entry.ids.iter().cloned());
            account.cut_off += entry.cut_off;
            if entry.ids.len() > 1 {
                account.duplicated.push(format!("{key}: {:?}", entry.ids));
            }
            for id in &entry.ids {
                self.settle_one(api, id, entry, &mut account).await;
            }
        }
        for id in listed(api, kind).await {
            if !known.contains(&id) {
                account.duplicated.push(format!("{id}: no client was told of it"));
            }
        }
        account
    }

    async fn settle_one(&self, api: &Api, id: &str, entry: &Entry, account: &mut Account) {
        if api.get(&format!("/v1/jobs/{id}")).await.status != 200 {
            account.lost.push(id.to_owned());
            return;
        }
        // Fails the test where the job does not end.
        let job = api.ended(id).await;
        if let Some(before) = &entry.ended {
            account.seen_ended += 1;
            if before != &job {
                account.ended_twice.push(format!("{id} was {before:#} and is {job:#}"));
            }
        }
        let events = api.events(id, None).await.rest().await;
        let ends: Vec<_> = events.iter().filter(|event| event.is_final()).collect();
        match ends.as_slice() {
            [end] if end.data == job && end.seq == events.last().unwrap().seq => {}
            [end] => account.ended_twice.push(format!("{id}: {}\n{}", end.whole, job)),
            _ => account.ended_twice.push(format!("{id}: {ends:#?}")),
        }
        if job["status"] != "succeeded" {
            account.not_succeeded.push(format!("{job:#}"));
        }
        account.jobs.insert(id.to_owned(), job);
    }
}

/// The ids of all jobs of a kind that the server knows.
async fn listed(api: &Api, kind: &str) -> Vec<String> {
    let mut ids = Vec::new();
    let mut cursor = String::new();
    loop {
        let page = api.get(&format!("/v1/jobs?kind={kind}&limit=100{cursor}")).await.expect(200);
        ids.extend(
            page["jobs"].as_array().unwrap().iter().map(|job| job["job_id"].as_str().unwrap().to_owned()),
        );
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return ids,
        }
    }
}

impl Account {
    /// The rows of the table about jobs.
    pub fn rows(&self) -> Vec<(&'static str, String)> {
        vec![
            ("jobs accepted", self.accepted.to_string()),
            ("… of them seen ended, and again at the end", self.seen_ended.to_string()),
            ("submissions cut off and sent again", self.cut_off.to_string()),
            ("lost", self.lost.len().to_string()),
            ("duplicated", self.duplicated.len().to_string()),
            ("ended twice or otherwise than before", self.ended_twice.len().to_string()),
            ("not succeeded", self.not_succeeded.len().to_string()),
        ]
    }

    /// Fails where a promise was broken.
    pub fn check(&self) {
        assert!(self.lost.is_empty(), "lost: {:#?}", self.lost);
        assert!(self.duplicated.is_empty(), "duplicated: {:#?}", self.duplicated);
        assert!(self.ended_twice.is_empty(), "ended twice: {:#?}", self.ended_twice);
        assert!(self.not_succeeded.is_empty(), "not succeeded: {:#?}", self.not_succeeded);
    }
}

/// Prints a table.
pub fn print(title: &str, rows: &[(&str, String)]) {
    println!("{title}");
    for (name, value) in rows {
        println!("  {name:<44} {value}");
    }
}
