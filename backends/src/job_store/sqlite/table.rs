//! The SQL of the table `jobs`.

use raglan_pipeline::{
    domain::{Job, JobId, Stage, Tenant, Timestamp},
    ports::{Idempotency, JobFilter, PortResult},
};
use sqlx::{QueryBuilder, SqliteConnection, SqliteExecutor};

use crate::{
    database::{
        SqlxResultExt as _,
        codec::{RowExt as _, int, json, limit, name},
    },
    job_store::{record::Record, row::record},
};

/// Writes a record that is not there yet.
pub(super) async fn insert(
    connection: &mut SqliteConnection,
    record: &Record,
    idempotency: Option<&Idempotency>,
) -> PortResult<()> {
    let job = &record.job;
    sqlx::query(
        "INSERT INTO jobs (id, tenant, kind, status, stage, attempt, fence, epoch, priority, created_at, deadline, \
         revision, due_at, postponed, idempotency_key, request_hash, spec, metadata, webhook, timings) \
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
    )
    .bind(job.id.0.as_bytes().as_slice())
    .bind(job.tenant.as_str())
    .bind(name(&job.kind())?)
    .bind(job.status.as_str())
    .bind(job.stage.as_str())
    .bind(job.attempt)
    .bind(int(job.fence)?)
    .bind(job.epoch)
    .bind(job.priority.as_str())
    .bind(job.created_at.timestamp_millis())
    .bind(job.deadline.timestamp_millis())
    .bind(int(job.revision)?)
    .bind(millis(record.due_at))
    .bind(record.postponed)
    .bind(idempotency.map(|idempotency| idempotency.key.as_str()))
    .bind(idempotency.map(|idempotency| idempotency.request_hash.as_str()))
    .bind(json(&job.spec)?)
    .bind(json(&job.metadata)?)
    .bind(job.webhook.as_ref().map(json).transpose()?)
    .bind(json(&job.timings)?)
    .execute(connection)
    .await
    .map(drop)
    .port()
}

/// Writes back all of a record that ever changes.
pub(super) async fn update(connection: &mut SqliteConnection, record: &Record) -> PortResult<()> {
    let job = &record.job;
    sqlx::query(
        "UPDATE jobs SET status = ?, stage = ?, attempt = ?, fence = ?, epoch = ?, started_at = ?, completed_at = ?, \
         expires_at = ?, revision = ?, due_at = ?, lease_until = ?, postponed = ?, progress = ?, timings = ?, error = ?, \
         result = ? WHERE id = ?",
    )
    .bind(job.status.as_str())
    .bind(job.stage.as_str())
    .bind(job.attempt)
    .bind(int(job.fence)?)
    .bind(job.epoch)
    .bind(millis(job.started_at))
    .bind(millis(job.completed_at))
    .bind(millis(job.expires_at))
    .bind(int(job.revision)?)
    .bind(millis(record.due_at))
    .bind(millis(record.lease_until))
    .bind(record.postponed)
    .bind(job.progress.as_ref().map(json).transpose()?)
    .bind(json(&job.timings)?)
    .bind(job.error.as_ref().map(json).transpose()?)
    .bind(job.result.as_ref().map(json).transpose()?)
    .bind(job.id.0.as_bytes().as_slice())
    .execute(connection)
    .await
    .map(drop)
    .port()
}

/// A record, or none.
pub(super) async fn select(executor: impl SqliteExecutor<'_>, id: JobId) -> PortResult<Option<Record>> {
    sqlx::query("SELECT * FROM jobs WHERE id = ?")
        .bind(id.0.as_bytes().as_slice())
        .fetch_optional(executor)
        .await
        .port()?
        .as_ref()
        .map(record)
        .transpose()
}

/// The record that an idempotency key belongs to, with the hash of its request.
pub(super) async fn select_by_key(
    connection: &mut SqliteConnection,
    tenant: &Tenant,
    key: &str,
) -> PortResult<Option<(Record, String)>> {
    sqlx::query("SELECT * FROM jobs WHERE tenant = ? AND idempotency_key = ?")
        .bind(tenant.as_str())
        .bind(key)
        .fetch_optional(connection)
        .await
        .port()?
        .map(|row| Ok((record(&row)?, row.string("request_hash")?)))
        .transpose()
}

