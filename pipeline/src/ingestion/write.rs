//! The last stages of ingestion: write documents beside their live versions, wait until the indexes have them, make them live.
//!
//! The next batch is written while the indexes catch up with the one before.

use std::time::Duration;

use tokio::{
    sync::mpsc,
    time::{Instant, timeout_at},
};
use tracing::info;

use super::{
    embed::{Embed, Embedded},
    manifest::Entry,
    prepare::{Prepare, Prepared, Ready, internal},
    stage::IngestionParts,
    tally::Tally,
};
use crate::{
    domain::{ChunkCounts, DocumentFailure, Job, JobId, JobStatus, LogPosition, Published, StagedDocument},
    ports::{ErrorKind, PortError, Staged},
    stage::StageError,
};

/// A batch is written when it has so many chunks …
const BATCH_CHUNKS: usize = 256;

/// … or so many documents …
const BATCH_DOCUMENTS: usize = 64;

/// … or when its first document has waited for so long. What a batch costs in the store and the indexes hardly depends on how much
/// is in it.
const LINGER: Duration = Duration::from_secs(2);

/// How often a document is begun anew when somebody else replaced it in between.
const CONFLICTS: usize = 5;

/// How long the indexes may come no further before a job gives up waiting for them.
const STANDSTILL: Duration = Duration::from_secs(120);

/// How often it is looked whether they do.
const LOOK: Duration = Duration::from_secs(30);

/// Writes the documents of one job.
pub(super) struct Write<'a> {
    pub(super) parts: &'a IngestionParts,
    pub(super) job: &'a Job,
    pub(super) prepare: &'a Prepare<'a>,
    pub(super) embed: &'a Embed<'a>,
    pub(super) tally: &'a Tally<'a>,
}

/// A document that is staged or about to be.
struct OnItsWay {
    entry: Entry,
    chunks: ChunkCounts,
    embedded_at: Instant,
    /// Keeps its memory until it is published; then others may come in.
    _held: Option<super::budget::Held>,
}

/// Documents that are staged together.
pub(super) struct Batch {
    documents: Vec<OnItsWay>,
    staged: Vec<Staged>,
}

