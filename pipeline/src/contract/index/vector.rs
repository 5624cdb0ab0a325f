//! What a vector index promises beside what every replica does.

use std::{collections::BTreeSet, sync::Arc};

use async_trait::async_trait;
use rand::{Rng, SeedableRng, rngs::StdRng};
use serde_json::json;

use super::{
    corpus::{DIMENSION, Log, MODEL, chunk, direction, document, everywhere, filtered, normal, unit},
    replica::{self, Subject},
};
use crate::{
    domain::{Change, ChunkId, Document, IndexChunk, StoredEmbedding},
    ports::{ErrorKind, Hit, Replica, SearchScope, VectorIndex},
};

/// Cosines may be this far from the exact ones: indexes keep vectors with less precision than they are given.
const TOLERANCE: f32 = 0.005;

/// Makes vector indexes to test.
#[async_trait]
pub trait Factory: Send + Sync {
    /// A new, empty index for vectors of this model and dimension, apart from all others.
    async fn fresh(&self, model: &str, dimension: usize) -> Arc<dyn VectorIndex>;

    /// Closes an index that [`fresh`](Self::fresh) made, and opens it again from where it was saved.
    async fn reopen(&self, index: Arc<dyn VectorIndex>) -> Arc<dyn VectorIndex>;
}

/// Runs all promises.
pub async fn run_all(factory: Arc<dyn Factory>) {
    replica::run_all(&Subjects(factory.clone())).await;
    let fresh = || factory.fresh(MODEL, DIMENSION);
    scores_are_cosines(fresh().await).await;
    another_dimension_is_refused(fresh().await).await;
    a_vector_without_direction_is_refused(fresh().await).await;
    other_models_are_passed_over(fresh().await).await;
    finds_the_nearest(factory.fresh(MODEL, 64).await).await;
    survives_wear(fresh().await).await;
}

struct VectorSubject {
    index: Arc<dyn VectorIndex>,
    factory: Arc<dyn Factory>,
}

struct Subjects(Arc<dyn Factory>);

#[async_trait]
impl replica::Factory<VectorSubject> for Subjects {
    async fn fresh(&self) -> VectorSubject {
        VectorSubject { index: self.0.fresh(MODEL, DIMENSION).await, factory: self.0.clone() }
    }
}

#[async_trait]
impl Subject for VectorSubject {
    fn replica(&self) -> &dyn Replica {
        &*self.index
    }

    async fn about(&self, topic: u32, scope: &SearchScope) -> BTreeSet<ChunkId> {
        let hits = search(&*self.index, &direction(topic), scope).await;
        // Chunks about other topics are found too, far away.
        let near: Vec<ChunkId> = hits.iter().filter(|hit| hit.score > 0.95).map(|hit| hit.chunk_id).collect();
        let unique: BTreeSet<ChunkId> = near.iter().copied().collect();
        assert_eq!(unique.len(), near.len(), "a chunk is found once");
        unique
    }

    async fn reopened(self) -> Self {
        Self { index: self.factory.reopen(self.index).await, factory: self.factory }
    }
}

/// Searches, and checks what holds for every answer.
async fn search(index: &dyn VectorIndex, vector: &[f32], scope: &SearchScope) -> Vec<Hit> {
    let hits = index.search(vector, scope).await.expect("a search answers");
    assert!(hits.len() <= scope.limit, "no more hits than asked for");
    assert!(hits.windows(2).all(|pair| pair[0].score >= pair[1].score), "best first");
    assert!(hits.iter().all(|hit| (-1.0..=1.0).contains(&hit.score)), "scores are cosines: {hits:?}");
    hits
}

