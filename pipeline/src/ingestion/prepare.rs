//! The first half of ingestion: from an item of the manifest to chunks.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use serde_json::json;
use sha2::{Digest, Sha256};

use super::{
    chunker::{ChunkDraft, chunk, content_hash, embedded_text},
    manifest::{ManifestContent, ManifestItem},
    stage::IngestionParts,
    word_tokenizer::WordTokenizer,
};
use crate::{
    domain::{Chunk, ChunkId, Document, DocumentFailure, Job, JobError, Placement, now},
    pipelines::IndexingPipeline,
    ports::{ParseError, ParsedDocument, SourceFile, Tokenize},
    stage::StageError,
};

/// Raised when parsing, cleaning or chunking changes what it makes of the same file, so that documents are taken in anew.
const REVISION: u32 = 1;

/// What came of an item.
pub(super) enum Prepared {
    /// It is as it was.
    Unchanged(Box<Document>),
    /// It is to be written.
    Ready(Box<Ready>),
    /// It could not be read.
    Failed(DocumentFailure),
}

/// A document, read and cut.
pub(super) struct Ready {
    pub(super) document: Document,
    pub(super) text: String,
    pub(super) chunks: Vec<ReadyChunk>,
}

/// A chunk with the text that its vector is made of.
pub(super) struct ReadyChunk {
    pub(super) chunk: Chunk,
    pub(super) embedded_text: String,
}

/// Prepares the items of one job.
pub(super) struct Prepare<'a> {
    parts: &'a Arc<IngestionParts>,
    job: &'a Job,
    pipeline: &'a IndexingPipeline,
    tokenizer: Arc<dyn Tokenize>,
    /// The model's name; empty without one.
    model: String,
}

impl<'a> Prepare<'a> {
    pub(super) fn new(parts: &'a Arc<IngestionParts>, job: &'a Job, pipeline: &'a IndexingPipeline) -> Self {
        let (tokenizer, model): (Arc<dyn Tokenize>, String) = match parts.embedder.get() {
            Some(embedder) => (embedder.tokenizer(), embedder.info().model.clone()),
            None => (Arc::new(WordTokenizer), String::new()),
        };
        Self { parts, job, pipeline, tokenizer, model }
    }

    /// Reads and cuts one item, unless its document is as it would become.
    pub(super) async fn item(&self, item: ManifestItem) -> Result<Prepared, StageError> {
        let file = match self.source(&item).await? {
            Ok(file) => file,
            Err(failure) => return Ok(failure),
        };
        let fingerprint = self.fingerprint(&item, &file);
        let documents = &self.parts.documents;
        let id = documents.resolve(&self.job.tenant, &item.collection, &item.external_id).await?;
        if let Some(live) = documents.get(&self.job.tenant, id).await?
            && live.fingerprint == fingerprint
        {
            return Ok(Prepared::Unchanged(Box::new(live)));
        }
        let bytes = file.bytes.len() as u64;
        let external_id = item.external_id.clone();
        let cut = match self.read(file, item.title.clone()).await {
            Ok(cut) => cut,
            Err(error) => return Ok(failed(&external_id, error.code(), error.to_string())),
        };
        let at = now();
        let mut metadata = cut.parsed.metadata;
        metadata.extend(item.metadata);
        let document = Document {
            id,
            tenant: self.job.tenant.clone(),
            collection: item.collection,
            external_id: item.external_id,
            title: cut.title,
            uri: item.uri,
            media_type: cut.parsed.media_type,
            metadata,
            fingerprint,
            version: 0,
            chunks: cut.drafts.len() as u64,
            bytes,
            created_at: at,
            updated_at: at,
        };
        let chunks = identify(&document, cut.drafts);
        Ok(Prepared::Ready(Box::new(Ready { document, text: cut.parsed.text, chunks })))
    }

    /// The item's file, or why it has none.
    async fn source(&self, item: &ManifestItem) -> Result<Result<SourceFile, Prepared>, StageError> {
        Ok(match &item.content {
            ManifestContent::Text { text, media_type } => Ok(SourceFile {
                name: item.external_id.clone(),
                media_type: Some(media_type.clone().unwrap_or_else(|| "text/plain".to_owned())),
                bytes: Bytes::from(text.clone().into_bytes()),
            }),
            ManifestContent::Blob { key, file_name, media_type } => {
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
    fn fingerprint(&self, item: &ManifestItem, file: &SourceFile) -> String {
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
        let mut hasher = Sha256::new();
        hasher.update(decides.to_string().as_bytes());
        hasher.update([0]);
        hasher.update(&file.bytes);
        format!("{:x}", hasher.finalize())
    }

    /// Parses and cuts on a thread of its own. A parser that takes too long is left behind on its thread: there is no safe way to stop it.
    async fn read(&self, file: SourceFile, title: Option<String>) -> Result<Cut, ParseError> {
        let (parser, tokenizer) = (self.parts.parser.clone(), self.tokenizer.clone());
        let settings = self.pipeline.chunk;
        let work = tokio::task::spawn_blocking(move || {
            let parsed = parser.parse(&file)?;
            let title = title
                .or_else(|| parsed.title.clone())
                .unwrap_or_else(|| file.name.rsplit(['/', '\\']).next().unwrap_or_default().to_owned());
            let drafts = chunk(&parsed, &title, tokenizer.as_ref(), &settings);
            if drafts.is_empty() {
                return Err(ParseError::Empty("nothing is left after cleaning".to_owned()));
            }
            Ok(Cut { parsed, title, drafts })
        });
        let seconds = self.pipeline.parse.timeout_s;
        match tokio::time::timeout(Duration::from_secs(seconds), work).await {
            Ok(Ok(cut)) => cut,
            Ok(Err(error)) => Err(ParseError::Corrupt(format!("its parser failed: {error}"))),
            Err(_) => Err(ParseError::Timeout(seconds)),
        }
    }
}

/// A file, read and cut.
struct Cut {
    parsed: ParsedDocument,
    title: String,
    drafts: Vec<ChunkDraft>,
}

/// Gives chunks their ids: equal content in one document is told apart by counting.
fn identify(document: &Document, drafts: Vec<ChunkDraft>) -> Vec<ReadyChunk> {
    let mut seen: std::collections::HashMap<String, u32> = std::collections::HashMap::new();
    (0u32..)
        .zip(drafts)
        .map(|(ordinal, draft)| {
            let embedded_text = embedded_text(&document.title, &draft.heading_path, &draft.text);
            let content_hash = content_hash(&embedded_text);
            let occurrence = seen.entry(content_hash.clone()).or_default();
            let id = ChunkId::derive(document.id, &content_hash, *occurrence);
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
            ReadyChunk { chunk, embedded_text }
        })
        .collect()
}

fn failed(external_id: &str, code: &str, message: String) -> Prepared {
    Prepared::Failed(DocumentFailure { external_id: external_id.to_owned(), code: code.to_owned(), message })
}

/// The job's own error for what should not happen.
pub(super) fn internal(message: &str) -> StageError {
    StageError::Retry { error: JobError::retryable("internal", message), after: None }
}
