//! A circuit breaker: a part that fails again and again is left alone for a while, so that callers lose no time on it and it can recover.

mod ports;
mod state;
mod watch;

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use metrics::{Counter, Gauge, counter, gauge};
use tokio::time::Instant;

pub use self::{
    ports::{BreakerEmbedder, BreakerReranker, BreakerVectorIndex},
    state::{BreakerState, FailureRate},
    watch::Probe,
};
use super::{Advice, Failure};
use state::{Generation, Machine, Transition};

/// When a breaker opens and for how long.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BreakerSettings {
    /// After so many passing failures in a row it opens; 0 is as 1.
    pub consecutive_failures: u32,
    /// It opens at this share of failures too, where given.
    pub failure_rate: Option<FailureRate>,
    /// How long it stays open; longer where the failing side asked for it, up to ten times this.
    pub open_for: Duration,
    /// A call that takes longer is stopped and is a failure. None: calls take as long as they take, and one that hangs never opens the breaker.
    pub call_timeout: Option<Duration>,
}

impl Default for BreakerSettings {
    fn default() -> Self {
        Self {
            consecutive_failures: 5,
            failure_rate: None,
            open_for: Duration::from_secs(5),
            call_timeout: None,
        }
    }
}

/// Why a call through a breaker failed.
#[derive(Debug, thiserror::Error)]
pub enum BreakerError<E> {
    /// It was not made.
    #[error("left alone after repeated failures; next try in {} ms", retry_after.as_millis())]
    Open {
        /// When it may be tried again.
        retry_after: Duration,
    },
    /// It was stopped.
    #[error("no answer within {} ms", after.as_millis())]
    TimedOut {
        /// The time it was given.
        after: Duration,
    },
    /// It was made and failed.
    #[error(transparent)]
    Failed(E),
}

/// Watches the calls to one part. Closed, it lets all through and counts; open, none; then, half-open, one, whose end decides. That one is the next call that
/// comes ([`Self::call`]), or one made for the purpose, so that nobody waits for a part that is away ([`Self::call_watched`]).
///
/// Only failures that may pass count (see [`Advice`]): an error that the other side gives for good reason shows that it is well.
pub struct CircuitBreaker {
    name: &'static str,
    machine: Mutex<Machine>,
    call_timeout: Option<Duration>,
    opened: Counter,
    refused: Counter,
    is_open: Gauge,
}

impl CircuitBreaker {
    /// A closed breaker. Its name is what logs and metrics call it.
    #[must_use]
    pub fn new(name: &'static str, settings: BreakerSettings) -> Arc<Self> {
        let is_open = gauge!("raglan_breaker_open", "breaker" => name);
        is_open.set(0.0);
        Arc::new(Self {
            name,
            call_timeout: settings.call_timeout,
            machine: Mutex::new(Machine::new(settings)),
            opened: counter!("raglan_breaker_opened_total", "breaker" => name),
            refused: counter!("raglan_breaker_refused_total", "breaker" => name),
            is_open,
        })
    }

    /// Where it stands at this moment.
    #[must_use]
    pub fn state(&self) -> BreakerState {
        self.machine().state(Instant::now())
    }

    /// How long it would refuse a call from this moment on; none where it would make it.
    #[must_use]
    pub fn wait(&self) -> Option<Duration> {
        self.machine().wait(Instant::now())
    }

    /// Makes a call, unless the breaker is open. A call that is dropped counts neither as a success nor as a failure.
    ///
    /// # Errors
    /// [`BreakerError`]; of an open one the call was never polled.
    pub async fn call<T, E: Failure>(
        self: &Arc<Self>,
        call: impl Future<Output = Result<T, E>>,
    ) -> Result<T, BreakerError<E>> {
        self.attempt(self.leave()?, call).await.0
    }

    fn leave<E>(self: &Arc<Self>) -> Result<Permit, BreakerError<E>> {
        self.acquire().map_err(|retry_after| BreakerError::Open { retry_after })
    }

    /// Makes the call that there is leave for; true where its end opened the breaker.
    async fn attempt<T, E: Failure>(
        &self,
        permit: Permit,
        call: impl Future<Output = Result<T, E>>,
    ) -> (Result<T, BreakerError<E>>, bool) {
        let result = match self.call_timeout {
            None => call.await,
            Some(after) => match tokio::time::timeout(after, call).await {
                Ok(result) => result,
                Err(_) => return (Err(BreakerError::TimedOut { after }), permit.failed(None)),
            },
        };
        let opened = permit.settle(&result);
        (result.map_err(BreakerError::Failed), opened)
    }

