//! The SQL of the table `deliveries`.

use std::time::Duration;

use raglan_pipeline::{
    domain::{Delivery, DeliveryId, JobId, Timestamp},
    ports::PortResult,
};
use sqlx::{PgConnection, postgres::PgRow};

use crate::{
    database::{
        SqlxResultExt as _,
        codec::{RowExt as _, json, limit, name},
        postgres::{column, try_column},
    },
    delivery_store::row::delivery,
};

/// What a delivery is read from.
macro_rules! delivery_columns {
    () => {
        "id, job_id, created_at, tenant, url, event, next_at, status, attempts"
    };
}

/// Writes deliveries that are not there yet.
pub(crate) async fn insert(connection: &mut PgConnection, deliveries: &[&Delivery]) -> PortResult<()> {
    if deliveries.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "INSERT INTO deliveries (id, job_id, created_at, tenant, url, event, next_at, status, attempts) \
         SELECT * FROM UNNEST($1::uuid[], $2::uuid[], $3::timestamptz[], $4::text[], $5::text[], $6::text[], $7::timestamptz[], \
         $8::text[], $9::json[])",
    )
    .bind(column(deliveries, |delivery| delivery.id.0))
    .bind(column(deliveries, |delivery| delivery.job_id.0))
    .bind(column(deliveries, |delivery| delivery.created_at))
    .bind(column(deliveries, |delivery| delivery.tenant.as_str()))
    .bind(column(deliveries, |delivery| delivery.url.as_str()))
    .bind(column(deliveries, |delivery| delivery.event.as_str()))
    .bind(column(deliveries, |delivery| delivery.next_at))
    .bind(try_column(deliveries, |delivery| name(&delivery.status))?)
    .bind(try_column(deliveries, |delivery| json(&delivery.attempts))?)
    .execute(connection)
    .await
    .map(drop)
    .port()
}

/// Writes back all of a delivery that ever changes. Whoever had leased it has it no more.
pub(super) async fn update(connection: &mut PgConnection, delivery: &Delivery) -> PortResult<()> {
    sqlx::query(
        "UPDATE deliveries SET status = $2, attempts = $3::json, next_at = $4, leased_from = NULL WHERE id = $1",
    )
    .bind(delivery.id.0)
    .bind(name(&delivery.status)?)
    .bind(json(&delivery.attempts)?)
    .bind(delivery.next_at)
    .execute(connection)
    .await
    .map(drop)
    .port()
}

/// A delivery, or none.
pub(super) async fn select(connection: &mut PgConnection, id: DeliveryId) -> PortResult<Option<Delivery>> {
    sqlx::query(concat!("SELECT ", delivery_columns!(), " FROM deliveries WHERE id = $1"))
        .bind(id.0)
        .fetch_optional(connection)
        .await
        .port()?
        .as_ref()
        .map(delivery)
        .transpose()
}

/// A delivery, or none, with the time on the server; kept from others until the transaction ends.
pub(super) async fn lock(
    connection: &mut PgConnection,
    id: DeliveryId,
) -> PortResult<Option<(Delivery, Timestamp)>> {
    sqlx::query(concat!(
        "SELECT ",
        delivery_columns!(),
        ", date_trunc('milliseconds', clock_timestamp()) AS now FROM deliveries WHERE id = $1 FOR NO KEY UPDATE",
    ))
    .bind(id.0)
    .fetch_optional(connection)
    .await
    .port()?
    .as_ref()
    .map(with_time)
    .transpose()
}

/// A job's deliveries, oldest first.
pub(super) async fn of_job(connection: &mut PgConnection, job: JobId) -> PortResult<Vec<Delivery>> {
    let rows = sqlx::query(concat!(
        "SELECT ",
        delivery_columns!(),
        " FROM deliveries WHERE job_id = $1 ORDER BY created_at, id",
    ))
    .bind(job.0)
    .fetch_all(connection)
    .await
    .port()?;
    rows.iter().map(delivery).collect()
}

