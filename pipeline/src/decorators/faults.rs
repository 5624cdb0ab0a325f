//! Faults on purpose: ports that fail and dawdle as a test tells them, the same way each time.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use rand::{Rng, SeedableRng, rngs::StdRng};
use uuid::Uuid;

use crate::{
    domain::{Change, EmbedPurpose, Embedding, LogPosition},
    ports::{
        Cache, Embedder, EmbedderInfo, ErrorKind, Hit, KeywordIndex, ModelError, Namespace, PortError,
        PortResult, Replica, Reranker, SearchScope, Tokenize, VectorIndex,
    },
};

/// Which calls fail, and how slow all are.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Faults {
    /// Each call with this number or a multiple of it fails; 0 is none.
    pub every: u64,
    /// Beside those, each call fails with this probability, from 0 to 1.
    pub probability: f64,
    /// Each call, failing or not, begins so much later.
    pub delay: Duration,
    /// What decides by chance: equal seeds let the same calls fail.
    pub seed: u64,
}

impl Faults {
    /// Nothing fails.
    #[must_use]
    pub fn none() -> Self {
        Self { every: 0, probability: 0.0, delay: Duration::ZERO, seed: 0 }
    }

    /// Every call fails at once.
    #[must_use]
    pub fn always() -> Self {
        Self { every: 1, ..Self::none() }
    }
}

/// Injects [`Faults`], which can be changed at any time; a clone is a handle to the same one. Count and chance begin anew with each change.
#[derive(Debug, Clone)]
pub struct Injector(Arc<Mutex<Plan>>);

#[derive(Debug)]
struct Plan {
    faults: Faults,
    rng: StdRng,
    calls: u64,
    failed: u64,
}

impl Plan {
    fn new(faults: Faults) -> Self {
        Self { faults, rng: StdRng::seed_from_u64(faults.seed), calls: 0, failed: 0 }
    }
}

struct Injected;

impl Injector {
    /// Begins with these faults.
    #[must_use]
    pub fn new(faults: Faults) -> Self {
        Self(Arc::new(Mutex::new(Plan::new(faults))))
    }

    /// Goes on with these.
    pub fn set(&self, faults: Faults) {
        *self.plan() = Plan::new(faults);
    }

    /// Calls made since the last change.
    #[must_use]
    pub fn calls(&self) -> u64 {
        self.plan().calls
    }

    /// Calls made to fail since the last change.
    #[must_use]
    pub fn failed(&self) -> u64 {
        self.plan().failed
    }

    fn plan(&self) -> std::sync::MutexGuard<'_, Plan> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn pass(&self) -> Result<(), Injected> {
        let (fails, delay) = {
            let mut plan = self.plan();
            plan.calls += 1;
            // Drawn for every call, so that `every` does not shift what chance decides.
            let by_chance = plan.rng.random::<f64>() < plan.faults.probability;
            let by_count = plan.faults.every > 0 && plan.calls.is_multiple_of(plan.faults.every);
            let fails = by_chance || by_count;
            plan.failed += u64::from(fails);
            (fails, plan.faults.delay)
        };
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        if fails { Err(Injected) } else { Ok(()) }
    }
}

impl From<Injected> for PortError {
    fn from(_: Injected) -> Self {
        Self::new(ErrorKind::Unavailable, "a fault was injected")
    }
}

impl From<Injected> for ModelError {
    fn from(_: Injected) -> Self {
        Self::try_later("a fault was injected")
    }
}

/// Implements [`Replica`] for a struct with `inner` and `feed`: what feeds the index has faults of its own, so that those of the searches
/// can be counted on.
macro_rules! faulty_replica {
    ($name:ident) => {
        #[async_trait]
        impl Replica for $name {
            fn name(&self) -> &'static str {
                self.inner.name()
            }

            fn position(&self) -> LogPosition {
                self.inner.position()
            }

            fn history(&self) -> Option<Uuid> {
                self.inner.history()
            }

            async fn apply(&self, changes: Vec<Change>) -> PortResult<()> {
                self.feed.pass().await?;
                self.inner.apply(changes).await
            }

            async fn save(&self) -> PortResult<()> {
                self.feed.pass().await?;
                self.inner.save().await
            }

            async fn reset(&self, history: Uuid) -> PortResult<()> {
                self.feed.pass().await?;
                self.inner.reset(history).await
            }

            async fn count(&self) -> PortResult<u64> {
                self.feed.pass().await?;
                self.inner.count().await
            }
        }
    };
}

