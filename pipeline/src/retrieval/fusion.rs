//! Fusing two rankings into one.

use std::collections::HashMap;

use crate::{
    domain::{ChunkId, Ranks},
    pipelines::{Fusion, Weights},
    ports::Hit,
};

/// A chunk with its fused score and the places it had.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Fused {
    /// The chunk.
    pub chunk_id: ChunkId,
    /// Higher is better; at most the sum of the weights.
    pub score: f32,
    /// The better of its places, from 1, where hits of the same score share one: which of two equal texts a search names first is chance.
    pub place: u32,
    /// Its places as the searches named them.
    pub ranks: Ranks,
}

/// Fuses the hits of the two searches, best first. Each list comes best first; either may be empty.
///
/// The first `depth` hits of a list score; those after it only follow, in the order of their better place. So whoever asks for more
/// passages gets the same first ones.
///
/// Min-max scaling with a weighted sum is "CombSUM over normalised scores" (Fox and Shaw 1994; Bruch et al., "An
/// Analysis of Fusion Functions for Hybrid Retrieval", 2022); a chunk that one search did not find gets that search's
/// least, 0. Reciprocal rank fusion is Cormack et al. 2009.
///
/// By reciprocal ranks too, hits of the same score gain the same.
#[must_use]
pub fn fuse(fusion: &Fusion, depth: usize, vector: &[Hit], keyword: &[Hit]) -> Vec<Fused> {
    let mut found: HashMap<ChunkId, Fused> = HashMap::with_capacity(vector.len() + keyword.len());
    let Weights { vector: vector_weight, keyword: keyword_weight } = weights(fusion);
    for (hits, weight, side) in
        [(vector, vector_weight, Side::Vector), (keyword, keyword_weight, Side::Keyword)]
    {
        let scale = MinMax::of(&hits[..hits.len().min(depth)]);
        let (mut place, mut last) = (0, None);
        for (rank, hit) in (1u32..).zip(hits) {
            if last.replace(hit.score) != Some(hit.score) {
                place = rank;
            }
            let gain = match fusion {
                _ if rank as usize > depth => 0.0,
                Fusion::MinMax { .. } => scale.apply(hit.score),
                #[allow(clippy::cast_precision_loss)] // ranks are small
                Fusion::Rrf { k, .. } => 1.0 / (k + place as f32),
            };
            let entry = found.entry(hit.chunk_id).or_insert(Fused {
                chunk_id: hit.chunk_id,
                score: 0.0,
                place,
                ranks: Ranks::default(),
            });
            let named = match side {
                Side::Vector => &mut entry.ranks.vector,
                Side::Keyword => &mut entry.ranks.keyword,
            };
            // A search that names a chunk twice counts once, at its better place.
            if named.is_none() {
                *named = Some(rank);
                entry.score += weight * gain;
                entry.place = entry.place.min(place);
            }
        }
    }
    let mut fused: Vec<Fused> = found.into_values().collect();
    fused.sort_by(|a, b| {
        b.score
            .total_cmp(&a.score)
            .then_with(|| a.place.cmp(&b.place))
            .then_with(|| a.chunk_id.cmp(&b.chunk_id))
    });
    fused
}

#[derive(Clone, Copy)]
enum Side {
    Vector,
    Keyword,
}

fn weights(fusion: &Fusion) -> Weights {
    match fusion {
        Fusion::MinMax { weights } | Fusion::Rrf { weights, .. } => *weights,
    }
}

/// Scales scores to 0..1 by the least and the greatest of a list.
struct MinMax {
    least: f32,
    range: f32,
}

impl MinMax {
    fn of(hits: &[Hit]) -> Self {
        let least = hits.iter().map(|hit| hit.score).fold(f32::INFINITY, f32::min);
        let greatest = hits.iter().map(|hit| hit.score).fold(f32::NEG_INFINITY, f32::max);
        Self { least, range: greatest - least }
    }

