//! How many jobs may be taken from the queue: as many as the engine can begin at once, and a few that are ready when others end.

use std::sync::Arc;

use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};
use raglan_engine::{BLOCK_SIZE, Observer, Snapshot};
use raglan_pipeline::ports::Place;
use tokio::sync::watch;

/// Tokens that a text is taken to need, prompt and answer, before any has run.
const USUAL_TOKENS: usize = 2_048;

/// What is known of the engine and of those who want something of it.
#[derive(Debug, Clone, Copy, Default)]
struct State {
    snapshot: Snapshot,
    /// Places that are taken.
    taken: usize,
}

impl State {
    /// Whether one more may be taken.
    fn has_room(&self, sequences: usize) -> bool {
        if self.snapshot.stopped {
            // It would fail at once, and so would the next: here they would be used up that others can run.
            return false;
        }
        let counts = &self.snapshot.counts;
        let usual = USUAL_TOKENS.div_ceil(BLOCK_SIZE).min(counts.blocks.max(1));
        let used = counts.blocks - counts.free_blocks;
        let each = used.checked_div(counts.running).map_or(usual, |each| each.max(1));
        let startable = (counts.free_blocks / each).min(sequences.saturating_sub(counts.running));
        // One in eight ahead, so that a place that becomes free is not empty while the queue is asked.
        let ahead = (sequences / 8).max(1);
        // Those that have a place and do not run: on their way to the engine, or waiting in it.
        self.taken.saturating_sub(counts.running) < startable + ahead
    }
}

/// Gives places with the engine.
pub(super) struct Admission {
    state: watch::Sender<State>,
    sequences: usize,
}

impl Admission {
    /// For an engine that runs so many sequences; the observer is for the engine, and reports to the metrics too.
    pub(super) fn new(model: &str, sequences: usize) -> (Arc<Self>, Observer) {
        let admission = Arc::new(Self { state: watch::Sender::new(State::default()), sequences });
        let (told, mut gauges) = (admission.clone(), Gauges::new(model));
        let observer = Box::new(move |snapshot: &Snapshot| {
            gauges.tell(snapshot);
            told.state.send_modify(|state| state.snapshot = *snapshot);
        });
        (admission, observer)
    }

    /// Waits until one more text could be begun soon.
    pub(super) async fn place(self: &Arc<Self>) -> Place {
        let mut changes = self.state.subscribe();
        loop {
            // Asked and taken in one step, so that two never get the last one.
            let taken = self.state.send_if_modified(|state| {
                let room = state.has_room(self.sequences);
                state.taken += usize::from(room);
                room
            });
            if taken {
                return Place::keeping(Taken(self.clone()));
            }
            // The sender is this very object: it cannot go.
            if changes.changed().await.is_err() {
                return Place::default();
            }
        }
    }
}

/// A place, until it is dropped.
struct Taken(Arc<Admission>);

impl Drop for Taken {
    fn drop(&mut self) {
        self.0.state.send_modify(|state| state.taken = state.taken.saturating_sub(1));
    }
}

/// What an engine tells, as metrics.
struct Gauges {
    running: Gauge,
    waiting: Gauge,
    free_blocks: Gauge,
    cache_use: Gauge,
    batch_tokens: Gauge,
    batch_sequences: Gauge,
    prefill_rate: Gauge,
    decode_rate: Gauge,
    preempted: Counter,
    reused: Counter,
    prefill: Counter,
    decode: Counter,
    failed: Counter,
    step: Histogram,
    model: String,
    /// What was told last.
    steps: u64,
    failed_steps: u64,
}

impl Gauges {
    fn new(model: &str) -> Self {
        let model = model.to_owned();
        let gauge = |name: &'static str| gauge!(name, "model" => model.clone());
        let counter = |name: &'static str| counter!(name, "model" => model.clone());
        Self {
            running: gauge("raglan_engine_running"),
            waiting: gauge("raglan_engine_waiting"),
            free_blocks: gauge("raglan_engine_free_blocks"),
            cache_use: gauge("raglan_engine_cache_use"),
            batch_tokens: gauge("raglan_engine_batch_tokens"),
            batch_sequences: gauge("raglan_engine_batch_sequences"),
            prefill_rate: gauge("raglan_engine_prefill_tokens_per_s"),
            decode_rate: gauge("raglan_engine_decode_tokens_per_s"),
            preempted: counter("raglan_engine_preempted_total"),
            reused: counter("raglan_engine_reused_tokens_total"),
            prefill: counter("raglan_engine_prefill_tokens_total"),
            decode: counter("raglan_engine_decode_tokens_total"),
            failed: counter("raglan_engine_failed_steps_total"),
            step: histogram!("raglan_engine_step_seconds", "model" => model.clone()),
            model,
            steps: 0,
            failed_steps: 0,
        }
    }

