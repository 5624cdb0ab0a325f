//! [`KeywordIndex`] on local disk, on tantivy.
//!
//! Every batch of changes is one commit, which is durable and carries the log position it brings the index to, so
//! [`save`](Replica::save) has nothing to do. A commit costs 10 to 50 ms whatever is in it: whoever feeds the index does so in batches.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use raglan_pipeline::{
    domain::{Change, LogPosition},
    ports::{ErrorKind, Hit, KeywordIndex, PortError, PortResult, Replica, SearchScope},
};
use tantivy::{
    IndexReader, IndexWriter, Searcher, TantivyDocument, collector::DocSetCollector, query::TermQuery,
    schema::IndexRecordOption,
};
use tokio::sync::Semaphore;
use uuid::Uuid;

use super::{
    analysis::Analyser,
    batch::{Batch, Put},
    language::Tongue,
    schema::Fields,
    search::Search,
    storage::{self, Opened, failed},
};
use crate::replica::{self, Held, Progress};

/// How much a word counts by where it stands. 0 leaves the place out.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TantivySettings {
    /// In the title, on top of what it counts for as a part of the whole.
    pub title: f32,
    /// In the headings above the chunk, on top of what it counts for as a part of the whole.
    pub headings: f32,
    /// Anywhere: title, headings and text as one.
    pub body: f32,
}

impl Default for TantivySettings {
    fn default() -> Self {
        Self { title: 0.2, headings: 0.2, body: 1.0 }
    }
}

/// A keyword index on local disk.
pub struct TantivyIndex {
    inner: Arc<Inner>,
    searches: Arc<Semaphore>,
}

struct Inner {
    dir: PathBuf,
    settings: TantivySettings,
    fields: Fields,
    analyser: Analyser,
    progress: Progress,
    reader: Mutex<IndexReader>,
    /// Held by whoever changes the index.
    writing: Mutex<Writing>,
}

struct Writing {
    opened: Opened,
    /// None after an error: tantivy's writer is of no use then, and a new one begins at the last commit.
    writer: Option<IndexWriter>,
}

impl TantivyIndex {
    /// Opens the index in a folder of its own, with the usual settings. What is torn, unreadable or of another release's format is removed, and
    /// the index starts empty. Reads the whole index to check it: not for an async thread.
    ///
    /// # Errors
    /// `Unavailable` where the folder cannot be used, or another process uses it.
    pub fn open(dir: &Path) -> PortResult<Self> {
        Self::open_with(dir, TantivySettings::default())
    }

    /// [`open`](Self::open), with other settings. They count for searches only: any can be changed on an index that is there.
    ///
    /// # Errors
    /// As [`open`](Self::open), and `Invalid` for a weight that is negative or not a number.
    pub fn open_with(dir: &Path, settings: TantivySettings) -> PortResult<Self> {
        let weights = [settings.title, settings.headings, settings.body];
        if weights.iter().any(|weight| !weight.is_finite() || *weight < 0.0) {
            return Err(PortError::new(
                ErrorKind::Invalid,
                format!("weights must be 0 or more, not {weights:?}"),
            ));
        }
        let fields = Fields::new();
        let (opened, held) = storage::open(dir, &fields)?;
        let inner = Inner {
            dir: dir.to_owned(),
            settings,
            fields,
            analyser: Analyser::new(),
            progress: Progress::new(held),
            reader: Mutex::new(opened.reader.clone()),
            writing: Mutex::new(Writing { writer: Some(storage::writer(&opened.index)?), opened }),
        };
        Ok(Self { inner: Arc::new(inner), searches: Arc::new(Semaphore::new(replica::search_threads())) })
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Inner) -> PortResult<T> + Send + 'static,
    ) -> PortResult<T> {
        let inner = self.inner.clone();
        replica::blocking(move || work(&inner)).await
    }
}

#[async_trait]
impl Replica for TantivyIndex {
    fn name(&self) -> &'static str {
        "keyword"
    }

    fn position(&self) -> LogPosition {
        self.inner.progress.get().position
    }

    fn history(&self) -> Option<Uuid> {
        self.inner.progress.get().history
    }

    async fn apply(&self, changes: Vec<Change>) -> PortResult<()> {
        self.blocking(move |inner| inner.apply(changes)).await
    }

    async fn save(&self) -> PortResult<()> {
        Ok(())
    }

    async fn reset(&self, history: Uuid) -> PortResult<()> {
        self.blocking(move |inner| inner.reset(history)).await
    }

    async fn count(&self) -> PortResult<u64> {
        Ok(self.inner.progress.get().count)
    }
}

