//! Parts that stop where a test wants them to, and tell what they were asked.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use raglan_backends::{document_store::SqliteDocumentStore, parser::DefaultParser};
use raglan_pipeline::{
    domain::{
        Change, ChangeKind, ChunkId, Collection, CollectionInfo, Document, DocumentId, EmbedPurpose,
        Embedding, LogPosition, PassageRecord, Published, Receipt, StagedDocument, Tenant,
    },
    ingestion::word_tokenizer::WordTokenizer,
    ports::{
        DocumentFilter, DocumentStore, Embedder, EmbedderInfo, ModelError, ParseError, ParsedDocument,
        Parser, PortResult, Replica, SourceFile, Staged, Tokenize,
    },
};
use tokio::sync::{Semaphore, watch};
use uuid::Uuid;

/// How long a test waits for what must come.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// Numbers of a vector.
pub const DIMENSION: usize = 8;

/// A place that is passed only as often as the test allows; open to begin with.
pub struct Gate {
    passes: Semaphore,
    arrived: watch::Sender<u64>,
    passed: watch::Sender<u64>,
}

impl Default for Gate {
    fn default() -> Self {
        Self {
            passes: Semaphore::new(Semaphore::MAX_PERMITS >> 1),
            arrived: watch::Sender::new(0),
            passed: watch::Sender::new(0),
        }
    }
}

impl Gate {
    pub fn close(&self) {
        self.passes.forget_permits(Semaphore::MAX_PERMITS);
    }

    pub fn open(&self) {
        self.passes.add_permits(Semaphore::MAX_PERMITS >> 1);
    }

    /// Lets so many more pass.
    pub fn allow(&self, passes: usize) {
        self.passes.add_permits(passes);
    }

    pub async fn pass(&self) {
        self.arrived.send_modify(|arrived| *arrived += 1);
        self.passes.acquire().await.unwrap().forget();
        self.passed.send_modify(|passed| *passed += 1);
    }

    /// Lets one more pass, and waits until it has.
    pub async fn let_through(&self) {
        let before = *self.passed.borrow();
        self.allow(1);
        reached(&self.passed, |passed| *passed > before).await;
    }

    /// Waits until so many have come, passed or not.
    pub async fn arrivals(&self, least: u64) {
        reached(&self.arrived, |arrived| *arrived >= least).await;
    }

    pub fn arrived(&self) -> u64 {
        *self.arrived.borrow()
    }
}

/// Waits for a value.
pub async fn reached<T>(value: &watch::Sender<T>, mut wanted: impl FnMut(&T) -> bool) {
    let mut values = value.subscribe();
    let come = tokio::time::timeout(PATIENCE, values.wait_for(|value| wanted(value))).await;
    come.expect("what the test waits for did not come").unwrap();
}

/// Every text's vector is the same: nobody searches here.
pub struct TestEmbedder {
    info: EmbedderInfo,
    pub gate: Gate,
    /// Texts whose call has begun.
    pub asked: watch::Sender<u64>,
    /// Texts with the embedder now, and the most there ever were.
    pub inside: watch::Sender<(usize, usize)>,
    /// Every text that was embedded, with how often.
    pub texts: Mutex<BTreeMap<String, u32>>,
    /// Calls after so many texts fail.
    pub fails_after: AtomicU64,
}

impl Default for TestEmbedder {
    fn default() -> Self {
        Self {
            info: EmbedderInfo { model: "test".to_owned(), dimension: DIMENSION, max_tokens: 256 },
            gate: Gate::default(),
            asked: watch::Sender::new(0),
            inside: watch::Sender::new((0, 0)),
            texts: Mutex::default(),
            fails_after: AtomicU64::new(u64::MAX),
        }
    }
}

/// Counts the texts of a call out again, also when its caller leaves.
struct Inside<'a>(&'a TestEmbedder, usize);

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        self.0.inside.send_modify(|(now, _)| *now -= self.1);
    }
}

#[async_trait]
impl Embedder for TestEmbedder {
    fn info(&self) -> &EmbedderInfo {
        &self.info
    }

    fn tokenizer(&self) -> Arc<dyn Tokenize> {
        Arc::new(WordTokenizer)
    }

