//! Breakers around ports.

use std::sync::Arc;

use async_trait::async_trait;
use uuid::Uuid;

use super::{BreakerError, CircuitBreaker, Probe};
use crate::{
    domain::{Change, EmbedPurpose, Embedding, LogPosition},
    ports::{
        Embedder, EmbedderInfo, ErrorKind, Hit, ModelError, PortError, PortResult, Replica, Reranker,
        SearchScope, Tokenize, VectorIndex,
    },
};

impl BreakerError<PortError> {
    /// The error for the port's caller.
    #[must_use]
    pub fn into_port_error(self, what: &str) -> PortError {
        match self {
            Self::Open { retry_after } => PortError::new(ErrorKind::Unavailable, format!("{what}: {self}"))
                .with_retry_after(retry_after),
            Self::TimedOut { .. } => PortError::new(ErrorKind::Timeout, format!("{what}: {self}")),
            Self::Failed(error) => error,
        }
    }
}

impl BreakerError<ModelError> {
    /// The error for the model's caller.
    #[must_use]
    pub fn into_model_error(self, what: &str) -> ModelError {
        match self {
            Self::Open { retry_after } => {
                ModelError::TryLater { message: format!("{what}: {self}"), after: Some(retry_after) }
            }
            Self::TimedOut { .. } => ModelError::try_later(format!("{what}: {self}")),
            Self::Failed(error) => error,
        }
    }
}

/// A vector index whose searches go through a breaker. What feeds it does not: it has its own pace.
///
/// While the breaker is open, the search that opened it is made again in the background from time to time, so that no search waits for an index that is away.
pub struct BreakerVectorIndex {
    inner: Arc<dyn VectorIndex>,
    breaker: Arc<CircuitBreaker>,
}

impl BreakerVectorIndex {
    /// Puts a breaker before an index.
    #[must_use]
    pub fn new(inner: Arc<dyn VectorIndex>, breaker: Arc<CircuitBreaker>) -> Self {
        Self { inner, breaker }
    }
}

#[async_trait]
impl Replica for BreakerVectorIndex {
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
        self.inner.apply(changes).await
    }

    async fn save(&self) -> PortResult<()> {
        self.inner.save().await
    }

    async fn reset(&self, history: Uuid) -> PortResult<()> {
        self.inner.reset(history).await
    }

    async fn count(&self) -> PortResult<u64> {
        self.inner.count().await
    }
}

#[async_trait]
impl VectorIndex for BreakerVectorIndex {
    async fn search(&self, vector: &[f32], scope: &SearchScope) -> PortResult<Vec<Hit>> {
        let probe = || -> Probe<PortError> {
            let (inner, asked) = (Arc::clone(&self.inner), Arc::new((vector.to_vec(), scope.clone())));
            Box::new(move || {
                let (inner, asked) = (Arc::clone(&inner), Arc::clone(&asked));
                Box::pin(async move { inner.search(&asked.0, &asked.1).await.map(drop) })
            })
        };
        let found = self.breaker.call_watched(self.inner.search(vector, scope), probe).await;
        found.map_err(|error| error.into_port_error("the vector index"))
    }

    fn refusal(&self) -> Option<PortError> {
        let refused = |retry_after| BreakerError::<PortError>::Open { retry_after };
        self.breaker.wait().map(|wait| refused(wait).into_port_error("the vector index"))
    }
}

/// An embedder behind a breaker.
pub struct BreakerEmbedder {
    inner: Arc<dyn Embedder>,
    breaker: Arc<CircuitBreaker>,
}

impl BreakerEmbedder {
    /// Puts a breaker before an embedder.
    #[must_use]
    pub fn new(inner: Arc<dyn Embedder>, breaker: Arc<CircuitBreaker>) -> Self {
        Self { inner, breaker }
    }
}

#[async_trait]
impl Embedder for BreakerEmbedder {
    fn info(&self) -> &EmbedderInfo {
        self.inner.info()
    }

    fn tokenizer(&self) -> Arc<dyn Tokenize> {
        self.inner.tokenizer()
    }

    async fn embed(&self, texts: Vec<String>, purpose: EmbedPurpose) -> Result<Vec<Embedding>, ModelError> {
        let embedded = self.breaker.call(self.inner.embed(texts, purpose)).await;
        embedded.map_err(|error| error.into_model_error("the embedder"))
    }
}

