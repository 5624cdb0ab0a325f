//! How good a ranking of documents is, defined as in trec_eval.
//!
//! A ranking names each document once. A document counts as relevant where its judgement is above 0. Where a question
//! has no relevant document, every measure is 0; such questions are not asked (see [`crate::eval::dataset`]).

use std::collections::BTreeMap;

/// How relevant documents are to one question, by their id. What is not there, and what is 0 or below, is not relevant.
pub type Judgements = BTreeMap<String, i64>;

/// The judgement of each document of a ranking, in order, and those of all relevant documents, from the highest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judged {
    /// Of the ranking; 0 for what is not relevant.
    pub gains: Vec<i64>,
    /// Of all relevant documents, descending.
    pub ideal: Vec<i64>,
}

impl Judged {
    /// Looks a ranking's documents up.
    pub fn new<'a>(ranking: impl IntoIterator<Item = &'a str>, judgements: &Judgements) -> Self {
        let gain = |id: &str| judgements.get(id).copied().unwrap_or(0).max(0);
        let mut ideal: Vec<i64> = judgements.values().copied().filter(|gain| *gain > 0).collect();
        ideal.sort_unstable_by(|a, b| b.cmp(a));
        Self { gains: ranking.into_iter().map(gain).collect(), ideal }
    }

    /// nDCG@k: the gain of the first `k` documents, each divided by `log2(rank + 1)`, over the same of the best order there could
    /// be (Järvelin and Kekäläinen 2002; the gain is the judgement itself, as in trec_eval's `ndcg_cut`).
    pub fn ndcg(&self, k: usize) -> f64 {
        let best = discounted(&self.ideal, k);
        if best > 0.0 { discounted(&self.gains, k) / best } else { 0.0 }
    }

    /// Recall@k: which share of the relevant documents is among the first `k`.
    pub fn recall(&self, k: usize) -> f64 {
        share(self.relevant_within(k), self.ideal.len())
    }

    /// Precision@k: which share of the first `k` places has a relevant document. A ranking that is shorter than `k` is not
    /// spared: its empty places count as wrong.
    pub fn precision(&self, k: usize) -> f64 {
        share(self.relevant_within(k), k)
    }

    /// Hit rate@k (trec_eval's `success`): 1 where a relevant document is among the first `k`.
    pub fn hit(&self, k: usize) -> f64 {
        if self.relevant_within(k) > 0 { 1.0 } else { 0.0 }
    }

    /// The reciprocal rank of the first relevant document; 0 where it is not among the first `k`.
    pub fn reciprocal_rank(&self, k: usize) -> f64 {
        self.gains.iter().take(k).position(|gain| *gain > 0).map_or(0.0, |at| share(1, at + 1))
    }

    /// Average precision over the first `k` (trec_eval's `map_cut`): the precision at each relevant document's rank, summed, over
    /// the number of all relevant documents.
    pub fn average_precision(&self, k: usize) -> f64 {
        if self.ideal.is_empty() {
            return 0.0;
        }
        let mut found = 0;
        let mut sum = 0.0;
        for (at, _) in self.gains.iter().take(k).enumerate().filter(|(_, gain)| **gain > 0) {
            found += 1;
            sum += share(found, at + 1);
        }
        sum / count(self.ideal.len())
    }

    fn relevant_within(&self, k: usize) -> usize {
        self.gains.iter().take(k).filter(|gain| **gain > 0).count()
    }
}

#[allow(clippy::cast_precision_loss)] // judgements are small numbers
fn discounted(gains: &[i64], k: usize) -> f64 {
    (2u32..).zip(gains.iter().take(k)).map(|(next, gain)| *gain as f64 / f64::from(next).log2()).sum()
}

#[allow(clippy::cast_precision_loss)] // counts of documents
fn count(documents: usize) -> f64 {
    documents as f64
}

