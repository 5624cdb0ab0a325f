//! The event log of the embedded shape: a ring of events a job, and readers that are cursors over it.

mod shelves;
mod state;
#[cfg(test)]
mod tests;

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use futures::{StreamExt, stream, stream::BoxStream};
use metrics::{Counter, Gauge, counter, gauge};
use raglan_pipeline::{
    domain::{Event, JobId, NewEvent},
    ports::{ErrorKind, EventLog, Followed, PortError, PortResult},
};
use tokio::{sync::Notify, time::Instant};

use self::state::{State, Step};

/// The bounds of an [`InProcessEventLog`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventLogSettings {
    /// How many events of one job are kept.
    pub events_per_job: usize,
    /// How many bytes of one job's events are kept, the newest event in any case.
    pub bytes_per_job: usize,
    /// How many bytes of all jobs' events are kept. Over it, the jobs that have ended lose theirs first, those that were quiet for longest
    /// before others.
    pub total_bytes: usize,
    /// How long after its last event a job's events are kept.
    pub ttl: Duration,
}

impl Default for EventLogSettings {
    fn default() -> Self {
        Self {
            events_per_job: 10_000,
            bytes_per_job: 4 << 20,
            total_bytes: 128 << 20,
            ttl: Duration::from_secs(3_600),
        }
    }
}

/// Events in memory.
///
/// Sizes are estimates of the memory taken. What is due to be forgotten is invisible at once and goes with the next call, whatever job that is for.
/// An unfinished job whose events went keeps its numbering, so that a reader that comes again with an old number misses nothing new.
pub struct InProcessEventLog {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    bytes: Gauge,
    dropped: Counter,
}

impl InProcessEventLog {
    /// An empty log. Make it after the metrics recorder (if any) is installed.
    #[must_use]
    pub fn new(settings: EventLogSettings) -> Arc<Self> {
        let shared = Shared {
            state: Mutex::new(State::new(settings)),
            bytes: gauge!("raglan_event_log_bytes"),
            dropped: counter!("raglan_event_log_dropped_total"),
        };
        Arc::new(Self { shared: Arc::new(shared) })
    }
}

impl Shared {
    /// Changes the state, after forgetting what is due. The only way to the state.
    fn with<T>(&self, change: impl FnOnce(&mut State, Instant) -> T) -> T {
        let (result, bytes, dropped) = {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            let now = Instant::now();
            state.sweep(now);
            let result = change(&mut state, now);
            (result, state.bytes(), state.take_dropped())
        };
        #[allow(clippy::cast_precision_loss, reason = "no memory has 2^52 bytes")]
        self.bytes.set(bytes as f64);
        self.dropped.increment(dropped);
        result
    }
}

#[async_trait]
impl EventLog for InProcessEventLog {
    async fn append_all(&self, job: JobId, floor: u64, events: Vec<NewEvent>) -> PortResult<u64> {
        let appended = self.shared.with(|state, now| {
            let append = |event| state.append(now, job, floor, event);
            events.into_iter().map(append).last()
        });
        let Some((seq, readers)) = appended else {
            return Err(PortError::new(ErrorKind::Invalid, "there are no events to be added to the log"));
        };
        readers.notify_waiters();
        Ok(seq)
    }

    async fn follow(&self, job: JobId, after: u64) -> PortResult<BoxStream<'static, Followed>> {
        let changed = self.shared.with(|state, now| state.join(now, job));
        let reader = Reader { shared: Arc::clone(&self.shared), job, cursor: after, changed };
        Ok(stream::unfold(reader, |mut reader| async move { Some((reader.next().await, reader)) }).boxed())
    }

    async fn read(&self, job: JobId) -> PortResult<Vec<Event>> {
        let events = self.shared.with(|state, _| state.read(job));
        Ok(events.into_iter().map(Arc::unwrap_or_clone).collect())
    }

    async fn forget(&self, job: JobId) -> PortResult<()> {
        self.shared.with(|state, _| state.forget(job));
        Ok(())
    }
}

/// A place in a job's events. It holds none of them, so it may be as slow as it likes.
struct Reader {
    shared: Arc<Shared>,
    job: JobId,
    /// The number of the last event that was read or missed.
    cursor: u64,
    changed: Arc<Notify>,
}

impl Reader {
    async fn next(&mut self) -> Followed {
        // A reader that is far behind lets other tasks run now and then.
        tokio::task::coop::consume_budget().await;
        loop {
            // Made before looking: it hears of an event that comes in between (`notify_waiters` reaches what was made before it).
            let changed = self.changed.notified();
            let (job, cursor) = (self.job, self.cursor);
            match self.shared.with(|state, _| state.step(job, cursor)) {
                Step::Event(event) => {
                    self.cursor = event.seq;
                    return Followed::Event(Arc::unwrap_or_clone(event));
                }
                Step::Missed { up_to } => {
                    self.cursor = up_to;
                    return Followed::Missed { up_to };
                }
                Step::Wait => changed.await,
            }
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.shared.with(|state, _| state.leave(self.job));
    }
}
