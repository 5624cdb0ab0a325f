//! The states of a breaker. No lock and no clock: the time is given.

use std::{collections::VecDeque, time::Duration};

use tokio::time::Instant;

use super::BreakerSettings;

/// Where a breaker stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BreakerState {
    /// All calls are made.
    Closed,
    /// No call is made.
    Open,
    /// One call is made, to see: the next that comes, or a watcher's own.
    HalfOpen,
}

/// A share of failures among the last calls.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FailureRate {
    /// From 0 to 1; at it or above, the breaker opens.
    pub share: f64,
    /// Of so many last calls, and not before so many were made; 0 is as 1.
    pub calls: usize,
}

/// Between two changes of state there is one generation; what is heard of a call of an older one is of no interest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Generation(u64);

/// What is worth telling.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Transition {
    Opened { open_for: Duration },
    Closed,
}

#[derive(Debug)]
enum State {
    Closed {
        failures_in_a_row: u32,
        window: Window,
    },
    Open {
        until: Instant,
    },
    /// A call was let through, at this time.
    Probing {
        since: Instant,
    },
}

#[derive(Debug)]
pub(super) struct Machine {
    settings: BreakerSettings,
    state: State,
    generation: u64,
    /// Somebody else finds out when the other side is well again; callers are let through when it is.
    watched: bool,
}

impl Machine {
    pub(super) fn new(settings: BreakerSettings) -> Self {
        Self { settings, state: State::closed(), generation: 0, watched: false }
    }

    pub(super) fn state(&self, now: Instant) -> BreakerState {
        match self.state {
            State::Closed { .. } => BreakerState::Closed,
            State::Open { until } if now < until => BreakerState::Open,
            State::Open { .. } | State::Probing { .. } => BreakerState::HalfOpen,
        }
    }

    /// How long no call is let through; none where one is.
    pub(super) fn wait(&self, now: Instant) -> Option<Duration> {
        let probing = matches!(self.state, State::Probing { .. });
        self.next_probe(now).filter(|wait| !wait.is_zero() || (self.watched && !probing))
    }

    /// How long until the other side may be tried; none where calls go through anyway.
    pub(super) fn next_probe(&self, now: Instant) -> Option<Duration> {
        let until = match self.state {
            State::Closed { .. } => return None,
            State::Open { until } => until,
            // A probe that nothing is heard of holds the others up no longer than an open breaker does.
            State::Probing { since } => since + self.settings.open_for,
        };
        Some(until.saturating_duration_since(now))
    }

    /// Leave for a call, or the time until there may be one.
    pub(super) fn acquire(&mut self, now: Instant) -> Result<Generation, Duration> {
        match self.wait(now) {
            Some(wait) => Err(wait),
            None => Ok(self.let_through(now)),
        }
    }

    /// Leave for the watcher's own call; none where it has to ask [`Self::next_probe`] again.
    pub(super) fn acquire_probe(&mut self, now: Instant) -> Option<Generation> {
        let due = self.next_probe(now).is_some_and(|wait| wait.is_zero());
        due.then(|| self.let_through(now))
    }

    /// From now on only the watcher's calls are let through until the breaker closes, or until there is no watcher.
    pub(super) fn watched(&mut self, watched: bool) {
        self.watched = watched;
    }

    fn let_through(&mut self, now: Instant) -> Generation {
        if !matches!(self.state, State::Closed { .. }) {
            self.enter(State::Probing { since: now });
        }
        Generation(self.generation)
    }

    pub(super) fn succeeded(&mut self, call: Generation) -> Option<Transition> {
        if call.0 != self.generation {
            return None;
        }
        match &mut self.state {
            State::Closed { failures_in_a_row, window } => {
                *failures_in_a_row = 0;
                if let Some(rate) = self.settings.failure_rate {
                    window.add(false, rate);
                }
                None
            }
            State::Open { .. } => None,
            State::Probing { .. } => {
                self.enter(State::closed());
                Some(Transition::Closed)
            }
        }
    }

    pub(super) fn failed(
        &mut self,
        call: Generation,
        now: Instant,
        retry_after: Option<Duration>,
    ) -> Option<Transition> {
        if call.0 != self.generation {
            return None;
        }
        let opens = match &mut self.state {
            State::Closed { failures_in_a_row, window } => {
                *failures_in_a_row += 1;
                let too_many = self.settings.failure_rate.is_some_and(|rate| window.add(true, rate));
                too_many || *failures_in_a_row >= self.settings.consecutive_failures
            }
            State::Open { .. } => false,
            State::Probing { .. } => true,
        };
        opens.then(|| {
            let shortest = self.settings.open_for;
            let open_for = retry_after.unwrap_or_default().clamp(shortest, shortest.saturating_mul(10));
            self.enter(State::Open { until: now + open_for });
            Transition::Opened { open_for }
        })
    }

    /// Nobody will tell how this call ended.
    pub(super) fn abandoned(&mut self, call: Generation) {
        if call.0 == self.generation
            && let State::Probing { since } = self.state
        {
            // The next call is the probe.
            self.enter(State::Open { until: since });
        }
    }

    fn enter(&mut self, state: State) {
        self.state = state;
        self.generation += 1;
    }
}

impl State {
    fn closed() -> Self {
        Self::Closed { failures_in_a_row: 0, window: Window::default() }
    }
}

/// The ends of the last calls.
#[derive(Debug, Default)]
struct Window {
    failed: VecDeque<bool>,
    failures: usize,
}

impl Window {
    /// Adds a call; true where the share of failures is reached.
    #[allow(clippy::cast_precision_loss, reason = "a window is short")]
    fn add(&mut self, failed: bool, rate: FailureRate) -> bool {
        let calls = rate.calls.max(1);
        self.failed.push_back(failed);
        self.failures += usize::from(failed);
        if self.failed.len() > calls
            && let Some(oldest) = self.failed.pop_front()
        {
            self.failures -= usize::from(oldest);
        }
        self.failed.len() == calls && self.failures as f64 >= rate.share * calls as f64
    }
}
