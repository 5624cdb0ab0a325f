//! When a webhook is tried again.

use std::time::Duration;

use rand::Rng;

/// The time before each try, counted from the one before.
const DELAYS: [Duration; 9] = {
    const fn secs(s: u64) -> Duration {
        Duration::from_secs(s)
    }
    [
        secs(5),
        secs(5 * 60),
        secs(30 * 60),
        secs(2 * 3_600),
        secs(5 * 3_600),
        secs(10 * 3_600),
        secs(14 * 3_600),
        secs(20 * 3_600),
        secs(24 * 3_600),
    ]
};

/// How often a delivery is tried in all.
pub const MAX_ATTEMPTS: usize = DELAYS.len() + 1;

/// The time until the next try after `tries` of them; none when it was the last. Up to a tenth is added at random, so that receivers which come back
/// are not met by everybody at once. A receiver's own `Retry-After` is honoured where it is longer, up to a day.
#[must_use]
pub fn next_delay(tries: usize, retry_after: Option<Duration>, rng: &mut impl Rng) -> Option<Duration> {
    let delay = *DELAYS.get(tries.checked_sub(1)?)?;
    let jittered = delay.mul_f64(1.0 + rng.random_range(0.0..0.1));
    let asked = retry_after.unwrap_or_default().min(Duration::from_secs(24 * 3_600));
    Some(jittered.max(asked))
}

#[cfg(test)]
mod tests {
    use rand::{SeedableRng, rngs::StdRng};

    use super::*;

    #[test]
    fn ten_tries_with_a_little_jitter() {
        let mut rng = StdRng::seed_from_u64(1);
        let delays: Vec<Duration> = (1..).map_while(|tries| next_delay(tries, None, &mut rng)).collect();
        assert_eq!(delays.len() + 1, MAX_ATTEMPTS);
        for (got, base) in delays.iter().zip(DELAYS) {
            assert!(*got >= base && *got <= base.mul_f64(1.1), "{got:?} for {base:?}");
        }
        assert_eq!(next_delay(MAX_ATTEMPTS, None, &mut rng), None);
    }

    #[test]
    fn retry_after_is_honoured_where_it_is_longer_and_not_absurd() {
        let mut rng = StdRng::seed_from_u64(1);
        let minute = Duration::from_secs(60);
        assert_eq!(next_delay(1, Some(minute), &mut rng), Some(minute));
        assert!(next_delay(2, Some(minute), &mut rng) >= Some(Duration::from_secs(300)));
        let week = Duration::from_secs(7 * 24 * 3_600);
        assert_eq!(next_delay(1, Some(week), &mut rng), Some(Duration::from_secs(24 * 3_600)));
    }
}