fn share(part: usize, of: usize) -> f64 {
    if of == 0 { 0.0 } else { count(part) / count(of) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn judged(ranking: &[&str], judgements: &[(&str, i64)]) -> Judged {
        let judgements = judgements.iter().map(|(id, gain)| ((*id).to_owned(), *gain)).collect();
        Judged::new(ranking.iter().copied(), &judgements)
    }

    fn near(value: f64, expected: f64) {
        assert!((value - expected).abs() < 1e-4, "{value}, not {expected}");
    }

    #[test]
    fn ndcg_by_hand() {
        let two = [("a", 1), ("b", 1)];
        near(judged(&["a", "b"], &two).ndcg(10), 1.0);
        // Ranks 1 and 3: (1 + 1/2) / (1 + 0.6309)
        near(judged(&["a", "x", "b"], &two).ndcg(10), 0.9197);
        // Rank 2 alone: 0.6309 / 1.6309
        near(judged(&["x", "a"], &two).ndcg(10), 0.3869);
        // Graded, in the wrong order: (1 + 2 × 0.6309) / (2 + 1 × 0.6309)
        near(judged(&["b", "a"], &[("a", 2), ("b", 1)]).ndcg(10), 0.8597);
        // More relevant documents than k: the best order has only k.
        near(judged(&["a", "b"], &[("a", 1), ("b", 1), ("c", 1)]).ndcg(2), 1.0);
        // The third place does not count, and what is judged 0 or below is no gain.
        near(judged(&["x", "y", "a"], &two).ndcg(2), 0.0);
        near(judged(&["x", "a"], &[("a", 1), ("x", -1), ("y", 0)]).ndcg(10), 0.6309);
    }

    #[test]
    fn counts_by_hand() {
        let three = [("a", 1), ("b", 2), ("c", 1), ("no", 0)];
        let ranking = judged(&["x", "a", "no", "y", "b", "c"], &three);
        near(ranking.recall(5), 2.0 / 3.0);
        near(ranking.recall(6), 1.0);
        near(ranking.precision(5), 2.0 / 5.0);
        near(ranking.precision(10), 3.0 / 10.0);
        near(ranking.hit(1), 0.0);
        near(ranking.hit(2), 1.0);
        near(ranking.reciprocal_rank(10), 1.0 / 2.0);
        near(ranking.reciprocal_rank(1), 0.0);
        // (1/2 + 2/5 + 3/6) / 3
        near(ranking.average_precision(100), 1.4 / 3.0);
        // Cut before the last: (1/2 + 2/5) / 3
        near(ranking.average_precision(5), 0.9 / 3.0);
    }

    #[test]
    fn nothing_found_and_nothing_to_find_are_zero() {
        for none in [judged(&[], &[("a", 1)]), judged(&["a"], &[]), judged(&["a"], &[("a", 0)])] {
            for value in all(&none) {
                near(value, 0.0);
            }
        }
    }

    fn all(judged: &Judged) -> [f64; 6] {
        [
            judged.ndcg(10),
            judged.recall(10),
            judged.precision(10),
            judged.hit(10),
            judged.reciprocal_rank(10),
            judged.average_precision(10),
        ]
    }

    /// Judgements of up to 40 documents, and a ranking of some of them.
    fn cases() -> impl Strategy<Value = (Vec<i64>, Vec<usize>)> {
        prop::collection::vec(0i64..4, 1..40).prop_flat_map(|gains| {
            let ids: Vec<usize> = (0..gains.len()).collect();
            (Just(gains), prop::sample::subsequence(ids.clone(), 0..=ids.len()).prop_shuffle())
        })
    }

    fn of(gains: &[i64], ranking: &[usize]) -> Judged {
        let judgements: Judgements =
            gains.iter().enumerate().map(|(id, gain)| (id.to_string(), *gain)).collect();
        let ids: Vec<String> = ranking.iter().map(ToString::to_string).collect();
        Judged::new(ids.iter().map(String::as_str), &judgements)
    }

    proptest! {
        #[test]
        fn every_measure_is_from_0_to_1((gains, ranking) in cases()) {
            for value in all(&of(&gains, &ranking)) {
                prop_assert!((0.0..=1.0 + 1e-12).contains(&value), "{value}");
            }
        }

        #[test]
        fn the_best_order_is_1((gains, _) in cases(), k in 1usize..50) {
            prop_assume!(gains.iter().any(|gain| *gain > 0));
            let mut ranking: Vec<usize> = (0..gains.len()).collect();
            ranking.sort_by_key(|id| -gains[*id]);
            let best = of(&gains, &ranking);
            prop_assert!((best.ndcg(k) - 1.0).abs() < 1e-9);
            prop_assert!((best.average_precision(gains.len()) - 1.0).abs() < 1e-9);
            prop_assert!((best.recall(gains.len()) - 1.0).abs() < 1e-9);
            prop_assert!((best.reciprocal_rank(k) - 1.0).abs() < 1e-9);
        }

        #[test]
        fn documents_of_equal_judgement_may_change_places((gains, ranking) in cases(), a in any::<prop::sample::Index>(), b in any::<prop::sample::Index>()) {
            prop_assume!(!ranking.is_empty());
            let (a, b) = (a.index(ranking.len()), b.index(ranking.len()));
            prop_assume!(gains[ranking[a]] == gains[ranking[b]]);
            let mut swapped = ranking.clone();
            swapped.swap(a, b);
            prop_assert_eq!(all(&of(&gains, &ranking)), all(&of(&gains, &swapped)));
        }

        #[test]
        fn a_better_document_further_up_never_makes_it_worse((gains, ranking) in cases(), at in any::<prop::sample::Index>()) {
            prop_assume!(ranking.len() > 1);
            let at = at.index(ranking.len() - 1);
            prop_assume!(gains[ranking[at + 1]] > gains[ranking[at]]);
            let mut better = ranking.clone();
            better.swap(at, at + 1);
            for (before, after) in all(&of(&gains, &ranking)).into_iter().zip(all(&of(&gains, &better))) {
                prop_assert!(after >= before - 1e-12);
            }
        }
    }
}
