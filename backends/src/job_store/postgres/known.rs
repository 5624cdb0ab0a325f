//! What a process knows of jobs without asking: how it wrote them last, and what time it is on the server. So a worker's next write of its job need not
//! read it first. It is a guess: the write itself checks that the job is still as it was.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use raglan_pipeline::domain::{JobId, Timestamp};

use crate::job_store::record::Record;

/// More records are not kept: all are dropped then, which costs a read for each.
const RECORDS: usize = 4_096;
/// The server's time is asked for again when it was told so long ago: clocks differ in how fast they go.
const TOLD: Duration = Duration::from_secs(10);
/// A server's clock that goes back by more than answers overtake each other was set.
const SET_BACK: chrono::Duration = chrono::Duration::seconds(1);

#[derive(Debug, Default)]
pub(super) struct Known(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    records: HashMap<JobId, Record>,
    clock: Option<(Timestamp, Instant)>,
}

impl Known {
    /// Takes out the records of these jobs, each with the time on the server.
    pub(super) fn take(&self, jobs: impl Iterator<Item = JobId>) -> HashMap<JobId, (Record, Timestamp)> {
        let mut inner = self.inner();
        let Some((told, at)) = inner.clock.filter(|(_, at)| at.elapsed() < TOLD) else {
            return HashMap::new();
        };
        let now = raglan_pipeline::domain::truncate(told + at.elapsed());
        jobs.filter_map(|job| Some((job, (inner.records.remove(&job)?, now)))).collect()
    }

    /// Keeps a record as it was written.
    pub(super) fn keep(&self, record: Record) {
        let mut inner = self.inner();
        if inner.records.len() >= RECORDS {
            inner.records.clear();
        }
        inner.records.insert(record.job.id, record);
    }

    /// The server has told its time. Answers may overtake each other: an earlier time is believed only where the clock was set back.
    pub(super) fn told(&self, now: Timestamp) {
        let mut inner = self.inner();
        let expected = inner.clock.map(|(told, at)| told + at.elapsed());
        if expected.is_none_or(|expected| now > expected || expected - now > SET_BACK) {
            inner.clock = Some((now, Instant::now()));
        } else if let Some(expected) = expected {
            inner.clock = Some((expected, Instant::now()));
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        // Every change is whole after each statement.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use raglan_pipeline::contract::job_store::a_query;

    use super::*;

    fn record() -> Record {
        Record::accepted(&a_query(JobId::generate()))
    }

    fn time() -> Timestamp {
        "2026-01-01T00:00:00Z".parse().unwrap()
    }

    #[test]
    fn a_record_is_given_once_and_only_with_the_time() {
        let known = Known::default();
        let record = record();
        let id = record.job.id;
        known.keep(record.clone());
        assert!(known.take([id].into_iter()).is_empty(), "the server's time is not known");
        known.told(time());
        let taken = known.take([id, JobId::generate()].into_iter());
        assert_eq!(taken.len(), 1);
        assert_eq!(taken[&id].0, record);
        assert!(taken[&id].1 >= time() && taken[&id].1 - time() < SET_BACK);
        assert!(known.take([id].into_iter()).is_empty());
    }

    #[test]
    fn time_goes_back_only_where_the_clock_was_set() {
        let known = Known::default();
        let now = || {
            let record = record();
            let id = record.job.id;
            known.keep(record);
            known.take([id].into_iter())[&id].1
        };
        known.told(time());
        known.told(time() - chrono::Duration::milliseconds(50));
        assert!(now() >= time(), "an answer that was overtaken");
        let hour = chrono::Duration::hours(1);
        known.told(time() - hour);
        assert!(now() < time() - hour + SET_BACK);
        known.told(time() + hour);
        assert!(now() >= time() + hour);
    }

    #[test]
    fn it_never_keeps_more_than_its_bound() {
        let known = Known::default();
        for _ in 0..RECORDS + 10 {
            known.keep(record());
        }
        assert_eq!(known.inner().records.len(), 10);
    }
}
