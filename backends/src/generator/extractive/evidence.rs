//! How the signs of an answer are weighed: which sentence it is, and whether there is one at all.
//!
//! Both are logistic models with a handful of weights, fitted once on public question sets (how, on what, and how well they
//! carry over to other sets is told in `docs/evaluation.md`). Every sign is a share or a cosine, so the weights depend on neither
//! the number of passages nor their subject.

/// How good a sentence is among the others, on a logarithmic scale: a conditional logit model, so that the exponentials of the
/// scores, divided by their sum, are the probabilities that each is the one (McFadden 1974).
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Ranking {
    related: f32,
    lexical: f32,
    fit: f32,
    rank: f32,
}

impl Ranking {
    /// With an embedder.
    pub(super) const BY_MEANING: Self = Self { related: 6.0, lexical: 8.2, fit: 0.9, rank: 2.6 };
    /// Without one.
    pub(super) const BY_WORDS: Self = Self { related: 0.0, lexical: 10.1, fit: 1.0, rank: 3.7 };

    /// The score of a sentence: how related it is to the question, the share of the question's words in it, whether it holds the
    /// kind of thing asked for, and how early its passage was found.
    pub(super) fn score(self, related: f32, lexical: f32, fit: f32, rank: f32) -> f32 {
        self.related * related + self.lexical * lexical + self.fit * fit + self.rank * rank
    }
}

/// What speaks for and against the best sentence being an answer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Evidence {
    /// How related it is to the question: a cosine above that of unrelated texts, at most 1; none without an embedder.
    pub(super) related: Option<f32>,
    /// The share of the question's words in it.
    pub(super) lexical: f32,
    /// The share of them in it and around it.
    pub(super) around: f32,
    /// The share of the question's names and numbers that stand neither around it nor around the best sentence of another passage.
    pub(super) missing_names: f32,
    /// Whether the kind of thing that is asked for is surely not in it.
    pub(super) unfit: bool,
}

impl Evidence {
    /// The probability that the passages hold an answer: logistic regression.
    pub(super) fn probability(&self) -> f32 {
        let unfit = if self.unfit { 1.0 } else { 0.0 };
        let sum = match self.related {
            Some(related) => {
                6.7 * related + 3.05 * self.lexical + 1.3 * self.around
                    - 1.65 * self.missing_names
                    - 0.9 * unfit
                    - 5.25
            }
            None => 4.4 * self.lexical + 0.8 * self.around - 2.0 * self.missing_names - 0.3 * unfit - 2.0,
        };
        1.0 / (1.0 + (-sum).exp())
    }
}

/// The probabilities of the scores' sentences, in order.
pub(super) fn probabilities(scores: &[f32]) -> Vec<f32> {
    let most = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let odds: Vec<f32> = scores.iter().map(|score| (score - most).exp()).collect();
    let total: f32 = odds.iter().sum();
    odds.into_iter().map(|odds| odds / total).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const FAIR: Evidence =
        Evidence { related: Some(0.5), lexical: 0.5, around: 0.6, missing_names: 0.0, unfit: false };

    #[test]
    fn each_sign_moves_the_probability_its_way() {
        for fair in [FAIR, Evidence { related: None, ..FAIR }] {
            let base = fair.probability();
            assert!((0.0..=1.0).contains(&base));
            assert!(Evidence { lexical: 0.7, ..fair }.probability() > base);
            assert!(Evidence { around: 0.9, ..fair }.probability() > base);
            assert!(Evidence { missing_names: 0.5, ..fair }.probability() < base);
            assert!(Evidence { unfit: true, ..fair }.probability() < base);
        }
        assert!(Evidence { related: Some(0.6), ..FAIR }.probability() > FAIR.probability());
    }

    #[test]
    fn one_missing_name_alone_decides_nothing() {
        let sure =
            Evidence { related: Some(0.75), lexical: 0.8, around: 0.9, missing_names: 1.0, unfit: false };
        assert!(sure.probability() > 0.5);
    }

    #[test]
    fn probabilities_make_one_and_keep_the_order() {
        let found = probabilities(&[2.0, 1.0, 900.0, -900.0]);
        assert!((found.iter().sum::<f32>() - 1.0).abs() < 1e-6, "{found:?}");
        assert!(found[2] > found[0] && found[0] >= found[1]);
        assert!(probabilities(&[]).is_empty());
    }
}
