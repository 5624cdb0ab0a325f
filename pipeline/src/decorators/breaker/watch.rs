//! Finding out that a part is well again without making a caller wait for it.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use futures::future::BoxFuture;
use tokio::time::Instant;

use super::{BreakerError, CircuitBreaker, Failure, Permit};

/// Makes a call to the part behind a breaker again, as often as is wanted.
pub type Probe<E> = Box<dyn Fn() -> BoxFuture<'static, Result<(), E>> + Send + Sync>;

/// A probe whose end tells nothing (it was cancelled) is not made again sooner than this.
const SOONEST: Duration = Duration::from_millis(100);

impl CircuitBreaker {
    /// As [`Self::call`], but a call that opens the breaker leaves a probe behind. It is made in the background, once whenever a call would have been let
    /// through, until the breaker closes; callers are refused until then, and none of them is the one that finds out that the part is still away.
    ///
    /// The probe ends with the last other owner of the breaker.
    ///
    /// # Errors
    /// As [`Self::call`].
    pub async fn call_watched<T, E: Failure + Send + 'static>(
        self: &Arc<Self>,
        call: impl Future<Output = Result<T, E>>,
        probe: impl FnOnce() -> Probe<E>,
    ) -> Result<T, BreakerError<E>> {
        let (result, opened) = self.attempt(self.leave()?, call).await;
        if opened {
            self.machine().watched(true);
            tokio::spawn(watch(Watcher(Arc::downgrade(self)), probe()));
        }
        result
    }
}

/// Leaves the breaker to its callers when it ends, however it does.
struct Watcher(Weak<CircuitBreaker>);

impl Drop for Watcher {
    fn drop(&mut self) {
        if let Some(breaker) = self.0.upgrade() {
            breaker.machine().watched(false);
        }
    }
}

