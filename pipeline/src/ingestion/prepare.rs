//! The first stage of ingestion: from an item of the manifest to the chunks that its document needs anew.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use futures::{StreamExt, stream::FuturesUnordered};
use serde_json::json;
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;

use super::{
    budget::{Budget, Held},
    chunker::{ChunkDraft, chunk, content_hash, embedded_text, hex},
    manifest::{Entry, ManifestContent, ManifestItem},
    stage::IngestionParts,
    tally::Tally,
    word_tokenizer::WordTokenizer,
};
use crate::{
    domain::{
        Chunk, ChunkId, Document, DocumentFailure, DocumentId, Job, JobError, Metadata, Placement, Receipt,
        now,
    },
    pipelines::IndexingPipeline,
    ports::{ParseError, ParsedDocument, SourceFile, Tokenize},
    stage::StageError,
};

/// Raised when parsing, cleaning or chunking changes what it makes of the same file, so that documents are taken in anew.
const REVISION: u32 = 1;

/// How many items of a job are looked at at the same time. What is parsed at the same time is fewer: most of an item's time goes
/// into waiting for the store.
const AHEAD: usize = 32;

/// Source below this size is read and hashed where it is; more goes to a thread that may take its time.
const SMALL: u64 = 64 << 10;

/// What a document takes in memory for each byte of its source, before more is known of it: source, text, chunks.
const EXPANSION: u64 = 4;

/// What came of an item.
pub(super) enum Prepared {
    /// It is as it was.
    Unchanged(Box<Document>),
    /// It is as an earlier attempt of this job left it.
    Done(Receipt),
    /// It is to be written.
    Ready(Box<Ready>),
    /// It could not be read.
    Failed(DocumentFailure),
}

/// A document, read, cut, and compared with its live version.
pub(super) struct Ready {
    /// Where it came from, should it have to be begun anew.
    pub(super) entry: Entry,
    pub(super) document: Document,
    pub(super) text: String,
    /// Chunks that the live version does not have.
    pub(super) new: Vec<NewChunk>,
    /// Chunks that stay, with their new places.
    pub(super) kept: Vec<(ChunkId, Placement)>,
    /// Tokens that the model has read for it.
    pub(super) tokens: u64,
    /// Given back when it is done with.
    pub(super) held: Option<Held>,
}

/// A chunk that is to be embedded and written.
pub(super) struct NewChunk {
    pub(super) chunk: Chunk,
    /// About how many tokens the model will read of it.
    pub(super) tokens: u32,
}

impl Ready {
    /// Tokens that are to be embedded, about.
    pub(super) fn expected_tokens(&self) -> u64 {
        self.new.iter().map(|new| u64::from(new.tokens)).sum()
    }

    /// Bytes in memory, about, once its vectors of `dimension` numbers are there.
    fn footprint(&self, dimension: usize) -> u64 {
        let chunk = |new: &NewChunk| {
            new.chunk.text.len() + size_of::<NewChunk>() + dimension * size_of::<f32>() + 256
        };
        let chunks: usize = self.new.iter().map(chunk).sum();
        (self.text.len() + chunks + self.kept.len() * size_of::<(ChunkId, Placement)>()) as u64
    }
}

/// Prepares the items of one job.
pub(super) struct Prepare<'a> {
    parts: &'a IngestionParts,
    budget: &'a Budget,
    job: &'a Job,
    pipeline: &'a IndexingPipeline,
    tokenizer: Arc<dyn Tokenize>,
    /// The model's name; empty without one.
    model: String,
    /// Numbers of a vector; none without a model.
    dimension: usize,
}

impl<'a> Prepare<'a> {
    pub(super) fn new(
        parts: &'a IngestionParts,
        budget: &'a Budget,
        job: &'a Job,
        pipeline: &'a IndexingPipeline,
    ) -> Self {
        let (tokenizer, model, dimension): (Arc<dyn Tokenize>, String, usize) = match parts.embedder.get() {
            Some(embedder) => {
                let info = embedder.info();
                (embedder.tokenizer(), info.model.clone(), info.dimension)
            }
            None => (Arc::new(WordTokenizer), String::new(), 0),
        };
        Self { parts, budget, job, pipeline, tokenizer, model, dimension }
    }

    /// Prepares all items, several at a time, and sends on what is to be written. What came of an item may come before what
    /// came of an earlier one: a file that takes long holds up no other.
    pub(super) async fn all(
        &self,
        entries: Vec<Entry>,
        tally: &Tally<'_>,
        ready: mpsc::Sender<Box<Ready>>,
    ) -> Result<(), StageError> {
        let mut entries = entries.into_iter();
        let mut working = FuturesUnordered::new();
        let mut done = VecDeque::new();
        loop {
            while working.len() + done.len() < AHEAD
                && let Some(entry) = entries.next()
            {
                working.push(self.admitted(entry));
            }
            // Those that are being worked on go on while nobody takes what is done: they may have what others wait for.
            tokio::select! {
                Some((entry, held, prepared)) = working.next() => {
                    if let Some(document) = self.told(entry, held, prepared?, tally) {
                        done.push_back(document);
                    }
                }
                place = ready.reserve(), if !done.is_empty() => match (place, done.pop_front()) {
                    (Ok(place), Some(document)) => place.send(document),
                    // Who receives has failed, and tells of it.
                    _ => return Ok(()),
                },
                else => return Ok(()),
            }
        }
    }