/// A vector index with faults.
pub struct FaultyVectorIndex {
    inner: Arc<dyn VectorIndex>,
    searches: Injector,
    feed: Injector,
}

impl FaultyVectorIndex {
    /// With faults in its searches.
    #[must_use]
    pub fn new(inner: Arc<dyn VectorIndex>, searches: Injector) -> Self {
        Self { inner, searches, feed: Injector::new(Faults::none()) }
    }

    /// With faults in all else too.
    #[must_use]
    pub fn with_feed(mut self, feed: Injector) -> Self {
        self.feed = feed;
        self
    }
}

faulty_replica!(FaultyVectorIndex);

#[async_trait]
impl VectorIndex for FaultyVectorIndex {
    async fn search(&self, vector: &[f32], scope: &SearchScope) -> PortResult<Vec<Hit>> {
        self.searches.pass().await?;
        self.inner.search(vector, scope).await
    }
}

/// A keyword index with faults.
pub struct FaultyKeywordIndex {
    inner: Arc<dyn KeywordIndex>,
    searches: Injector,
    feed: Injector,
}

impl FaultyKeywordIndex {
    /// With faults in its searches.
    #[must_use]
    pub fn new(inner: Arc<dyn KeywordIndex>, searches: Injector) -> Self {
        Self { inner, searches, feed: Injector::new(Faults::none()) }
    }

    /// With faults in all else too.
    #[must_use]
    pub fn with_feed(mut self, feed: Injector) -> Self {
        self.feed = feed;
        self
    }
}

faulty_replica!(FaultyKeywordIndex);

#[async_trait]
impl KeywordIndex for FaultyKeywordIndex {
    async fn search(&self, text: &str, scope: &SearchScope) -> PortResult<Vec<Hit>> {
        self.searches.pass().await?;
        self.inner.search(text, scope).await
    }
}

/// An embedder with faults.
pub struct FaultyEmbedder {
    inner: Arc<dyn Embedder>,
    faults: Injector,
}

impl FaultyEmbedder {
    /// With these faults.
    #[must_use]
    pub fn new(inner: Arc<dyn Embedder>, faults: Injector) -> Self {
        Self { inner, faults }
    }
}

#[async_trait]
impl Embedder for FaultyEmbedder {
    fn info(&self) -> &EmbedderInfo {
        self.inner.info()
    }

    fn tokenizer(&self) -> Arc<dyn Tokenize> {
        self.inner.tokenizer()
    }

    async fn embed(&self, texts: Vec<String>, purpose: EmbedPurpose) -> Result<Vec<Embedding>, ModelError> {
        self.faults.pass().await?;
        self.inner.embed(texts, purpose).await
    }
}

/// A re-ranker with faults.
pub struct FaultyReranker {
    inner: Arc<dyn Reranker>,
    faults: Injector,
}

impl FaultyReranker {
    /// With these faults.
    #[must_use]
    pub fn new(inner: Arc<dyn Reranker>, faults: Injector) -> Self {
        Self { inner, faults }
    }
}

#[async_trait]
impl Reranker for FaultyReranker {
    fn model(&self) -> &str {
        self.inner.model()
    }

    async fn score(&self, query: &str, texts: Vec<String>) -> Result<Vec<f32>, ModelError> {
        self.faults.pass().await?;
        self.inner.score(query, texts).await
    }
}

/// A cache with faults.
pub struct FaultyCache {
    inner: Arc<dyn Cache>,
    faults: Injector,
}

impl FaultyCache {
    /// With these faults.
    #[must_use]
    pub fn new(inner: Arc<dyn Cache>, faults: Injector) -> Self {
        Self { inner, faults }
    }
}

#[async_trait]
impl Cache for FaultyCache {
    async fn get(&self, namespace: Namespace, key: &str) -> PortResult<Option<Bytes>> {
        self.faults.pass().await?;
        self.inner.get(namespace, key).await
    }

