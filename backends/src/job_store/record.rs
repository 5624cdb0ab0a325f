//! A job with what only its store knows, and the rules by which it changes. No engine here: a store reads a record under a
//! lock, applies one of these, and writes it back, so that every store keeps the contract in the same way.

use std::time::Duration;

use raglan_pipeline::{
    domain::{
        Delivery, DeliveryId, DeliveryStatus, EventType, Job, JobError, JobResult, JobStatus, Progress,
        Stage, Timestamp, Timings, truncate,
    },
    ports::{Ending, ErrorKind, NewJob, Outcome, PortError, PortResult, Taken},
};

/// The postponement is doubled at most so often: 64 times the first.
const DOUBLINGS: u32 = 6;

/// A job as a store holds it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Record {
    /// What the outside sees.
    pub job: Job,
    /// When the sweeper looks at it next; none once it has ended.
    pub due_at: Option<Timestamp>,
    /// Until when a worker has it. A time that has passed still names the last holder, who may yet finish.
    pub lease_until: Option<Timestamp>,
    /// How often it was returned as due since it was last taken.
    pub postponed: u32,
}

impl Record {
    /// A job that was just accepted.
    pub fn accepted(new: &NewJob) -> Self {
        let job = Job {
            id: new.id,
            tenant: new.tenant.clone(),
            spec: new.spec.clone(),
            status: JobStatus::Queued,
            stage: new.spec.first_stage(),
            attempt: 0,
            fence: 0,
            epoch: 0,
            priority: new.priority,
            metadata: new.metadata.clone(),
            webhook: new.webhook.clone(),
            created_at: truncate(new.created_at),
            started_at: None,
            completed_at: None,
            deadline: truncate(new.deadline),
            expires_at: None,
            progress: None,
            result: None,
            error: None,
            timings: Timings::default(),
            revision: 1,
        };
        Self { job, due_at: Some(new.due_at), lease_until: None, postponed: 0 }
    }

    /// A worker asks for it. The record has changed where the answer is `Yes`.
    pub fn take(&mut self, stage: Stage, now: Timestamp, lease_until: Timestamp) -> Taken {
        if self.job.status.is_final() || self.job.stage != stage {
            return Taken::Over;
        }
        if let Some(until) = self.lease_until.filter(|until| *until > now) {
            return Taken::Busy(until);
        }
        let job = &mut self.job;
        if job.started_at.is_none() {
            job.started_at = Some(now);
            job.timings.queued_ms =
                Some(u64::try_from((now - job.created_at).num_milliseconds()).unwrap_or(0));
        }
        job.status = stage.running_status();
        job.attempt += 1;
        job.fence = next_fence(job.fence, now);
        job.revision += 1;
        self.lease_until = Some(lease_until);
        self.due_at = Some(lease_until);
        self.postponed = 0;
        Taken::Yes(Box::new(self.job.clone()))
    }

    /// Whether the worker that was given this fence still has it. A worker that has left it has it no more, although
    /// nobody else took it since.
    pub fn is_held_with(&self, fence: u64) -> bool {
        !self.job.status.is_final() && self.job.fence == fence && self.lease_until.is_some()
    }

    /// Its worker goes on.
    pub fn extend(
        &mut self,
        lease_until: Timestamp,
        status: Option<JobStatus>,
        progress: Option<Progress>,
    ) -> PortResult<()> {
        if let Some(status) = status {
            if status.is_final() {
                return Err(PortError::new(ErrorKind::Invalid, "a lease cannot be extended to an end"));
            }
            self.job.status = status;
        }
        if progress.is_some() {
            self.job.progress = progress;
        }
        self.lease_until = Some(lease_until);
        self.due_at = Some(lease_until);
        self.job.revision += 1;
        Ok(())
    }

    /// Its worker leaves it. The delivery that its end asks for, if it ended.
    pub fn finish(&mut self, outcome: Outcome, now: Timestamp, retention: Duration) -> Option<Delivery> {
        match outcome {
            Outcome::Advance { to, due_at, took_ms } => {
                self.note_time(took_ms);
                self.job.stage = to;
                self.job.attempt = 0;
                self.wait_until(due_at);
                None
            }
            Outcome::Retry { due_at } => {
                self.wait_until(due_at);
                None
            }
            Outcome::HandBack { due_at } => {
                self.job.attempt = self.job.attempt.saturating_sub(1);
                self.wait_until(due_at);
                None
            }
            Outcome::Succeed { result, took_ms } => {
                if let Some(took_ms) = took_ms {
                    self.note_time(took_ms);
                }
                self.close(JobStatus::Succeeded, Some(*result), None, now, retention)
            }
            Outcome::Fail(error) => self.close(JobStatus::Failed, None, Some(error), now, retention),
        }
    }

