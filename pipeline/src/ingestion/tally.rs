//! Counting what an ingestion does, and telling of it.
//!
//! The stages of an ingestion count here while they work; one future of the job tells what was counted, so that nobody who works waits for
//! the event log.

use std::{
    collections::VecDeque,
    convert::Infallible,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use serde_json::json;
use tokio::{
    sync::Notify,
    time::{Instant, sleep_until},
};

use super::progress::Meter;
use crate::{
    domain::{
        ChunkCounts, DocumentCounts, DocumentFailure, EventType, IngestionResult, Job, JobStatus, Progress,
        Receipt,
    },
    lifecycle::Lifecycle,
    stage::{Report, StageContext},
    view,
};

/// The least time between two `document.progress` events, so that many small documents do not flood the log.
const BETWEEN_EVENTS: Duration = Duration::from_millis(250);

/// The counts of one job.
pub(super) struct Tally<'a> {
    lifecycle: &'a Lifecycle,
    job: &'a Job,
    context: &'a StageContext,
    total: u64,
    begun: Instant,
    counts: Mutex<Counts>,
    changed: Notify,
}

struct Counts {
    documents: DocumentCounts,
    chunks: ChunkCounts,
    /// With the numbers of their items, since they come in the order in which they were found.
    failures: Vec<(usize, DocumentFailure)>,
    /// Tokens that the embedding model has read.
    tokens: u64,
    meter: Meter,
    status: JobStatus,
    /// Statuses that are still to be told.
    next: VecDeque<JobStatus>,
    told_at: Option<Instant>,
    is_told: bool,
}

impl<'a> Tally<'a> {
    /// For a job of `total` documents of `bytes` bytes.
    pub(super) fn new(
        lifecycle: &'a Lifecycle,
        job: &'a Job,
        context: &'a StageContext,
        (total, bytes): (usize, u64),
    ) -> Self {
        let counts = Counts {
            documents: DocumentCounts::default(),
            chunks: ChunkCounts::default(),
            failures: Vec::new(),
            tokens: 0,
            meter: Meter::new(bytes),
            status: JobStatus::Parsing,
            next: VecDeque::from([JobStatus::Parsing]),
            told_at: None,
            is_told: true,
        };
        Self {
            lifecycle,
            job,
            context,
            total: total as u64,
            begun: Instant::now(),
            counts: Mutex::new(counts),
            changed: Notify::new(),
        }
    }

    /// The stage within the stage has changed. It never goes back.
    pub(super) fn status(&self, status: JobStatus) {
        let order = |status| JobStatus::ALL.iter().position(|other| *other == status);
        self.count(|counts| {
            let last = counts.next.back().copied().unwrap_or(counts.status);
            if order(status) > order(last) {
                counts.next.push_back(status);
            }
        });
    }

    /// A document was read: so many bytes, with about so many tokens to embed.
    pub(super) fn read(&self, bytes: u64, tokens: u64) {
        self.count(|counts| counts.meter.read(bytes, tokens));
    }

    /// Chunks were embedded, of about so many tokens as it was told when they were read. `tokens` is what the model read.
    pub(super) fn embedded(&self, expected: u64, tokens: u64) {
        self.count(|counts| {
            counts.meter.embedded(expected, tokens);
            counts.tokens += tokens;
        });
    }

    /// A document can be found, so long after it was embedded.
    pub(super) fn written(&self, created: bool, chunks: ChunkCounts, after: Duration) {
        self.count(|counts| {
            counts.add(created, chunks);
            counts.meter.published(after);
        });
    }

    /// A document of so many chunks is as it was.
    pub(super) fn unchanged(&self, chunks: u64) {
        self.count(|counts| {
            counts.documents.unchanged += 1;
            counts.chunks.unchanged += chunks;
        });
    }

    /// A document is as an earlier attempt of this job left it: that attempt's work is the job's.
    pub(super) fn done_before(&self, receipt: &Receipt) {
        self.count(|counts| {
            counts.add(receipt.created, receipt.chunks);
            counts.tokens += receipt.tokens;
        });
    }

