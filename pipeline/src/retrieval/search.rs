//! The search itself, the same for `POST /v1/search` and for query jobs.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tracing::{debug, warn};

use super::{duplicates::Shingles, fusion, neighbours::merge_neighbours, rerank::rerank};
use crate::{
    domain::{
        ChunkId, Collection, Degraded, DocumentId, EmbedPurpose, Job, MetadataFilter, Passage, PassageRecord,
        QuerySpec, Retrieved, SearchMode, Tenant,
    },
    pipelines::{QueryPipeline, SelectSettings},
    ports::{
        DocumentStore, Embedder, Hit, KeywordIndex, ModelError, PortError, PortResult, Reranker, SearchScope,
        VectorIndex,
    },
};

/// The embedder, or why there is none.
#[derive(Clone)]
pub enum EmbedderSlot {
    /// There is one.
    Ready(Arc<dyn Embedder>),
    /// The operator wants none: keyword search is all that is asked for.
    Off,
    /// There should be one, and it could not be had: results say `degraded`.
    Missing,
}

impl EmbedderSlot {
    /// The embedder, where there is one.
    #[must_use]
    pub fn get(&self) -> Option<&Arc<dyn Embedder>> {
        match self {
            Self::Ready(embedder) => Some(embedder),
            Self::Off | Self::Missing => None,
        }
    }
}

/// What the search works with.
pub struct RetrieverParts {
    /// The record that hits are checked against.
    pub documents: Arc<dyn DocumentStore>,
    /// Makes vectors of questions.
    pub embedder: EmbedderSlot,
    /// Nearest vectors; none without an embedder.
    pub vectors: Option<Arc<dyn VectorIndex>>,
    /// Best words.
    pub keywords: Arc<dyn KeywordIndex>,
    /// Reads question and passage together, where configured.
    pub reranker: Option<Arc<dyn Reranker>>,
    /// How long embedding or one index may take before the other side answers alone.
    pub side_timeout: Duration,
}

/// A search.
#[derive(Debug, Clone, PartialEq)]
pub struct SearchRequest {
    /// Whose documents.
    pub tenant: Tenant,
    /// In which collection.
    pub collection: Collection,
    /// The question.
    pub query: String,
    /// Only documents with this metadata.
    pub filter: MetadataFilter,
    /// How many passages.
    pub top_k: usize,
    /// Which searches; the pipeline's choice where absent.
    pub mode: Option<SearchMode>,
    /// At most so many passages of one document; the pipeline's choice where absent.
    pub per_document: Option<usize>,
}

impl SearchRequest {
    /// The search of a query job.
    #[must_use]
    pub fn of(job: &Job, spec: &QuerySpec) -> Self {
        Self {
            tenant: job.tenant.clone(),
            collection: spec.collection.clone(),
            query: spec.query.clone(),
            filter: spec.filter.clone(),
            top_k: spec.top_k,
            mode: None,
            per_document: None,
        }
    }
}

/// Where a search's time went. A part that was not run is none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SearchTimings {
    /// Embedding the question.
    pub embed: Option<Duration>,
    /// Vector search.
    pub vector: Option<Duration>,
    /// Keyword search.
    pub keyword: Option<Duration>,
    /// Re-ranking.
    pub rerank: Option<Duration>,
    /// The whole.
    pub total: Duration,
}

/// What a search brought, and where its time went.
#[derive(Debug, Clone, PartialEq)]
pub struct Searched {
    /// The passages.
    pub retrieved: Retrieved,
    /// The times.
    pub timings: SearchTimings,
}

/// Finds passages.
pub struct Retriever {
    parts: RetrieverParts,
}

/// One side's hits with its time, or what was down.
struct SideResult {
    hits: Vec<Hit>,
    failed: Option<Degraded>,
    truncated: bool,
    embed: Option<Duration>,
    search: Option<Duration>,
}

impl Retriever {
    /// A retriever over these parts.
    #[must_use]
    pub fn new(parts: RetrieverParts) -> Self {
        Self { parts }
    }

    /// The state of the documents as the indexes hold it now; it changes with every change to the documents.
    #[must_use]
    pub fn index_generation(&self) -> String {
        let vectors = self.parts.vectors.as_ref().map_or(0, |index| index.position());
        format!("k{}v{vectors}", self.parts.keywords.position())
    }