    /// Asks for leave to make one call whose end is told by hand, such as a stream. Refused, it says when to ask again.
    ///
    /// # Errors
    /// The time until the next try is let through.
    pub fn acquire(self: &Arc<Self>) -> Result<Permit, Duration> {
        let leave = self.machine().acquire(Instant::now());
        match leave {
            Ok(generation) => Ok(Permit { breaker: Arc::clone(self), generation: Some(generation) }),
            Err(retry_after) => {
                self.refused.increment(1);
                Err(retry_after)
            }
        }
    }

    fn machine(&self) -> std::sync::MutexGuard<'_, Machine> {
        self.machine.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// True where it opened.
    fn tell(&self, transition: Option<Transition>) -> bool {
        match transition {
            None => false,
            Some(Transition::Opened { open_for }) => {
                self.opened.increment(1);
                self.is_open.set(1.0);
                let open_for_ms = u64::try_from(open_for.as_millis()).unwrap_or(u64::MAX);
                tracing::warn!(breaker = self.name, open_for_ms, "circuit breaker opened");
                true
            }
            Some(Transition::Closed) => {
                self.is_open.set(0.0);
                tracing::info!(breaker = self.name, "circuit breaker closed");
                false
            }
        }
    }
}

/// Leave to make one call. Dropped, it tells nothing about the call.
#[must_use = "tell how the call ended"]
pub struct Permit {
    breaker: Arc<CircuitBreaker>,
    /// None once told.
    generation: Option<Generation>,
}

impl Permit {
    /// Tells the call's result; true where it opened the breaker.
    pub fn settle<T, E: Failure>(self, result: &Result<T, E>) -> bool {
        match result.as_ref().map_err(Failure::advice) {
            Ok(_) | Err(Advice::Never) => {
                self.succeeded();
                false
            }
            Err(Advice::Later { after }) => self.failed(after),
            Err(Advice::Cancelled) => false,
        }
    }

    /// The other side is well.
    pub fn succeeded(mut self) {
        if let Some(generation) = self.generation.take() {
            let transition = self.breaker.machine().succeeded(generation);
            self.breaker.tell(transition);
        }
    }

