//! [`VectorIndex`] in this process, on usearch: HNSW graphs in memory, saved to local disk.
//!
//! Each (tenant, collection) has a graph of its own. A search is always within one collection, so a small collection beside a large one
//! costs no recall and no time, tenants are apart by construction, and a collection that goes takes its graph along.
//!
//! A search goes through the graph or past every vector that the filter leaves, whichever costs less (see [`plan`](super::plan)).
//!
//! Deleting leaves the vector in the graph as a stepping stone that no search returns; a graph that is worn is built anew
//! in the background (see [`compaction`](super::compaction)). usearch's own removal would reuse the place of a removed vector while its neighbours still
//! point there, which costs recall with every update.

use std::{
    collections::HashMap,
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
};

use async_trait::async_trait;
use raglan_pipeline::{
    domain::{Change, ChangeKind, Document, DocumentId, IndexChunk, LogPosition},
    ports::{ErrorKind, Hit, PortError, PortResult, Replica, SearchScope, VectorIndex},
};
use tokio::sync::Semaphore;
use uuid::Uuid;

pub use super::plan::Way;
use super::{
    compaction,
    files::{Files, Loaded, Origin},
    graph::{Query, Shape, norm},
    plan::Case,
    rows::Bytes,
    shard::{Scope, Shard},
};
use crate::replica::{self, Held, Progress, terms};

/// How graphs are built and searched. More of any costs time and brings recall.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UsearchSettings {
    /// Neighbours of each vector (M).
    pub connectivity: usize,
    /// Candidates kept while adding (ef construction).
    pub expansion_add: usize,
    /// Candidates kept while searching (ef) a collection of up to 100,000 vectors; larger collections and limits take more.
    pub expansion_search: usize,
}

impl Default for UsearchSettings {
    fn default() -> Self {
        Self { connectivity: 16, expansion_add: 200, expansion_search: 96 }
    }
}

/// What an index consists of.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct UsearchStats {
    /// Vectors that can be found.
    pub live: usize,
    /// Vectors that were deleted and are still in the graphs.
    pub dead: usize,
    /// Memory of the graphs with their vectors, in bytes.
    pub graph_bytes: usize,
    /// Memory of the vectors to scan, in bytes.
    pub row_bytes: usize,
    /// The instructions that a graph's distances are computed with, as usearch names them; `serial` where the processor has none of use.
    pub instructions: Option<String>,
}

/// A vector index in this process.
pub struct UsearchIndex {
    inner: Arc<Inner>,
    /// usearch has working memory for so many searches at once, and no more.
    searches: Arc<Semaphore>,
}

pub(super) type Compaction = Option<JoinHandle<()>>;

pub(super) struct Inner {
    origin: Origin,
    pub shape: Shape,
    progress: Progress,
    /// Searches read it. It is written for a moment at a time: vectors are added to graphs under the reader's lock.
    state: RwLock<State>,
    /// Held by whoever changes or saves the index, so that one does at a time.
    files: Mutex<Files>,
    /// The thread that builds worn shards anew, or that did.
    pub compaction: Mutex<Compaction>,
    /// Whether the index is not used any more.
    pub closed: AtomicBool,
}

#[derive(Default)]
pub(super) struct State {
    pub shards: HashMap<Scope, Shard>,
    /// Where each document's chunks are.
    homes: HashMap<DocumentId, Scope>,
}

impl UsearchIndex {
    /// Opens the index that is saved in a folder of its own, with the usual settings. What is torn, of another model or of another
    /// dimension is removed, and the index starts empty. Reads from disk: not for an async thread.
    ///
    /// # Errors
    /// `Invalid` for a dimension of 0; `Unavailable` where the folder cannot be used.
    pub fn open(dir: &Path, model: String, dimension: usize) -> PortResult<Self> {
        Self::open_with(dir, model, dimension, UsearchSettings::default())
    }