    /// Whether questions are embedded.
    #[must_use]
    pub fn embedder(&self) -> &EmbedderSlot {
        &self.parts.embedder
    }

    /// Searches. It fails only when nothing at all could answer; what could not take part is listed in `degraded`.
    pub async fn search(&self, pipeline: &QueryPipeline, request: &SearchRequest) -> PortResult<Searched> {
        let begun = Instant::now();
        let index_generation = self.index_generation();
        let mode = request.mode.unwrap_or(pipeline.search.mode);
        // Some hits fall away when they are checked, collapsed or limited by document.
        let scope = SearchScope {
            tenant: request.tenant.clone(),
            collection: request.collection.clone(),
            filter: request.filter.clone(),
            limit: pipeline.search.candidates.max(request.top_k * 2),
        };
        let (vector, keyword) = tokio::join!(
            async {
                match mode {
                    SearchMode::Keyword => None,
                    SearchMode::Vector | SearchMode::Hybrid => self.vector_side(&request.query, &scope).await,
                }
            },
            async {
                match mode {
                    SearchMode::Vector => None,
                    SearchMode::Keyword | SearchMode::Hybrid => {
                        Some(self.keyword_side(&request.query, &scope).await)
                    }
                }
            }
        );
        let mut timings = SearchTimings {
            embed: vector.as_ref().and_then(|side| side.embed),
            vector: vector.as_ref().and_then(|side| side.search),
            keyword: keyword.as_ref().and_then(|side| side.search),
            ..SearchTimings::default()
        };
        let mut degraded: Vec<Degraded> = Vec::new();
        // Vector search was asked for alone and cannot be had: words are better than nothing.
        let keyword = match (&vector, keyword) {
            (Some(side), None) if side.failed.is_some() => {
                Some(self.keyword_side(&request.query, &scope).await)
            }
            (None, None) => {
                degraded.push(Degraded::Embedder);
                Some(self.keyword_side(&request.query, &scope).await)
            }
            (_, keyword) => keyword,
        };
        for side in [&vector, &keyword].into_iter().flatten() {
            degraded.extend(side.failed);
            if side.truncated {
                degraded.push(Degraded::QueryTruncated);
            }
        }
        let worked = |side: &Option<SideResult>| side.as_ref().is_some_and(|side| side.failed.is_none());
        if !worked(&vector) && !worked(&keyword) {
            return Err(PortError::new(
                crate::ports::ErrorKind::Unavailable,
                "neither the vector search nor the keyword search could answer",
            ));
        }
        let empty: &[Hit] = &[];
        let fused = fusion::fuse(
            &pipeline.fusion,
            pipeline.search.candidates,
            vector.as_ref().map_or(empty, |side| &side.hits),
            keyword.as_ref().map_or(empty, |side| &side.hits),
        );
        let select = SelectSettings {
            top_k: request.top_k,
            per_document: request.per_document.or(pipeline.select.per_document),
            ..pipeline.select.clone()
        };
        let reranking = pipeline.rerank.as_ref().zip(self.parts.reranker.as_ref());
        let candidates = reranking.map(|(settings, _)| settings.candidates.max(request.top_k));
        let mut passages = self.select(request, &fused, &select, candidates).await?;
        if let Some((settings, reranker)) = reranking {
            let started = Instant::now();
            if !rerank(reranker.as_ref(), settings.deadline_ms, &request.query, &mut passages).await {
                degraded.push(Degraded::Reranker);
            }
            timings.rerank = Some(started.elapsed());
            passages = finish(passages.into_iter(), &select);
        }
        degraded.sort_unstable();
        degraded.dedup();
        timings.total = begun.elapsed();
        record(&timings);
        Ok(Searched { retrieved: Retrieved { passages, degraded, index_generation }, timings })
    }