    fn apply(&self, score: f32) -> f32 {
        // One hit, or all alike: each is as good as the best.
        if self.range > f32::EPSILON { (score - self.least) / self.range } else { 1.0 }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;

    fn id(n: u128) -> ChunkId {
        ChunkId(Uuid::from_u128(n))
    }

    fn hits(list: &[(u128, f32)]) -> Vec<Hit> {
        list.iter().map(|(n, score)| Hit { chunk_id: id(*n), score: *score }).collect()
    }

    #[test]
    fn min_max_adds_scaled_scores() {
        let fused = fuse(
            &Fusion::default(),
            100,
            &hits(&[(1, 0.9), (2, 0.5), (3, 0.1)]),
            &hits(&[(2, 20.0), (4, 15.0), (1, 10.0)]),
        );
        let scores: Vec<(ChunkId, f32)> = fused.iter().map(|f| (f.chunk_id, f.score)).collect();
        assert_eq!(scores, [(id(2), 1.5), (id(1), 1.0), (id(4), 0.5), (id(3), 0.0)]);
        assert_eq!(fused[0].ranks, Ranks { vector: Some(2), keyword: Some(1), rerank: None });
    }

    #[test]
    fn rrf_adds_reciprocal_ranks() {
        let fusion = Fusion::Rrf { k: 60.0, weights: Weights::default() };
        let fused = fuse(&fusion, 100, &hits(&[(1, 0.9), (2, 0.5)]), &hits(&[(2, 3.0)]));
        assert_eq!(fused[0].chunk_id, id(2));
        assert!((fused[0].score - (1.0 / 62.0 + 1.0 / 61.0)).abs() < 1e-6);
    }

    #[test]
    fn equals_share_a_place_whichever_comes_first() {
        let rrf = Fusion::Rrf { k: 60.0, weights: Weights::default() };
        for fusion in [Fusion::default(), rrf] {
            let fused = fuse(
                &fusion,
                100,
                &hits(&[(1, 0.9), (2, 0.9), (3, 0.1)]),
                &hits(&[(2, 20.0), (1, 20.0), (4, 15.0)]),
            );
            assert!(fused[0].score.total_cmp(&fused[1].score).is_eq(), "{fused:?}");
            assert_eq!((fused[0].place, fused[1].place), (1, 1));
            let third = fused.iter().find(|one| one.chunk_id == id(3)).unwrap();
            assert_eq!((third.place, third.ranks.vector), (3, Some(3)));
        }
    }

    #[test]
    fn a_weight_of_zero_silences_a_side() {
        let weights = Weights { vector: 0.0, keyword: 1.0 };
        let (vector, keyword) = (hits(&[(1, 0.9), (2, 0.1)]), hits(&[(2, 5.0), (1, 1.0)]));
        let fused = fuse(&Fusion::MinMax { weights }, 100, &vector, &keyword);
        assert_eq!(fused[0].chunk_id, id(2));
    }

    #[test]
    fn longer_lists_do_not_change_the_order_of_what_shorter_ones_hold() {
        let vector = hits(&[(1, 0.9), (2, 0.8), (3, 0.7), (4, 0.1)]);
        let keyword = hits(&[(3, 9.0), (2, 5.0), (5, 4.0), (1, 0.5), (6, 0.4)]);
        for fusion in [Fusion::default(), Fusion::Rrf { k: 60.0, weights: Weights::default() }] {
            let ids = |fused: Vec<Fused>| fused.into_iter().map(|one| one.chunk_id).collect::<Vec<_>>();
            let short = ids(fuse(&fusion, 3, &vector[..3], &keyword[..3]));
            let long = ids(fuse(&fusion, 3, &vector, &keyword));
            assert_eq!(long[..short.len()], short);
            assert_eq!(long[short.len()..], [id(4), id(6)]);
        }
    }

    proptest! {
        #[test]
        fn fusion_keeps_every_chunk_once_in_order(
            mut vector in prop::collection::vec((0u128..40, 0.0f32..1.0), 0..40),
            mut keyword in prop::collection::vec((0u128..40, 0.0f32..30.0), 0..40),
            rrf in any::<bool>(),
            depth in 1usize..50,
        ) {
            vector.sort_by(|a, b| b.1.total_cmp(&a.1));
            keyword.sort_by(|a, b| b.1.total_cmp(&a.1));
            let fusion = if rrf { Fusion::Rrf { k: 60.0, weights: Weights::default() } } else { Fusion::default() };
            let fused = fuse(&fusion, depth, &hits(&vector), &hits(&keyword));
            let mut expected: Vec<u128> = vector.iter().chain(&keyword).map(|(n, _)| *n).collect();
            expected.sort_unstable();
            expected.dedup();
            let mut got: Vec<u128> = fused.iter().map(|f| f.chunk_id.0.as_u128()).collect();
            got.sort_unstable();
            prop_assert_eq!(got, expected);
            prop_assert!(fused.windows(2).all(|pair| pair[0].score >= pair[1].score));
            prop_assert!(fused.iter().all(|f| f.score.is_finite() && f.score <= 2.0));
        }
    }
}
