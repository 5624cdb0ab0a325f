//! The SQL of the table `jobs`. Columns are always named: what a statement gives must not change under a running process when a
//! later Raglan adds one.

use std::collections::{HashMap, HashSet};

use raglan_pipeline::{
    domain::{Job, JobId, Stage, Timestamp},
    ports::{JobFilter, NewJob, PortResult},
};
use sqlx::{PgConnection, QueryBuilder, postgres::PgRow};

use super::group::Change;
use crate::{
    database::{
        SqlxResultExt as _,
        codec::{RowExt as _, int, json, limit, name},
        postgres::{column, from_commit, try_column},
    },
    job_store::{record::Record, row::record},
};

/// What a record is read from.
macro_rules! record_columns {
    () => {
        "id, created_at, deadline, tenant, priority, metadata, webhook, spec, attempt, fence, epoch, revision, postponed, \
         due_at, lease_until, started_at, completed_at, expires_at, status, stage, timings, progress, error, result"
    };
}

/// The time on the server as it is stored.
macro_rules! server_time {
    () => {
        "date_trunc('milliseconds', clock_timestamp())"
    };
}

/// When the sweeper is to look at a job that was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sweep {
    /// When it is due, or earlier where it would have looked earlier: that leaves the index alone.
    NotLaterThanDue,
    /// When it is due.
    WhenDue,
}

/// Writes jobs that are not there yet. The ids of those that were written: not those whose id or key was there. The statement is a transaction where
/// the caller has none.
pub(super) async fn insert(connection: &mut PgConnection, new: &[&NewJob]) -> PortResult<HashSet<JobId>> {
    if new.is_empty() {
        return Ok(HashSet::new());
    }
    let records = column(new, |new| Record::accepted(new));
    let rows = sqlx::query(
        "INSERT INTO jobs (id, created_at, deadline, tenant, kind, priority, idempotency_key, request_hash, metadata, webhook, \
         spec, attempt, fence, epoch, revision, postponed, due_at, sweep_at, status, stage, timings) \
         SELECT id, created_at, deadline, tenant, kind, priority, idempotency_key, request_hash, metadata, webhook, \
         spec, attempt, fence, epoch, revision, postponed, due_at, due_at, status, stage, timings \
         FROM UNNEST($1::uuid[], $2::timestamptz[], $3::timestamptz[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[], \
         $9::json[], $10::json[], $11::json[], $12::bigint[], $13::bigint[], $14::bigint[], $15::bigint[], $16::bigint[], \
         $17::timestamptz[], $18::text[], $19::text[], $20::json[]) \
         AS new (id, created_at, deadline, tenant, kind, priority, idempotency_key, request_hash, metadata, webhook, spec, \
         attempt, fence, epoch, revision, postponed, due_at, status, stage, timings) \
         ORDER BY tenant, idempotency_key, id ON CONFLICT DO NOTHING RETURNING id",
    )
    .bind(column(new, |new| new.id.0))
    .bind(column(&records, |record| record.job.created_at))
    .bind(column(&records, |record| record.job.deadline))
    .bind(column(new, |new| new.tenant.as_str()))
    .bind(try_column(new, |new| name(&new.spec.kind()))?)
    .bind(column(new, |new| new.priority.as_str()))
    .bind(column(new, |new| new.idempotency.as_ref().map(|idempotency| idempotency.key.as_str())))
    .bind(column(new, |new| new.idempotency.as_ref().map(|idempotency| idempotency.request_hash.as_str())))
    .bind(try_column(new, |new| json(&new.metadata))?)
    .bind(try_column(new, |new| new.webhook.as_ref().map(json).transpose())?)
    .bind(try_column(new, |new| json(&new.spec))?)
    .bind(column(&records, |record| i64::from(record.job.attempt)))
    .bind(try_column(&records, |record| int(record.job.fence))?)
    .bind(column(&records, |record| i64::from(record.job.epoch)))
    .bind(try_column(&records, |record| int(record.job.revision))?)
    .bind(column(&records, |record| i64::from(record.postponed)))
    .bind(column(&records, |record| record.due_at))
    .bind(column(&records, |record| record.job.status.as_str()))
    .bind(column(&records, |record| record.job.stage.as_str()))
    .bind(try_column(&records, |record| json(&record.job.timings))?)
    .fetch_all(connection)
    .await
    .map_err(from_commit)?;
    rows.iter().map(|row| row.uuid("id").map(JobId)).collect()
}

