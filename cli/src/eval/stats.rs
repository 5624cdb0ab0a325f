//! Means, percentiles, and how far to trust them.

use serde::Serialize;

/// How many resamples a bootstrap draws.
pub const RESAMPLES: usize = 10_000;

/// The mean; none of no values.
#[allow(clippy::cast_precision_loss)] // counts of questions
pub fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

/// The value that this share (0 to 1) of the values does not exceed (nearest rank); none of no values.
#[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)] // counts of questions
pub fn percentile(values: &[f64], share: f64) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.clamp(1, sorted.len().max(1)) - 1).copied()
}

/// The median: the mean of the two middle values where there is an even number of them; none of no values.
pub fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let upper = *sorted.get(sorted.len() / 2)?;
    Some(if sorted.len() % 2 == 1 { upper } else { f64::midpoint(sorted[sorted.len() / 2 - 1], upper) })
}

/// A mean with its 95 % interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Estimate {
    /// The mean over the questions.
    pub mean: f64,
    /// 2.5 % of the resamples' means are below.
    pub low: f64,
    /// 2.5 % are above.
    pub high: f64,
    /// Over how many questions.
    pub questions: usize,
}

/// A difference between two systems over the same questions.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Difference {
    /// Mean of the second less mean of the first.
    pub mean: f64,
    /// 2.5 % of the resamples' differences are below.
    pub low: f64,
    /// 2.5 % are above.
    pub high: f64,
    /// Two-sided: how often a resample's difference falls on the other side of 0, twice.
    pub p: f64,
    /// Questions on which the second is better, equal, and worse (by value; for some measures lower is better).
    pub higher: usize,
    /// Equal.
    pub equal: usize,
    /// Lower.
    pub lower: usize,
    /// Over how many questions.
    pub questions: usize,
}

/// Draws questions with replacement (Efron 1979), the same ones for the same seed and number of questions on every machine.
#[derive(Debug, Clone, Copy)]
pub struct Bootstrap {
    seed: u64,
    resamples: usize,
}

impl Bootstrap {
    /// 10,000 resamples.
    pub fn new(seed: u64) -> Self {
        Self { seed, resamples: RESAMPLES }
    }

    /// The mean with its percentile interval; none of no values.
    pub fn estimate(&self, values: &[f64]) -> Option<Estimate> {
        let mean = mean(values)?;
        let means = self.means(values);
        Some(Estimate { mean, low: at(&means, 0.025), high: at(&means, 0.975), questions: values.len() })
    }

    /// The paired difference `second − first`, with its percentile interval; the two have one value for each question, in the same order.
    /// None of no values.
    #[allow(clippy::cast_precision_loss)] // counts of questions
    pub fn difference(&self, first: &[f64], second: &[f64]) -> Option<Difference> {
        let deltas: Vec<f64> = first.iter().zip(second).map(|(first, second)| second - first).collect();
        let mean = mean(&deltas)?;
        let means = self.means(&deltas);
        let not_above = means.iter().filter(|mean| **mean <= 0.0).count();
        let not_below = means.iter().filter(|mean| **mean >= 0.0).count();
        // The sample itself counts as a resample, so that p is never 0 (Davison and Hinkley 1997, 4.2).
        let tail = (not_above.min(not_below) + 1) as f64 / (self.resamples + 1) as f64;
        let higher = deltas.iter().filter(|delta| **delta > 0.0).count();
        let lower = deltas.iter().filter(|delta| **delta < 0.0).count();
        Some(Difference {
            mean,
            low: at(&means, 0.025),
            high: at(&means, 0.975),
            p: (2.0 * tail).min(1.0),
            higher,
            equal: deltas.len() - higher - lower,
            lower,
            questions: deltas.len(),
        })
    }

    /// The mean of each resample, ascending.
    #[allow(clippy::cast_precision_loss)] // counts of questions
    fn means(&self, values: &[f64]) -> Vec<f64> {
        let mut random = SplitMix64(self.seed);
        let one = |random: &mut SplitMix64| {
            (0..values.len()).map(|_| values[random.below(values.len())]).sum::<f64>() / values.len() as f64
        };
        let mut means: Vec<f64> = (0..self.resamples).map(|_| one(&mut random)).collect();
        means.sort_by(f64::total_cmp);
        means
    }
}

