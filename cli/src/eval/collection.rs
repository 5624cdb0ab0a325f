//! The collection that is evaluated: taking a set's documents in, and looking at what is there.

use std::{
    collections::{BTreeMap, VecDeque},
    path::Path,
    time::Duration,
};

use anyhow::{Context, bail};
use reqwest::Method;
use serde_json::{Value, json};

use super::dataset::{
    Documents, Naming,
    corpus::{self, Document},
    sample::HoldOut,
};
use crate::{
    client::{Api, ApiError, Follower},
    folder::{Sender, scan},
    terminal::{Bar, string},
};

/// The most documents of one request …
const DOCUMENTS: usize = 5_000;

/// … and about the most bytes, one larger document excepted.
const BYTES: usize = 16 << 20;

/// Requests whose jobs have not ended: the next batch is there when the one before is done.
const AHEAD: usize = 2;

/// A collection of the server.
#[derive(Debug, Clone, Copy)]
pub struct Collection<'a> {
    /// The server.
    pub api: &'a Api,
    /// The collection's name.
    pub name: &'a str,
}

/// A document as the server has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// The server's id of it.
    pub document_id: String,
    /// Its title; may be empty.
    pub title: String,
}

/// What came of taking documents in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Taken {
    /// New or replaced.
    pub changed: u64,
    /// As they were.
    pub unchanged: u64,
    /// Not taken in.
    pub failed: u64,
    /// The first of those, each with its reason.
    pub failures: Vec<String>,
}