/// The jobs that hold the idempotency keys of these, with the hashes of their requests, by tenant and key.
pub(super) async fn select_by_key<'a>(
    connection: &mut PgConnection,
    new: &[&'a NewJob],
) -> PortResult<HashMap<(&'a str, &'a str), (Job, String)>> {
    let keys: Vec<_> = new
        .iter()
        .filter_map(|new| Some((new.tenant.as_str(), new.idempotency.as_ref()?.key.as_str())))
        .collect();
    if keys.is_empty() {
        return Ok(HashMap::new());
    }
    let rows = sqlx::query(concat!(
        "SELECT ",
        record_columns!(),
        ", idempotency_key, request_hash FROM jobs WHERE (tenant, idempotency_key) IN \
         (SELECT tenant, key FROM UNNEST($1::text[], $2::text[]) AS wanted (tenant, key)) AND idempotency_key IS NOT NULL",
    ))
    .bind(column(&keys, |(tenant, _)| *tenant))
    .bind(column(&keys, |(_, key)| *key))
    .fetch_all(connection)
    .await
    .port()?;
    let mut held = HashMap::new();
    for row in &rows {
        let (tenant, key) = (row.text("tenant")?, row.text("idempotency_key")?);
        if let Some(wanted) = keys.iter().find(|wanted| **wanted == (tenant, key)) {
            held.insert(*wanted, (record(row)?.job, row.string("request_hash")?));
        }
    }
    Ok(held)
}

/// Writes back all of the records that ever changes, where a job still is what it was when it was read. The ids of these. The statement is a transaction where the caller has none.
pub(super) async fn update(
    connection: &mut PgConnection,
    changes: &[Change],
    sweep: Sweep,
) -> PortResult<HashSet<JobId>> {
    if changes.is_empty() {
        return Ok(HashSet::new());
    }
    let records: Vec<_> = changes.iter().map(|change| &change.record).collect();
    let records = records.as_slice();
    let rows = sqlx::query(
        "UPDATE jobs SET attempt = new.attempt, fence = new.fence, epoch = new.epoch, revision = new.revision, \
         postponed = new.postponed, due_at = new.due_at, \
         sweep_at = CASE WHEN $18 OR new.due_at IS NULL THEN new.due_at ELSE least(jobs.sweep_at, new.due_at) END, \
         lease_until = new.lease_until, started_at = new.started_at, completed_at = new.completed_at, \
         expires_at = new.expires_at, status = new.status, stage = new.stage, \
         outcome = CASE WHEN new.due_at IS NULL THEN new.status END, timings = new.timings, progress = new.progress, \
         error = new.error, result = new.result \
         FROM UNNEST($1::uuid[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[], $7::timestamptz[], \
         $8::timestamptz[], $9::timestamptz[], $10::timestamptz[], $11::timestamptz[], $12::text[], $13::text[], $14::json[], \
         $15::json[], $16::json[], $17::json[], $19::bigint[], $20::bigint[], $21::bigint[]) AS new (id, attempt, fence, epoch, revision, \
         postponed, due_at, lease_until, started_at, completed_at, expires_at, status, stage, timings, progress, error, result, \
         seen_revision, seen_fence, seen_epoch) WHERE jobs.id = new.id AND jobs.revision = seen_revision AND jobs.fence = seen_fence \
         AND jobs.epoch = seen_epoch RETURNING jobs.id",
    )
    .bind(column(records, |record| record.job.id.0))
    .bind(column(records, |record| i64::from(record.job.attempt)))
    .bind(try_column(records, |record| int(record.job.fence))?)
    .bind(column(records, |record| i64::from(record.job.epoch)))
    .bind(try_column(records, |record| int(record.job.revision))?)
    .bind(column(records, |record| i64::from(record.postponed)))
    .bind(column(records, |record| record.due_at))
    .bind(column(records, |record| record.lease_until))
    .bind(column(records, |record| record.job.started_at))
    .bind(column(records, |record| record.job.completed_at))
    .bind(column(records, |record| record.job.expires_at))
    .bind(column(records, |record| record.job.status.as_str()))
    .bind(column(records, |record| record.job.stage.as_str()))
    .bind(try_column(records, |record| json(&record.job.timings))?)
    .bind(try_column(records, |record| record.job.progress.as_ref().map(json).transpose())?)
    .bind(try_column(records, |record| record.job.error.as_ref().map(json).transpose())?)
    .bind(try_column(records, |record| record.job.result.as_ref().map(json).transpose())?)
    .bind(sweep == Sweep::WhenDue)
    .bind(try_column(changes, |change| int(change.seen.revision))?)
    .bind(try_column(changes, |change| int(change.seen.fence))?)
    .bind(column(changes, |change| i64::from(change.seen.epoch)))
    .fetch_all(connection)
    .await
    .map_err(from_commit)?;
    rows.iter().map(|row| row.uuid("id").map(JobId)).collect()
}

