//! Counting what an ingestion does, and telling of it.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::json;

use crate::{
    domain::{
        ChunkCounts, Document, DocumentCounts, DocumentFailure, EventType, IngestionResult, Job, JobStatus,
        Progress,
    },
    lifecycle::Lifecycle,
    stage::{Report, StageContext},
    view,
};

/// The least time between two `document.progress` events, so that many small documents do not flood the log.
const BETWEEN_EVENTS: Duration = Duration::from_millis(250);

/// What was written of one document.
pub(super) struct Written {
    pub(super) embedded: u64,
    pub(super) unchanged: u64,
    pub(super) deleted: u64,
    pub(super) created: bool,
}

/// The counts of one job.
pub(super) struct Tally<'a> {
    lifecycle: Arc<Lifecycle>,
    job: &'a Job,
    context: &'a StageContext,
    total: u64,
    documents: DocumentCounts,
    chunks: ChunkCounts,
    failures: Vec<DocumentFailure>,
    status: JobStatus,
    told_at: Option<Instant>,
}

impl<'a> Tally<'a> {
    pub(super) fn new(
        lifecycle: Arc<Lifecycle>,
        job: &'a Job,
        context: &'a StageContext,
        total: usize,
    ) -> Self {
        Self {
            lifecycle,
            job,
            context,
            total: total as u64,
            documents: DocumentCounts::default(),
            chunks: ChunkCounts::default(),
            failures: Vec::new(),
            status: JobStatus::Parsing,
            told_at: None,
        }
    }

    /// The stage within the stage has changed. It never goes back.
    pub(super) async fn status(&mut self, status: JobStatus) {
        let order = |status| JobStatus::ALL.iter().position(|other| *other == status);
        if self.told_at.is_some() && order(status) <= order(self.status) {
            return;
        }
        self.status = status;
        self.told_at = None;
        self.tell().await;
    }

    /// A document was written.
    pub(super) async fn written(&mut self, written: Written) {
        if written.created {
            self.documents.created += 1;
        } else {
            self.documents.updated += 1;
        }
        self.chunks.embedded += written.embedded;
        self.chunks.unchanged += written.unchanged;
        self.chunks.deleted += written.deleted;
        self.tell().await;
    }

    /// A document is as it was; or as an earlier attempt of this very job left it, and then that attempt's work is counted.
    pub(super) async fn unchanged(&mut self, document: &Document) {
        if document.updated_at < self.job.created_at {
            self.documents.unchanged += 1;
            self.chunks.unchanged += document.chunks;
        } else if document.version == 1 {
            self.documents.created += 1;
            self.chunks.embedded += document.chunks;
        } else {
            self.documents.updated += 1;
            self.chunks.unchanged += document.chunks;
        }
        self.tell().await;
    }

    /// A document was not taken in.
    pub(super) async fn failed(&mut self, failure: DocumentFailure) {
        self.documents.failed += 1;
        if self.failures.len() < IngestionResult::MAX_FAILURES {
            self.failures.push(failure);
        }
        self.tell().await;
    }

    fn done(&self) -> u64 {
        let DocumentCounts { created, updated, unchanged, failed } = self.documents;
        created + updated + unchanged + failed
    }

    async fn tell(&mut self) {
        let done = self.done();
        let progress = Progress {
            done,
            total: self.total,
            unit: "documents".to_owned(),
            chunks: self.chunks.embedded + self.chunks.unchanged,
        };
        let last = done == self.total;
        if !last && self.told_at.is_some_and(|at| at.elapsed() < BETWEEN_EVENTS) {
            return;
        }
        self.told_at = Some(Instant::now());
        let data = json!({
            "status": self.status,
            "progress": view::progress(&progress),
            "documents": self.documents,
            "chunks": self.chunks,
        });
        self.context.report.send_replace(Report { status: Some(self.status), progress: Some(progress) });
        self.lifecycle.announce(self.job, EventType::DocumentProgress, data).await;
    }

    pub(super) fn into_result(self, model: Option<String>) -> IngestionResult {
        IngestionResult { documents: self.documents, chunks: self.chunks, failures: self.failures, model }
    }
}