#[async_trait]
impl KeywordIndex for TantivyIndex {
    async fn search(&self, text: &str, scope: &SearchScope) -> PortResult<Vec<Hit>> {
        let (text, scope) = (text.to_owned(), scope.clone());
        let permit = self.searches.clone().acquire_owned().await.map_err(|error| {
            PortError::new(ErrorKind::Unavailable, "the keyword index is closed").with_source(error)
        })?;
        self.blocking(move |inner| {
            let _permit = permit;
            let search = Search {
                searcher: &inner.searcher(),
                fields: &inner.fields,
                settings: &inner.settings,
                scope: &scope,
            };
            search.run(&inner.analyser, &text)
        })
        .await
    }
}

impl Inner {
    fn apply(&self, mut changes: Vec<Change>) -> PortResult<()> {
        let mut writing = self.writing();
        let held = self.progress.get();
        changes.retain(|change| change.position > held.position);
        let Some(position) = changes.last().map(|change| change.position) else { return Ok(()) };
        let batch = Batch::of(&changes);
        // Put back only when all went well.
        let mut writer = match writing.writer.take() {
            Some(writer) => writer,
            None => storage::writer(&writing.opened.index)?,
        };
        self.write(&writer, &writing.opened.reader.searcher(), &batch)?;
        storage::commit(&mut writer, Held { position, ..held })?;
        writing.opened.reader.reload().map_err(failed)?;
        let count = writing.opened.reader.searcher().num_docs();
        self.progress.set(Held { position, history: held.history, count });
        writing.writer = Some(writer);
        Ok(())
    }

    /// Writes a batch; `before` is the index as it was.
    fn write(&self, writer: &IndexWriter, before: &Searcher, batch: &Batch<'_>) -> PortResult<()> {
        let fields = &self.fields;
        for document in &batch.deleted_documents {
            writer.delete_term(fields.document_term(*document));
        }
        for chunk in &batch.deleted_chunks {
            writer.delete_term(fields.chunk_term(*chunk));
        }
        for (id, document) in &batch.changed_documents {
            let entries = TermQuery::new(fields.document_term(*id), IndexRecordOption::Basic);
            let entries = before.search(&entries, &DocSetCollector).map_err(failed)?;
            writer.delete_term(fields.document_term(*id));
            for entry in entries {
                let stored: TantivyDocument = before.doc(entry).map_err(failed)?;
                let (chunk, tongue) = fields.stored_chunk(&stored).ok_or_else(|| {
                    PortError::new(ErrorKind::Corrupt, "an entry of the keyword index lacks a field")
                })?;
                if batch.keeps(*id, chunk.id) {
                    let tongue = Tongue::of_metadata(&document.metadata).unwrap_or(tongue);
                    let entry = fields.entry(&self.analyser, tongue, document, &chunk);
                    writer.add_document(entry).map_err(failed)?;
                }
            }
        }
        for Put { document, chunk, tongue } in batch.puts.values() {
            writer.delete_term(fields.chunk_term(chunk.id));
            let entry = fields.entry(&self.analyser, *tongue, document, chunk);
            writer.add_document(entry).map_err(failed)?;
        }
        Ok(())
    }

    /// The files go too: they may be what is wrong.
    fn reset(&self, history: Uuid) -> PortResult<()> {
        let mut writing = self.writing();
        writing.writer = None;
        writing.opened = storage::make_anew(&self.dir, &self.fields)?;
        let mut writer = storage::writer(&writing.opened.index)?;
        let held = Held { position: 0, history: Some(history), count: 0 };
        storage::commit(&mut writer, held)?;
        writing.opened.reader.reload().map_err(failed)?;
        *self.reader.lock().unwrap_or_else(PoisonError::into_inner) = writing.opened.reader.clone();
        self.progress.set(held);
        writing.writer = Some(writer);
        Ok(())
    }

    fn searcher(&self) -> Searcher {
        self.reader.lock().unwrap_or_else(PoisonError::into_inner).searcher()
    }

    /// A panic leaves no writer behind, and what was not committed is forgotten: nothing to repair.
    fn writing(&self) -> MutexGuard<'_, Writing> {
        self.writing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
