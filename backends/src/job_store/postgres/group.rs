//! Operations of many callers in one transaction.

use std::{collections::HashMap, time::Duration};

use raglan_pipeline::{
    domain::{Delivery, Job, JobId, JobStatus, Progress, Stage, Timestamp},
    ports::{Accepted, Ended, Ending, ErrorKind, NewJob, Outcome, PortError, PortResult, Taken},
};
use sqlx::{Connection as _, PgConnection};

use super::table::{self, Sweep};
use crate::{
    database::{SqlxResultExt as _, codec::after, postgres::from_commit},
    delivery_store,
    job_store::record::Record,
};

/// What a caller wants of one job.
#[derive(Debug)]
pub(super) enum Operation {
    Accept(Box<NewJob>),
    Take { id: JobId, stage: Stage, lease: Duration },
    Extend { id: JobId, fence: u64, lease: Duration, status: Option<JobStatus>, progress: Option<Progress> },
    Finish { id: JobId, fence: u64, outcome: Outcome },
    End { id: JobId, ending: Ending },
}

impl Operation {
    /// The job that it is about.
    pub(super) fn job(&self) -> JobId {
        match self {
            Self::Accept(new) => new.id,
            Self::Take { id, .. }
            | Self::Extend { id, .. }
            | Self::Finish { id, .. }
            | Self::End { id, .. } => *id,
        }
    }
}

impl Operation {
    /// How long what it writes must last. Acceptances and ends are promised. What lies between them may be lost with a server that crashes: then
    /// the job is as it was a moment before, its worker finds that it does not have it, and the stage is done again.
    pub(super) fn durability(&self) -> Durability {
        match self {
            Self::Accept(_) | Self::End { .. } => Durability::Promised,
            Self::Finish { outcome: Outcome::Succeed { .. } | Outcome::Fail(_), .. } => Durability::Promised,
            Self::Finish { .. } | Self::Take { .. } | Self::Extend { .. } => Durability::Passing,
        }
    }
}

/// Whether a commit waits until it is on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Durability {
    /// It does.
    Promised,
    /// It does not: PostgreSQL flushes it within a second, or with the next commit that waits.
    Passing,
}

/// What came of an operation.
#[derive(Debug)]
pub(super) enum Answer {
    Accepted(Accepted),
    Taken(Taken),
    /// Of extending and finishing: the job, where it was the caller's.
    Held(Option<Job>),
    Ended(Ended),
}

impl Answer {
    pub(super) fn accepted(self) -> Option<Accepted> {
        if let Self::Accepted(accepted) = self { Some(accepted) } else { None }
    }

    pub(super) fn taken(self) -> Option<Taken> {
        if let Self::Taken(taken) = self { Some(taken) } else { None }
    }

    pub(super) fn held(self) -> Option<Option<Job>> {
        if let Self::Held(held) = self { Some(held) } else { None }
    }

    pub(super) fn ended(self) -> Option<Ended> {
        if let Self::Ended(ended) = self { Some(ended) } else { None }
    }
}

/// Does all of them, each about another job, and gives their answers in the same order. An operation that is against the rules is
/// answered with its error; an error of the whole means that none of them has happened.
///
/// Every process goes in the same order, so that no two ever wait for each other: new jobs by their keys, then jobs that are there
/// by their ids.
pub(super) async fn write(
    connection: &mut PgConnection,
    operations: &[&Operation],
    retention: Duration,
) -> PortResult<Vec<PortResult<Answer>>> {
    let mut transaction = connection.begin().await.port()?;
    let mut accepted = accept(&mut transaction, operations).await?;
    let mut found = lock(&mut transaction, operations).await?;
    let mut changed = Changed::default();
    let answers = operations
        .iter()
        .map(|operation| match operation {
            Operation::Accept(new) => {
                accepted.remove(&new.id).unwrap_or_else(|| Err(vanished())).map(Answer::Accepted)
            }
            other => apply(other, found.remove(&other.job()), retention, &mut changed),
        })
        .collect();
    table::update(&mut transaction, &changed.records, Sweep::NotLaterThanDue).await?;
    delivery_store::postgres::insert(&mut transaction, &changed.deliveries).await?;
    transaction.commit().await.map_err(from_commit)?;
    Ok(answers)
}

/// What is to be written.
#[derive(Default)]
struct Changed {
    records: Vec<Record>,
    deliveries: Vec<Delivery>,
}