    /// [`open`](Self::open), with other settings. Graphs that are there keep the connectivity that they were built with.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_with(
        dir: &Path,
        model: String,
        dimension: usize,
        settings: UsearchSettings,
    ) -> PortResult<Self> {
        if dimension == 0 {
            return Err(PortError::new(ErrorKind::Invalid, "a vector index needs at least one dimension"));
        }
        let threads = replica::search_threads();
        let shape = Shape { dimension, settings, threads };
        let origin = Origin { model, dimension };
        let (files, loaded) = Files::open(dir, &origin, shape)?;
        let (state, held) = loaded.map_or_else(Default::default, State::of);
        let inner = Inner {
            origin,
            shape,
            progress: Progress::new(held),
            state: RwLock::new(state),
            files: Mutex::new(files),
            compaction: Mutex::default(),
            closed: AtomicBool::new(false),
        };
        Ok(Self { inner: Arc::new(inner), searches: Arc::new(Semaphore::new(threads)) })
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Arc<Inner>) -> PortResult<T> + Send + 'static,
    ) -> PortResult<T> {
        let inner = self.inner.clone();
        replica::blocking(move || work(&inner)).await
    }

    /// How many candidates a walk keeps in a collection of so many vectors, when so many hits are wanted.
    #[must_use]
    pub fn candidates(&self, vectors: usize, limit: usize) -> usize {
        Case { all: vectors, allowed: vectors, limit }.candidates(&self.inner.shape.settings)
    }

    /// What it consists of now.
    ///
    /// # Errors
    /// `Corrupt` when a panic left it half-changed.
    pub fn stats(&self) -> PortResult<UsearchStats> {
        let state = self.inner.read()?;
        let mut stats = UsearchStats::default();
        for shard in state.shards.values() {
            stats.live += shard.table.len();
            stats.dead += shard.graph.len().saturating_sub(shard.table.len());
            stats.graph_bytes += shard.graph.memory();
            stats.row_bytes += shard.rows.memory();
            stats.instructions = Some(shard.graph.instructions());
        }
        Ok(stats)
    }

    /// [`search`](VectorIndex::search), one certain way. For measuring.
    ///
    /// # Errors
    /// As those of a search.
    pub async fn search_by(&self, vector: &[f32], scope: &SearchScope, way: Way) -> PortResult<Vec<Hit>> {
        let Origin { model, dimension } = &self.inner.origin;
        if vector.len() != *dimension {
            return Err(PortError::new(
                ErrorKind::Invalid,
                format!(
                    "the question's vector has {} dimensions, the index's have {dimension} (model {model})",
                    vector.len()
                ),
            ));
        }
        let query = Query::new(vector).ok_or_else(|| {
            PortError::new(
                ErrorKind::Invalid,
                "the question's vector is zero or has values that are not finite",
            )
        })?;
        let scope = scope.clone();
        let permit = self.searches.clone().acquire_owned().await.map_err(|error| {
            PortError::new(ErrorKind::Unavailable, "the vector index is closed").with_source(error)
        })?;
        self.blocking(move |inner| {
            let _permit = permit;
            inner.search(&query, &scope, way)
        })
        .await
    }
}

impl Drop for UsearchIndex {
    fn drop(&mut self) {
        self.inner.closed.store(true, Ordering::Relaxed);
    }
}

#[async_trait]
impl Replica for UsearchIndex {
    fn name(&self) -> &'static str {
        "vector"
    }

    fn position(&self) -> LogPosition {
        self.inner.progress.get().position
    }

    fn history(&self) -> Option<Uuid> {
        self.inner.progress.get().history
    }

    async fn apply(&self, changes: Vec<Change>) -> PortResult<()> {
        self.blocking(move |inner| {
            inner.apply(&changes)?;
            compaction::start(inner)
        })
        .await
    }

    async fn save(&self) -> PortResult<()> {
        self.blocking(|inner| inner.save()).await
    }

    async fn reset(&self, history: Uuid) -> PortResult<()> {
        self.blocking(move |inner| inner.reset(history)).await
    }

    async fn count(&self) -> PortResult<u64> {
        Ok(self.inner.progress.get().count)
    }
}

#[async_trait]
impl VectorIndex for UsearchIndex {
    async fn search(&self, vector: &[f32], scope: &SearchScope) -> PortResult<Vec<Hit>> {
        self.search_by(vector, scope, Way::Cheaper).await
    }
}

impl State {
    fn of(loaded: Loaded) -> (Self, Held) {
        let mut state = Self::default();
        for (scope, shard) in loaded.shards {
            state.homes.extend(shard.table.documents().map(|document| (document, scope.clone())));
            state.shards.insert(scope, shard);
        }
        let held = Held { position: loaded.position, history: loaded.history, count: state.count() };
        (state, held)
    }