fn at(sorted: &[f64], share: f64) -> f64 {
    #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    // 10,000 values
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted[rank.clamp(1, sorted.len()) - 1]
}

/// SplitMix64 (Steele, Lea and Flood 2014). Its numbers are fixed by its definition: those of a library's generator may change with its
/// version, and then no figure could be got again.
struct SplitMix64(u64);

impl SplitMix64 {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`, by multiplication (Lemire 2019); the bias is below `bound` in 2^64.
    #[allow(clippy::cast_possible_truncation)] // the upper half of a product is below `bound`
    fn below(&mut self, bound: usize) -> usize {
        ((u128::from(self.next()) * bound as u128) >> 64) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_and_means_by_hand() {
        let values: Vec<f64> = (1..=10).rev().map(f64::from).collect();
        assert_eq!(percentile(&values, 0.5), Some(5.0));
        assert_eq!(percentile(&values, 0.99), Some(10.0));
        assert_eq!(percentile(&values, 0.0), Some(1.0));
        assert_eq!(median(&values), Some(5.5));
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(mean(&values), Some(5.5));
        assert_eq!((percentile(&[], 0.5), median(&[]), mean(&[])), (None, None, None));
    }

    #[test]
    fn the_generator_is_the_published_one() {
        // The first outputs for the seed 1234567, from the reference implementation.
        let mut random = SplitMix64(1_234_567);
        let first: Vec<u64> = (0..3).map(|_| random.next()).collect();
        assert_eq!(first, [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423]);
    }

    #[test]
    fn the_interval_of_a_mean_is_about_two_standard_errors_and_the_same_each_time() {
        // 400 questions, half of them right: the standard error is 0.5 / 20.
        let values: Vec<f64> = (0..400).map(|n| f64::from(n % 2)).collect();
        let estimate = Bootstrap::new(1).estimate(&values).unwrap();
        assert!((estimate.mean - 0.5).abs() < 1e-12);
        assert!((estimate.low - (0.5 - 1.96 * 0.025)).abs() < 0.005, "{estimate:?}");
        assert!((estimate.high - (0.5 + 1.96 * 0.025)).abs() < 0.005, "{estimate:?}");
        assert_eq!(Bootstrap::new(1).estimate(&values), Some(estimate));
        assert!(Bootstrap::new(1).estimate(&[]).is_none());
        let one = Bootstrap::new(1).estimate(&[0.25]).unwrap();
        assert_eq!((one.mean, one.low, one.high), (0.25, 0.25, 0.25));
    }

    #[test]
    fn a_known_difference_is_found_and_none_is_not() {
        let first: Vec<f64> = (0..200).map(|n| f64::from(n % 7) / 10.0).collect();
        // Better by 0.1 on three of four questions.
        let second: Vec<f64> = first
            .iter()
            .enumerate()
            .map(|(n, value)| if n % 4 == 0 { *value } else { value + 0.1 })
            .collect();
        let found = Bootstrap::new(3).difference(&first, &second).unwrap();
        assert!((found.mean - 0.075).abs() < 1e-9);
        assert!(found.low > 0.06 && found.high < 0.09, "{found:?}");
        assert!(found.p < 0.001, "{found:?}");
        assert_eq!((found.higher, found.equal, found.lower, found.questions), (150, 50, 0, 200));
        assert_eq!(Bootstrap::new(3).difference(&first, &second), Some(found), "the same for the same seed");
        let back = Bootstrap::new(3).difference(&second, &first).unwrap();
        assert!((back.mean + found.mean).abs() < 1e-12 && back.lower == 150);

        // As often better as worse.
        let noise: Vec<f64> =
            first.iter().enumerate().map(|(n, value)| value + if n % 2 == 0 { 0.1 } else { -0.1 }).collect();
        let none = Bootstrap::new(3).difference(&first, &noise).unwrap();
        assert!(none.low < 0.0 && none.high > 0.0 && none.p > 0.5, "{none:?}");
        let same = Bootstrap::new(3).difference(&first, &first).unwrap();
        assert_eq!((same.mean, same.low, same.high, same.p, same.equal), (0.0, 0.0, 0.0, 1.0, 200));
        assert!(Bootstrap::new(3).difference(&[], &[]).is_none());
    }
}