impl Collection<'_> {
    /// How many documents it has; none where there is no such collection.
    pub async fn documents(&self) -> Result<Option<u64>, ApiError> {
        match self.api.get::<Value>(&format!("/v1/collections/{}", self.name)).await {
            Ok(view) => Ok(Some(view["documents"].as_u64().unwrap_or_default())),
            Err(ApiError::Refused { status: 404, .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// All its documents by external id.
    pub async fn held(&self) -> Result<BTreeMap<String, Held>, ApiError> {
        let mut held = BTreeMap::new();
        let mut cursor: Option<String> = None;
        loop {
            let mut query = vec![("collection", self.name.to_owned()), ("limit", "200".to_owned())];
            query.extend(cursor.take().map(|cursor| ("cursor", cursor)));
            let page: Value =
                self.api.send(self.api.request(Method::GET, "/v1/documents").query(&query)).await?;
            for document in page["documents"].as_array().into_iter().flatten() {
                let one = Held {
                    document_id: string(document, "document_id").to_owned(),
                    title: string(document, "title").to_owned(),
                };
                held.insert(string(document, "external_id").to_owned(), one);
            }
            cursor = page["next_cursor"].as_str().map(str::to_owned);
            if cursor.is_none() {
                return Ok(held);
            }
        }
    }

    /// Removes a document.
    pub async fn remove(&self, held: &Held) -> Result<(), ApiError> {
        match self.api.delete(&format!("/v1/documents/{}", held.document_id)).await {
            Err(ApiError::Refused { status: 404, .. }) => Ok(()),
            done => done,
        }
    }

    /// Takes a set's documents in, those aside that are held out. What the collection has already is not sent through the model again: the
    /// server tells unchanged documents by itself.
    pub async fn ingest(
        &self,
        documents: &Documents,
        naming: Naming,
        hold_out: Option<&HoldOut>,
    ) -> anyhow::Result<Taken> {
        let leave_out = |id: &str| hold_out.is_some_and(|held| held.leaves_out(naming, id));
        match documents {
            Documents::Corpus(path) => self.ingest_corpus(path, leave_out).await,
            Documents::Folder(path) => self.ingest_folder(path, leave_out).await,
        }
    }

    async fn ingest_folder(&self, path: &Path, leave_out: impl Fn(&str) -> bool) -> anyhow::Result<Taken> {
        let root = path.to_owned();
        let (mut files, problems) = tokio::task::spawn_blocking(move || {
            let mut problems = Vec::new();
            anyhow::Ok((scan(&root, &mut |problem| problems.push(problem))?.files, problems))
        })
        .await??;
        files.retain(|file| !leave_out(&file.external_id));
        let mut bar = Bar::work("ingesting", files.len() as u64);
        let sender = Sender { api: self.api, collection: self.name, pipeline: "default" };
        let outcome = sender.send(&files, &mut bar).await?;
        let failures = outcome.failures.iter().map(|one| format!("{}: {}", one.external_id, one.message));
        let taken = Taken {
            changed: outcome.created + outcome.updated,
            unchanged: outcome.unchanged,
            failed: outcome.failed + problems.len() as u64,
            failures: problems.into_iter().chain(failures).collect(),
        };
        bar.finish(&taken.in_words(bar.elapsed()));
        Ok(taken)
    }

    async fn ingest_corpus(&self, path: &Path, leave_out: impl Fn(&str) -> bool) -> anyhow::Result<Taken> {
        let checked = path.to_owned();
        let total = tokio::task::spawn_blocking(move || corpus::check(&checked)).await??;
        let mut bar = Bar::count("ingesting", total);
        let mut taken = Taken::default();
        let mut jobs: VecDeque<String> = VecDeque::new();
        let mut documents = corpus::read(path)?;
        let mut next = documents.next().transpose()?;
        while next.is_some() {
            let mut batch = Batch::new(self.name);
            // Reading and unpacking a batch takes milliseconds; nothing else runs in this process.
            while let Some(document) = next.take_if(|document| batch.has_room_for(document)) {
                if !leave_out(&document.id) {
                    batch.add(&document);
                }
                next = documents.next().transpose()?;
            }
            if batch.documents == 0 {
                continue;
            }
            if jobs.len() == AHEAD
                && let Some(job) = jobs.pop_front()
            {
                self.follow(&job, &mut taken, &mut bar).await?;
            }
            jobs.push_back(self.submit(batch).await?);
        }
        for job in jobs {
            self.follow(&job, &mut taken, &mut bar).await?;
        }
        bar.finish(&taken.in_words(bar.elapsed()));
        Ok(taken)
    }

    /// Sends a batch; the id of its job.
    async fn submit(&self, batch: Batch<'_>) -> anyhow::Result<String> {
        loop {
            let request = self
                .api
                .request(Method::POST, "/v1/documents")
                .header("content-type", "application/x-ndjson")
                .body(batch.lines.clone());
            match self.api.send::<Value>(request).await {
                Ok(job) => return Ok(string(&job, "job_id").to_owned()),
                // A server that is full says when it has room.
                Err(ApiError::Refused { status: 429 | 503, retry_after, .. }) => {
                    tokio::time::sleep(retry_after.unwrap_or(Duration::from_secs(2))).await;
                }
                Err(error) => {
                    return Err(error).with_context(|| {
                        format!("the documents from {:?} on were not accepted", batch.first)
                    });
                }
            }
        }
    }

    async fn follow(&self, job: &str, taken: &mut Taken, bar: &mut Bar) -> anyhow::Result<()> {
        let before = taken.changed + taken.unchanged + taken.failed;
        let mut events = Follower::new(self.api, job);
        while let Some(event) = events.next().await? {
            if event.kind == "document.progress" {
                let progress = &event.data["progress"];
                let number = |field: &str| progress[field].as_u64().unwrap_or_default();
                bar.set(before + number("done"), &format!("documents, {} chunks", number("chunks")));
            }
            if event.is_final() {
                if event.kind != "job.succeeded" {
                    let reason = event.data["error"]["message"].as_str().unwrap_or("it has no error");
                    bail!("ingestion {job} ended as {}: {reason}", string(&event.data, "status"));
                }
                taken.add(&event.data["result"]);
            }
        }
        Ok(())
    }
}

/// Documents of one request, as NDJSON.
struct Batch<'a> {
    collection: &'a str,
    lines: String,
    documents: usize,
    first: String,
}

impl<'a> Batch<'a> {
    fn new(collection: &'a str) -> Self {
        Self { collection, lines: String::new(), documents: 0, first: String::new() }
    }

    fn has_room_for(&self, document: &Document) -> bool {
        self.documents == 0 || (self.documents < DOCUMENTS && self.lines.len() + document.text.len() <= BYTES)
    }

    fn add(&mut self, document: &Document) {
        let mut line =
            json!({"external_id": document.id, "text": document.text, "collection": self.collection});
        if !document.title.trim().is_empty() {
            line["title"] = json!(document.title);
        }
        if self.documents == 0 {
            self.first.clone_from(&document.id);
        }
        self.lines.push_str(&line.to_string());
        self.lines.push('\n');
        self.documents += 1;
    }
}

/// So many documents that could not be taken in are named.
const FAILURES: usize = 5;

impl Taken {
    fn add(&mut self, result: &Value) {
        let count = |name: &str| result["documents"][name].as_u64().unwrap_or_default();
        self.changed += count("created") + count("updated");
        self.unchanged += count("unchanged");
        self.failed += count("failed");
        for failure in result["failures"].as_array().into_iter().flatten() {
            self.failures.push(format!("{}: {}", string(failure, "external_id"), string(failure, "message")));
        }
    }

    fn in_words(&self, elapsed: Duration) -> String {
        let mut text = format!(
            "documents: {} taken in, {} unchanged, {} failed; {:.1} s",
            self.changed,
            self.unchanged,
            self.failed,
            elapsed.as_secs_f64()
        );
        for failure in self.failures.iter().take(FAILURES) {
            text.push_str("\n  ");
            text.push_str(failure);
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_is_bounded_and_takes_at_least_one() {
        let document =
            |text: usize| Document { id: "a".into(), title: String::new(), text: "x".repeat(text) };
        let mut batch = Batch::new("c");
        assert!(batch.has_room_for(&document(BYTES + 1)), "one is always sent, however long");
        batch.add(&document(1));
        assert!(batch.has_room_for(&document(1)) && !batch.has_room_for(&document(BYTES)));
        let mut batch = Batch::new("c");
        for _ in 0..DOCUMENTS {
            assert!(batch.has_room_for(&document(10)));
            batch.add(&document(10));
        }
        assert!(!batch.has_room_for(&document(10)));
        assert_eq!(batch.lines.lines().count(), DOCUMENTS);
        let line: Value = serde_json::from_str(batch.lines.lines().next().unwrap()).unwrap();
        assert_eq!(line, json!({"external_id": "a", "text": "xxxxxxxxxx", "collection": "c"}));
    }
}