    /// Stands in line for memory, and prepares an item. First polled in the manifest's order, so that the line is in that order.
    async fn admitted(&self, entry: Entry) -> (Entry, Held, Result<Prepared, StageError>) {
        let held = self.budget.memory.admit(entry.bytes.saturating_mul(EXPANSION)).await;
        let prepared = self.item(&entry).await;
        (entry, held, prepared)
    }

    /// Tells the tally what came of an item; gives what is to be written of it.
    fn told(
        &self,
        entry: Entry,
        mut held: Held,
        prepared: Prepared,
        tally: &Tally<'_>,
    ) -> Option<Box<Ready>> {
        match prepared {
            Prepared::Unchanged(document) => {
                tally.read(entry.bytes, 0);
                tally.unchanged(document.chunks);
            }
            Prepared::Done(receipt) => {
                tally.read(entry.bytes, 0);
                tally.done_before(&receipt);
            }
            Prepared::Failed(failure) => {
                tally.read(entry.bytes, 0);
                tally.failed(entry.number, failure);
            }
            Prepared::Ready(mut document) => {
                tally.read(entry.bytes, document.expected_tokens());
                held.set(document.footprint(self.dimension));
                document.held = Some(held);
                return Some(document);
            }
        }
        None
    }

    /// Reads and cuts one item, unless its document is as it would become.
    pub(super) async fn item(&self, entry: &Entry) -> Result<Prepared, StageError> {
        let item = self.manifest_item(entry).await?;
        let mut file = match self.source(&item).await? {
            Ok(file) => file,
            Err(failure) => return Ok(failure),
        };
        let fingerprint = self.fingerprint(&item, &mut file).await?;
        let documents = &self.parts.documents;
        let id = documents.resolve(&self.job.tenant, &item.collection, &item.external_id).await?;
        let live = documents.get(&self.job.tenant, id).await?;
        let is_new = live.is_none();
        if let Some(live) = live.filter(|live| live.fingerprint == fingerprint) {
            // An attempt before this one may have written it.
            return Ok(match documents.receipt(id).await? {
                Some(receipt) if receipt.job == self.job.id => Prepared::Done(receipt),
                _ => Prepared::Unchanged(Box::new(live)),
            });
        }
        let bytes = file.bytes.len() as u64;
        let cut = match self.read(id, file, item.title).await? {
            Ok(cut) => cut,
            Err(error) => return Ok(failed(&item.external_id, error.code(), error.to_string())),
        };
        let at = now();
        let mut metadata = cut.metadata;
        metadata.extend(item.metadata);
        let document = Document {
            id,
            tenant: self.job.tenant.clone(),
            collection: item.collection,
            external_id: item.external_id,
            title: cut.title,
            uri: item.uri,
            media_type: cut.media_type,
            metadata,
            fingerprint,
            version: 0,
            chunks: cut.chunks.len() as u64,
            bytes,
            created_at: at,
            updated_at: at,
        };
        let (new, kept) =
            if is_new { (cut.chunks, Vec::new()) } else { self.compare(id, cut.chunks).await? };
        let entry = entry.clone();
        Ok(Prepared::Ready(Box::new(Ready {
            entry,
            document,
            text: cut.text,
            new,
            kept,
            tokens: 0,
            held: None,
        })))
    }

    async fn manifest_item(&self, entry: &Entry) -> Result<ManifestItem, StageError> {
        let item = if entry.bytes < SMALL {
            entry.item()
        } else {
            let entry = entry.clone();
            off_runtime(move || entry.item()).await?
        };
        item.map_err(|error| {
            StageError::Permanent(JobError::permanent("manifest_corrupt", error.to_string()))
        })
    }

    /// The item's file, or why it has none.
    async fn source(&self, item: &ManifestItem) -> Result<Result<SourceFile, Prepared>, StageError> {
        Ok(match &item.content {
            ManifestContent::Text { text, media_type } => Ok(SourceFile {
                name: item.external_id.clone(),
                media_type: Some(media_type.clone().unwrap_or_else(|| "text/plain".to_owned())),
                bytes: Bytes::from(text.clone().into_bytes()),
            }),
            ManifestContent::Blob { key, file_name, media_type, .. } => {
                let file = self.parts.lifecycle.blobs.get(key).await?.map(|bytes| SourceFile {
                    name: file_name.clone(),
                    media_type: media_type.clone(),
                    bytes,
                });
                file.ok_or_else(|| {
                    failed(&item.external_id, "upload_missing", "the uploaded file is gone".to_owned())
                })
            }
            ManifestContent::Refused { code, message } => {
                Err(failed(&item.external_id, code, message.clone()))
            }
        })
    }