/// A pending delivery that is due.
pub(super) struct Due {
    pub(super) delivery: Delivery,
    /// When it was due before it was leased, if it was.
    pub(super) leased_from: Option<Timestamp>,
    /// The time on the server.
    pub(super) now: Timestamp,
}

/// Pending deliveries that are due, oldest first. Those that somebody else is writing are left out; the others are kept from them until the
/// transaction ends.
pub(super) async fn lock_due(connection: &mut PgConnection, most: usize) -> PortResult<Vec<Due>> {
    let rows = sqlx::query(concat!(
        "SELECT ",
        delivery_columns!(),
        ", leased_from, date_trunc('milliseconds', now()) AS now FROM deliveries WHERE next_at <= now() ORDER BY next_at, id LIMIT $1 \
         FOR NO KEY UPDATE SKIP LOCKED",
    ))
    .bind(limit(most))
    .fetch_all(connection)
    .await
    .port()?;
    let due = |row: &PgRow| {
        let (delivery, now) = with_time(row)?;
        Ok(Due { delivery, leased_from: row.optional_time("leased_from")?, now })
    };
    rows.iter().map(due).collect()
}

/// Leases deliveries: each is due again when it says.
pub(super) async fn lease(connection: &mut PgConnection, deliveries: &[Delivery]) -> PortResult<()> {
    sqlx::query(
        "UPDATE deliveries SET leased_from = coalesce(leased_from, deliveries.next_at), next_at = leased.next_at \
         FROM UNNEST($1::uuid[], $2::timestamptz[]) AS leased (id, next_at) WHERE deliveries.id = leased.id",
    )
    .bind(column(deliveries, |delivery| delivery.id.0))
    .bind(column(deliveries, |delivery| delivery.next_at))
    .execute(connection)
    .await
    .map(drop)
    .port()
}

/// Leases a pending delivery for so long from now at least. None where there is none.
pub(super) async fn begin(
    connection: &mut PgConnection,
    id: DeliveryId,
    lease: Duration,
) -> PortResult<Option<Delivery>> {
    sqlx::query(concat!(
        "UPDATE deliveries SET leased_from = coalesce(leased_from, next_at), \
         next_at = greatest(next_at, date_trunc('milliseconds', now()) + make_interval(secs => $2)) \
         WHERE id = $1 AND next_at IS NOT NULL RETURNING ",
        delivery_columns!(),
    ))
    .bind(id.0)
    .bind(lease.as_secs_f64())
    .fetch_optional(connection)
    .await
    .port()?
    .as_ref()
    .map(delivery)
    .transpose()
}

/// Ends the leases of these.
pub(super) async fn release(connection: &mut PgConnection, ids: &[DeliveryId]) -> PortResult<()> {
    sqlx::query(
        "UPDATE deliveries SET next_at = leased_from, leased_from = NULL WHERE id = ANY ($1) AND leased_from IS NOT NULL",
    )
    .bind(column(ids, |id| id.0))
    .execute(connection)
    .await
    .map(drop)
    .port()
}

/// Ends all leases. How many there were.
pub(super) async fn recover(connection: &mut PgConnection) -> PortResult<u64> {
    sqlx::query(
        "UPDATE deliveries SET next_at = leased_from, leased_from = NULL WHERE leased_from IS NOT NULL",
    )
    .execute(connection)
    .await
    .port()
    .map(|done| done.rows_affected())
}

/// When the first pending delivery is due.
pub(super) async fn next_due(connection: &mut PgConnection) -> PortResult<Option<Timestamp>> {
    sqlx::query("SELECT min(next_at) AS next_at FROM deliveries WHERE next_at IS NOT NULL")
        .fetch_one(connection)
        .await
        .port()?
        .optional_time("next_at")
}

fn with_time(row: &PgRow) -> PortResult<(Delivery, Timestamp)> {
    Ok((delivery(row)?, row.time("now")?))
}
