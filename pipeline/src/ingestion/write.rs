//! The second half of ingestion: embed what is new, write it beside the live version, wait until the indexes have it, make it live.

use std::{collections::HashMap, sync::Arc, time::Duration};

use tracing::info;

use super::{
    prepare::{Ready, internal},
    stage::IngestionParts,
    tally::{Tally, Written},
};
use crate::{
    domain::{
        ChunkId, DocumentFailure, EmbedPurpose, Job, JobStatus, Placement, StagedDocument, StoredEmbedding,
    },
    ports::{Embedder, ErrorKind, PortError},
    stage::{StageContext, StageError},
};

/// How many chunks are embedded with one call. Small enough that a cancel is noticed and progress shows.
const EMBED_BATCH: usize = 32;

/// How often a document is compared and written again when somebody else replaced it in between.
const CONFLICTS: usize = 5;

/// How long the indexes may take to catch up with a batch.
const VISIBLE_WITHIN: Duration = Duration::from_secs(120);

/// Writes the documents of one job.
pub(super) struct Writer<'a> {
    parts: &'a Arc<IngestionParts>,
    job: &'a Job,
}

impl<'a> Writer<'a> {
    pub(super) fn new(parts: &'a Arc<IngestionParts>, job: &'a Job) -> Self {
        Self { parts, job }
    }

    /// Waits until searches see the documents as they are now: what was published last changes the indexes too, where a title or metadata
    /// became another one or chunks went.
    pub(super) async fn settle(&self) -> Result<(), StageError> {
        let head = self.parts.documents.head().await?;
        Ok(self.parts.replication.wait_for(head, VISIBLE_WITHIN).await?)
    }

    /// Writes a batch; when this returns, searches find what is new in it.
    pub(super) async fn write(
        &self,
        batch: Vec<Ready>,
        context: &StageContext,
        tally: &mut Tally<'_>,
    ) -> Result<(), StageError> {
        if batch.is_empty() {
            return Ok(());
        }
        match self.try_write(&batch, context, tally).await {
            // Somebody else replaced one of them. Alone, each is compared with what is live now.
            Err(Failure::Conflict(_)) => {
                for document in batch {
                    self.write_alone(document, context, tally).await?;
                }
                Ok(())
            }
            Err(Failure::Stage(error)) => Err(error),
            Ok(()) => Ok(()),
        }
    }

    async fn write_alone(
        &self,
        document: Ready,
        context: &StageContext,
        tally: &mut Tally<'_>,
    ) -> Result<(), StageError> {
        let batch = [document];
        for attempt in 1..=CONFLICTS {
            match self.try_write(&batch, context, tally).await {
                Ok(()) => return Ok(()),
                Err(Failure::Stage(error)) => return Err(error),
                Err(Failure::Conflict(error)) => {
                    info!(job_id = %self.job.id, attempt, %error, "document was replaced meanwhile; comparing again");
                }
            }
        }
        let [document] = batch;
        tally
            .failed(DocumentFailure {
                external_id: document.document.external_id,
                code: "conflict".to_owned(),
                message: "the document was replaced by other jobs again and again; send it again".to_owned(),
            })
            .await;
        Ok(())
    }

    async fn try_write(
        &self,
        batch: &[Ready],
        context: &StageContext,
        tally: &mut Tally<'_>,
    ) -> Result<(), Failure> {
        let mut compared = Vec::with_capacity(batch.len());
        for ready in batch {
            compared.push(self.compare(ready).await?);
        }
        tally.status(JobStatus::Embedding).await;
        let vectors = self.embed(&compared, context).await?;
        let mut vectors = vectors.into_iter();
        let mut staged = Vec::with_capacity(batch.len());
        let mut written = Vec::with_capacity(batch.len());
        for Compared { ready, new, kept } in compared {
            let mut new_chunks = Vec::with_capacity(new.len());
            for index in new {
                let mut chunk = ready.chunks[index].chunk.clone();
                chunk.embedding = vectors.next().ok_or_else(|| internal("a vector is missing"))?;
                new_chunks.push(chunk);
            }
            written.push(Written {
                embedded: new_chunks.len() as u64,
                unchanged: kept.len() as u64,
                deleted: 0,
                created: false,
            });
            staged.push(StagedDocument {
                document: ready.document.clone(),
                text: ready.text.clone(),
                new_chunks,
                kept_chunks: kept,
            });
        }
        let documents = &self.parts.documents;
        let staged = documents.stage(staged).await?;
        let Some(position) = staged.iter().map(|staged| staged.position).max() else { return Ok(()) };
        self.parts.replication.wait_for(position, VISIBLE_WITHIN).await?;
        // From here on a search for the new version finds all of it.
        let published = documents.publish(&staged).await?;
        self.parts.replication.hint();
        for ((mut counts, published), staged) in written.into_iter().zip(published).zip(&staged) {
            counts.deleted = published.deleted_chunks;
            counts.created = staged.version == 1;
            tally.written(counts).await;
        }
        Ok(())
    }

