//! The SQL of the table `deliveries`.

use std::time::Duration;

use raglan_pipeline::{
    domain::{Delivery, DeliveryId, JobId, Timestamp},
    ports::PortResult,
};
use sqlx::{SqliteConnection, SqliteExecutor};

use crate::{
    database::{
        SqlxResultExt as _,
        codec::{RowExt as _, json, limit, name},
    },
    delivery_store::{row::delivery, rules},
};

/// Writes a delivery that is not there yet.
pub(crate) async fn insert(connection: &mut SqliteConnection, delivery: &Delivery) -> PortResult<()> {
    sqlx::query(
        "INSERT INTO deliveries (id, job_id, tenant, url, event, status, attempts, next_at, created_at) \
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
    )
    .bind(delivery.id.0.as_bytes().as_slice())
    .bind(delivery.job_id.0.as_bytes().as_slice())
    .bind(delivery.tenant.as_str())
    .bind(delivery.url.as_str())
    .bind(delivery.event.as_str())
    .bind(name(&delivery.status)?)
    .bind(json(&delivery.attempts)?)
    .bind(delivery.next_at.map(|at| at.timestamp_millis()))
    .bind(delivery.created_at.timestamp_millis())
    .execute(connection)
    .await
    .map(drop)
    .port()
}

/// Writes back all of a delivery that ever changes. Whoever had leased it has it no more.
pub(super) async fn update(connection: &mut SqliteConnection, delivery: &Delivery) -> PortResult<()> {
    sqlx::query(
        "UPDATE deliveries SET status = ?, attempts = ?, next_at = ?, leased_from = NULL WHERE id = ?",
    )
    .bind(name(&delivery.status)?)
    .bind(json(&delivery.attempts)?)
    .bind(delivery.next_at.map(|at| at.timestamp_millis()))
    .bind(delivery.id.0.as_bytes().as_slice())
    .execute(connection)
    .await
    .map(drop)
    .port()
}

/// A delivery, or none.
pub(super) async fn select(
    executor: impl SqliteExecutor<'_>,
    id: DeliveryId,
) -> PortResult<Option<Delivery>> {
    sqlx::query("SELECT * FROM deliveries WHERE id = ?")
        .bind(id.0.as_bytes().as_slice())
        .fetch_optional(executor)
        .await
        .port()?
        .as_ref()
        .map(delivery)
        .transpose()
}

/// A job's deliveries, oldest first.
pub(super) async fn of_job(executor: impl SqliteExecutor<'_>, job: JobId) -> PortResult<Vec<Delivery>> {
    let rows = sqlx::query("SELECT * FROM deliveries WHERE job_id = ? ORDER BY created_at, id")
        .bind(job.0.as_bytes().as_slice())
        .fetch_all(executor)
        .await
        .port()?;
    rows.iter().map(delivery).collect()
}

/// Pending deliveries that are due, oldest first; each is due again when its lease ends. As they are after that.
pub(super) async fn lease_due(
    connection: &mut SqliteConnection,
    now: Timestamp,
    lease: Duration,
    most: usize,
) -> PortResult<Vec<Delivery>> {
    let rows = sqlx::query(
        "SELECT * FROM deliveries WHERE next_at IS NOT NULL AND next_at <= ? ORDER BY next_at, id LIMIT ?",
    )
    .bind(now.timestamp_millis())
    .bind(limit(most))
    .fetch_all(&mut *connection)
    .await
    .port()?;
    let mut leased = Vec::with_capacity(rows.len());
    for row in &rows {
        let until = rules::leased_until(now, lease, row.optional_time("leased_from")?);
        let delivery = Delivery { next_at: Some(until), ..delivery(row)? };
        sqlx::query(
            "UPDATE deliveries SET leased_from = coalesce(leased_from, next_at), next_at = ? WHERE id = ?",
        )
        .bind(until.timestamp_millis())
        .bind(delivery.id.0.as_bytes().as_slice())
        .execute(&mut *connection)
        .await
        .port()?;
        leased.push(delivery);
    }
    Ok(leased)
}

/// Leases a pending delivery until this time at least. None where there is none.
pub(super) async fn begin(
    connection: &mut SqliteConnection,
    id: DeliveryId,
    until: Timestamp,
) -> PortResult<Option<Delivery>> {
    sqlx::query(
        "UPDATE deliveries SET leased_from = coalesce(leased_from, next_at), next_at = max(next_at, ?) \
         WHERE id = ? AND next_at IS NOT NULL RETURNING *",
    )
    .bind(until.timestamp_millis())
    .bind(id.0.as_bytes().as_slice())
    .fetch_optional(connection)
    .await
    .port()?
    .as_ref()
    .map(delivery)
    .transpose()
}

/// Ends the leases of these.
pub(super) async fn release(connection: &mut SqliteConnection, ids: &[DeliveryId]) -> PortResult<()> {
    for id in ids {
        sqlx::query(
            "UPDATE deliveries SET next_at = leased_from, leased_from = NULL WHERE id = ? AND leased_from IS NOT NULL",
        )
        .bind(id.0.as_bytes().as_slice())
        .execute(&mut *connection)
        .await
        .port()?;
    }
    Ok(())
}

/// Ends all leases. How many there were.
pub(super) async fn recover(connection: &mut SqliteConnection) -> PortResult<u64> {
    sqlx::query(
        "UPDATE deliveries SET next_at = leased_from, leased_from = NULL WHERE leased_from IS NOT NULL",
    )
    .execute(connection)
    .await
    .port()
    .map(|done| done.rows_affected())
}

/// When the first pending delivery is due.
pub(super) async fn next_due(executor: impl SqliteExecutor<'_>) -> PortResult<Option<Timestamp>> {
    sqlx::query("SELECT min(next_at) AS next_at FROM deliveries WHERE next_at IS NOT NULL")
        .fetch_one(executor)
        .await
        .port()?
        .optional_time("next_at")
}
