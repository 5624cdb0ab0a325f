//! Sending files as ingestion jobs and following those.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::Context;
use futures::{FutureExt, StreamExt, TryStreamExt, stream};
use reqwest::{
    Method,
    multipart::{Form, Part},
};
use serde::Serialize;
use serde_json::Value;

use super::{FileEntry, board::Board};
use crate::{
    client::{Api, ApiError, Follower},
    terminal::{Bar, string},
};

/// The most files of one request …
const FILES: usize = 200;

/// … and the most bytes, one larger file excepted.
const BYTES: u64 = 16 << 20;

/// So many requests' jobs are under way at once: while the end of one is written, the next is embedded already.
const JOBS: usize = 2;

/// What came of sending files.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Outcome {
    /// New documents.
    pub created: u64,
    /// Replaced documents.
    pub updated: u64,
    /// Documents that were as sent.
    pub unchanged: u64,
    /// Files that were not taken in.
    pub failed: u64,
    /// Chunks embedded and written.
    pub chunks_embedded: u64,
    /// Chunks kept.
    pub chunks_unchanged: u64,
    /// Chunks removed.
    pub chunks_deleted: u64,
    /// Tokens that the embedding model read.
    pub tokens: u64,
    /// The jobs.
    pub jobs: Vec<String>,
    /// Each file that failed, with its reason.
    pub failures: Vec<FileFailure>,
}

/// A file that was not taken in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FileFailure {
    /// Its external id.
    pub external_id: String,
    /// Stable, for programs.
    pub code: String,
    /// For people.
    pub message: String,
}

/// Sends files to one collection.
pub struct Sender<'a> {
    /// The server.
    pub api: &'a Api,
    /// Where to.
    pub collection: &'a str,
    /// Which indexing pipeline.
    pub pipeline: &'a str,
}

impl Sender<'_> {
    /// Sends files, some at a time, and follows each job to its end.
    pub async fn send(&self, files: &[FileEntry], bar: &mut Bar) -> anyhow::Result<Outcome> {
        let batches = batches(files);
        let board = Mutex::new(Board::new(bar, &batches));
        let mut jobs = Vec::with_capacity(batches.len());
        for (number, batch) in batches.iter().enumerate() {
            jobs.push(self.batch(number, batch, &board).boxed());
        }
        let outcomes: Vec<Outcome> = stream::iter(jobs).buffered(JOBS).try_collect().await?;
        Ok(outcomes.into_iter().fold(Outcome::default(), Outcome::and))
    }

    async fn batch(
        &self,
        number: usize,
        batch: &[FileEntry],
        board: &Mutex<Board<'_>>,
    ) -> anyhow::Result<Outcome> {
        let mut outcome = Outcome::default();
        if let Some(job) = self.submit(batch, &mut outcome).await? {
            self.follow(&job, number, &mut outcome, board).await?;
        }
        shown(board).finished(number);
        Ok(outcome)
    }

    /// The job's id; none where no file of the batch could be read.
    async fn submit(&self, batch: &[FileEntry], outcome: &mut Outcome) -> anyhow::Result<Option<String>> {
        let mut files = Vec::with_capacity(batch.len());
        for file in batch {
            match tokio::fs::read(&file.path).await {
                Ok(bytes) => files.push((file, bytes)),
                Err(error) => outcome.fail(file, "unreadable", &error.to_string()),
            }
        }
        if files.is_empty() {
            return Ok(None);
        }
        loop {
            let mut form = Form::new()
                .text("collection", self.collection.to_owned())
                .text("pipeline", self.pipeline.to_owned());
            for (file, bytes) in &files {
                let part = Part::bytes(bytes.clone()).file_name(file.external_id.clone());
                form = form.part("file", part);
            }
            let request = self.api.request(Method::POST, "/v1/documents").multipart(form);
            match self.api.send::<Value>(request).await {
                Ok(job) => return Ok(Some(string(&job, "job_id").to_owned())),
                // A server that is full says when it has room.
                Err(ApiError::Refused { status: 429 | 503, retry_after, .. }) => {
                    tokio::time::sleep(retry_after.unwrap_or(Duration::from_secs(2))).await;
                }
                // One file larger than the server takes must not keep the others out.
                Err(ApiError::Refused { status: 413, message, .. }) if files.len() == 1 => {
                    outcome.fail(files[0].0, "too_large", &message);
                    return Ok(None);
                }
                Err(error) => return Err(error).context("the files could not be sent"),
            }
        }
    }

    async fn follow(
        &self,
        job: &str,
        number: usize,
        outcome: &mut Outcome,
        board: &Mutex<Board<'_>>,
    ) -> anyhow::Result<()> {
        outcome.jobs.push(job.to_owned());
        let mut events = Follower::new(self.api, job);
        while let Some(event) = events.next().await? {
            if event.kind == "document.progress" {
                shown(board).progress(number, &event.data);
            }
            if event.is_final() {
                let job_view = &event.data;
                if event.kind != "job.succeeded" {
                    let reason = job_view["error"]["message"].as_str().unwrap_or("it has no error");
                    anyhow::bail!("ingestion {job} ended as {}: {reason}", string(job_view, "status"));
                }
                outcome.add(&job_view["result"]);
            }
        }
        Ok(())
    }
}