    fn count(&self) -> u64 {
        self.shards.values().map(|shard| shard.table.len() as u64).sum()
    }

    /// The shard that holds a document, noted as changed.
    fn home_of(&mut self, document: DocumentId, position: LogPosition) -> Option<&mut Shard> {
        let shard = self.shards.get_mut(self.homes.get(&document)?)?;
        shard.changed_at = position;
        Some(shard)
    }

    /// Forgets where a document is when nothing of it is there any more.
    fn tidy(&mut self, document: DocumentId) {
        let gone =
            |scope: &Scope| self.shards.get(scope).is_none_or(|s| !s.table.contains_document(document));
        if self.homes.get(&document).is_some_and(gone) {
            self.homes.remove(&document);
        }
    }
}

impl Inner {
    fn search(&self, query: &Query, scope: &SearchScope, way: Way) -> PortResult<Vec<Hit>> {
        let key = Scope { tenant: scope.tenant.clone(), collection: scope.collection.clone() };
        let state = self.read()?;
        match state.shards.get(&key) {
            Some(shard) => shard.search(query, &scope.filter, scope.limit, (self.shape, way)),
            None => Ok(Vec::new()),
        }
    }

    /// Vectors go into the graphs first, where no search sees them as long as the table does not name them. Then the tables
    /// change, all at once for every reader.
    fn apply(&self, changes: &[Change]) -> PortResult<()> {
        let mut files = self.files();
        let held = self.progress.get();
        let changes: Vec<&Change> = changes.iter().filter(|change| change.position > held.position).collect();
        let Some(position) = changes.last().map(|change| change.position) else { return Ok(()) };
        let vectors = self.vectors(&changes);
        let keys = self.add(&vectors)?;
        let count = self.change_tables(&changes, keys)?;
        self.progress.set(Held { position, history: held.history, count });
        files.note_changes(changes.iter().map(|change| chunks_of(change)).sum());
        Ok(())
    }

