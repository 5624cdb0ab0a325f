//! What an engine tells of itself.

use std::time::{Duration, Instant};

use crate::scheduler::Counts;

/// How an engine stands after a step.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Snapshot {
    /// What waits, runs and is free.
    pub counts: Counts,
    /// Steps since the start.
    pub steps: u64,
    /// Steps that failed, and with them all that was under way.
    pub failed_steps: u64,
    /// Whether the device was given up after too many of them in a row: nothing is taken any more.
    pub stopped: bool,
    /// Tokens of prompts that were computed since the start, those computed again included.
    pub prefill_tokens: u64,
    /// Tokens that were written since the start.
    pub decode_tokens: u64,
    /// Tokens of the last step.
    pub batch_tokens: usize,
    /// Sequences of the last step.
    pub batch_sequences: usize,
    /// Tokens of prompts a second, lately; 0 when idle.
    pub prefill_tokens_per_s: f64,
    /// Tokens written a second, lately; 0 when idle.
    pub decode_tokens_per_s: f64,
    /// How long the last step took.
    pub step: Duration,
}

/// Told after each step, on the engine's thread: it must not block.
pub type Observer = Box<dyn FnMut(&Snapshot) + Send>;

/// How long a rate is measured before it is told.
const WINDOW: Duration = Duration::from_secs(1);

/// Counts tokens over windows of time.
#[derive(Debug)]
pub(super) struct Rates {
    since: Instant,
    prefill: u64,
    decode: u64,
}

impl Rates {
    pub(super) fn new() -> Self {
        Self { since: Instant::now(), prefill: 0, decode: 0 }
    }

    /// Counts a step's tokens, and brings the snapshot's rates up to date where a window is full.
    pub(super) fn count(&mut self, snapshot: &mut Snapshot, prefill: usize, decode: usize) {
        self.prefill += prefill as u64;
        self.decode += decode as u64;
        let passed = self.since.elapsed();
        if passed >= WINDOW {
            snapshot.prefill_tokens_per_s = self.prefill as f64 / passed.as_secs_f64();
            snapshot.decode_tokens_per_s = self.decode as f64 / passed.as_secs_f64();
            *self = Self::new();
        }
    }

    /// Nothing is done until the next step.
    pub(super) fn rest(&mut self, snapshot: &mut Snapshot) {
        snapshot.prefill_tokens_per_s = 0.0;
        snapshot.decode_tokens_per_s = 0.0;
        snapshot.batch_tokens = 0;
        snapshot.batch_sequences = 0;
        *self = Self::new();
    }
}