fn shown<'a, 'b>(board: &'a Mutex<Board<'b>>) -> MutexGuard<'a, Board<'b>> {
    // It is only looked at.
    board.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Groups of files that make one request each.
fn batches(files: &[FileEntry]) -> Vec<&[FileEntry]> {
    let mut batches = Vec::new();
    let mut rest = files;
    while !rest.is_empty() {
        let mut bytes = 0;
        let fits = rest
            .iter()
            .take(FILES)
            .take_while(|file| {
                bytes += file.size;
                bytes <= BYTES
            })
            .count();
        let (batch, after) = rest.split_at(fits.max(1));
        batches.push(batch);
        rest = after;
    }
    batches
}

pub(super) fn number(value: &Value, field: &str) -> u64 {
    value.get(field).and_then(Value::as_u64).unwrap_or_default()
}

impl Outcome {
    fn fail(&mut self, file: &FileEntry, code: &str, message: &str) {
        self.failed += 1;
        self.failures.push(FileFailure {
            external_id: file.external_id.clone(),
            code: code.to_owned(),
            message: message.to_owned(),
        });
    }

    /// Both together.
    fn and(mut self, mut other: Self) -> Self {
        self.created += other.created;
        self.updated += other.updated;
        self.unchanged += other.unchanged;
        self.failed += other.failed;
        self.chunks_embedded += other.chunks_embedded;
        self.chunks_unchanged += other.chunks_unchanged;
        self.chunks_deleted += other.chunks_deleted;
        self.tokens += other.tokens;
        self.jobs.append(&mut other.jobs);
        self.failures.append(&mut other.failures);
        self
    }

    fn add(&mut self, result: &Value) {
        let (documents, chunks) = (&result["documents"], &result["chunks"]);
        self.created += number(documents, "created");
        self.updated += number(documents, "updated");
        self.unchanged += number(documents, "unchanged");
        self.failed += number(documents, "failed");
        self.chunks_embedded += number(chunks, "embedded");
        self.chunks_unchanged += number(chunks, "unchanged");
        self.chunks_deleted += number(chunks, "deleted");
        self.tokens += number(result, "tokens");
        for failure in result["failures"].as_array().into_iter().flatten() {
            self.failures.push(FileFailure {
                external_id: string(failure, "external_id").to_owned(),
                code: string(failure, "code").to_owned(),
                message: string(failure, "message").to_owned(),
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_hold_all_files_in_order_within_bounds() {
        let file = |n: usize, size| FileEntry {
            path: format!("{n}").into(),
            external_id: n.to_string(),
            size,
            modified_ms: 0,
        };
        let files: Vec<FileEntry> =
            (0..1_000).map(|n| file(n, if n % 100 == 7 { BYTES * 2 } else { BYTES / 50 })).collect();
        let batches = batches(&files);
        let joined: Vec<FileEntry> = batches.iter().flat_map(|batch| batch.iter().cloned()).collect();
        assert_eq!(joined, files);
        for batch in batches {
            assert!(batch.len() == 1 || batch.iter().map(|file| file.size).sum::<u64>() <= BYTES);
            assert!(batch.len() <= FILES);
        }
    }
}
