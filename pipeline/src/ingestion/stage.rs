//! Ingestion as a stage of a job.
//!
//! Four stages run side by side, each over a queue of its own: items are read, cut and compared ([`super::prepare`]), what is new is embedded
//! ([`super::embed`]), documents are written, and made live once the indexes have them ([`super::write`]). The embedder has work as long as there is any,
//! whatever the others wait for. What is on its way is bounded by the memory that it takes ([`super::budget`]), however large the job is and however
//! many there are. A job that is begun again skips what an earlier attempt finished, by fingerprint.

use std::{sync::Arc, time::Instant};

use async_trait::async_trait;
use tokio::sync::mpsc;

use super::{
    budget::{Budget, IngestionLimits},
    embed::Embed,
    manifest::{self, Entry},
    prepare::{Prepare, internal},
    tally::Tally,
    write::Write,
};
use crate::{
    domain::{IngestionSpec, Job, JobError, JobResult, JobSpec},
    lifecycle::Lifecycle,
    pipelines::{IndexingPipeline, Pipelines},
    ports::{DocumentStore, Outcome, Parser},
    replication::Searchers,
    retrieval::EmbedderSlot,
    stage::{JobStage, StageContext, StageError, millis},
};

/// How many documents of a job may wait to be embedded, beside the bound on memory.
const AHEAD: usize = 64;

/// What ingestion works with.
pub struct IngestionParts {
    /// The record of jobs, events and blobs.
    pub lifecycle: Arc<Lifecycle>,
    /// The record of documents.
    pub documents: Arc<dyn DocumentStore>,
    /// Tells when the indexes have caught up.
    pub searchers: Arc<dyn Searchers>,
    /// Reads files.
    pub parser: Arc<dyn Parser>,
    /// Makes vectors.
    pub embedder: EmbedderSlot,
    /// The configuration.
    pub pipelines: Arc<Pipelines>,
}

/// Takes documents in.
pub struct IngestionStage {
    parts: IngestionParts,
    budget: Budget,
}

impl IngestionStage {
    /// The stage over these parts, with the usual limits.
    #[must_use]
    pub fn new(parts: IngestionParts) -> Self {
        Self::with_limits(parts, IngestionLimits::default())
    }

    /// [`new`](Self::new), with other limits. They are shared by all jobs that this stage runs.
    #[must_use]
    pub fn with_limits(parts: IngestionParts, limits: IngestionLimits) -> Self {
        Self { parts, budget: Budget::new(limits) }
    }

    fn pipeline<'a>(&'a self, spec: &IngestionSpec) -> Result<&'a IndexingPipeline, StageError> {
        self.parts.pipelines.indexing.get(&spec.pipeline).ok_or_else(|| {
            let message = format!("there is no indexing pipeline {:?} any more", spec.pipeline.as_str());
            StageError::Permanent(JobError::permanent("unknown_pipeline", message))
        })
    }

    async fn entries(&self, spec: &IngestionSpec) -> Result<Vec<Entry>, StageError> {
        let manifest = self.parts.lifecycle.blobs.get(&spec.manifest).await?.ok_or_else(|| {
            StageError::Permanent(JobError::permanent("manifest_missing", "the uploaded documents are gone"))
        })?;
        let entries = tokio::task::spawn_blocking(move || manifest::entries(&manifest))
            .await
            .map_err(|error| internal(&format!("the manifest was not read to its end: {error}")))?;
        entries.map_err(|error| {
            StageError::Permanent(JobError::permanent("manifest_corrupt", error.to_string()))
        })
    }

    /// Everything, from the manifest's lines to documents that searches find.
    async fn take_in(
        &self,
        job: &Job,
        pipeline: &IndexingPipeline,
        entries: Vec<Entry>,
        tally: &Tally<'_>,
    ) -> Result<(), StageError> {
        let prepare = Prepare::new(&self.parts, &self.budget, job, pipeline);
        let embed = Embed::new(&self.parts.embedder, &self.budget.texts, tally);
        let write = Write { parts: &self.parts, job, prepare: &prepare, embed: &embed, tally };
        let (ready, to_embed) = mpsc::channel(AHEAD);
        // These are bounded by what holds memory: no document gets in here without.
        let (embedded, to_stage) = mpsc::unbounded_channel();
        let (staged, to_publish) = mpsc::unbounded_channel();
        tokio::try_join!(
            prepare.all(entries, tally, ready),
            embed.all(to_embed, embedded),
            write.stage_all(to_stage, staged),
            write.publish_all(to_publish),
        )?;
        write.settle().await
    }
}

#[async_trait]
impl JobStage for IngestionStage {
    async fn run(&self, job: &Job, context: &StageContext) -> Result<Outcome, StageError> {
        let JobSpec::Ingestion(spec) = &job.spec else {
            return Err(StageError::Permanent(JobError::permanent(
                "wrong_stage",
                "the job is not an ingestion",
            )));
        };
        let begun = Instant::now();
        let pipeline = self.pipeline(spec)?;
        let entries = self.entries(spec).await?;
        let size = (entries.len(), entries.iter().map(|entry| entry.bytes).sum());
        let tally = Tally::new(&self.parts.lifecycle, job, context, size);
        // Whatever it waits for, a cancel ends it here: what is dropped with it takes back what was asked of others.
        tokio::select! {
            biased;
            () = context.cancel.cancelled() => return Err(StageError::Cancelled),
            done = self.take_in(job, pipeline, entries, &tally) => done?,
            never = tally.tell() => match never {},
        }
        tally.tell_rest().await;
        let model = self.parts.embedder.get().map(|embedder| embedder.info().model.clone());
        let result = Box::new(JobResult::Ingestion(tally.into_result(model)));
        Ok(Outcome::Succeed { result, took_ms: Some(millis(begun)) })
    }
}