    async fn put(&self, namespace: Namespace, key: &str, value: Bytes, ttl: Duration) -> PortResult<()> {
        self.faults.pass().await?;
        self.inner.put(namespace, key, value, ttl).await
    }

    async fn take(&self, namespace: Namespace, key: &str) -> PortResult<Option<Bytes>> {
        self.faults.pass().await?;
        self.inner.take(namespace, key).await
    }

    async fn remove(&self, namespace: Namespace, key: &str) -> PortResult<()> {
        self.faults.pass().await?;
        self.inner.remove(namespace, key).await
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;
    use crate::decorators::stubs::{StubCache, StubEmbedder, StubIndex, scope};

    async fn failures(injector: &Injector, calls: u64) -> Vec<u64> {
        let mut failed = Vec::new();
        for call in 1..=calls {
            if injector.pass().await.is_err() {
                failed.push(call);
            }
        }
        failed
    }

    #[tokio::test(start_paused = true)]
    async fn calls_fail_by_count_and_by_a_chance_that_can_be_repeated() {
        let injector = Injector::new(Faults { every: 3, ..Faults::none() });
        assert_eq!(failures(&injector, 10).await, [3, 6, 9]);
        assert_eq!((injector.calls(), injector.failed()), (10, 3));

        let chance = Faults { probability: 0.3, seed: 5, ..Faults::none() };
        injector.set(chance);
        let first = failures(&injector, 1_000).await;
        assert!((200..400).contains(&first.len()), "{} of 1000", first.len());
        injector.set(chance);
        assert_eq!(failures(&injector, 1_000).await, first);
        injector.set(Faults { seed: 6, ..chance });
        assert_ne!(failures(&injector, 1_000).await, first);
        injector.set(Faults { every: 2, ..chance });
        let both = failures(&injector, 1_000).await;
        assert!(first.iter().chain([&2, &4]).all(|call| both.contains(call)));
    }

    #[tokio::test(start_paused = true)]
    async fn every_port_fails_slowly_when_told_and_works_when_not() {
        let delay = Duration::from_secs(3);
        let faults = Injector::new(Faults { delay, ..Faults::always() });
        let vectors = FaultyVectorIndex::new(Arc::new(StubIndex), faults.clone());
        let keywords = FaultyKeywordIndex::new(Arc::new(StubIndex), faults.clone());
        let embedder = FaultyEmbedder::new(Arc::new(StubEmbedder::default()), faults.clone());
        let cache = FaultyCache::new(Arc::new(StubCache), faults.clone());
        let embed = || embedder.embed(vec!["text".into()], EmbedPurpose::Passage);

        let begun = Instant::now();
        let kinds = [
            vectors.search(&[1.0], &scope()).await.unwrap_err().kind(),
            keywords.search("text", &scope()).await.unwrap_err().kind(),
            cache.get(Namespace::Answers, "key").await.unwrap_err().kind(),
            cache.put(Namespace::Answers, "key", Bytes::new(), delay).await.unwrap_err().kind(),
            cache.remove(Namespace::Answers, "key").await.unwrap_err().kind(),
        ];
        assert_eq!(kinds, [ErrorKind::Unavailable; 5]);
        assert!(matches!(embed().await, Err(ModelError::TryLater { .. })));
        assert_eq!(begun.elapsed(), 6 * delay);
        assert_eq!(vectors.count().await.unwrap(), 1, "what feeds an index has faults of its own");

        faults.set(Faults::none());
        assert_eq!(vectors.search(&[1.0], &scope()).await.unwrap().len(), 1);
        assert_eq!(keywords.search("text", &scope()).await.unwrap().len(), 1);
        assert!(cache.get(Namespace::Answers, "key").await.unwrap().is_some());
        assert_eq!(embed().await.unwrap().len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn what_feeds_an_index_can_fail_by_itself() {
        let vectors = FaultyVectorIndex::new(Arc::new(StubIndex), Injector::new(Faults::none()))
            .with_feed(Injector::new(Faults::always()));
        assert!(vectors.apply(Vec::new()).await.is_err());
        assert!(vectors.save().await.is_err());
        assert!(vectors.reset(Uuid::nil()).await.is_err());
        assert!(vectors.count().await.is_err());
        assert!(vectors.search(&[1.0], &scope()).await.is_ok());
    }
}