impl Changed {
    /// Writes a record back, with the delivery that its end asks for. The job as it then is.
    fn write_back(&mut self, record: Record, delivery: Option<Delivery>) -> Job {
        let job = record.job.clone();
        self.records.push(record);
        self.deliveries.extend(delivery);
        job
    }
}

/// Stores the new jobs among the operations. What came of each, by the id that its caller chose.
async fn accept(
    connection: &mut PgConnection,
    operations: &[&Operation],
) -> PortResult<HashMap<JobId, PortResult<Accepted>>> {
    let new: Vec<_> = operations
        .iter()
        .filter_map(|operation| if let Operation::Accept(new) = operation { Some(&**new) } else { None })
        .collect();
    let inserted = table::insert(connection, &new).await?;
    // Those whose key was there before, or came twice in this group.
    let rest: Vec<_> = new.iter().copied().filter(|new| !inserted.contains(&new.id)).collect();
    let held = table::select_by_key(connection, &rest).await?;
    let answer = |new: &NewJob| {
        if inserted.contains(&new.id) {
            return Ok(Accepted::New(Record::accepted(new).job));
        }
        let Some(idempotency) = &new.idempotency else { return Err(taken_id(new.id)) };
        match held.get(&(new.tenant.as_str(), idempotency.key.as_str())) {
            Some((job, hash)) if *hash == idempotency.request_hash => Ok(Accepted::Existing(job.clone())),
            Some(_) => Ok(Accepted::KeyReused),
            None => Err(vanished()),
        }
    };
    Ok(new.iter().map(|new| (new.id, answer(new))).collect())
}

/// Reads the jobs that the other operations are about, and keeps others from them.
async fn lock(
    connection: &mut PgConnection,
    operations: &[&Operation],
) -> PortResult<HashMap<JobId, (Record, Timestamp)>> {
    let ids: Vec<_> = operations
        .iter()
        .filter(|operation| !matches!(operation, Operation::Accept(_)))
        .map(|operation| operation.job())
        .collect();
    let found = table::lock(connection, &ids).await?;
    Ok(found.into_iter().map(|(record, now)| (record.job.id, (record, now))).collect())
}

/// Applies an operation to the record of its job, with the server's time.
fn apply(
    operation: &Operation,
    found: Option<(Record, Timestamp)>,
    retention: Duration,
    changed: &mut Changed,
) -> PortResult<Answer> {
    match operation {
        Operation::Accept(new) => Err(taken_id(new.id)),
        Operation::Take { stage, lease, .. } => {
            let Some((mut record, now)) = found else { return Ok(Answer::Taken(Taken::Over)) };
            let taken = record.take(*stage, now, after(now, *lease));
            if let Taken::Yes(_) = taken {
                changed.write_back(record, None);
            }
            Ok(Answer::Taken(taken))
        }
        Operation::Extend { fence, lease, status, progress, .. } => {
            let Some((mut record, now)) = held(found, *fence) else { return Ok(Answer::Held(None)) };
            record.extend(after(now, *lease), *status, progress.clone())?;
            Ok(Answer::Held(Some(changed.write_back(record, None))))
        }
        Operation::Finish { fence, outcome, .. } => {
            let Some((mut record, now)) = held(found, *fence) else { return Ok(Answer::Held(None)) };
            let delivery = record.finish(outcome.clone(), now, retention);
            Ok(Answer::Held(Some(changed.write_back(record, delivery))))
        }
        Operation::End { ending, .. } => {
            let Some((mut record, now)) = found else { return Ok(Answer::Ended(Ended::Missing)) };
            if record.job.status.is_final() {
                return Ok(Answer::Ended(Ended::Before(Box::new(record.job))));
            }
            let delivery = record.end(ending.clone(), now, retention);
            Ok(Answer::Ended(Ended::Now(Box::new(changed.write_back(record, delivery)))))
        }
    }
}

/// The record, where the worker with this fence has it.
fn held(found: Option<(Record, Timestamp)>, fence: u64) -> Option<(Record, Timestamp)> {
    found.filter(|(record, _)| record.is_held_with(fence))
}

/// Ids are the callers' to choose, and no two jobs have the same.
fn taken_id(id: JobId) -> PortError {
    PortError::new(ErrorKind::Conflict, format!("there is a job {id} already"))
}

/// The job that was in the way has gone in the same moment.
fn vanished() -> PortError {
    PortError::new(ErrorKind::Unavailable, "the job with this idempotency key was just removed; try again")
        .with_retry_after(Duration::from_millis(100))
}
