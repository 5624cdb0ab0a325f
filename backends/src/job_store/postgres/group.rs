//! Operations of many callers in one statement.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use raglan_pipeline::{
    domain::{Delivery, Job, JobId, JobStatus, Progress, Stage, Timestamp},
    ports::{Accepted, Ended, Ending, ErrorKind, NewJob, Outcome, PortError, PortResult, Taken},
};
use sqlx::{Connection as _, PgConnection};

use super::{
    known::{Found, Known},
    table::{self, Sweep},
};
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
    Claim { id: JobId, stage: Stage, lease: Duration },
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
            | Self::Claim { id, .. }
            | Self::Extend { id, .. }
            | Self::Finish { id, .. }
            | Self::End { id, .. } => *id,
        }
    }
}

impl Operation {
    /// The job that it stores.
    pub(super) fn new_job(&self) -> Option<&NewJob> {
        if let Self::Accept(new) = self { Some(new) } else { None }
    }

    /// Whose job it changes, where only its worker may.
    fn fence(&self) -> Option<u64> {
        match self {
            Self::Extend { fence, .. } | Self::Finish { fence, .. } => Some(*fence),
            Self::Accept(_) | Self::Take { .. } | Self::Claim { .. } | Self::End { .. } => None,
        }
    }

    /// How long what it writes must last. Acceptances and ends are promised. What lies between them may be lost with a server that crashes: then
    /// the job is as it was a moment before, its worker finds that it does not have it, and the stage is done again.
    pub(super) fn durability(&self) -> Durability {
        match self {
            Self::Accept(_) | Self::End { .. } => Durability::Promised,
            Self::Finish { outcome: Outcome::Succeed { .. } | Outcome::Fail(_), .. } => Durability::Promised,
            Self::Finish { .. } | Self::Take { .. } | Self::Claim { .. } | Self::Extend { .. } => {
                Durability::Passing
            }
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

/// A job that is to be written.
pub(super) struct Change {
    /// What it was when it was read.
    pub(super) seen: Version,
    /// What it is to be.
    pub(super) record: Record,
    /// The delivery that its end asks for.
    delivery: Option<Delivery>,
}

/// By this a job is known to be what it was: every change raises the revision, and fences tell apart what a server that crashed has forgotten
/// from what came in its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Version {
    pub(super) revision: u64,
    pub(super) fence: u64,
    pub(super) epoch: u32,
}

impl Change {
    /// A change of what was found, by `change`.
    pub(super) fn of(found: Found, change: impl FnOnce(&mut Record)) -> Self {
        let Found { seen, mut record } = found;
        change(&mut record);
        Self { seen, record, delivery: None }
    }
}

impl Version {
    pub(super) fn of(record: &Record) -> Self {
        let Job { revision, fence, epoch, .. } = record.job;
        Self { revision, fence, epoch }
    }
}

/// Stores new jobs in one statement. What came of each, in the same order. A job that is against the rules is answered with its error, and one whose
/// key cannot be looked up with that of the lookup; an error of the whole means that none was stored, or that nobody knows (see [`from_commit`]).
///
/// Every process goes in the same order, that of the keys, so that no two ever wait for each other.
pub(super) async fn accept(
    connection: &mut PgConnection,
    new: &[&NewJob],
) -> PortResult<Vec<PortResult<Answer>>> {
    let inserted = table::insert(connection, new).await?;
    // Those whose key was there before, or came twice in this group.
    let rest: Vec<_> = new.iter().copied().filter(|new| !inserted.contains(&new.id)).collect();
    // What was stored stays stored, whatever comes of this.
    let held = table::select_by_key(connection, &rest).await;
    let answer = |new: &NewJob| {
        if inserted.contains(&new.id) {
            return Ok(Accepted::New(Record::accepted(new).job));
        }
        let Some(idempotency) = &new.idempotency else { return Err(taken_id(new.id)) };
        let held = held.as_ref().map_err(repeated)?;
        match held.get(&(new.tenant.as_str(), idempotency.key.as_str())) {
            Some((job, hash)) if *hash == idempotency.request_hash => Ok(Accepted::Existing(job.clone())),
            Some(_) => Ok(Accepted::KeyReused),
            None => Err(vanished()),
        }
    };
    Ok(new.iter().map(|new| answer(new).map(Answer::Accepted)).collect())
}

/// So often a job is read again that another process wrote meanwhile.
const ROUNDS: usize = 20;

/// Changes jobs, each operation another one. What came of each, in the same order. An error of the whole means that nothing was changed, or that nobody
/// knows.
///
/// A job is read, or known as it was written last, changed by the rules that every store keeps, and written back in one statement with all others,
/// if it still is what it was; else once more from the beginning. So nobody holds a lock while it waits for the server. What an operation does not change
/// is told only of a job that was just read.
pub(super) async fn change(
    connection: &mut PgConnection,
    known: &Known,
    operations: &[&Operation],
    retention: Duration,
) -> PortResult<Vec<PortResult<Answer>>> {
    let mut answers = HashMap::new();
    let mut open: Vec<&Operation> = operations.to_vec();
    let mut found = known.take(open.iter().map(|operation| operation.job()));
    let mut failed = contended();
    for _ in 0..ROUNDS {
        match round(connection, known, &open, std::mem::take(&mut found), retention).await {
            Ok(answered) => answers.extend(answered),
            // What was written in the rounds before stays written.
            Err(error) if !answers.is_empty() => {
                failed = error;
                break;
            }
            Err(error) => return Err(error),
        }
        open.retain(|operation| !answers.contains_key(&operation.job()));
        if open.is_empty() {
            break;
        }
    }
    let answer =
        |operation: &&Operation| answers.remove(&operation.job()).unwrap_or_else(|| Err(repeated(&failed)));
    Ok(operations.iter().map(answer).collect())
}

/// Tries operations once, on what is known of their jobs and else on what is read. What came of those that need not be tried again.
async fn round(
    connection: &mut PgConnection,
    known: &Known,
    operations: &[&Operation],
    mut found: HashMap<JobId, Found>,
    retention: Duration,
) -> PortResult<HashMap<JobId, PortResult<Answer>>> {
    let guessed: HashSet<JobId> = found.keys().copied().collect();
    let unknown: Vec<_> =
        operations.iter().map(|operation| operation.job()).filter(|id| !guessed.contains(id)).collect();
    let read = table::select_all(connection, &unknown).await?;
    let now = match read.last() {
        Some((_, now)) => *now,
        None => table::server_time(connection).await?,
    };
    found.extend(read.into_iter().map(|(record, _)| (record.job.id, Found::stored(record))));
    let mut answers = HashMap::new();
    let (mut changes, mut hoped) = (Vec::new(), HashMap::new());
    for operation in operations {
        let id = operation.job();
        let mut of_job = found.remove(&id);
        if let (Some(fence), false) = (operation.fence(), guessed.contains(&id)) {
            of_job = of_job.map(|stored| known.renewed(stored, fence));
        }
        match apply(operation, of_job, now, retention) {
            Ok(Applied::Changed(answer, change)) => {
                changes.push(*change);
                hoped.insert(id, answer);
            }
            // Where it is one of a guess that was wrong, that is seen when it is written.
            Ok(Applied::Claimed(claim)) => {
                answers.insert(id, Ok(Answer::Taken(Taken::Claimed(Box::new(claim.record.job.clone())))));
                known.keep(claim, now);
            }
            _ if guessed.contains(&id) => {}
            Ok(Applied::Unchanged(answer)) => {
                answers.insert(id, Ok(answer));
            }
            Err(error) => {
                answers.insert(id, Err(error));
            }
        }
    }
    let written = write(connection, &mut changes).await?;
    for change in changes {
        let id = change.record.job.id;
        if !written.contains(&id) {
            continue;
        }
        if change.record.job.status.is_final() {
            known.forget(id);
        } else {
            known.keep(Found::stored(change.record), now);
        }
        if let Some(answer) = hoped.remove(&id) {
            answers.insert(id, Ok(answer));
        }
    }
    Ok(answers)
}

/// Writes those of the changes whose jobs are what they were. The ids of these.
async fn write(connection: &mut PgConnection, changes: &mut [Change]) -> PortResult<HashSet<JobId>> {
    // Every process goes in the same order, so that no two ever wait for each other.
    changes.sort_unstable_by_key(|change| change.record.job.id);
    if changes.iter().all(|change| change.delivery.is_none()) {
        return table::update(connection, changes, Sweep::NotLaterThanDue).await;
    }
    let mut transaction = connection.begin().await.port()?;
    let written = table::update(&mut transaction, changes, Sweep::NotLaterThanDue).await?;
    let ended = changes.iter().filter(|change| written.contains(&change.record.job.id));
    let deliveries: Vec<_> = ended.filter_map(|change| change.delivery.as_ref()).collect();
    delivery_store::postgres::insert(&mut transaction, &deliveries).await?;
    transaction.commit().await.map_err(from_commit)?;
    Ok(written)
}

/// What an operation makes of its job.
enum Applied {
    /// Nothing, and this is the answer.
    Unchanged(Answer),
    /// This is to be written, and then answered.
    Changed(Answer, Box<Change>),
    /// A claim, of which nothing is written.
    Claimed(Found),
}

/// Applies an operation to what was found of its job, with the server's time.
fn apply(
    operation: &Operation,
    found: Option<Found>,
    now: Timestamp,
    retention: Duration,
) -> PortResult<Applied> {
    match operation {
        Operation::Accept(new) => Err(taken_id(new.id)),
        Operation::Take { stage, lease, .. } => Ok(take(found, *stage, now, *lease)),
        Operation::Claim { stage, lease, .. } => Ok(match found {
            Some(found) if found.record.job.attempt == 0 => claim(found, *stage, now, *lease),
            found => take(found, *stage, now, *lease),
        }),
        Operation::Extend { fence, lease, status, progress, .. } => {
            let Some(found) = held(found, *fence) else { return Ok(Applied::Unchanged(Answer::Held(None))) };
            let mut extended = Ok(());
            let change = Change::of(found, |record| {
                extended = record.extend(after(now, *lease), *status, progress.clone());
            });
            extended?;
            Ok(Applied::Changed(Answer::Held(Some(change.record.job.clone())), Box::new(change)))
        }
        Operation::Finish { fence, outcome, .. } => {
            let Some(found) = held(found, *fence) else { return Ok(Applied::Unchanged(Answer::Held(None))) };
            let mut delivery = None;
            let mut change =
                Change::of(found, |record| delivery = record.finish(outcome.clone(), now, retention));
            change.delivery = delivery;
            Ok(Applied::Changed(Answer::Held(Some(change.record.job.clone())), Box::new(change)))
        }
        Operation::End { ending, .. } => {
            let Some(found) = found else { return Ok(Applied::Unchanged(Answer::Ended(Ended::Missing))) };
            if found.record.job.status.is_final() {
                return Ok(Applied::Unchanged(Answer::Ended(Ended::Before(Box::new(found.record.job)))));
            }
            let mut delivery = None;
            let mut change =
                Change::of(found, |record| delivery = record.end(ending.clone(), now, retention));
            change.delivery = delivery;
            let ended = Ended::Now(Box::new(change.record.job.clone()));
            Ok(Applied::Changed(Answer::Ended(ended), Box::new(change)))
        }
    }
}

fn take(found: Option<Found>, stage: Stage, now: Timestamp, lease: Duration) -> Applied {
    let Some(found) = found else { return Applied::Unchanged(Answer::Taken(Taken::Over)) };
    let mut taken = Taken::Over;
    let change = Change::of(found, |record| taken = record.take(stage, now, after(now, lease)));
    match taken {
        Taken::Yes(_) => Applied::Changed(Answer::Taken(taken), Box::new(change)),
        taken => Applied::Unchanged(Answer::Taken(taken)),
    }
}

fn claim(found: Found, stage: Stage, now: Timestamp, lease: Duration) -> Applied {
    let Found { seen, mut record } = found;
    match record.take(stage, now, after(now, lease)) {
        Taken::Yes(_) => Applied::Claimed(Found { seen, record }),
        taken => Applied::Unchanged(Answer::Taken(taken)),
    }
}

/// What was found, where the worker with this fence has it.
fn held(found: Option<Found>, fence: u64) -> Option<Found> {
    found.filter(|found| found.record.is_held_with(fence))
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

/// Others wrote the job every time that it was read.
fn contended() -> PortError {
    PortError::new(ErrorKind::Unavailable, "too many processes write this job at once; try again")
        .with_retry_after(Duration::from_millis(100))
}

/// The same error for one more caller.
pub(super) fn repeated(error: &PortError) -> PortError {
    let same = PortError::new(error.kind(), error.to_string());
    match error.retry_after() {
        Some(after) => same.with_retry_after(after),
        None => same,
    }
}
