//! The record of jobs in PostgreSQL.

mod group;
mod known;
mod table;
mod writer;

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use raglan_pipeline::{
    domain::{Job, JobId, JobStatus, Progress, Stage},
    ports::{Accepted, Ended, Ending, JobFilter, JobStore, NewJob, Outcome, PortResult, Taken},
};

use self::{
    group::{Answer, Change, Operation},
    known::Found,
    table::Sweep,
    writer::Writer,
};
use crate::database::PostgresDatabase;

/// Jobs in PostgreSQL. Accepting, taking, extending, finishing and ending go through a few tasks, of which each writes those that wait for it in
/// one statement, so that being durable does not cost each of them a round trip and a flush. A job is changed by the rules that every store
/// keeps, and written back if it still is what it was when it was read; else it is read once more.
///
/// Leases and due times are counted on the server's clock. `list` may be answered by the read replica. `waiting` has to count,
/// so that where many thousands wait its answer may be some seconds old. A call whose caller stops waiting has no effect where
/// it had not begun; else it may still take effect.
#[derive(Debug, Clone)]
pub struct PostgresJobStore {
    database: PostgresDatabase,
    writer: Writer,
    counted: Arc<Mutex<Option<Counted>>>,
}

/// The waiting jobs when they were counted last.
#[derive(Debug, Clone)]
struct Counted {
    waiting: Vec<(Stage, u64)>,
    /// Until when they need not be counted again.
    good_until: Instant,
}

/// For each waiting job the count is kept for so long: some fifty times what counting one costs the server.
const KEPT_PER_JOB: Duration = Duration::from_micros(40);
/// A smaller count is not kept.
const CHEAP_TO_COUNT: u64 = 1_000;

impl PostgresJobStore {
    /// Over a database; an ended job is forgotten after `retention`. Must be called within a tokio runtime, in which the task
    /// that writes runs until the last clone of the store has gone.
    #[must_use]
    pub fn new(database: PostgresDatabase, retention: Duration) -> Self {
        let writer = Writer::start(database.clone(), retention);
        Self { database, writer, counted: Arc::default() }
    }
}

#[async_trait]
impl JobStore for PostgresJobStore {
    async fn accept(&self, new: NewJob) -> PortResult<Accepted> {
        let operation = Operation::Accept(Box::new(new));
        self.writer.run(operation, Answer::accepted).await
    }

    async fn get(&self, id: JobId) -> PortResult<Option<Job>> {
        self.database.primary(async |connection| table::select(connection, id).await).await
    }

    async fn list(&self, filter: &JobFilter) -> PortResult<Vec<Job>> {
        self.database.stale(async |connection| table::list(connection, filter).await).await
    }

    async fn take(&self, id: JobId, stage: Stage, lease: Duration) -> PortResult<Taken> {
        self.writer.run(Operation::Take { id, stage, lease }, Answer::taken).await
    }

    async fn claim(&self, id: JobId, stage: Stage, lease: Duration) -> PortResult<Taken> {
        self.writer.run(Operation::Claim { id, stage, lease }, Answer::taken).await
    }

    async fn extend(
        &self,
        id: JobId,
        fence: u64,
        lease: Duration,
        status: Option<JobStatus>,
        progress: Option<Progress>,
    ) -> PortResult<Option<Job>> {
        self.writer.run(Operation::Extend { id, fence, lease, status, progress }, Answer::held).await
    }

    async fn finish(&self, id: JobId, fence: u64, outcome: Outcome) -> PortResult<Option<Job>> {
        self.writer.run(Operation::Finish { id, fence, outcome }, Answer::held).await
    }

    async fn end(&self, id: JobId, ending: Ending) -> PortResult<Ended> {
        self.writer.run(Operation::End { id, ending }, Answer::ended).await
    }

    async fn due(&self, limit: usize, postpone: Duration) -> PortResult<Vec<Job>> {
        self.database
            .transaction(async |connection| {
                table::catch_up(connection, limit).await?;
                let due = table::lock_due(connection, limit).await?;
                let postponed = |(record, now)| {
                    Change::of(Found::stored(record), |record| record.postpone(now, postpone))
                };
                let changes: Vec<_> = due.into_iter().map(postponed).collect();
                table::update(connection, &changes, Sweep::WhenDue).await?;
                Ok(changes.into_iter().map(|change| change.record.job).collect())
            })
            .await
    }

    async fn overdue(&self, limit: usize) -> PortResult<Vec<Job>> {
        self.database.primary(async |connection| table::overdue(connection, limit).await).await
    }

    async fn recover(&self) -> PortResult<u64> {
        self.database.primary(async |connection| table::recover(connection).await).await
    }

    async fn remove(&self, id: JobId) -> PortResult<bool> {
        self.database.primary(async |connection| table::delete_ended(connection, id).await).await
    }

    async fn remove_expired(&self, limit: usize) -> PortResult<Vec<Job>> {
        self.database.primary(async |connection| table::delete_expired(connection, limit).await).await
    }

    async fn waiting(&self) -> PortResult<Vec<(Stage, u64)>> {
        let last = self.counted.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(last) = last.filter(|last| Instant::now() < last.good_until) {
            return Ok(last.waiting);
        }
        let waiting = self.database.primary(async |connection| table::waiting(connection).await).await?;
        let jobs: u64 = waiting.iter().map(|(_, jobs)| jobs).sum();
        if jobs >= CHEAP_TO_COUNT {
            let kept = KEPT_PER_JOB.saturating_mul(u32::try_from(jobs).unwrap_or(u32::MAX));
            let counted = Counted { waiting: waiting.clone(), good_until: Instant::now() + kept };
            *self.counted.lock().unwrap_or_else(PoisonError::into_inner) = Some(counted);
        }
        Ok(waiting)
    }
}

#[cfg(test)]
mod tests;
