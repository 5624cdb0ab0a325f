//! Ingestion as a stage of a job.
//!
//! Two halves run side by side: one reads files and cuts them into chunks ([`super::prepare`]), the other embeds what is new, writes
//! it, waits until the indexes have it, and makes it live ([`super::write`]). Between them is a bounded queue, so that memory stays
//! bounded however large the job is. A job that is begun again skips what an earlier attempt finished, by fingerprint.

use std::{sync::Arc, time::Instant};

use async_trait::async_trait;
use futures::{StreamExt, stream};
use tokio::sync::mpsc;

use super::{
    manifest::ManifestItem,
    prepare::{Prepare, Prepared},
    tally::Tally,
    write::Writer,
};
use crate::{
    domain::{IngestionSpec, Job, JobError, JobResult, JobSpec, JobStatus},
    lifecycle::Lifecycle,
    pipelines::{IndexingPipeline, Pipelines},
    ports::{DocumentStore, Outcome, Parser},
    replication::Replication,
    retrieval::EmbedderSlot,
    stage::{JobStage, StageContext, StageError, millis},
};

/// How many files are read at once.
const READERS: usize = 2;

/// How many documents may wait between the two halves.
const AHEAD: usize = 64;

/// A batch is written when it has so many chunks …
const BATCH_CHUNKS: usize = 256;

/// … or so many documents.
const BATCH_DOCUMENTS: usize = 64;

/// What ingestion works with.
pub struct IngestionParts {
    /// The record of jobs, events and blobs.
    pub lifecycle: Arc<Lifecycle>,
    /// The record of documents.
    pub documents: Arc<dyn DocumentStore>,
    /// Tells when the indexes have caught up.
    pub replication: Arc<Replication>,
    /// Reads files.
    pub parser: Arc<dyn Parser>,
    /// Makes vectors.
    pub embedder: EmbedderSlot,
    /// The configuration.
    pub pipelines: Arc<Pipelines>,
}

/// Takes documents in.
pub struct IngestionStage {
    parts: Arc<IngestionParts>,
}

impl IngestionStage {
    /// The stage over these parts.
    #[must_use]
    pub fn new(parts: IngestionParts) -> Self {
        Self { parts: Arc::new(parts) }
    }

    fn pipeline<'a>(&'a self, spec: &IngestionSpec) -> Result<&'a IndexingPipeline, StageError> {
        self.parts.pipelines.indexing.get(&spec.pipeline).ok_or_else(|| {
            let message = format!("there is no indexing pipeline {:?} any more", spec.pipeline.as_str());
            StageError::Permanent(JobError::permanent("unknown_pipeline", message))
        })
    }

    async fn manifest(&self, spec: &IngestionSpec) -> Result<Vec<ManifestItem>, StageError> {
        let bytes = self.parts.lifecycle.blobs.get(&spec.manifest).await?.ok_or_else(|| {
            StageError::Permanent(JobError::permanent("manifest_missing", "the uploaded documents are gone"))
        })?;
        let items: Result<Vec<ManifestItem>, _> =
            serde_json::Deserializer::from_slice(&bytes).into_iter().collect();
        items.map_err(|error| {
            StageError::Permanent(JobError::permanent("manifest_corrupt", error.to_string()))
        })
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
        let items = self.manifest(spec).await?;
        let mut tally = Tally::new(self.parts.lifecycle.clone(), job, context, items.len());
        tally.status(JobStatus::Parsing).await;

        let (sender, receiver) = mpsc::channel(AHEAD);
        let prepare = Prepare::new(&self.parts, job, pipeline);
        let read = async {
            let mut prepared = stream::iter(items).map(|item| prepare.item(item)).buffered(READERS);
            while let Some(result) = prepared.next().await {
                // The writer left: its error is the one that counts.
                if sender.send(result).await.is_err() {
                    return;
                }
            }
            drop(sender);
        };
        let write = self.write(job, context, receiver, &mut tally);
        let ((), written) = tokio::join!(read, write);
        written?;

        let model = self.parts.embedder.get().map(|embedder| embedder.info().model.clone());
        let result = Box::new(JobResult::Ingestion(tally.into_result(model)));
        Ok(Outcome::Succeed { result, took_ms: Some(millis(begun)) })
    }
}

impl IngestionStage {
    /// Writes what is prepared, batch by batch.
    async fn write(
        &self,
        job: &Job,
        context: &StageContext,
        mut prepared: mpsc::Receiver<Result<Prepared, StageError>>,
        tally: &mut Tally<'_>,
    ) -> Result<(), StageError> {
        let writer = Writer::new(&self.parts, job);
        let mut batch = Vec::new();
        let mut chunks = 0;
        loop {
            if context.cancel.is_cancelled() {
                return Err(StageError::Cancelled);
            }
            let Some(next) = prepared.recv().await else { break };
            match next? {
                Prepared::Failed(failure) => tally.failed(failure).await,
                Prepared::Unchanged(document) => tally.unchanged(&document).await,
                Prepared::Ready(document) => {
                    // Two versions of one document in one batch would each be compared with the same live version.
                    let again = batch
                        .iter()
                        .any(|other: &super::prepare::Ready| other.document.id == document.document.id);
                    if again
                        || chunks + document.chunks.len() > BATCH_CHUNKS
                        || batch.len() == BATCH_DOCUMENTS
                    {
                        writer.write(std::mem::take(&mut batch), context, tally).await?;
                        chunks = 0;
                    }
                    chunks += document.chunks.len();
                    batch.push(*document);
                }
            }
        }
        tally.status(JobStatus::Indexing).await;
        writer.write(batch, context, tally).await?;
        writer.settle().await
    }
}
