//! What a process knows of jobs without asking: how it wrote them last, so that a worker's next write of its job need not read it first; and the claims that its
//! workers have on jobs, of which nothing is written yet. All of it is a guess: the write itself checks that the job is still as it was.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use raglan_pipeline::domain::{JobId, Timestamp};

use super::group::Version;
use crate::job_store::record::Record;

/// More records are not kept: all but claims are dropped then, which costs a read for each.
const RECORDS: usize = 4_096;

/// A job as it is, or as it is to be.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Found {
    /// What the table holds.
    pub(super) seen: Version,
    /// What is worked with: the same, or of a claim, the job as it is once the claim is written.
    pub(super) record: Record,
}

impl Found {
    /// A record as it stands in the table.
    pub(super) fn stored(record: Record) -> Self {
        Self { seen: Version::of(&record), record }
    }

    fn is_claim(&self) -> bool {
        self.seen != Version::of(&self.record)
    }

    /// Whether nobody can do anything with it any more: a claim that was neither written nor given up.
    fn has_run_out(&self, now: Timestamp) -> bool {
        self.record.lease_until.is_none_or(|until| until < now)
    }
}

#[derive(Debug, Default)]
pub(super) struct Known(Mutex<HashMap<JobId, Found>>);

impl Known {
    /// Takes out what is known of these jobs. Claims stay: until they are written, nobody but this process knows of them.
    pub(super) fn take(&self, jobs: impl Iterator<Item = JobId>) -> HashMap<JobId, Found> {
        let mut known = self.known();
        jobs.filter_map(|job| {
            let found = known.get(&job)?;
            let found = if found.is_claim() { found.clone() } else { known.remove(&job)? };
            Some((job, found))
        })
        .collect()
    }

    /// Keeps what is known of a job, in place of what was known before. `now` is the server's time, as the leases are.
    pub(super) fn keep(&self, found: Found, now: Timestamp) {
        let mut known = self.known();
        if known.len() >= RECORDS {
            known.retain(|_, found| found.is_claim() && !found.has_run_out(now));
        }
        known.insert(found.record.job.id, found);
    }

    /// What a worker works with whose claim, if it is one, was not written because the job is not what it was: the claim still, where the job was neither taken nor
    /// ended since, for each of these raises the fence; else the job as it stands, and the claim is no more.
    pub(super) fn renewed(&self, stored: Found, fence: u64) -> Found {
        let mut known = self.known();
        let id = stored.record.job.id;
        let Some(claim) =
            known.get_mut(&id).filter(|found| found.is_claim() && found.record.job.fence == fence)
        else {
            return stored;
        };
        if (claim.seen.fence, claim.seen.epoch) != (stored.seen.fence, stored.seen.epoch) {
            known.remove(&id);
            return stored;
        }
        claim.seen = stored.seen;
        claim.record.job.revision = stored.seen.revision + 1;
        claim.clone()
    }

    /// What was known of a job is so no more.
    pub(super) fn forget(&self, job: JobId) {
        self.known().remove(&job);
    }

    fn known(&self) -> MutexGuard<'_, HashMap<JobId, Found>> {
        // It is whole after each statement.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;
    use raglan_pipeline::{
        contract::job_store::a_query,
        domain::{Stage, now},
    };

    use super::*;

    fn stored() -> Found {
        Found::stored(Record::accepted(&a_query(JobId::generate())))
    }

    fn claim(lease: TimeDelta) -> Found {
        let mut claim = stored();
        claim.record.take(Stage::Retrieval, now(), now() + lease);
        claim
    }

    #[test]
    fn a_record_is_given_once_and_a_claim_until_it_is_forgotten() {
        let known = Known::default();
        for (found, times) in [(stored(), 1), (claim(TimeDelta::minutes(1)), 3)] {
            let id = found.record.job.id;
            known.keep(found.clone(), now());
            for _ in 0..times {
                let taken = known.take([id, JobId::generate()].into_iter());
                assert_eq!(taken, HashMap::from([(id, found.clone())]));
            }
            known.forget(id);
            assert!(known.take([id].into_iter()).is_empty());
        }
    }

    #[test]
    fn it_keeps_no_more_than_its_bound_and_the_live_claims() {
        let known = Known::default();
        let (live, dead) = (claim(TimeDelta::minutes(1)), claim(TimeDelta::minutes(-1)));
        known.keep(live.clone(), now());
        known.keep(dead, now());
        for _ in 0..RECORDS + 8 {
            known.keep(stored(), now());
        }
        assert_eq!(known.known().len(), 11);
        assert!(known.known().contains_key(&live.record.job.id));
    }
}