    /// Somebody ends it who has not taken it. The delivery that its end asks for.
    pub fn end(&mut self, ending: Ending, now: Timestamp, retention: Duration) -> Option<Delivery> {
        self.job.fence += 1;
        let (status, error) = match ending {
            Ending::Cancel => (JobStatus::Cancelled, None),
            Ending::Deadline if self.job.started_at.is_none() => (JobStatus::Expired, None),
            Ending::Deadline => (JobStatus::Failed, Some(JobError::deadline())),
            Ending::Fail(error) => (JobStatus::Failed, Some(error)),
        };
        self.close(status, None, error, now, retention)
    }

    /// The sweeper returned it: when it is due again, should nobody take it.
    pub fn postpone(&mut self, now: Timestamp, postpone: Duration) {
        let delay = postpone.saturating_mul(1 << self.postponed.min(DOUBLINGS));
        self.due_at = Some(crate::database::codec::after(now, delay));
        self.postponed = self.postponed.saturating_add(1);
        self.job.revision += 1;
    }

    fn wait_until(&mut self, due_at: Timestamp) {
        self.lease_until = None;
        self.due_at = Some(due_at);
        self.postponed = 0;
        self.job.revision += 1;
    }

    fn note_time(&mut self, took_ms: u64) {
        let timings = &mut self.job.timings;
        match self.job.stage {
            Stage::Retrieval => timings.retrieval_ms = Some(took_ms),
            Stage::Generation => timings.generation_ms = Some(took_ms),
            Stage::Ingestion => timings.ingestion_ms = Some(took_ms),
            Stage::Webhook => {}
        }
    }

    fn close(
        &mut self,
        status: JobStatus,
        result: Option<JobResult>,
        error: Option<JobError>,
        now: Timestamp,
        retention: Duration,
    ) -> Option<Delivery> {
        let job = &mut self.job;
        job.status = status;
        job.result = result;
        job.error = error;
        job.completed_at = Some(now);
        job.expires_at = Some(crate::database::codec::after(now, retention));
        job.revision += 1;
        self.lease_until = None;
        self.due_at = None;
        self.postponed = 0;
        delivery(job, now)
    }
}

/// Above every fence that was given out for a job, also one that the store lost with its last moments before a crash; and not the one that another process
/// gives out in the same millisecond, of which the store need not know.
fn next_fence(last: u64, now: Timestamp) -> u64 {
    const CHANCE_BITS: u32 = 20;
    let time = u64::try_from(now.timestamp_millis()).unwrap_or(0);
    let chance = u64::from(rand::random::<u32>() >> (u32::BITS - CHANCE_BITS));
    (last + 1).max(time << CHANCE_BITS | chance)
}

/// The delivery that a job's webhook asks for about its end.
fn delivery(job: &Job, now: Timestamp) -> Option<Delivery> {
    let webhook = job.webhook.as_ref()?;
    let event = EventType::ending(job.status)?;
    webhook.wants(event).then(|| Delivery {
        id: DeliveryId::generate(),
        job_id: job.id,
        tenant: job.tenant.clone(),
        url: webhook.url.clone(),
        event,
        status: DeliveryStatus::Pending,
        attempts: Vec::new(),
        next_at: Some(now),
        created_at: now,
    })
}

#[cfg(test)]
mod tests {
    use raglan_pipeline::{
        contract::job_store::a_query,
        domain::{JobId, now},
    };

    use super::*;

    #[test]
    fn the_postponement_doubles_up_to_64_times_and_a_take_resets_it() {
        let mut record = Record::accepted(&a_query(JobId::generate()));
        let start = now();
        let mut factors = Vec::new();
        for _ in 0..9 {
            record.postpone(start, Duration::from_secs(1));
            factors.push((record.due_at.unwrap() - start).num_seconds());
        }
        assert_eq!(factors, [1, 2, 4, 8, 16, 32, 64, 64, 64]);
        assert!(matches!(record.take(Stage::Retrieval, start, start), Taken::Yes(_)));
        record.postpone(start, Duration::from_secs(1));
        assert_eq!((record.due_at.unwrap() - start).num_seconds(), 1);
    }

    #[test]
    fn an_unfinished_job_always_has_a_due_time_and_an_ended_one_never() {
        let start = now();
        let due_at = start + chrono::Duration::seconds(5);
        for outcome in [
            Outcome::Advance { to: Stage::Generation, due_at, took_ms: 1 },
            Outcome::Retry { due_at },
            Outcome::HandBack { due_at },
            Outcome::Fail(JobError::deadline()),
        ] {
            let mut record = Record::accepted(&a_query(JobId::generate()));
            assert!(record.due_at.is_some());
            record.take(Stage::Retrieval, start, start);
            assert!(record.due_at.is_some());
            record.finish(outcome, start, Duration::ZERO);
            assert_eq!(record.due_at.is_some(), !record.job.status.is_final());
            assert_eq!(record.lease_until, None);
        }
    }
}