    async fn embed(&self, texts: Vec<String>, purpose: EmbedPurpose) -> Result<Vec<Embedding>, ModelError> {
        assert_eq!(purpose, EmbedPurpose::Passage);
        self.inside.send_modify(|(now, most)| {
            *now += texts.len();
            *most = (*most).max(*now);
        });
        let _inside = Inside(self, texts.len());
        self.asked.send_modify(|asked| *asked += texts.len() as u64);
        self.gate.pass().await;
        let mut all = self.texts.lock().unwrap();
        if all.values().map(|n| u64::from(*n)).sum::<u64>() >= self.fails_after.load(Ordering::SeqCst) {
            return Err(ModelError::try_later("the test says so"));
        }
        let mut vector = vec![0.0; DIMENSION];
        vector[0] = 1.0;
        Ok(texts
            .into_iter()
            .map(|text| {
                let tokens = WordTokenizer.tokens(&text).len();
                *all.entry(text).or_default() += 1;
                Embedding { vector: vector.clone(), tokens, truncated: false }
            })
            .collect())
    }
}

/// The usual parser, behind a gate.
#[derive(Default)]
pub struct TestParser {
    inner: DefaultParser,
    /// Files that were parsed, and the most that were parsed and not yet published.
    pub parsed: watch::Sender<u64>,
    held: Mutex<Held>,
    released: Condvar,
}

/// Which files the parser waits with. It runs on a thread that may.
#[derive(Default, PartialEq)]
enum Held {
    #[default]
    None,
    All,
    Named(String),
}

impl TestParser {
    pub fn hold(&self) {
        *self.held.lock().unwrap() = Held::All;
    }

    pub fn hold_name(&self, name: &str) {
        *self.held.lock().unwrap() = Held::Named(name.to_owned());
    }

    pub fn release(&self) {
        *self.held.lock().unwrap() = Held::None;
        self.released.notify_all();
    }
}

impl Parser for TestParser {
    fn parse(&self, file: &SourceFile) -> Result<ParsedDocument, ParseError> {
        self.parsed.send_modify(|parsed| *parsed += 1);
        let waits = |held: &mut Held| *held == Held::All || *held == Held::Named(file.name.clone());
        drop(self.released.wait_while(self.held.lock().unwrap(), waits).unwrap());
        self.inner.parse(file)
    }
}

/// An index that holds the ids of its chunks.
#[derive(Default)]
pub struct TestReplica {
    pub gate: Gate,
    held: Mutex<(LogPosition, Option<Uuid>)>,
    pub chunks: Mutex<BTreeMap<ChunkId, DocumentId>>,
}

#[async_trait]
impl Replica for TestReplica {
    fn name(&self) -> &'static str {
        "test"
    }

    fn position(&self) -> LogPosition {
        self.held.lock().unwrap().0
    }

    fn history(&self) -> Option<Uuid> {
        self.held.lock().unwrap().1
    }

    async fn apply(&self, changes: Vec<Change>) -> PortResult<()> {
        self.gate.pass().await;
        let mut held = self.chunks.lock().unwrap();
        for change in &changes {
            match &change.kind {
                ChangeKind::PutChunks { document, chunks } => {
                    held.extend(chunks.iter().map(|chunk| (chunk.id, document.id)));
                }
                ChangeKind::DeleteChunks { chunk_ids, .. } => held.retain(|id, _| !chunk_ids.contains(id)),
                ChangeKind::DeleteDocument { document_id } => held.retain(|_, of| of != document_id),
                ChangeKind::PutDocument { .. } => {}
            }
        }
        self.held.lock().unwrap().0 = changes.last().unwrap().position;
        Ok(())
    }

    async fn save(&self) -> PortResult<()> {
        Ok(())
    }

    async fn reset(&self, history: Uuid) -> PortResult<()> {
        *self.held.lock().unwrap() = (0, Some(history));
        self.chunks.lock().unwrap().clear();
        Ok(())
    }

    async fn count(&self) -> PortResult<u64> {
        Ok(self.chunks.lock().unwrap().len() as u64)
    }
}