    /// The vectors that the changes bring, by shard, in order.
    fn vectors<'a>(&self, changes: &[&'a Change]) -> HashMap<Scope, Vec<&'a [f32]>> {
        let mut vectors: HashMap<Scope, Vec<&[f32]>> = HashMap::new();
        let mut unusable = 0;
        for (document, chunks) in changes.iter().filter_map(|change| puts(change)) {
            for chunk in chunks {
                match self.vector(chunk) {
                    Some(vector) => vectors.entry(home(document)).or_default().push(vector),
                    None if chunk.embedding.as_ref().is_some_and(|e| e.model == self.origin.model) => {
                        unusable += 1
                    }
                    None => {}
                }
            }
        }
        if unusable > 0 {
            let Origin { model, dimension } = &self.origin;
            tracing::warn!(
                chunks = unusable,
                model,
                dimension,
                "vectors of another dimension, zero or not finite are left out"
            );
        }
        vectors
    }

    /// A chunk's vector, where it is one of this index.
    fn vector<'a>(&self, chunk: &'a IndexChunk) -> Option<&'a [f32]> {
        let embedding = chunk.embedding.as_ref()?;
        let vector = embedding.vector.as_slice();
        let fits = embedding.model == self.origin.model && vector.len() == self.origin.dimension;
        (fits && norm(vector).is_some()).then_some(vector)
    }

    /// Adds vectors to the graphs. Returns the first number in each shard.
    fn add(&self, vectors: &HashMap<Scope, Vec<&[f32]>>) -> PortResult<HashMap<Scope, u32>> {
        let mut keys = HashMap::new();
        for (scope, vectors) in vectors {
            let rows: Vec<Bytes> = vectors.iter().filter_map(|v| Some(Bytes::of(v, norm(v)?))).collect();
            let numbered = |first: u32| (first..).zip(vectors.iter().copied()).collect::<Vec<_>>();
            let mut state = self.write()?;
            let first = match state.shards.get_mut(scope) {
                Some(shard) => {
                    let first = shard.grow(&rows)?;
                    drop(state);
                    let state = self.read()?;
                    if let Some(shard) = state.shards.get(scope) {
                        shard.graph.add(&numbered(first), self.shape.threads)?;
                    }
                    first
                }
                None => {
                    drop(state);
                    // Nobody sees it before it has its vectors.
                    let mut shard = Shard::new(self.shape)?;
                    let first = shard.grow(&rows)?;
                    shard.graph.add(&numbered(first), self.shape.threads)?;
                    self.write()?.shards.insert(scope.clone(), shard);
                    first
                }
            };
            keys.insert(scope.clone(), first);
        }
        Ok(keys)
    }

    /// Makes the tables hold what the changes say. Returns the number of chunks.
    fn change_tables(&self, changes: &[&Change], mut keys: HashMap<Scope, u32>) -> PortResult<u64> {
        let mut state = self.write()?;
        for Change { position, kind } in changes {
            match kind {
                ChangeKind::PutChunks { document, chunks } => {
                    let scope = home(document);
                    let terms = terms::of_metadata(&document.metadata);
                    for chunk in chunks {
                        if self.vector(chunk).is_none() {
                            if let Some(shard) = state.home_of(document.id, *position) {
                                shard.table.remove_chunk(chunk.id);
                            }
                            continue;
                        }
                        let (Some(shard), Some(key)) = (state.shards.get_mut(&scope), keys.get_mut(&scope))
                        else {
                            return Err(PortError::new(ErrorKind::Corrupt, "a vector has no place"));
                        };
                        shard.table.put(document.id, &terms, chunk.id, *key);
                        shard.changed_at = *position;
                        *key += 1;
                        state.homes.entry(document.id).or_insert_with(|| scope.clone());
                    }
                    state.tidy(document.id);
                }
                ChangeKind::PutDocument { document } => {
                    if let Some(shard) = state.home_of(document.id, *position) {
                        shard.table.set_terms(document.id, &terms::of_metadata(&document.metadata));
                    }
                }
                ChangeKind::DeleteChunks { document_id, chunk_ids } => {
                    if let Some(shard) = state.home_of(*document_id, *position) {
                        chunk_ids.iter().for_each(|chunk| shard.table.remove_chunk(*chunk));
                    }
                    state.tidy(*document_id);
                }
                ChangeKind::DeleteDocument { document_id } => {
                    if let Some(shard) = state.home_of(*document_id, *position) {
                        shard.table.remove_document(*document_id);
                    }
                    state.tidy(*document_id);
                }
            }
        }
        state.shards.retain(|_, shard| shard.table.len() > 0);
        Ok(state.count())
    }

    /// A shard that is to be built anew.
    pub(super) fn worn(&self) -> PortResult<Option<Scope>> {
        let state = self.read()?;
        Ok(state.shards.iter().find(|(_, shard)| shard.is_worn()).map(|(scope, _)| scope.clone()))
    }

    fn save(&self) -> PortResult<()> {
        let mut files = self.files();
        let Held { position, history, .. } = self.progress.get();
        let state = self.read()?;
        files.save(&self.origin, (position, history), state.shards.iter())
    }

    fn reset(&self, history: Uuid) -> PortResult<()> {
        let mut files = self.files();
        files.clear()?;
        {
            let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
            *state = State::default();
            self.state.clear_poison();
        }
        self.progress.set(Held { position: 0, history: Some(history), count: 0 });
        Ok(())
    }

    /// Files hold no state that a panic could leave half-way.
    pub(super) fn files(&self) -> MutexGuard<'_, Files> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn read(&self) -> PortResult<RwLockReadGuard<'_, State>> {
        self.state.read().map_err(|_| half_changed())
    }

    pub(super) fn write(&self) -> PortResult<RwLockWriteGuard<'_, State>> {
        self.state.write().map_err(|_| half_changed())
    }
}

/// Whoever feeds the index answers this with a reset.
fn half_changed() -> PortError {
    PortError::new(
        ErrorKind::Corrupt,
        "the vector index was left half-changed by a panic and must start anew",
    )
}

fn home(document: &Document) -> Scope {
    Scope { tenant: document.tenant.clone(), collection: document.collection.clone() }
}

fn puts(change: &Change) -> Option<(&Document, &[IndexChunk])> {
    match &change.kind {
        ChangeKind::PutChunks { document, chunks } => Some((document, chunks)),
        _ => None,
    }
}

/// About how many chunks a change is about.
fn chunks_of(change: &Change) -> usize {
    match &change.kind {
        ChangeKind::PutChunks { chunks, .. } => chunks.len(),
        ChangeKind::DeleteChunks { chunk_ids, .. } => chunk_ids.len(),
        ChangeKind::PutDocument { .. } | ChangeKind::DeleteDocument { .. } => 1,
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