impl Write<'_> {
    /// Writes what comes, batch by batch.
    pub(super) async fn stage_all(
        &self,
        mut embedded: mpsc::UnboundedReceiver<Embedded>,
        batches: mpsc::UnboundedSender<Batch>,
    ) -> Result<(), StageError> {
        let mut left_over = None;
        loop {
            let first = match left_over.take() {
                Some(first) => first,
                None => match embedded.recv().await {
                    Some(first) => first,
                    None => break,
                },
            };
            let batch;
            (batch, left_over) = gather(first, &mut embedded).await;
            if !self.stage(batch, &batches).await? {
                // Who receives has failed, and tells of it.
                return Ok(());
            }
        }
        self.tally.status(JobStatus::Indexing);
        Ok(())
    }

    /// Makes staged batches live, in order.
    pub(super) async fn publish_all(
        &self,
        mut batches: mpsc::UnboundedReceiver<Batch>,
    ) -> Result<(), StageError> {
        while let Some(batch) = batches.recv().await {
            if let Some(position) = batch.staged.iter().map(|staged| staged.position).max() {
                self.visible(position).await?;
            }
            self.publish(batch).await?;
        }
        Ok(())
    }

    /// Waits until searches see the documents as they are now: what was published last changes the indexes too, where a title or metadata
    /// became another one or chunks went.
    pub(super) async fn settle(&self) -> Result<(), StageError> {
        self.visible(self.parts.documents.head().await?).await
    }

    /// Waits until all indexes hold the change at a position, for as long as they get nearer to it.
    async fn visible(&self, position: LogPosition) -> Result<(), StageError> {
        let searchers = &self.parts.searchers;
        let (mut last, mut moved) = (Vec::new(), Instant::now());
        loop {
            match searchers.wait_for(position, LOOK).await {
                Err(error) if error.kind() == ErrorKind::Timeout => {
                    let mut reached = searchers.positions().await;
                    reached.sort_unstable();
                    if reached != last {
                        (last, moved) = (reached, Instant::now());
                    } else if moved.elapsed() >= STANDSTILL {
                        return Err(error.into());
                    }
                }
                done => return Ok(done?),
            }
        }
    }

    /// Stages a batch and sends it on. False where nobody receives it.
    async fn stage(
        &self,
        batch: Vec<Embedded>,
        batches: &mpsc::UnboundedSender<Batch>,
    ) -> Result<bool, StageError> {
        let (documents, staged): (Vec<_>, Vec<_>) =
            batch.into_iter().map(|one| OnItsWay::of(one, self.job.id)).unzip();
        // One that stands alone may be huge, and finds nobody else to blame.
        let spare = if staged.len() > 1 { staged.clone() } else { Vec::new() };
        let error = match self.parts.documents.stage(staged).await {
            Ok(staged) if staged.len() == documents.len() => {
                return Ok(batches.send(Batch { documents, staged }).is_ok());
            }
            Ok(_) => return Err(internal("the store staged another number of documents")),
            Err(error) if error.kind() == ErrorKind::Conflict => error,
            Err(error) => return Err(error.into()),
        };
        self.note_conflict(&error);
        // Somebody else replaced one of these, or several. Alone, each shows whether it was this one.
        let mut spare = spare.into_iter();
        for document in documents {
            let staged = match spare.next() {
                Some(spare) => match self.parts.documents.stage(vec![spare]).await {
                    Err(error) if error.kind() == ErrorKind::Conflict => None,
                    staged => Some(staged?),
                },
                None => None,
            };
            let sent = match staged {
                Some(staged) => batches.send(Batch { documents: vec![document], staged }).is_ok(),
                None => {
                    self.anew(&document).await?;
                    true
                }
            };
            if !sent {
                return Ok(false);
            }
        }
        Ok(true)
    }

    async fn publish(&self, batch: Batch) -> Result<(), StageError> {
        match self.parts.documents.publish(&batch.staged).await {
            Ok(published) => self.count(&batch, &published),
            Err(error) if error.kind() == ErrorKind::Conflict => {
                self.note_conflict(&error);
                let Batch { documents, staged } = batch;
                for (document, staged) in documents.into_iter().zip(staged) {
                    let batch = Batch { documents: vec![document], staged: vec![staged] };
                    match self.parts.documents.publish(&batch.staged).await {
                        Ok(published) => self.count(&batch, &published),
                        Err(error) if error.kind() == ErrorKind::Conflict => {
                            for document in &batch.documents {
                                self.anew(document).await?;
                            }
                        }
                        Err(error) => return Err(error.into()),
                    }
                }
            }
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    /// From here on a search for the new versions finds all of them.
    fn count(&self, batch: &Batch, published: &[Published]) {
        self.parts.searchers.hint();
        for (document, published) in batch.documents.iter().zip(published) {
            let chunks = ChunkCounts { deleted: published.deleted_chunks, ..document.chunks };
            self.tally.written(published.created, chunks, document.embedded_at.elapsed());
        }
    }

    fn note_conflict(&self, error: &PortError) {
        info!(job_id = %self.job.id, %error, "document was replaced meanwhile; comparing again");
    }

    /// Begins a document anew, alone, from its source: it is compared with what is live now.
    async fn anew(&self, document: &OnItsWay) -> Result<(), StageError> {
        for _ in 0..CONFLICTS {
            let mut ready = match self.prepare.item(&document.entry).await? {
                Prepared::Unchanged(document) => {
                    self.tally.unchanged(document.chunks);
                    return Ok(());
                }
                Prepared::Done(receipt) => {
                    self.tally.done_before(&receipt);
                    return Ok(());
                }
                Prepared::Failed(failure) => {
                    self.tally.failed(document.entry.number, failure);
                    return Ok(());
                }
                Prepared::Ready(ready) => ready,
            };
            self.embed.one(&mut ready).await?;
            match self.write_alone(ready).await {
                Err(Failure::Conflict(error)) => self.note_conflict(&error),
                Err(Failure::Stage(error)) => return Err(error),
                Ok(()) => return Ok(()),
            }
        }
        let failure = DocumentFailure {
            external_id: document.entry.item().map(|item| item.external_id).unwrap_or_default(),
            code: "conflict".to_owned(),
            message: "the document was replaced by other jobs again and again; send it again".to_owned(),
        };
        self.tally.failed(document.entry.number, failure);
        Ok(())
    }

    async fn write_alone(&self, ready: Box<Ready>) -> Result<(), Failure> {
        let (document, staged) = OnItsWay::of(Embedded { ready, at: Instant::now() }, self.job.id);
        let staged = self.parts.documents.stage(vec![staged]).await?;
        let Some(position) = staged.first().map(|staged| staged.position) else {
            return Err(Failure::Stage(internal("the store staged no document")));
        };
        self.visible(position).await.map_err(Failure::Stage)?;
        let batch = Batch { documents: vec![document], staged };
        let published = self.parts.documents.publish(&batch.staged).await?;
        self.count(&batch, &published);
        Ok(())
    }
}

impl OnItsWay {
    /// A document and what the store is to write of it.
    fn of(embedded: Embedded, job: JobId) -> (Self, StagedDocument) {
        let Ready { entry, document, text, new, kept, tokens, held } = *embedded.ready;
        let chunks = ChunkCounts { embedded: new.len() as u64, unchanged: kept.len() as u64, deleted: 0 };
        let staged = StagedDocument {
            document,
            text,
            new_chunks: new.into_iter().map(|new| new.chunk).collect(),
            kept_chunks: kept,
            job: Some(job),
            tokens,
        };
        (Self { entry, chunks, embedded_at: embedded.at, _held: held }, staged)
    }
}

/// Adds to a document those that come soon after it, as many as make a batch; and one that came and was too much. A document
/// that is a batch by itself stands alone.
async fn gather(
    first: Embedded,
    more: &mut mpsc::UnboundedReceiver<Embedded>,
) -> (Vec<Embedded>, Option<Embedded>) {
    let due = Instant::now() + LINGER;
    let mut chunks = first.ready.new.len();
    let mut batch = vec![first];
    while chunks < BATCH_CHUNKS && batch.len() < BATCH_DOCUMENTS {
        match timeout_at(due, more.recv()).await {
            Ok(Some(next)) if chunks + next.ready.new.len() > BATCH_CHUNKS => return (batch, Some(next)),
            Ok(Some(next)) => {
                chunks += next.ready.new.len();
                batch.push(next);
            }
            // No more will come, or not soon.
            Ok(None) | Err(_) => break,
        }
    }
    (batch, None)
}

/// Why a document was not written.
enum Failure {
    /// A live version that it builds on was replaced meanwhile.
    Conflict(PortError),
    Stage(StageError),
}

impl From<PortError> for Failure {
    fn from(error: PortError) -> Self {
        if error.kind() == ErrorKind::Conflict { Self::Conflict(error) } else { Self::Stage(error.into()) }
    }
}