/// Reads records, each with the time on the server.
pub(super) async fn select_all(
    connection: &mut PgConnection,
    ids: &[JobId],
) -> PortResult<Vec<(Record, Timestamp)>> {
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let rows = sqlx::query(concat!(
        "SELECT ",
        record_columns!(),
        ", ",
        server_time!(),
        " AS now FROM jobs WHERE id = ANY ($1)",
    ))
    .bind(column(ids, |id| id.0))
    .fetch_all(connection)
    .await
    .port()?;
    with_time(&rows)
}

/// The time on the server.
pub(super) async fn server_time(connection: &mut PgConnection) -> PortResult<Timestamp> {
    sqlx::query(concat!("SELECT ", server_time!(), " AS now")).fetch_one(connection).await.port()?.time("now")
}

/// A job, or none.
pub(super) async fn select(connection: &mut PgConnection, id: JobId) -> PortResult<Option<Job>> {
    let row = sqlx::query(concat!("SELECT ", record_columns!(), " FROM jobs WHERE id = $1"))
        .bind(id.0)
        .fetch_optional(connection)
        .await
        .port()?;
    row.map(|row| record(&row).map(|record| record.job)).transpose()
}

/// A page of jobs, newest first.
pub(super) async fn list(connection: &mut PgConnection, filter: &JobFilter) -> PortResult<Vec<Job>> {
    let mut query = QueryBuilder::new(concat!("SELECT ", record_columns!(), " FROM jobs WHERE true"));
    if let Some(tenant) = &filter.tenant {
        query.push(" AND tenant = ").push_bind(tenant.as_str());
    }
    match filter.status {
        Some(status) if status.is_final() => query.push(" AND outcome = ").push_bind(status.as_str()),
        Some(status) => query.push(" AND sweep_at IS NOT NULL AND status = ").push_bind(status.as_str()),
        None => &mut query,
    };
    if let Some(kind) = filter.kind {
        query.push(" AND kind = ").push_bind(name(&kind)?);
    }
    if let Some(before) = &filter.before {
        query.push(" AND id < ").push_bind(before.0);
    }
    query.push(" ORDER BY id DESC LIMIT ").push_bind(limit(filter.limit));
    jobs(&query.build().fetch_all(connection).await.port()?)
}

/// Brings the index of due times up to date for jobs that are not due although it says so, at most about so many.
pub(super) async fn catch_up(connection: &mut PgConnection, most: usize) -> PortResult<()> {
    sqlx::query(
        "UPDATE jobs SET sweep_at = due_at WHERE id = ANY (ARRAY(SELECT id FROM jobs WHERE sweep_at <= now() \
         AND due_at > now() ORDER BY sweep_at LIMIT $1 FOR NO KEY UPDATE SKIP LOCKED))",
    )
    .bind(limit(most))
    .execute(connection)
    .await
    .map(drop)
    .port()
}