/// The real store, with gates before what changes documents.
pub struct TestStore {
    pub inner: SqliteDocumentStore,
    /// One looks a document up or writes some at a time, as over a single connection.
    turn: tokio::sync::Mutex<()>,
    /// How long it takes to look one up.
    pub lookup: Mutex<Duration>,
    pub stages: Gate,
    pub publishes: Gate,
    /// Documents that were published.
    pub published: watch::Sender<u64>,
    /// How many documents each call of stage had.
    pub staged: Mutex<Vec<usize>>,
}

impl TestStore {
    pub fn new(inner: SqliteDocumentStore) -> Self {
        Self {
            inner,
            turn: tokio::sync::Mutex::default(),
            lookup: Mutex::default(),
            stages: Gate::default(),
            publishes: Gate::default(),
            published: watch::Sender::new(0),
            staged: Mutex::default(),
        }
    }
}

#[async_trait]
impl DocumentStore for TestStore {
    async fn resolve(
        &self,
        tenant: &Tenant,
        collection: &Collection,
        external_id: &str,
    ) -> PortResult<DocumentId> {
        let _turn = self.turn.lock().await;
        let lookup = *self.lookup.lock().unwrap();
        if !lookup.is_zero() {
            tokio::time::sleep(lookup).await;
        }
        self.inner.resolve(tenant, collection, external_id).await
    }

    async fn get(&self, tenant: &Tenant, id: DocumentId) -> PortResult<Option<Document>> {
        self.inner.get(tenant, id).await
    }

    async fn text(&self, tenant: &Tenant, id: DocumentId) -> PortResult<Option<String>> {
        self.inner.text(tenant, id).await
    }

    async fn chunk_ids(&self, id: DocumentId) -> PortResult<Vec<(ChunkId, Option<String>)>> {
        self.inner.chunk_ids(id).await
    }

    async fn receipt(&self, id: DocumentId) -> PortResult<Option<Receipt>> {
        self.inner.receipt(id).await
    }

    async fn list(&self, tenant: &Tenant, filter: &DocumentFilter) -> PortResult<Vec<Document>> {
        self.inner.list(tenant, filter).await
    }

    async fn stage(&self, documents: Vec<StagedDocument>) -> PortResult<Vec<Staged>> {
        self.stages.pass().await;
        let _turn = self.turn.lock().await;
        self.staged.lock().unwrap().push(documents.len());
        self.inner.stage(documents).await
    }

    async fn publish(&self, staged: &[Staged]) -> PortResult<Vec<Published>> {
        self.publishes.pass().await;
        let published = self.inner.publish(staged).await?;
        self.published.send_modify(|all| *all += published.len() as u64);
        Ok(published)
    }

    async fn delete(&self, tenant: &Tenant, id: DocumentId) -> PortResult<Option<LogPosition>> {
        self.inner.delete(tenant, id).await
    }

    async fn passages(
        &self,
        tenant: &Tenant,
        collection: &Collection,
        ids: &[ChunkId],
    ) -> PortResult<Vec<PassageRecord>> {
        self.inner.passages(tenant, collection, ids).await
    }

    async fn changes(&self, after: LogPosition, limit: usize) -> PortResult<Vec<Change>> {
        self.inner.changes(after, limit).await
    }

    async fn head(&self) -> PortResult<LogPosition> {
        self.inner.head().await
    }

    async fn horizon(&self) -> PortResult<LogPosition> {
        self.inner.horizon().await
    }

    async fn history(&self) -> PortResult<Uuid> {
        self.inner.history().await
    }

    async fn clean(&self, age: Duration) -> PortResult<u64> {
        self.inner.clean(age).await
    }

    async fn collection(&self, tenant: &Tenant, name: &Collection) -> PortResult<Option<CollectionInfo>> {
        self.inner.collection(tenant, name).await
    }

    async fn collections(&self, tenant: &Tenant) -> PortResult<Vec<CollectionInfo>> {
        self.inner.collections(tenant).await
    }

    async fn put_collection(
        &self,
        tenant: &Tenant,
        name: &Collection,
        description: &str,
    ) -> PortResult<bool> {
        self.inner.put_collection(tenant, name, description).await
    }

    async fn delete_collection(&self, tenant: &Tenant, name: &Collection) -> PortResult<Option<LogPosition>> {
        self.inner.delete_collection(tenant, name).await
    }
}
