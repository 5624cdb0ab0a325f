//! The state of the log. It knows no lock, no task and no clock: the time is given to it.

use std::{
    collections::{HashMap, VecDeque},
    mem,
    sync::Arc,
    time::Duration,
};

use raglan_pipeline::domain::{Event, JobId, NewEvent};
use serde_json::Value;
use tokio::{sync::Notify, time::Instant};

use super::{
    EventLogSettings,
    shelves::{Shelf, Shelves},
};

/// An unfinished job's numbering is kept for at least so long after its last event.
const NUMBERS_KEPT: Duration = Duration::from_secs(24 * 60 * 60);
/// What an event takes beside its data.
const EVENT_BYTES: usize = 128;

/// What a reader finds.
pub(super) enum Step {
    /// The next event.
    Event(Arc<Event>),
    /// Events that it has not read are gone, this one the last of them.
    Missed {
        /// Its number.
        up_to: u64,
    },
    /// Nothing new.
    Wait,
}

/// The log of one job.
struct JobLog {
    events: VecDeque<(Arc<Event>, usize)>,
    bytes: usize,
    last_seq: u64,
    /// The number of the last event that was dropped.
    lost_to: u64,
    shelf: Shelf,
    /// When it was last appended to, as a number that grows with each append to any job.
    turn: u64,
    appended_at: Instant,
    readers: usize,
    changed: Arc<Notify>,
}

impl JobLog {
    fn new(now: Instant) -> Self {
        Self {
            events: VecDeque::new(),
            bytes: 0,
            last_seq: 0,
            lost_to: 0,
            shelf: Shelf::ReadersOnly,
            turn: 0,
            appended_at: now,
            readers: 0,
            changed: Arc::new(Notify::new()),
        }
    }

    /// Drops the oldest event; returns its bytes.
    fn drop_oldest(&mut self) -> usize {
        let Some((event, bytes)) = self.events.pop_front() else { return 0 };
        self.lost_to = event.seq;
        self.bytes -= bytes;
        bytes
    }
}

/// All jobs' logs.
pub(super) struct State {
    settings: EventLogSettings,
    jobs: HashMap<JobId, JobLog>,
    bytes: usize,
    shelves: Shelves,
    last_turn: u64,
    /// Events dropped since this was last asked.
    dropped: u64,
}

impl State {
    pub(super) fn new(settings: EventLogSettings) -> Self {
        Self {
            settings,
            jobs: HashMap::new(),
            bytes: 0,
            shelves: Shelves::default(),
            last_turn: 0,
            dropped: 0,
        }
    }

    /// Bytes of all events kept.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// How many jobs have a log, be it an empty one.
    #[cfg(test)]
    pub(super) fn jobs(&self) -> usize {
        self.jobs.len()
    }

    /// Events dropped since the last call.
    pub(super) fn take_dropped(&mut self) -> u64 {
        mem::take(&mut self.dropped)
    }

    /// Forgets what is due.
    pub(super) fn sweep(&mut self, now: Instant) {
        let ttl = self.settings.ttl;
        for (from, to, kept) in [
            (Shelf::Finished, Shelf::ReadersOnly, ttl),
            (Shelf::Running, Shelf::Numbers, ttl),
            (Shelf::Numbers, Shelf::ReadersOnly, ttl.max(NUMBERS_KEPT)),
        ] {
            while let Some(job) = self.shelves.quietest(from)
                && self
                    .jobs
                    .get(&job)
                    .is_some_and(|log| now.saturating_duration_since(log.appended_at) >= kept)
            {
                self.empty(job, to);
            }
        }
    }

    /// Adds an event; returns its number, and whom to tell.
    pub(super) fn append(
        &mut self,
        now: Instant,
        job: JobId,
        floor: u64,
        new: NewEvent,
    ) -> (u64, Arc<Notify>) {
        self.last_turn += 1;
        let log = self.jobs.entry(job).or_insert_with(|| JobLog::new(now));
        let seq = log.last_seq.max(floor).saturating_add(1);
        let last = new.kind.is_final() || log.shelf == Shelf::Finished;
        let event = Event { seq, job_id: job, kind: new.kind, at: new.at, data: new.data };
        let bytes = EVENT_BYTES + heap_bytes(&event.data);
        log.events.push_back((Arc::new(event), bytes));
        log.bytes += bytes;
        self.bytes += bytes;
        while log.events.len() > 1
            && (log.events.len() > self.settings.events_per_job || log.bytes > self.settings.bytes_per_job)
        {
            self.bytes -= log.drop_oldest();
            self.dropped += 1;
        }
        self.shelves.take(log.shelf, log.turn);
        log.last_seq = seq;
        log.turn = self.last_turn;
        log.appended_at = now;
        log.shelf = if last { Shelf::Finished } else { Shelf::Running };
        self.shelves.put(log.shelf, log.turn, job);
        let changed = Arc::clone(&log.changed);
        self.make_room(job);
        (seq, changed)
    }