    /// The other side is not well, and may have said when to come again. True where this opened the breaker.
    pub fn failed(mut self, retry_after: Option<Duration>) -> bool {
        let Some(generation) = self.generation.take() else { return false };
        let transition = self.breaker.machine().failed(generation, Instant::now(), retry_after);
        self.breaker.tell(transition)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some(generation) = self.generation.take() {
            self.breaker.machine().abandoned(generation);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::future::pending;

    use super::*;
    use crate::ports::{ErrorKind, ModelError, PortError, PortResult};

    const SECOND: Duration = Duration::from_secs(1);

    fn settings() -> BreakerSettings {
        BreakerSettings {
            consecutive_failures: 3,
            failure_rate: None,
            open_for: 10 * SECOND,
            call_timeout: Some(2 * SECOND),
        }
    }

    async fn fail(breaker: &Arc<CircuitBreaker>) -> BreakerError<PortError> {
        let error = PortError::new(ErrorKind::Unavailable, "down");
        breaker.call::<(), _>(async { Err(error) }).await.unwrap_err()
    }

    async fn succeed(breaker: &Arc<CircuitBreaker>) -> Result<(), BreakerError<PortError>> {
        breaker.call(async { PortResult::Ok(()) }).await
    }

    async fn opened() -> Arc<CircuitBreaker> {
        let breaker = CircuitBreaker::new("test", settings());
        for _ in 0..3 {
            assert!(matches!(fail(&breaker).await, BreakerError::Failed(_)));
        }
        breaker
    }

    #[tokio::test(start_paused = true)]
    async fn it_opens_after_failures_in_a_row_and_makes_no_call_then() {
        let breaker = CircuitBreaker::new("test", settings());
        for _ in 0..5 {
            fail(&breaker).await;
            fail(&breaker).await;
            succeed(&breaker).await.unwrap();
        }
        assert_eq!(breaker.state(), BreakerState::Closed);
        for _ in 0..3 {
            fail(&breaker).await;
        }
        assert_eq!(breaker.state(), BreakerState::Open);
        tokio::time::advance(4 * SECOND).await;
        let refused = breaker.call::<(), ModelError>(async { panic!("the call was made") }).await;
        assert!(matches!(refused, Err(BreakerError::Open { retry_after }) if retry_after == 6 * SECOND));
    }

    #[tokio::test(start_paused = true)]
    async fn half_open_it_lets_one_call_through_and_its_success_closes_it() {
        let breaker = opened().await;
        tokio::time::advance(10 * SECOND).await;
        assert_eq!(breaker.state(), BreakerState::HalfOpen);
        let probe = breaker.acquire().unwrap();
        assert!(matches!(succeed(&breaker).await, Err(BreakerError::Open { .. })), "one probe is enough");
        probe.succeeded();
        assert_eq!(breaker.state(), BreakerState::Closed);
        // Counting begins anew.
        fail(&breaker).await;
        fail(&breaker).await;
        assert_eq!(breaker.state(), BreakerState::Closed);
    }

    #[tokio::test(start_paused = true)]
    async fn a_probe_that_fails_opens_it_again() {
        let breaker = opened().await;
        tokio::time::advance(10 * SECOND).await;
        assert!(matches!(fail(&breaker).await, BreakerError::Failed(_)));
        assert_eq!(breaker.state(), BreakerState::Open);
        assert!(
            matches!(fail(&breaker).await, BreakerError::Open { retry_after } if retry_after == 10 * SECOND)
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_probe_that_is_dropped_or_lost_makes_way_for_another() {
        let breaker = opened().await;
        tokio::time::advance(10 * SECOND).await;
        drop(breaker.acquire().unwrap());
        let lost = breaker.acquire().unwrap();
        assert!(breaker.acquire().is_err());
        tokio::time::advance(10 * SECOND).await;
        succeed(&breaker).await.unwrap();
        assert_eq!(breaker.state(), BreakerState::Closed);
        // What is heard of the lost one now is of another time.
        lost.failed(None);
        fail(&breaker).await;
        fail(&breaker).await;
        assert_eq!(breaker.state(), BreakerState::Closed);
    }

    #[tokio::test(start_paused = true)]
    async fn calls_begun_before_it_opened_change_nothing_afterwards() {
        let breaker = CircuitBreaker::new("test", settings());
        let (early, late) = (breaker.acquire().unwrap(), breaker.acquire().unwrap());
        for _ in 0..3 {
            fail(&breaker).await;
        }
        early.succeeded();
        assert_eq!(breaker.state(), BreakerState::Open);
        tokio::time::advance(10 * SECOND).await;
        late.failed(Some(60 * SECOND));
        assert_eq!(breaker.state(), BreakerState::HalfOpen);
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_hangs_is_stopped_and_counts() {
        let breaker = CircuitBreaker::new("test", settings());
        for _ in 0..3 {
            let begun = Instant::now();
            let result = breaker.call::<(), PortError>(pending()).await;
            assert!(matches!(result, Err(BreakerError::TimedOut { after }) if after == 2 * SECOND));
            assert_eq!(begun.elapsed(), 2 * SECOND);
        }
        assert_eq!(breaker.state(), BreakerState::Open);
    }

    #[tokio::test(start_paused = true)]
    async fn answers_that_refuse_and_calls_that_were_cancelled_are_no_failures() {
        let breaker = CircuitBreaker::new("test", settings());
        for _ in 0..10 {
            let refused = async { Err(PortError::new(ErrorKind::Invalid, "wrong dimension")) };
            assert!(breaker.call::<(), _>(refused).await.is_err());
            assert!(breaker.call::<(), _>(async { Err(ModelError::Cancelled) }).await.is_err());
            let dropped = tokio::time::timeout(SECOND, breaker.call::<(), PortError>(pending())).await;
            assert!(dropped.is_err());
        }
        assert_eq!(breaker.state(), BreakerState::Closed);
    }

    #[tokio::test(start_paused = true)]
    async fn it_stays_open_as_long_as_it_was_asked_to_within_reason() {
        for (asked, kept) in [(3, 10), (40, 40), (100_000, 100)] {
            let breaker = CircuitBreaker::new("test", settings());
            for _ in 0..3 {
                let after = Some(Duration::from_secs(asked));
                let busy = async { Err(ModelError::TryLater { message: "busy".into(), after }) };
                assert!(breaker.call::<(), _>(busy).await.is_err());
            }
            assert_eq!(breaker.acquire().err(), Some(Duration::from_secs(kept)));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn it_opens_at_a_share_of_failures_once_it_has_seen_enough() {
        let rate = FailureRate { share: 0.5, calls: 10 };
        let breaker = CircuitBreaker::new("test", BreakerSettings { failure_rate: Some(rate), ..settings() });
        for _ in 0..4 {
            fail(&breaker).await;
            succeed(&breaker).await.unwrap();
        }
        succeed(&breaker).await.unwrap();
        succeed(&breaker).await.unwrap();
        assert_eq!(breaker.state(), BreakerState::Closed, "4 of 10");
        // The window moves on: with each of these a failure goes out at the other end.
        fail(&breaker).await;
        succeed(&breaker).await.unwrap();
        assert_eq!(breaker.state(), BreakerState::Closed, "4 of 10");
        fail(&breaker).await;
        assert_eq!(breaker.state(), BreakerState::Closed, "4 of 10");
        fail(&breaker).await;
        assert_eq!(breaker.state(), BreakerState::Open, "5 of 10");
    }
}
