//! Ports that always answer, for the tests of what is put around them.

use std::{ops::Range, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use uuid::Uuid;

use crate::{
    domain::{Change, ChunkId, Collection, EmbedPurpose, Embedding, LogPosition, MetadataFilter, Tenant},
    ports::{
        Cache, Embedder, EmbedderInfo, Hit, KeywordIndex, ModelError, Namespace, PortResult, Replica,
        Reranker, SearchScope, Tokenize, VectorIndex,
    },
};

pub(super) fn scope() -> SearchScope {
    SearchScope {
        tenant: Tenant::default(),
        collection: Collection::default(),
        filter: MetadataFilter::default(),
        limit: 10,
    }
}

/// Holds one chunk and finds it always.
pub(super) struct StubIndex;

impl StubIndex {
    fn found() -> Vec<Hit> {
        vec![Hit { chunk_id: ChunkId(Uuid::nil()), score: 1.0 }]
    }
}

#[async_trait]
impl Replica for StubIndex {
    fn name(&self) -> &'static str {
        "stub"
    }

    fn position(&self) -> LogPosition {
        1
    }

    fn history(&self) -> Option<Uuid> {
        None
    }

    async fn apply(&self, _: Vec<Change>) -> PortResult<()> {
        Ok(())
    }

    async fn save(&self) -> PortResult<()> {
        Ok(())
    }

    async fn reset(&self, _: Uuid) -> PortResult<()> {
        Ok(())
    }

    async fn count(&self) -> PortResult<u64> {
        Ok(1)
    }
}

#[async_trait]
impl VectorIndex for StubIndex {
    async fn search(&self, _: &[f32], _: &SearchScope) -> PortResult<Vec<Hit>> {
        Ok(Self::found())
    }
}

#[async_trait]
impl KeywordIndex for StubIndex {
    async fn search(&self, _: &str, _: &SearchScope) -> PortResult<Vec<Hit>> {
        Ok(Self::found())
    }
}

/// Gives every text the same vector.
pub(super) struct StubEmbedder(EmbedderInfo);

impl Default for StubEmbedder {
    fn default() -> Self {
        Self(EmbedderInfo { model: "stub".to_owned(), dimension: 2, max_tokens: 8 })
    }
}

struct WholeText;

impl Tokenize for WholeText {
    fn tokens(&self, text: &str) -> Vec<Range<usize>> {
        std::iter::once(0..text.len()).collect()
    }
}

#[async_trait]
impl Embedder for StubEmbedder {
    fn info(&self) -> &EmbedderInfo {
        &self.0
    }

    fn tokenizer(&self) -> Arc<dyn Tokenize> {
        Arc::new(WholeText)
    }

    async fn embed(&self, texts: Vec<String>, _: EmbedPurpose) -> Result<Vec<Embedding>, ModelError> {
        let one = Embedding { vector: vec![1.0, 0.0], tokens: 1, truncated: false };
        Ok(vec![one; texts.len()])
    }
}

/// Gives every text the same score.
pub(super) struct StubReranker;

#[async_trait]
impl Reranker for StubReranker {
    fn model(&self) -> &str {
        "stub"
    }

    async fn score(&self, _: &str, texts: Vec<String>) -> Result<Vec<f32>, ModelError> {
        Ok(vec![1.0; texts.len()])
    }
}

/// Has a value under every key.
pub(super) struct StubCache;

#[async_trait]
impl Cache for StubCache {
    async fn get(&self, _: Namespace, _: &str) -> PortResult<Option<Bytes>> {
        Ok(Some(Bytes::new()))
    }

    async fn put(&self, _: Namespace, _: &str, _: Bytes, _: Duration) -> PortResult<()> {
        Ok(())
    }

    async fn take(&self, _: Namespace, _: &str) -> PortResult<Option<Bytes>> {
        Ok(Some(Bytes::new()))
    }

    async fn remove(&self, _: Namespace, _: &str) -> PortResult<()> {
        Ok(())
    }
}
