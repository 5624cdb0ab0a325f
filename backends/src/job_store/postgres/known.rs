//! What a process knows of jobs without asking: how it wrote them last. So a worker's next write of its job need not read it first. It is a guess: the
//! write itself checks that the job is still as it was.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use raglan_pipeline::domain::JobId;

use crate::job_store::record::Record;

/// More records are not kept: all are dropped then, which costs a read for each.
const RECORDS: usize = 4_096;

#[derive(Debug, Default)]
pub(super) struct Known(Mutex<HashMap<JobId, Record>>);

impl Known {
    /// Takes out the records of these jobs.
    pub(super) fn take(&self, jobs: impl Iterator<Item = JobId>) -> HashMap<JobId, Record> {
        let mut records = self.records();
        jobs.filter_map(|job| Some((job, records.remove(&job)?))).collect()
    }

    /// Keeps a record as it was written.
    pub(super) fn keep(&self, record: Record) {
        let mut records = self.records();
        if records.len() >= RECORDS {
            records.clear();
        }
        records.insert(record.job.id, record);
    }

    fn records(&self) -> MutexGuard<'_, HashMap<JobId, Record>> {
        // It is whole after each statement.
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

    #[test]
    fn a_record_is_given_once() {
        let known = Known::default();
        let record = record();
        let id = record.job.id;
        known.keep(record.clone());
        let taken = known.take([id, JobId::generate()].into_iter());
        assert_eq!(taken, HashMap::from([(id, record)]));
        assert!(known.take([id].into_iter()).is_empty());
    }

    #[test]
    fn it_never_keeps_more_than_its_bound() {
        let known = Known::default();
        for _ in 0..RECORDS + 10 {
            known.keep(record());
        }
        assert_eq!(known.records().len(), 10);
    }
}