    /// The document of an item was not taken in.
    pub(super) fn failed(&self, item: usize, failure: DocumentFailure) {
        self.count(|counts| {
            counts.documents.failed += 1;
            if counts.failures.len() < IngestionResult::MAX_FAILURES {
                counts.failures.push((item, failure));
            }
        });
    }

    /// Tells of changes as they come, for as long as it is polled.
    pub(super) async fn tell(&self) -> Infallible {
        loop {
            let changed = self.changed.notified();
            match self.due() {
                Due::Now => self.tell_once().await,
                // A new status is told at once.
                Due::At(at) => tokio::select! {
                    () = sleep_until(at) => {}
                    () = changed => {}
                },
                Due::Never => changed.await,
            }
        }
    }

    /// Tells what is not told yet.
    pub(super) async fn tell_rest(&self) {
        while !matches!(self.due(), Due::Never) {
            self.tell_once().await;
        }
    }

    pub(super) fn into_result(self, model: Option<String>) -> IngestionResult {
        let counts = self.counts.into_inner().unwrap_or_else(PoisonError::into_inner);
        let mut failures = counts.failures;
        failures.sort_by_key(|(item, _)| *item);
        IngestionResult {
            documents: counts.documents,
            chunks: counts.chunks,
            failures: failures.into_iter().map(|(_, failure)| failure).collect(),
            tokens: counts.tokens,
            model,
        }
    }

    fn due(&self) -> Due {
        let counts = self.counts();
        match counts.told_at {
            _ if !counts.next.is_empty() => Due::Now,
            _ if counts.is_told => Due::Never,
            Some(at) if at.elapsed() < BETWEEN_EVENTS => Due::At(at + BETWEEN_EVENTS),
            _ => Due::Now,
        }
    }

    async fn tell_once(&self) {
        let data = {
            let mut counts = self.counts();
            if let Some(status) = counts.next.pop_front() {
                counts.status = status;
            }
            counts.told_at = Some(Instant::now());
            counts.is_told = true;
            let progress = counts.progress(self.total, self.begun.elapsed());
            let data = json!({
                "status": counts.status,
                "progress": view::progress(&progress),
                "eta_ms": progress.eta_ms,
                "documents": counts.documents,
                "chunks": counts.chunks,
            });
            self.context
                .report
                .send_replace(Report { status: Some(counts.status), progress: Some(progress) });
            data
        };
        self.lifecycle.announce(self.job, EventType::DocumentProgress, data).await;
    }

    fn count(&self, change: impl FnOnce(&mut Counts)) {
        {
            let mut counts = self.counts();
            change(&mut counts);
            counts.is_told = false;
        }
        self.changed.notify_one();
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        // Counting does not panic half-way.
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// When there is something to tell.
enum Due {
    Now,
    At(Instant),
    Never,
}

impl Counts {
    /// A document that was written.
    fn add(&mut self, created: bool, chunks: ChunkCounts) {
        if created {
            self.documents.created += 1;
        } else {
            self.documents.updated += 1;
        }
        self.chunks.embedded += chunks.embedded;
        self.chunks.unchanged += chunks.unchanged;
        self.chunks.deleted += chunks.deleted;
    }

    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // not negative, and small
    fn progress(&mut self, total: u64, elapsed: Duration) -> Progress {
        let DocumentCounts { created, updated, unchanged, failed } = self.documents;
        let left = self.meter.left(elapsed);
        Progress {
            done: created + updated + unchanged + failed,
            total,
            unit: "documents".to_owned(),
            chunks: self.chunks.embedded + self.chunks.unchanged,
            tokens: self.tokens,
            tokens_per_s: self.meter.tokens_per_s(elapsed).map(|rate| rate.round() as u64),
            eta_ms: left.map(|left| u64::try_from(left.as_millis()).unwrap_or(u64::MAX)),
        }
    }
}