    /// What of a document is new, compared with its live version.
    async fn compare<'r>(&self, ready: &'r Ready) -> Result<Compared<'r>, PortError> {
        let model = self.parts.embedder.get().map(|embedder| embedder.info().model.clone());
        let live: HashMap<ChunkId, Option<String>> =
            self.parts.documents.chunk_ids(ready.document.id).await?.into_iter().collect();
        let mut compared = Compared { ready, new: Vec::new(), kept: Vec::new() };
        for (index, chunk) in ready.chunks.iter().enumerate() {
            let chunk = &chunk.chunk;
            // Without a model now, a vector of before does no harm.
            let stays = live.get(&chunk.id).is_some_and(|held| model.is_none() || *held == model);
            if stays {
                compared.kept.push((chunk.id, chunk.place));
            } else {
                compared.new.push(index);
            }
        }
        Ok(compared)
    }

    /// The vectors of all new chunks, in order; none each without a model.
    async fn embed(
        &self,
        compared: &[Compared<'_>],
        context: &StageContext,
    ) -> Result<Vec<Option<StoredEmbedding>>, StageError> {
        let texts: Vec<&str> = compared
            .iter()
            .flat_map(|one| one.new.iter().map(|index| one.ready.chunks[*index].embedded_text.as_str()))
            .collect();
        let Some(embedder) = self.parts.embedder.get() else { return Ok(vec![None; texts.len()]) };
        let mut vectors = Vec::with_capacity(texts.len());
        for texts in texts.chunks(EMBED_BATCH) {
            if context.cancel.is_cancelled() {
                return Err(StageError::Cancelled);
            }
            vectors.extend(embed_batch(embedder.as_ref(), texts).await?);
        }
        Ok(vectors)
    }
}

async fn embed_batch(
    embedder: &dyn Embedder,
    texts: &[&str],
) -> Result<Vec<Option<StoredEmbedding>>, StageError> {
    let owned = texts.iter().map(|text| (*text).to_owned()).collect();
    let embeddings = embedder
        .embed(owned, EmbedPurpose::Passage)
        .await
        .map_err(|error| StageError::from_model(error, "embedding_failed"))?;
    if embeddings.len() != texts.len() {
        return Err(internal("the embedder answered with the wrong number of vectors"));
    }
    let model = &embedder.info().model;
    Ok(embeddings
        .into_iter()
        .map(|embedding| Some(StoredEmbedding { model: model.clone(), vector: embedding.vector }))
        .collect())
}

/// A document compared with its live version.
struct Compared<'r> {
    ready: &'r Ready,
    /// Places in `ready.chunks`.
    new: Vec<usize>,
    kept: Vec<(ChunkId, Placement)>,
}

/// Why a batch was not written.
enum Failure {
    /// A live version that the batch builds on was replaced meanwhile.
    Conflict(PortError),
    Stage(StageError),
}

impl From<PortError> for Failure {
    fn from(error: PortError) -> Self {
        if error.kind() == ErrorKind::Conflict { Self::Conflict(error) } else { Self::Stage(error.into()) }
    }
}

impl From<StageError> for Failure {
    fn from(error: StageError) -> Self {
        Self::Stage(error)
    }
}
