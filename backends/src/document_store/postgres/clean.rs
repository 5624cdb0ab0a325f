//! Removing what nobody will publish and what no replica will read, a batch at a time, so that nobody waits for all of it.

use raglan_pipeline::{
    domain::{LogPosition, Timestamp},
    ports::PortResult,
};
use sqlx::PgConnection;
use uuid::Uuid;

use super::{changes, chunks, documents, keys, publish::deletions, versions};
use crate::database::{
    SqlxResultExt as _,
    codec::{RowExt as _, int, limit},
    postgres::column,
};

/// At most so many rows are removed in a transaction.
const BATCH: usize = 500;
/// So much of the log is looked through at one cleaning for puts that no longer matter.
const WINDOW: u64 = 20_000;

/// What a batch did.
pub(super) struct Batch {
    /// How many were removed.
    pub done: u64,
    /// Whether it found nothing more to do.
    pub is_last: bool,
}

impl Batch {
    /// A batch that found so many, of which some may have been left because somebody else has them.
    fn of(found: usize, done: usize) -> Self {
        Self { done: done as u64, is_last: found < BATCH || done == 0 }
    }
}

/// The time on the server.
pub(super) async fn now(connection: &mut PgConnection) -> PortResult<Timestamp> {
    sqlx::query("SELECT date_trunc('milliseconds', now()) AS now")
        .fetch_one(connection)
        .await
        .port()?
        .time("now")
}

/// Removes versions that were staged before a time and never published, with what only they have.
pub(super) async fn drop_stale(connection: &mut PgConnection, before: Timestamp) -> PortResult<Batch> {
    let rows = sqlx::query(
        "SELECT document, version FROM versions WHERE NOT published AND staged_at <= $1 ORDER BY staged_at LIMIT $2",
    )
    .bind(before)
    .bind(limit(BATCH))
    .fetch_all(&mut *connection)
    .await
    .port()?;
    let stale = rows.iter().map(keys::key).collect::<PortResult<Vec<_>>>()?;
    if stale.is_empty() {
        return Ok(Batch::of(0, 0));
    }
    let ids: Vec<_> = stale.iter().map(|(id, _)| *id).collect();
    let held = documents::lock_free(connection, &ids).await?;
    let held: Vec<_> = stale.into_iter().filter(|(id, _)| held.contains(id)).collect();
    // One of them may have been published before it was held.
    let gone = versions::delete_staged(connection, &held).await?;
    chunks::delete_placements_of(connection, &gone).await?;
    let documents: Vec<_> = gone.iter().map(|(id, _)| *id).collect();
    let unplaced = chunks::delete_unplaced(connection, &documents).await?;
    let entries: Vec<_> = unplaced.iter().flat_map(|(id, chunks)| deletions(*id, chunks)).collect();
    changes::append(connection, &entries).await?;
    Ok(Batch::of(rows.len(), gone.len()))
}

/// Removes documents that were resolved before a time and have no version at all.
pub(super) async fn delete_empty(connection: &mut PgConnection, before: Timestamp) -> PortResult<Batch> {
    let ids: Vec<Uuid> = sqlx::query_scalar(
        "SELECT id FROM documents d WHERE live_version IS NULL AND resolved_at <= $1 \
         AND NOT EXISTS (SELECT FROM versions v WHERE v.document = d.id) \
         ORDER BY resolved_at LIMIT $2 FOR UPDATE SKIP LOCKED",
    )
    .bind(before)
    .bind(limit(BATCH))
    .fetch_all(&mut *connection)
    .await
    .port()?;
    // Looked at again now that they are held: one may have got a version in between.
    let gone = sqlx::query(
        "DELETE FROM documents d WHERE id = ANY ($1) AND live_version IS NULL \
         AND NOT EXISTS (SELECT FROM versions v WHERE v.document = d.id)",
    )
    .bind(&ids)
    .execute(connection)
    .await
    .port()?;
    Ok(Batch::of(ids.len(), usize::try_from(gone.rows_affected()).unwrap_or(usize::MAX)))
}

/// Removes puts that would be left out when they are read, in a window of the log after a position. Where the next window begins.
/// The last entry stays, so that who follows the log always arrives at its head.
pub(super) async fn compact_puts(
    connection: &mut PgConnection,
    after: LogPosition,
) -> PortResult<LogPosition> {
    let head = changes::head(connection).await?;
    let until = after.saturating_add(WINDOW).min(head);
    sqlx::query(
        "DELETE FROM changes WHERE position > $1 AND position <= $2 AND position < $3 AND (\
         kind = 'put_chunks' AND NOT EXISTS (SELECT FROM chunks c WHERE c.put = changes.put) OR \
         kind = 'put_document' AND NOT EXISTS (SELECT FROM documents d WHERE d.id = changes.document_id))",
    )
    .bind(int(after)?)
    .bind(int(until)?)
    .bind(int(head)?)
    .execute(connection)
    .await
    .port()?;
    Ok(if until == head { 0 } else { until })
}

/// Removes deletes that every replica but one that was asleep for long has seen; that one finds the horizon moved.
pub(super) async fn compact_deletes(connection: &mut PgConnection, before: Timestamp) -> PortResult<Batch> {
    let positions: Vec<i64> = sqlx::query_scalar(
        "SELECT position FROM changes WHERE kind IN ('delete_chunks', 'delete_document') AND at <= $1 \
         AND position < (SELECT head FROM change_log) ORDER BY position LIMIT $2",
    )
    .bind(before)
    .bind(limit(BATCH))
    .fetch_all(&mut *connection)
    .await
    .port()?;
    let Some(last) = positions.last() else { return Ok(Batch::of(0, 0)) };
    sqlx::query("UPDATE change_log SET horizon = greatest(horizon, $1)")
        .bind(last)
        .execute(&mut *connection)
        .await
        .port()?;
    sqlx::query("DELETE FROM changes WHERE position = ANY ($1)")
        .bind(column(&positions, |position| *position))
        .execute(connection)
        .await
        .port()?;
    Ok(Batch::of(positions.len(), positions.len()))
}