/// Unfinished records whose due time has come, the longest overdue first, each with the time on the server. Those that somebody
/// else is writing are left out; the others are kept from them until the transaction ends.
pub(super) async fn lock_due(
    connection: &mut PgConnection,
    most: usize,
) -> PortResult<Vec<(Record, Timestamp)>> {
    let rows = sqlx::query(concat!(
        "SELECT ",
        record_columns!(),
        ", ",
        server_time!(),
        " AS now FROM jobs WHERE sweep_at <= now() AND due_at <= now() ORDER BY due_at, id LIMIT $1 \
         FOR NO KEY UPDATE SKIP LOCKED",
    ))
    .bind(limit(most))
    .fetch_all(connection)
    .await
    .port()?;
    with_time(&rows)
}

/// Unfinished jobs whose deadline has passed.
pub(super) async fn overdue(connection: &mut PgConnection, most: usize) -> PortResult<Vec<Job>> {
    let rows = sqlx::query(concat!(
        "SELECT ",
        record_columns!(),
        " FROM jobs WHERE sweep_at IS NOT NULL AND deadline <= now() ORDER BY deadline, id LIMIT $1",
    ))
    .bind(limit(most))
    .fetch_all(connection)
    .await
    .port()?;
    jobs(&rows)
}

/// Ends all leases. How many jobs are unfinished.
pub(super) async fn recover(connection: &mut PgConnection) -> PortResult<u64> {
    sqlx::query(
        "WITH unfinished AS (SELECT id, date_trunc('milliseconds', now()) AS now FROM jobs WHERE sweep_at IS NOT NULL \
         ORDER BY id FOR NO KEY UPDATE) \
         UPDATE jobs SET lease_until = NULL, due_at = now, sweep_at = now, postponed = 0, epoch = epoch + 1, \
         revision = revision + 1 FROM unfinished WHERE jobs.id = unfinished.id",
    )
    .execute(connection)
    .await
    .port()
    .map(|done| done.rows_affected())
}

/// Removes a job that has ended. False where there is none.
pub(super) async fn delete_ended(connection: &mut PgConnection, id: JobId) -> PortResult<bool> {
    sqlx::query("DELETE FROM jobs WHERE id = $1 AND sweep_at IS NULL")
        .bind(id.0)
        .execute(connection)
        .await
        .port()
        .map(|done| done.rows_affected() > 0)
}

/// Removes jobs that need no longer be kept, and returns them.
pub(super) async fn delete_expired(connection: &mut PgConnection, most: usize) -> PortResult<Vec<Job>> {
    let rows = sqlx::query(concat!(
        "DELETE FROM jobs WHERE id = ANY (ARRAY(SELECT id FROM jobs WHERE expires_at <= now() ORDER BY expires_at LIMIT $1 \
         FOR UPDATE SKIP LOCKED)) RETURNING ",
        record_columns!(),
    ))
    .bind(limit(most))
    .fetch_all(connection)
    .await
    .port()?;
    jobs(&rows)
}

/// Unfinished jobs without a live lease, by stage.
pub(super) async fn waiting(connection: &mut PgConnection) -> PortResult<Vec<(Stage, u64)>> {
    let rows = sqlx::query(
        "SELECT stage, count(*) AS jobs FROM jobs WHERE sweep_at IS NOT NULL \
         AND (lease_until IS NULL OR lease_until <= now()) GROUP BY stage",
    )
    .fetch_all(connection)
    .await
    .port()?;
    rows.iter().map(|row| Ok((row.name("stage")?, row.number("jobs")?))).collect()
}

fn jobs(rows: &[PgRow]) -> PortResult<Vec<Job>> {
    rows.iter().map(|row| record(row).map(|record| record.job)).collect()
}

fn with_time(rows: &[PgRow]) -> PortResult<Vec<(Record, Timestamp)>> {
    rows.iter().map(|row| Ok((record(row)?, row.time("now")?))).collect()
}