    /// Reads the best from the store until there are enough: the passages that were asked for, or so many candidates for the re-ranker.
    /// Mostly a few of the hits are enough. Where they are not, all are read anew, since what is read at once belongs together: a document
    /// may change meanwhile.
    async fn select(
        &self,
        request: &SearchRequest,
        fused: &[fusion::Fused],
        settings: &SelectSettings,
        candidates: Option<usize>,
    ) -> PortResult<Vec<Passage>> {
        let mut wanted = 2 * candidates.unwrap_or(settings.top_k).max(4);
        loop {
            let best = &fused[..without_parting_equals(fused, wanted)];
            let ids: Vec<ChunkId> = best.iter().map(|fused| fused.chunk_id).collect();
            let records = self.parts.documents.passages(&request.tenant, &request.collection, &ids).await?;
            let passages = merge(best, records, &request.filter).into_iter();

            let mut used_up = false;
            let end = std::iter::from_fn(|| {
                used_up = true;
                None
            });
            let selected = Selected { passages: passages.chain(end), settings, kept: Vec::new() };
            let selected = match candidates {
                Some(most) => selected.take(most).collect(),
                None => finish(selected, settings),
            };
            if !used_up || best.len() == fused.len() {
                return Ok(selected);
            }
            wanted *= 4;
        }
    }

    /// None where no vector search is wanted (the operator switched the embedder off).
    async fn vector_side(&self, query: &str, scope: &SearchScope) -> Option<SideResult> {
        let failed = |degraded| SideResult {
            hits: Vec::new(),
            failed: Some(degraded),
            truncated: false,
            embed: None,
            search: None,
        };
        let embedder = match &self.parts.embedder {
            EmbedderSlot::Ready(embedder) => embedder,
            EmbedderSlot::Missing => return Some(failed(Degraded::Embedder)),
            EmbedderSlot::Off => return None,
        };
        let Some(index) = &self.parts.vectors else { return Some(failed(Degraded::VectorIndex)) };
        if let Some(error) = index.refusal() {
            debug!(%error, "question not embedded: vectors cannot be searched");
            return Some(failed(Degraded::VectorIndex));
        }
        let started = Instant::now();
        let embedded = self
            .within(embedder.embed(vec![query.to_owned()], EmbedPurpose::Query))
            .await
            .unwrap_or_else(|| Err(ModelError::try_later("embedding the question took too long")))
            .map(|mut embeddings| embeddings.pop());
        let embedding = match embedded {
            Ok(Some(embedding)) => embedding,
            Ok(None) => {
                warn!("embedder answered with no vector");
                return Some(failed(Degraded::Embedder));
            }
            Err(error) => {
                warn!(%error, "question not embedded");
                return Some(failed(Degraded::Embedder));
            }
        };
        let embed = started.elapsed();
        let started = Instant::now();
        match self.within(index.search(&embedding.vector, scope)).await {
            Some(Ok(hits)) => Some(SideResult {
                hits,
                failed: None,
                truncated: embedding.truncated,
                embed: Some(embed),
                search: Some(started.elapsed()),
            }),
            Some(Err(error)) => {
                warn!(%error, "vector search failed");
                Some(failed(Degraded::VectorIndex))
            }
            None => {
                warn!("vector search took too long");
                Some(failed(Degraded::VectorIndex))
            }
        }
    }

    async fn keyword_side(&self, query: &str, scope: &SearchScope) -> SideResult {
        let started = Instant::now();
        let (hits, failed) = match self.within(self.parts.keywords.search(query, scope)).await {
            Some(Ok(hits)) => (hits, None),
            Some(Err(error)) => {
                warn!(%error, "keyword search failed");
                (Vec::new(), Some(Degraded::KeywordIndex))
            }
            None => {
                warn!("keyword search took too long");
                (Vec::new(), Some(Degraded::KeywordIndex))
            }
        };
        SideResult { hits, failed, truncated: false, embed: None, search: Some(started.elapsed()) }
    }

    async fn within<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        tokio::time::timeout(self.parts.side_timeout, work).await.ok()
    }
}

/// Puts the records to their scores. What is not live any more, or does not match the filter any more, falls away: the
/// indexes may be a moment behind the store. Of equals, the document that was there first comes first: so the same documents, taken in
/// anew in the same order, are found in the same order.
fn merge(fused: &[fusion::Fused], records: Vec<PassageRecord>, filter: &MetadataFilter) -> Vec<Passage> {
    let mut records: std::collections::HashMap<ChunkId, PassageRecord> =
        records.into_iter().map(|record| (record.chunk_id, record)).collect();
    let mut found: Vec<(fusion::Fused, PassageRecord)> = fused
        .iter()
        .filter_map(|fused| {
            let record = records.remove(&fused.chunk_id)?;
            filter.matches(&record.metadata).then_some((*fused, record))
        })
        .collect();
    found.sort_by(|(a, of_a), (b, of_b)| {
        b.score
            .total_cmp(&a.score)
            .then_with(|| a.place.cmp(&b.place))
            // Ids of documents grow with time.
            .then_with(|| of_a.document_id.cmp(&of_b.document_id))
            .then_with(|| of_a.ordinal.cmp(&of_b.ordinal))
    });
    let passage =
        |(fused, record): (fusion::Fused, _)| Passage { record, score: fused.score, ranks: fused.ranks };
    found.into_iter().map(passage).collect()
}