    fn tell(&mut self, snapshot: &Snapshot) {
        let counts = &snapshot.counts;
        self.running.set(counts.running as f64);
        self.waiting.set(counts.waiting as f64);
        self.free_blocks.set(counts.free_blocks as f64);
        let used = counts.blocks - counts.free_blocks;
        self.cache_use.set(used as f64 / counts.blocks.max(1) as f64);
        self.batch_tokens.set(snapshot.batch_tokens as f64);
        self.batch_sequences.set(snapshot.batch_sequences as f64);
        self.prefill_rate.set(snapshot.prefill_tokens_per_s);
        self.decode_rate.set(snapshot.decode_tokens_per_s);
        self.preempted.absolute(counts.preempted);
        self.reused.absolute(counts.reused_tokens);
        self.prefill.absolute(snapshot.prefill_tokens);
        self.decode.absolute(snapshot.decode_tokens);
        self.failed.absolute(snapshot.failed_steps);
        if snapshot.failed_steps != self.failed_steps {
            self.failed_steps = snapshot.failed_steps;
            let (model, stopped) = (&self.model, snapshot.stopped);
            tracing::error!(model, stopped, "a step of the engine failed, and what it worked on with it");
        }
        if snapshot.steps != self.steps {
            self.steps = snapshot.steps;
            self.step.record(snapshot.step);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use raglan_engine::scheduler::Counts;

    use super::{super::CandleSettings, *};

    fn snapshot(running: usize, waiting: usize, free_blocks: usize) -> Snapshot {
        let counts = Counts { running, waiting, free_blocks, blocks: 1_000, ..Counts::default() };
        Snapshot { counts, ..Snapshot::default() }
    }

    /// How many places are given at once.
    fn places(admission: &Arc<Admission>) -> Vec<Place> {
        std::iter::from_fn(|| admission.place().now_or_never()).take(1_000).collect()
    }

    #[test]
    fn sequences_bound_what_is_taken() {
        let (admission, mut observer) = Admission::new("m", 16);
        observer(&snapshot(0, 0, 1_000));
        // 1,000 blocks are 7 texts of 128 blocks; two more are ahead.
        let first = places(&admission);
        assert_eq!(first.len(), 9);
        // They run, and need little: all sixteen may run.
        observer(&snapshot(9, 0, 910));
        let second = places(&admission);
        assert_eq!(second.len(), 9, "seven that can run, two ahead");
        // A text that ends makes room for another; places given back do too.
        observer(&snapshot(16, 2, 840));
        assert!(places(&admission).is_empty());
        drop(second);
        assert_eq!(places(&admission).len(), 9);
    }

    #[test]
    fn blocks_bound_what_is_taken() {
        let (admission, mut observer) = Admission::new("m", 16);
        observer(&snapshot(0, 0, 1_000));
        let _running: Vec<Place> = (0..4).filter_map(|_| admission.place().now_or_never()).collect();
        // Four hold 900 blocks: none could begin now, two may be ready.
        observer(&snapshot(4, 0, 100));
        assert_eq!(places(&admission).len(), 2);
    }

    #[test]
    fn an_engine_that_has_stopped_leaves_the_jobs_to_others() {
        let (admission, mut observer) = Admission::new("m", 16);
        observer(&Snapshot { stopped: true, failed_steps: 3, ..snapshot(0, 0, 1_000) });
        assert!(places(&admission).is_empty());
    }

    #[test]
    fn an_engine_lets_all_wait_that_are_taken_at_once() {
        for sequences in [1, 8, 64, 500] {
            let (admission, mut observer) = Admission::new("m", sequences);
            let counts = Counts { free_blocks: 1_000_000, blocks: 1_000_000, ..Counts::default() };
            observer(&Snapshot { counts, ..Snapshot::default() });
            let taken = places(&admission).len();
            let settings = CandleSettings { max_sequences: sequences, ..CandleSettings::new("m", "m") };
            assert!(taken > sequences && settings.engine().waiting >= taken, "{taken} of {sequences}");
        }
    }

    #[tokio::test]
    async fn whoever_waits_is_woken() {
        let (admission, mut observer) = Admission::new("m", 1);
        observer(&snapshot(0, 0, 1_000));
        let mut places = places(&admission);
        let waiting = tokio::spawn({
            let admission = admission.clone();
            async move { admission.place().await }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        places.pop();
        waiting.await.unwrap();
    }
}