    /// A reader comes. Returns what it is told by when there is something new.
    pub(super) fn join(&mut self, now: Instant, job: JobId) -> Arc<Notify> {
        let log = self.jobs.entry(job).or_insert_with(|| JobLog::new(now));
        log.readers += 1;
        Arc::clone(&log.changed)
    }

    /// A reader goes.
    pub(super) fn leave(&mut self, job: JobId) {
        let Some(log) = self.jobs.get_mut(&job) else { return };
        log.readers -= 1;
        self.remove_unused(job);
    }

    /// What a reader gets that has read up to `cursor`.
    pub(super) fn step(&self, job: JobId, cursor: u64) -> Step {
        let Some(log) = self.jobs.get(&job) else { return Step::Wait };
        if cursor < log.lost_to {
            return Step::Missed { up_to: log.lost_to };
        }
        let next = log.events.partition_point(|(event, _)| event.seq <= cursor);
        log.events.get(next).map_or(Step::Wait, |(event, _)| Step::Event(Arc::clone(event)))
    }

    /// All kept events.
    pub(super) fn read(&self, job: JobId) -> Vec<Arc<Event>> {
        let events = self.jobs.get(&job).map(|log| &log.events);
        events.into_iter().flatten().map(|(event, _)| Arc::clone(event)).collect()
    }

    /// Forgets a job.
    pub(super) fn forget(&mut self, job: JobId) {
        self.empty(job, Shelf::ReadersOnly);
    }

    /// Takes others' events, and the oldest of `job` where that is not enough, until the total is kept. The newest event of `job` stays.
    fn make_room(&mut self, job: JobId) {
        while self.bytes > self.settings.total_bytes {
            // Just appended to, `job` is the first on its shelf only where it is alone there.
            let other = |found: Option<JobId>| found.filter(|found| *found != job);
            if let Some(quietest) = other(self.shelves.quietest(Shelf::Finished)) {
                self.empty(quietest, Shelf::ReadersOnly);
            } else if let Some(quietest) = other(self.shelves.quietest(Shelf::Running)) {
                self.empty(quietest, Shelf::Numbers);
            } else if let Some(log) = self.jobs.get_mut(&job)
                && log.events.len() > 1
            {
                self.bytes -= log.drop_oldest();
                self.dropped += 1;
            } else {
                return;
            }
        }
    }

    /// Drops all events of a job and moves it to a shelf. Readers that had read all of them notice nothing; others find that they missed some.
    fn empty(&mut self, job: JobId, to: Shelf) {
        let Some(log) = self.jobs.get_mut(&job) else { return };
        self.dropped += log.events.len() as u64;
        self.bytes -= log.bytes;
        log.events = VecDeque::new();
        log.bytes = 0;
        log.lost_to = log.last_seq;
        self.shelves.take(log.shelf, log.turn);
        log.shelf = to;
        self.shelves.put(to, log.turn, job);
        self.remove_unused(job);
    }

    fn remove_unused(&mut self, job: JobId) {
        if self.jobs.get(&job).is_some_and(|log| log.shelf == Shelf::ReadersOnly && log.readers == 0) {
            self.jobs.remove(&job);
        }
    }
}

/// About how many bytes a value has on the heap.
fn heap_bytes(value: &Value) -> usize {
    const ENTRY: usize = size_of::<Value>();
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => 0,
        Value::String(text) => text.len(),
        Value::Array(items) => items.iter().map(|item| ENTRY + heap_bytes(item)).sum(),
        Value::Object(fields) => {
            fields.iter().map(|(key, item)| 2 * ENTRY + key.len() + heap_bytes(item)).sum()
        }
    }
}