/// So many of the best, and those that are as good as the last of them: which of equals comes first is for their documents to say.
fn without_parting_equals(fused: &[fusion::Fused], wanted: usize) -> usize {
    let equal = |pair: &&[fusion::Fused]| match pair {
        [a, b] => a.score.total_cmp(&b.score).is_eq() && a.place == b.place,
        _ => false,
    };
    let wanted = wanted.min(fused.len());
    wanted + fused[wanted.saturating_sub(1)..].windows(2).take_while(equal).count()
}

/// The best, without what says the same and without too many of one document. What nobody asks for is not compared.
struct Selected<'a, I> {
    passages: I,
    settings: &'a SelectSettings,
    /// What was given, as it is compared with what comes.
    kept: Vec<(DocumentId, Shingles)>,
}

impl<I: Iterator<Item = Passage>> Iterator for Selected<'_, I> {
    type Item = Passage;

    fn next(&mut self) -> Option<Passage> {
        for passage in self.passages.by_ref() {
            let document = passage.record.document_id;
            let of_document = self.kept.iter().filter(|(other, _)| *other == document).count();
            if self.settings.per_document.is_some_and(|most| of_document >= most) {
                continue;
            }
            let shingles = if self.settings.collapse_duplicates {
                Shingles::of(&passage.record.text)
            } else {
                Shingles::default()
            };
            if self.settings.collapse_duplicates && self.kept.iter().any(|(_, other)| shingles.same_as(other))
            {
                continue;
            }
            self.kept.push((document, shingles));
            return Some(passage);
        }
        None
    }
}

/// The passages that were asked for.
fn finish(passages: impl Iterator<Item = Passage>, settings: &SelectSettings) -> Vec<Passage> {
    if settings.merge_neighbours {
        merge_neighbours(passages, settings.top_k)
    } else {
        passages.take(settings.top_k).collect()
    }
}

fn record(timings: &SearchTimings) {
    for (part, spent) in [
        ("embed", timings.embed),
        ("vector", timings.vector),
        ("keyword", timings.keyword),
        ("rerank", timings.rerank),
        ("total", Some(timings.total)),
    ] {
        if let Some(spent) = spent {
            metrics::histogram!("raglan_search_seconds", "part" => part).record(spent.as_secs_f64());
        }
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::domain::Metadata;

    #[test]
    fn of_equals_the_older_document_comes_first_whatever_the_indexes_say() {
        let record = |chunk: u128, document: u128| PassageRecord {
            chunk_id: ChunkId(Uuid::from_u128(chunk)),
            document_id: DocumentId(Uuid::from_u128(document)),
            external_id: String::new(),
            title: String::new(),
            uri: None,
            metadata: Metadata::new(),
            heading_path: Vec::new(),
            text: "The same in both.".to_owned(),
            ordinal: 0,
            start: 0,
            end: 17,
        };
        let hits = |chunks: [u128; 3], scores: [f32; 3]| -> Vec<Hit> {
            let hit = |(chunk, score)| Hit { chunk_id: ChunkId(Uuid::from_u128(chunk)), score };
            chunks.into_iter().zip(scores).map(hit).collect()
        };
        let records = vec![record(1, 20), record(2, 10), record(3, 5)];
        let words = hits([2, 1, 3], [7.0, 7.0, 1.0]);
        for first in [[1, 2, 3], [2, 1, 3]] {
            let vectors = hits(first, [0.9, 0.9, 0.1]);
            let fused = fusion::fuse(&crate::pipelines::Fusion::default(), 100, &vectors, &words);
            assert_eq!(without_parting_equals(&fused, 1), 2);
            assert_eq!(without_parting_equals(&fused, 9), 3);
            let passages = merge(&fused, records.clone(), &MetadataFilter::default());
            let order: Vec<u128> =
                passages.iter().map(|passage| passage.record.document_id.0.as_u128()).collect();
            assert_eq!(order, [10, 20, 5]);
        }
    }
}