/// A page of jobs, newest first.
pub(super) async fn list(executor: impl SqliteExecutor<'_>, filter: &JobFilter) -> PortResult<Vec<Job>> {
    let mut query = QueryBuilder::new("SELECT * FROM jobs WHERE 1");
    if let Some(tenant) = &filter.tenant {
        query.push(" AND tenant = ").push_bind(tenant.as_str());
    }
    if let Some(status) = filter.status {
        query.push(" AND status = ").push_bind(status.as_str());
    }
    if let Some(kind) = filter.kind {
        query.push(" AND kind = ").push_bind(name(&kind)?);
    }
    if let Some(before) = &filter.before {
        query.push(" AND id < ").push_bind(before.0.as_bytes().as_slice());
    }
    query.push(" ORDER BY id DESC LIMIT ").push_bind(limit(filter.limit));
    let rows = query.build().fetch_all(executor).await.port()?;
    rows.iter().map(|row| record(row).map(|record| record.job)).collect()
}

/// Unfinished records whose due time has come, the longest overdue first.
pub(super) async fn due(
    connection: &mut SqliteConnection,
    now: Timestamp,
    most: usize,
) -> PortResult<Vec<Record>> {
    let rows = sqlx::query(
        "SELECT * FROM jobs WHERE due_at IS NOT NULL AND due_at <= ? ORDER BY due_at, id LIMIT ?",
    )
    .bind(now.timestamp_millis())
    .bind(limit(most))
    .fetch_all(connection)
    .await
    .port()?;
    rows.iter().map(record).collect()
}

/// Unfinished jobs whose deadline has passed.
pub(super) async fn overdue(
    executor: impl SqliteExecutor<'_>,
    now: Timestamp,
    most: usize,
) -> PortResult<Vec<Job>> {
    let rows = sqlx::query(
        "SELECT * FROM jobs WHERE due_at IS NOT NULL AND deadline <= ? ORDER BY deadline, id LIMIT ?",
    )
    .bind(now.timestamp_millis())
    .bind(limit(most))
    .fetch_all(executor)
    .await
    .port()?;
    rows.iter().map(|row| record(row).map(|record| record.job)).collect()
}

/// Ends all leases. How many jobs are unfinished.
pub(super) async fn recover(connection: &mut SqliteConnection, now: Timestamp) -> PortResult<u64> {
    sqlx::query(
        "UPDATE jobs SET lease_until = NULL, due_at = ?, postponed = 0, epoch = epoch + 1, revision = revision + 1 \
         WHERE due_at IS NOT NULL",
    )
    .bind(now.timestamp_millis())
    .execute(connection)
    .await
    .port()
    .map(|done| done.rows_affected())
}

/// Removes a job that has ended. False where there is none.
pub(super) async fn delete_ended(connection: &mut SqliteConnection, id: JobId) -> PortResult<bool> {
    sqlx::query("DELETE FROM jobs WHERE id = ? AND due_at IS NULL")
        .bind(id.0.as_bytes().as_slice())
        .execute(connection)
        .await
        .port()
        .map(|done| done.rows_affected() > 0)
}

/// Removes jobs that need no longer be kept, and returns them.
pub(super) async fn delete_expired(
    connection: &mut SqliteConnection,
    now: Timestamp,
    most: usize,
) -> PortResult<Vec<Job>> {
    let rows = sqlx::query(
        "DELETE FROM jobs WHERE id IN (SELECT id FROM jobs WHERE expires_at IS NOT NULL AND expires_at <= ? \
         ORDER BY expires_at LIMIT ?) RETURNING *",
    )
    .bind(now.timestamp_millis())
    .bind(limit(most))
    .fetch_all(connection)
    .await
    .port()?;
    rows.iter().map(|row| record(row).map(|record| record.job)).collect()
}

/// Unfinished jobs without a live lease, by stage.
pub(super) async fn waiting(
    executor: impl SqliteExecutor<'_>,
    now: Timestamp,
) -> PortResult<Vec<(Stage, u64)>> {
    let rows = sqlx::query(
        "SELECT stage, count(*) AS jobs FROM jobs INDEXED BY jobs_waiting \
         WHERE due_at IS NOT NULL AND (lease_until IS NULL OR lease_until <= ?) GROUP BY stage",
    )
    .bind(now.timestamp_millis())
    .fetch_all(executor)
    .await
    .port()?;
    rows.iter().map(|row| Ok((row.name("stage")?, row.number("jobs")?))).collect()
}

fn millis(at: Option<Timestamp>) -> Option<i64> {
    at.map(|at| at.timestamp_millis())
}