async fn watch<E: Failure>(watcher: Watcher, probe: Probe<E>) {
    loop {
        let next = watcher.0.upgrade().and_then(|breaker| breaker.machine().next_probe(Instant::now()));
        let Some(wait) = next else { return };
        tokio::time::sleep(wait.max(SOONEST)).await;
        let Some(breaker) = watcher.0.upgrade() else { return };
        let leave = breaker.machine().acquire_probe(Instant::now());
        if let Some(generation) = leave {
            let permit = Permit { breaker: Arc::clone(&breaker), generation: Some(generation) };
            // Its end is the breaker's next state; there is nobody to tell it to.
            let _ = breaker.attempt(permit, probe()).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

    use super::*;
    use crate::{
        decorators::breaker::{BreakerSettings, BreakerState},
        ports::{ErrorKind, ModelError, PortError},
    };

    const SECOND: Duration = Duration::from_secs(1);

    /// A part that is away, and how often it was tried by a probe.
    #[derive(Default)]
    struct Part {
        well: AtomicBool,
        panics: AtomicBool,
        hangs: AtomicBool,
        probes: AtomicU32,
    }

    impl Part {
        fn call(&self) -> Result<(), PortError> {
            assert!(!self.panics.load(Ordering::Relaxed), "a probe that panics");
            let well = self.well.load(Ordering::Relaxed);
            well.then_some(()).ok_or_else(|| PortError::new(ErrorKind::Unavailable, "away"))
        }

        async fn through(
            self: &Arc<Self>,
            breaker: &Arc<CircuitBreaker>,
        ) -> Result<(), BreakerError<PortError>> {
            let probe = || -> Probe<PortError> {
                let part = Arc::clone(self);
                Box::new(move || {
                    part.probes.fetch_add(1, Ordering::Relaxed);
                    let (result, hangs) = (part.call(), part.hangs.load(Ordering::Relaxed));
                    Box::pin(async move { if hangs { std::future::pending().await } else { result } })
                })
            };
            breaker.call_watched(async { self.call() }, probe).await
        }

        fn probes(&self) -> u32 {
            self.probes.load(Ordering::Relaxed)
        }
    }

    async fn opened() -> (Arc<Part>, Arc<CircuitBreaker>) {
        let settings =
            BreakerSettings { consecutive_failures: 2, open_for: 10 * SECOND, ..BreakerSettings::default() };
        let (part, breaker) = (Arc::new(Part::default()), CircuitBreaker::new("test", settings));
        for _ in 0..2 {
            assert!(matches!(part.through(&breaker).await, Err(BreakerError::Failed(_))));
        }
        (part, breaker)
    }

    #[tokio::test(start_paused = true)]
    async fn no_caller_is_let_through_until_the_part_is_well_again() {
        let (part, breaker) = opened().await;
        for second in 0..35 {
            let refused = part.through(&breaker).await;
            assert!(matches!(refused, Err(BreakerError::Open { .. })), "after {second} seconds");
            assert!(breaker.wait().is_some(), "after {second} seconds");
            tokio::time::sleep(SECOND).await;
        }
        assert_eq!(part.probes(), 3, "one in each ten seconds");
        part.well.store(true, Ordering::Relaxed);
        tokio::time::sleep(6 * SECOND).await;
        assert_eq!((part.probes(), breaker.state()), (4, BreakerState::Closed));
        part.through(&breaker).await.unwrap();
        tokio::time::sleep(60 * SECOND).await;
        assert_eq!(part.probes(), 4, "nobody watches a part that is well");
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_watched_again_when_it_opens_again() {
        let (part, breaker) = opened().await;
        part.well.store(true, Ordering::Relaxed);
        tokio::time::sleep(11 * SECOND).await;
        part.well.store(false, Ordering::Relaxed);
        for _ in 0..2 {
            assert!(matches!(part.through(&breaker).await, Err(BreakerError::Failed(_))));
        }
        tokio::time::sleep(11 * SECOND).await;
        assert_eq!(part.probes(), 2);
        assert!(matches!(part.through(&breaker).await, Err(BreakerError::Open { .. })));
    }

    #[tokio::test(start_paused = true)]
    async fn a_watcher_that_is_lost_leaves_it_to_the_callers() {
        let (part, breaker) = opened().await;
        part.panics.store(true, Ordering::Relaxed);
        tokio::time::sleep(11 * SECOND).await;
        part.panics.store(false, Ordering::Relaxed);
        part.well.store(true, Ordering::Relaxed);
        tokio::time::sleep(10 * SECOND).await;
        assert_eq!(part.probes(), 1);
        part.through(&breaker).await.unwrap();
        assert_eq!(breaker.state(), BreakerState::Closed);
    }

    #[tokio::test(start_paused = true)]
    async fn a_probe_that_hangs_leaves_it_to_the_callers() {
        let (part, breaker) = opened().await;
        part.hangs.store(true, Ordering::Relaxed);
        tokio::time::sleep(19 * SECOND).await;
        assert!(matches!(part.through(&breaker).await, Err(BreakerError::Open { .. })));
        tokio::time::sleep(2 * SECOND).await;
        part.well.store(true, Ordering::Relaxed);
        part.through(&breaker).await.unwrap();
        assert_eq!((part.probes(), breaker.state()), (1, BreakerState::Closed));
    }

    #[tokio::test(start_paused = true)]
    async fn a_probe_that_tells_nothing_is_not_made_without_a_pause() {
        let settings =
            BreakerSettings { consecutive_failures: 1, open_for: SECOND, ..BreakerSettings::default() };
        let (breaker, probes) = (CircuitBreaker::new("test", settings), Arc::new(AtomicU32::default()));
        let counted = Arc::clone(&probes);
        let probe = || -> Probe<ModelError> {
            Box::new(move || {
                counted.fetch_add(1, Ordering::Relaxed);
                Box::pin(async { Err(ModelError::Cancelled) })
            })
        };
        let failed = breaker.call_watched::<(), _>(async { Err(ModelError::try_later("away")) }, probe).await;
        assert!(matches!(failed, Err(BreakerError::Failed(_))));
        tokio::time::sleep(2 * SECOND).await;
        assert!((2..=12).contains(&probes.load(Ordering::Relaxed)), "{probes:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_watches_for_a_breaker_that_is_gone() {
        let (part, breaker) = opened().await;
        drop(breaker);
        tokio::time::sleep(60 * SECOND).await;
        assert_eq!((part.probes(), Arc::strong_count(&part)), (0, 1));
    }
}