fn cosine(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

async fn scores_are_cosines(index: Arc<dyn VectorIndex>) {
    let log = Log::default();
    let a = document("a", json!({}));
    let mut opposite = chunk(&a, 2, 0);
    opposite.embedding =
        Some(StoredEmbedding { model: MODEL.to_owned(), vector: direction(1).iter().map(|x| -x).collect() });
    let expected = [
        (chunk(&a, 1, 0), 1.0),
        (chunk(&a, 7, 0), cosine(&direction(1), &direction(7))),
        (chunk(&a, 8, 0), cosine(&direction(1), &direction(8))),
        (opposite, -1.0),
    ];
    index
        .apply(vec![log.put(&a, expected.iter().map(|(chunk, _)| chunk.clone()).collect())])
        .await
        .expect("apply");
    let hits = search(&*index, &direction(1), &everywhere(10)).await;
    assert_eq!(hits.len(), 4, "far chunks are found too, at the end");
    for (chunk, score) in &expected {
        let hit = hits.iter().find(|hit| hit.chunk_id == chunk.id).expect("every chunk is found");
        assert!((hit.score - score).abs() < TOLERANCE, "{} where the cosine is {score}", hit.score);
    }
    assert_eq!(hits[0].chunk_id, expected[0].0.id);
    assert_eq!(hits[3].chunk_id, expected[3].0.id);
}

async fn another_dimension_is_refused(index: Arc<dyn VectorIndex>) {
    for dimension in [1, DIMENSION - 1, DIMENSION + 5] {
        let error = index.search(&vec![1.0; dimension], &everywhere(1)).await.expect_err("another dimension");
        assert_eq!(error.kind(), ErrorKind::Invalid);
        let message = error.to_string();
        let names = |dimension: usize| message.contains(&dimension.to_string());
        assert!(names(dimension) && names(DIMENSION), "it names both dimensions: {message}");
    }
    assert_eq!(index.search(&[], &everywhere(1)).await.expect_err("empty").kind(), ErrorKind::Invalid);
}

async fn a_vector_without_direction_is_refused(index: Arc<dyn VectorIndex>) {
    let log = Log::default();
    let a = document("a", json!({}));
    index.apply(vec![log.put_topics(&a, &[1])]).await.expect("apply");
    for value in [0.0, f32::NAN, f32::INFINITY] {
        let error = index.search(&[value; DIMENSION], &everywhere(1)).await.expect_err("no direction");
        assert_eq!(error.kind(), ErrorKind::Invalid, "{value}");
    }
}

async fn other_models_are_passed_over(index: Arc<dyn VectorIndex>) {
    let log = Log::default();
    let a = document("a", json!({}));
    let with = |topic: u32, embedding| IndexChunk { embedding, ..chunk(&a, topic, 0) };
    let other =
        |topic: u32| Some(StoredEmbedding { model: "another-model".to_owned(), vector: direction(topic) });
    index
        .apply(vec![log.put(&a, vec![with(1, other(1)), with(2, None), chunk(&a, 3, 0)])])
        .await
        .expect("chunks without a vector of the model are no error");
    assert_eq!(index.count().await.expect("count"), 1);
    assert_eq!(search(&*index, &direction(1), &everywhere(10)).await.len(), 1);

    // A chunk is embedded again by the index's model, and then by another one.
    index.apply(vec![log.put(&a, vec![chunk(&a, 1, 0)])]).await.expect("apply");
    assert_eq!(index.count().await.expect("count"), 2);
    let last = log.put(&a, vec![with(1, other(1)), with(3, None)]);
    let position = last.position;
    index.apply(vec![last]).await.expect("apply");
    assert_eq!(index.count().await.expect("count"), 0, "a vector that is gone is not searched");
    assert!(search(&*index, &direction(1), &everywhere(10)).await.is_empty());
    assert_eq!(index.position(), position);
}

/// Clustered vectors, as those of texts are.
struct Clusters {
    centres: Vec<Vec<f32>>,
    rng: StdRng,
}

impl Clusters {
    fn new(count: usize, dimension: usize, seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let centres = (0..count).map(|_| unit((0..dimension).map(|_| normal(&mut rng)).collect())).collect();
        Self { centres, rng }
    }

    fn next(&mut self) -> Vec<f32> {
        let centre = self.rng.random_range(0..self.centres.len());
        unit(self.centres[centre].clone().into_iter().map(|x| x + 0.1 * normal(&mut self.rng)).collect())
    }
}

/// At least 95 of 100 of the ten nearest are found, in 5,000 vectors, and in the hundredth part of them that a filter leaves.
async fn finds_the_nearest(index: Arc<dyn VectorIndex>) {
    let log = Log::default();
    let mut clusters = Clusters::new(50, 64, 3);
    let documents: Vec<Document> =
        (0..100).map(|n| document("d", json!({"n": n, "most": n % 4 > 0, "rare": [n, "x"]}))).collect();
    let mut held: Vec<(ChunkId, usize, Vec<f32>)> = Vec::new();
    let changes: Vec<Change> = documents
        .iter()
        .enumerate()
        .map(|(n, held_by)| {
            let chunks = (0..50).map(|occurrence| {
                let vector = clusters.next();
                let chunk = chunk(held_by, 0, occurrence);
                held.push((chunk.id, n, vector.clone()));
                IndexChunk { embedding: Some(StoredEmbedding { model: MODEL.to_owned(), vector }), ..chunk }
            });
            log.put(held_by, chunks.collect())
        })
        .collect();
    for batch in changes.chunks(20) {
        index.apply(batch.to_vec()).await.expect("apply");
    }
    assert_eq!(index.count().await.expect("count"), 5_000);
    for (filter, keeps) in [
        (json!({}), &(|_: usize| true) as &(dyn Fn(usize) -> bool + Sync)),
        (json!({"most": true}), &|n| n % 4 > 0),
        (json!({"n": 42}), &|n| n == 42),
        (json!({"rare": "x", "n": [3, 4]}), &|n| n == 3 || n == 4),
    ] {
        let scope = filtered(filter, 10);
        let (mut found, mut wanted) = (0, 0);
        for _ in 0..100 {
            let question = clusters.next();
            let mut exact: Vec<(f32, ChunkId)> = held
                .iter()
                .filter(|(_, n, _)| keeps(*n))
                .map(|(id, _, vector)| (cosine(&question, vector), *id))
                .collect();
            exact.sort_unstable_by(|a, b| b.0.total_cmp(&a.0));
            let hits = search(&*index, &question, &scope).await;
            assert_eq!(hits.len(), 10, "as many as asked for, where there are as many");
            // Near the tenth, precision decides who is in.
            let tenth = exact[9].0;
            let cosine_of = |id| exact.iter().find(|(_, held)| *held == id).map(|(cosine, _)| *cosine);
            for hit in &hits {
                let cosine = cosine_of(hit.chunk_id).expect("a chunk that the filter leaves");
                assert!((hit.score - cosine).abs() < TOLERANCE, "{} where the cosine is {cosine}", hit.score);
                found += usize::from(cosine >= tenth - 0.001);
            }
            wanted += 10;
        }
        let recall = found as f64 / wanted as f64;
        assert!(recall >= 0.95, "recall at 10 is {recall:.3} with {:?}", scope.filter);
    }
}

/// After most of what was ever put is gone again, the rest is found.
async fn survives_wear(index: Arc<dyn VectorIndex>) {
    let log = Log::default();
    let kept = document("kept", json!({"kept": true}));
    index.apply(vec![log.put_topics(&kept, &[1, 2, 3])]).await.expect("apply");
    for round in 0..4 {
        let passing = document("passing", json!({}));
        let topics: Vec<u32> = (100 + round * 600..700 + round * 600).collect();
        index.apply(vec![log.put_topics(&passing, &topics)]).await.expect("apply");
        index.apply(vec![log.delete_document(&passing), log.put_topics(&kept, &[2])]).await.expect("apply");
        assert_eq!(index.count().await.expect("count"), 3);
        for scope in [everywhere(10), filtered(json!({"kept": true}), 10)] {
            let hits = search(&*index, &direction(2), &scope).await;
            assert_eq!(hits.len(), 3, "what was kept, and nothing of what went");
            assert_eq!(hits[0].chunk_id, chunk(&kept, 2, 0).id);
        }
    }
}
