//! How good a ranking is.

use crate::dataset::Judgements;

/// nDCG@k: the discounted gain of the first `k`, over that of the best order there could be.
///
/// The gain of a document is its judgement and its discount `log2(rank + 1)`, as in trec_eval's `ndcg_cut`. A document must not be in
/// the ranking twice.
pub fn ndcg(ranking: &[String], judgements: &Judgements, k: usize) -> f64 {
    let gains = ranking.iter().map(|id| judgements.get(id).copied().unwrap_or(0));
    let mut ideal: Vec<u32> = judgements.values().copied().collect();
    ideal.sort_unstable_by(|a, b| b.cmp(a));
    let best = discounted(ideal.into_iter(), k);
    if best == 0.0 { 0.0 } else { discounted(gains, k) / best }
}

fn discounted(gains: impl Iterator<Item = u32>, k: usize) -> f64 {
    (1u32..).zip(gains.take(k)).map(|(rank, gain)| f64::from(gain) / f64::from(rank + 1).log2()).sum()
}

/// Recall@k: which part of the relevant documents is among the first `k`.
#[allow(clippy::cast_precision_loss)] // counts of documents
pub fn recall(ranking: &[String], judgements: &Judgements, k: usize) -> f64 {
    let found = ranking.iter().take(k).filter(|id| judgements.contains_key(*id)).count();
    if judgements.is_empty() { 0.0 } else { found as f64 / judgements.len() as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranking(ids: &[&str]) -> Vec<String> {
        ids.iter().map(|id| (*id).to_owned()).collect()
    }

    fn judgements(pairs: &[(&str, u32)]) -> Judgements {
        pairs.iter().map(|(id, score)| ((*id).to_owned(), *score)).collect()
    }

    fn assert_near(value: f64, expected: f64) {
        assert!((value - expected).abs() < 1e-4, "{value}, not {expected}");
    }

    #[test]
    fn ndcg_by_hand() {
        let two = judgements(&[("a", 1), ("b", 1)]);
        // (1 + 1/log2(3)) / (1 + 1/log2(3))
        assert_near(ndcg(&ranking(&["a", "b"]), &two, 10), 1.0);
        // Ranks 1 and 3: (1 + 1/2) / (1 + 0.6309) = 1.5 / 1.6309
        assert_near(ndcg(&ranking(&["a", "x", "b"]), &two, 10), 0.9197);
        // Rank 2 alone: 0.6309 / 1.6309
        assert_near(ndcg(&ranking(&["x", "a"]), &two, 10), 0.3869);
        // Graded, in the wrong order: (1 + 2 × 0.6309) / (2 + 1 × 0.6309) = 2.2619 / 2.6309
        assert_near(ndcg(&ranking(&["b", "a"]), &judgements(&[("a", 2), ("b", 1)]), 10), 0.8597);
        // The eleventh does not count.
        let late: Vec<String> = (0..10).map(|n| format!("x{n}")).chain(ranking(&["a"])).collect();
        assert_near(ndcg(&late, &two, 10), 0.0);
        assert_near(ndcg(&[], &two, 10), 0.0);
        assert_near(ndcg(&ranking(&["a"]), &judgements(&[]), 10), 0.0);
        // More relevant documents than k: the best order has only k.
        let three = judgements(&[("a", 1), ("b", 1), ("c", 1)]);
        assert_near(ndcg(&ranking(&["a", "b"]), &three, 2), 1.0);
    }

    #[test]
    fn recall_by_hand() {
        let three = judgements(&[("a", 1), ("b", 2), ("c", 1)]);
        assert_near(recall(&ranking(&["a", "x", "y", "z", "b", "c"]), &three, 5), 2.0 / 3.0);
        assert_near(recall(&ranking(&["x"]), &three, 5), 0.0);
        assert_near(recall(&ranking(&["c", "b", "a"]), &three, 5), 1.0);
        assert_near(recall(&ranking(&["a"]), &judgements(&[]), 5), 0.0);
    }
}