/// A re-ranker behind a breaker.
pub struct BreakerReranker {
    inner: Arc<dyn Reranker>,
    breaker: Arc<CircuitBreaker>,
}

impl BreakerReranker {
    /// Puts a breaker before a re-ranker.
    #[must_use]
    pub fn new(inner: Arc<dyn Reranker>, breaker: Arc<CircuitBreaker>) -> Self {
        Self { inner, breaker }
    }
}

#[async_trait]
impl Reranker for BreakerReranker {
    fn model(&self) -> &str {
        self.inner.model()
    }

    async fn score(&self, query: &str, texts: Vec<String>) -> Result<Vec<f32>, ModelError> {
        let scored = self.breaker.call(self.inner.score(query, texts)).await;
        scored.map_err(|error| error.into_model_error("the re-ranker"))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::decorators::{
        breaker::{BreakerSettings, BreakerState},
        faults::{Faults, FaultyEmbedder, FaultyReranker, FaultyVectorIndex, Injector},
        stubs::{StubEmbedder, StubIndex, StubReranker, scope},
    };

    fn breaker() -> Arc<CircuitBreaker> {
        let settings = BreakerSettings { consecutive_failures: 2, ..BreakerSettings::default() };
        CircuitBreaker::new("test", settings)
    }

    #[tokio::test(start_paused = true)]
    async fn an_index_that_fails_is_left_alone_and_found_well_again() {
        let (faults, breaker) = (Injector::new(Faults::always()), breaker());
        let faulty = FaultyVectorIndex::new(Arc::new(StubIndex), faults.clone());
        let index = BreakerVectorIndex::new(Arc::new(faulty), Arc::clone(&breaker));
        for _ in 0..5 {
            let error = index.search(&[1.0], &scope()).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unavailable);
        }
        assert_eq!(faults.calls(), 2, "three searches were not made");
        let error = index.search(&[1.0], &scope()).await.unwrap_err();
        assert_eq!(error.retry_after(), Some(Duration::from_secs(5)));
        assert_eq!(index.refusal().unwrap().to_string(), error.to_string());
        assert_eq!(index.count().await.unwrap(), 1, "only searches go through it");
        assert_eq!(index.name(), "stub");

        tokio::time::sleep(Duration::from_secs(6)).await;
        assert_eq!(faults.calls(), 3, "it was tried in the background");
        assert!(index.refusal().is_some());
        faults.set(Faults::none());
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert_eq!(breaker.state(), BreakerState::Closed);
        assert_eq!(index.search(&[1.0], &scope()).await.unwrap().len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn an_embedder_that_fails_is_left_alone_and_says_until_when() {
        let faults = Injector::new(Faults::always());
        let faulty = FaultyEmbedder::new(Arc::new(StubEmbedder::default()), faults.clone());
        let embedder = BreakerEmbedder::new(Arc::new(faulty), breaker());
        let embed = || embedder.embed(vec!["text".into()], EmbedPurpose::Query);
        for _ in 0..2 {
            assert!(matches!(embed().await, Err(ModelError::TryLater { after: None, .. })));
        }
        let refused = embed().await;
        let five = Duration::from_secs(5);
        assert!(matches!(refused, Err(ModelError::TryLater { after: Some(after), .. }) if after == five));
        assert_eq!(faults.calls(), 2);
        assert_eq!(embedder.info().dimension, 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_re_ranker_that_fails_is_left_alone_and_says_until_when() {
        let faults = Injector::new(Faults::always());
        let faulty = FaultyReranker::new(Arc::new(StubReranker), faults.clone());
        let reranker = BreakerReranker::new(Arc::new(faulty), breaker());
        let score = || reranker.score("question", vec!["text".into()]);
        for _ in 0..2 {
            assert!(matches!(score().await, Err(ModelError::TryLater { after: None, .. })));
        }
        let refused = score().await;
        let five = Duration::from_secs(5);
        assert!(matches!(refused, Err(ModelError::TryLater { after: Some(after), .. }) if after == five));
        assert_eq!((faults.calls(), reranker.model()), (2, "stub"));

        faults.set(Faults::none());
        tokio::time::advance(five).await;
        assert_eq!(score().await.unwrap(), [1.0]);
    }
}
