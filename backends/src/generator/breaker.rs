//! Stops calls to a server that keeps failing, and lets one through now and then to see whether it is back.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// Opens after so many failures in a row, for so long; then one call at a time is let through until one succeeds.
#[derive(Debug)]
pub(super) struct Breaker {
    failures_to_open: u32,
    pause: Duration,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    failures: u32,
    /// Set while it is open; in the past once a probe may go.
    open_until: Option<Instant>,
    probing: bool,
}

/// The right to make one call. Dropped without a verdict (a cancelled call), it says nothing about the server.
#[derive(Debug)]
pub(super) struct Pass {
    breaker: Arc<Breaker>,
    probe: bool,
}

impl Breaker {
    pub(super) fn new(failures_to_open: u32, pause: Duration) -> Self {
        Self { failures_to_open: failures_to_open.max(1), pause, state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets a call through, or says how long to wait.
    pub(super) fn enter(self: &Arc<Self>) -> Result<Pass, Duration> {
        let mut state = self.state();
        let mut probe = false;
        if let Some(until) = state.open_until {
            let wait = until.saturating_duration_since(Instant::now());
            if !wait.is_zero() {
                return Err(wait);
            }
            if state.probing {
                // How long the probe takes nobody knows; the pause is the only measure there is.
                return Err(self.pause);
            }
            state.probing = true;
            probe = true;
        }
        Ok(Pass { breaker: Arc::clone(self), probe })
    }
}

impl Pass {
    /// The server answered as it should.
    pub(super) fn succeeded(self) {
        let mut state = self.breaker.state();
        state.failures = 0;
        state.open_until = None;
    }

    /// The server is not well.
    pub(super) fn failed(self) {
        let mut state = self.breaker.state();
        state.failures = state.failures.saturating_add(1);
        if state.failures >= self.breaker.failures_to_open {
            state.open_until = Some(Instant::now() + self.breaker.pause);
        }
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        if self.probe {
            self.breaker.state().probing = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAUSE: Duration = Duration::from_secs(30);

    #[tokio::test(start_paused = true)]
    async fn it_opens_after_failures_in_a_row_and_closes_after_a_good_probe() {
        let breaker = Arc::new(Breaker::new(2, PAUSE));
        breaker.enter().unwrap().failed();
        breaker.enter().unwrap().succeeded();
        breaker.enter().unwrap().failed();
        breaker.enter().unwrap().failed();
        assert_eq!(breaker.enter().unwrap_err(), PAUSE);

        tokio::time::advance(PAUSE).await;
        let probe = breaker.enter().unwrap();
        assert!(breaker.enter().is_err(), "one probe at a time");
        probe.failed();
        assert_eq!(breaker.enter().unwrap_err(), PAUSE);

        tokio::time::advance(PAUSE).await;
        drop(breaker.enter().unwrap());
        breaker.enter().unwrap().succeeded();
        let (_one, _two) = (breaker.enter().unwrap(), breaker.enter().unwrap());
    }
}