    /// A hash of all that decides what the document becomes.
    async fn fingerprint(&self, item: &ManifestItem, file: &mut SourceFile) -> Result<String, StageError> {
        let decides = json!([
            REVISION,
            item.title,
            item.uri,
            item.metadata,
            file.media_type,
            file.name,
            self.pipeline,
            self.model
        ]);
        let bytes = file.bytes.clone();
        let hash = move || {
            let mut hasher = Sha256::new();
            hasher.update(decides.to_string().as_bytes());
            hasher.update([0]);
            hasher.update(&bytes);
            hex(&hasher.finalize())
        };
        if (file.bytes.len() as u64) < SMALL { Ok(hash()) } else { off_runtime(hash).await }
    }

    /// Parses and cuts on a thread of its own. A parser that takes too long is left behind on its thread: there is no safe way to stop it.
    async fn read(
        &self,
        id: DocumentId,
        file: SourceFile,
        title: Option<String>,
    ) -> Result<Result<Cut, ParseError>, StageError> {
        let (parser, tokenizer) = (self.parts.parser.clone(), self.tokenizer.clone());
        let settings = self.pipeline.chunk;
        let seconds = self.pipeline.parse.timeout_s;
        // Its time begins when it is its turn.
        let _turn = self.budget.readers.acquire().await;
        let work = tokio::task::spawn_blocking(move || {
            let parsed = parser.parse(&file)?;
            let title = title
                .or_else(|| parsed.title.clone())
                .unwrap_or_else(|| file.name.rsplit(['/', '\\']).next().unwrap_or_default().to_owned());
            let drafts = chunk(&parsed, &title, tokenizer.as_ref(), &settings);
            if drafts.is_empty() {
                return Err(ParseError::Empty("nothing is left after cleaning".to_owned()));
            }
            let chunks = identify(id, &title, drafts);
            let ParsedDocument { text, media_type, metadata, .. } = parsed;
            Ok(Cut { text, media_type, metadata, title, chunks })
        });
        Ok(match tokio::time::timeout(Duration::from_secs(seconds), work).await {
            Ok(Ok(cut)) => cut,
            Ok(Err(error)) => Err(ParseError::Corrupt(format!("its parser failed: {error}"))),
            Err(_) => Err(ParseError::Timeout(seconds)),
        })
    }

    /// What of a document's chunks is new, compared with its live version, and what stays.
    async fn compare(
        &self,
        id: DocumentId,
        chunks: Vec<NewChunk>,
    ) -> Result<(Vec<NewChunk>, Vec<(ChunkId, Placement)>), StageError> {
        let live = self.parts.documents.chunk_ids(id).await?;
        let stays: HashSet<ChunkId> = live
            .into_iter()
            // Without a model now, a vector of before does no harm.
            .filter(|(_, held)| self.model.is_empty() || held.as_deref() == Some(self.model.as_str()))
            .map(|(id, _)| id)
            .collect();
        let (kept, new): (Vec<_>, Vec<_>) = chunks.into_iter().partition(|new| stays.contains(&new.chunk.id));
        Ok((new, kept.into_iter().map(|kept| (kept.chunk.id, kept.chunk.place)).collect()))
    }
}

/// A file, read and cut.
struct Cut {
    text: String,
    media_type: String,
    metadata: Metadata,
    title: String,
    chunks: Vec<NewChunk>,
}

/// Gives chunks their ids: equal content in one document is told apart by counting.
fn identify(id: DocumentId, title: &str, drafts: Vec<ChunkDraft>) -> Vec<NewChunk> {
    let mut seen: HashMap<String, u32> = HashMap::new();
    (0u32..)
        .zip(drafts)
        .map(|(ordinal, draft)| {
            let content_hash = content_hash(&embedded_text(title, &draft.heading_path, &draft.text));
            let occurrence = seen.entry(content_hash.clone()).or_default();
            let id = ChunkId::derive(id, &content_hash, *occurrence);
            *occurrence += 1;
            let place = Placement { ordinal, start: draft.start_char, end: draft.end_char };
            let chunk = Chunk {
                id,
                content_hash,
                heading_path: draft.heading_path,
                text: draft.text,
                place,
                embedding: None,
            };
            NewChunk { chunk, tokens: u32::try_from(draft.tokens).unwrap_or(u32::MAX) }
        })
        .collect()
}

fn failed(external_id: &str, code: &str, message: String) -> Prepared {
    Prepared::Failed(DocumentFailure { external_id: external_id.to_owned(), code: code.to_owned(), message })
}

async fn off_runtime<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, StageError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| internal(&format!("a document was not read to its end: {error}")))
}

/// The job's own error for what should not happen.
pub(super) fn internal(message: &str) -> StageError {
    StageError::Retry { error: JobError::retryable("internal", message), after: None }
}
