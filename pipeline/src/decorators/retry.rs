//! Trying again, later each time.

use std::time::Duration;

use rand::Rng;

use super::{Advice, Failure};

/// How long to wait before a call is made again: exponential with full jitter, which spreads callers that failed together best
/// (M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Backoff {
    /// The longest delay before the first repetition.
    pub base: Duration,
    /// By how much the longest delay grows each time; at least 1.
    pub factor: f64,
    /// The longest delay of all.
    pub max: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { base: Duration::from_millis(200), factor: 2.0, max: Duration::from_secs(30) }
    }
}

impl Backoff {
    /// The longest delay after a call's failure number `attempt`, from 1: `min(max, base · factor^(attempt − 1))`.
    #[must_use]
    pub fn ceiling(&self, attempt: u32) -> Duration {
        let exponent = i32::try_from(attempt.saturating_sub(1)).unwrap_or(i32::MAX);
        let seconds = self.base.as_secs_f64() * self.factor.max(1.0).powi(exponent);
        // Beyond what a duration can hold, or not a number: the maximum.
        Duration::try_from_secs_f64(seconds).map_or(self.max, |delay| delay.min(self.max))
    }

    /// The delay after failure number `attempt`, from 1: anything up to its [`ceiling`](Self::ceiling).
    pub fn delay(&self, attempt: u32, rng: &mut (impl Rng + ?Sized)) -> Duration {
        self.ceiling(attempt).mul_f64(rng.random::<f64>())
    }

    /// The delay after an error that may have asked for one itself: no less than that, and spread beyond it, so that those who were sent away together
    /// do not come back together.
    pub fn delay_after(
        &self,
        attempt: u32,
        asked: Option<Duration>,
        rng: &mut (impl Rng + ?Sized),
    ) -> Duration {
        asked.unwrap_or_default().saturating_add(self.delay(attempt, rng))
    }
}

/// How often a call is made, and how long to wait between.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RetryPolicy {
    /// The most calls, the first included; 0 is as 1.
    pub attempts: u32,
    /// The delays.
    pub backoff: Backoff,
    /// Where the other side asks for a longer delay than this, its error is returned at once: the caller has better to do than to wait.
    pub patience: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self { attempts: 3, backoff: Backoff::default(), patience: Duration::from_secs(10) }
    }
}

/// Makes a call until it succeeds, fails for good, or was made as often as allowed; returns its last result. The call is given its number, from 1. Dropping the
/// future stops it at any point.
///
/// # Errors
/// The last call's.
pub async fn retry<T, E, F>(policy: &RetryPolicy, mut call: impl FnMut(u32) -> F) -> Result<T, E>
where
    E: Failure,
    F: Future<Output = Result<T, E>>,
{
    let mut attempt = 1;
    loop {
        let error = match call(attempt).await {
            Ok(value) => return Ok(value),
            Err(error) => error,
        };
        let Advice::Later { after } = error.advice() else { return Err(error) };
        if attempt >= policy.attempts || after.is_some_and(|after| after > policy.patience) {
            return Err(error);
        }
        let delay = policy.backoff.delay_after(attempt, after, &mut rand::rng());
        tokio::time::sleep(delay).await;
        attempt += 1;
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use rand::{SeedableRng, rngs::StdRng};
    use tokio::time::Instant;

    use super::*;
    use crate::ports::{ErrorKind, ModelError, PortError};

    const SECOND: Duration = Duration::from_secs(1);

    fn policy(attempts: u32) -> RetryPolicy {
        let backoff = Backoff { base: SECOND, factor: 2.0, max: 4 * SECOND };
        RetryPolicy { attempts, backoff, patience: 60 * SECOND }
    }

    #[test]
    fn the_ceiling_grows_to_its_maximum_and_not_beyond() {
        let backoff = policy(1).backoff;
        let ceilings: Vec<_> = [0, 1, 2, 3, 4, 400, u32::MAX].map(|n| backoff.ceiling(n).as_secs()).into();
        assert_eq!(ceilings, [1, 1, 2, 4, 4, 4, 4]);
        let odd = Backoff { factor: f64::NAN, ..backoff };
        assert_eq!(odd.ceiling(5), SECOND);
    }

    #[test]
    fn jitter_is_full_and_repeatable() {
        let backoff = policy(1).backoff;
        let draw = |seed| -> Vec<Duration> {
            let mut rng = StdRng::seed_from_u64(seed);
            (0..1_000).map(|_| backoff.delay(2, &mut rng)).collect()
        };
        let delays = draw(1);
        assert_eq!(delays, draw(1));
        assert_ne!(delays, draw(2));
        assert!(delays.iter().all(|delay| *delay <= 2 * SECOND));
        assert!(delays.iter().any(|delay| *delay < SECOND / 10));
        assert!(delays.iter().any(|delay| *delay > 19 * SECOND / 10));
        let mut rng = StdRng::seed_from_u64(3);
        assert!((0..100).all(|_| backoff.delay_after(1, Some(7 * SECOND), &mut rng) >= 7 * SECOND));
    }

    #[tokio::test(start_paused = true)]
    async fn passing_failures_are_tried_again_until_one_call_succeeds() {
        let begun = Instant::now();
        let result = retry(&policy(5), |attempt| async move {
            if attempt < 3 { Err(ModelError::try_later("busy")) } else { Ok(attempt) }
        })
        .await;
        assert_eq!(result.unwrap(), 3);
        assert!(begun.elapsed() <= 3 * SECOND + SECOND / 10, "{:?}", begun.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn it_gives_up_after_the_most_attempts_with_the_last_error() {
        let result: Result<(), _> = retry(&policy(4), |attempt| async move {
            Err(PortError::new(ErrorKind::Timeout, format!("try {attempt}")))
        })
        .await;
        assert_eq!(result.unwrap_err().to_string(), "try 4");
    }

    #[tokio::test(start_paused = true)]
    async fn what_cannot_succeed_is_not_tried_again() {
        for error in [ErrorKind::Conflict, ErrorKind::Invalid, ErrorKind::Corrupt, ErrorKind::Internal] {
            let calls = Cell::new(0);
            let result: Result<(), _> = retry(&policy(5), |_| {
                calls.set(calls.get() + 1);
                async move { Err(PortError::new(error, "no")) }
            })
            .await;
            assert!(result.is_err());
            assert_eq!(calls.get(), 1, "{error:?}");
        }
        let result: Result<(), _> = retry(&policy(5), |attempt| async move {
            assert_eq!(attempt, 1, "a call that was cancelled is not made again");
            Err(ModelError::Cancelled)
        })
        .await;
        assert!(matches!(result, Err(ModelError::Cancelled)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_delay_that_was_asked_for_is_kept_or_refused_at_once() {
        let begun = Instant::now();
        let busy = |after| {
            move |attempt| async move {
                if attempt > 1 {
                    return Ok(());
                }
                Err(PortError::new(ErrorKind::Overloaded, "busy").with_retry_after(after))
            }
        };
        retry(&policy(2), busy(30 * SECOND)).await.unwrap();
        assert!(begun.elapsed() >= 30 * SECOND);

        let begun = Instant::now();
        let error = retry(&policy(2), busy(61 * SECOND)).await.unwrap_err();
        assert_eq!(error.retry_after(), Some(61 * SECOND));
        assert_eq!(begun.elapsed(), Duration::ZERO);
    }
}
