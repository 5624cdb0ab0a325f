//! The SQL of the tables `changes` and `change_log`.

use raglan_pipeline::{
    domain::{DocumentId, LogPosition, Timestamp},
    ports::PortResult,
};
use sqlx::{SqliteConnection, SqliteExecutor};
use uuid::Uuid;

use crate::{
    database::{
        SqlxResultExt as _,
        codec::{RowExt as _, corrupt, int, limit},
    },
    document_store::rows::{Entry, EntryColumns, EntryKind},
};

/// Adds an entry.
pub(super) async fn append(
    connection: &mut SqliteConnection,
    document: DocumentId,
    kind: &EntryKind,
    now: Timestamp,
) -> PortResult<LogPosition> {
    let EntryColumns { kind, version, chunk_ids } = kind.columns()?;
    sqlx::query("INSERT INTO changes (kind, document_id, version, chunk_ids, at) VALUES (?, ?, ?, ?, ?)")
        .bind(kind)
        .bind(document.0.as_bytes().as_slice())
        .bind(version)
        .bind(chunk_ids)
        .bind(now.timestamp_millis())
        .execute(connection)
        .await
        .port()
        .and_then(|done| u64::try_from(done.last_insert_rowid()).map_err(|error| corrupt("position", error)))
}

/// The position of the last entry there ever was.
pub(super) async fn head(executor: impl SqliteExecutor<'_>) -> PortResult<LogPosition> {
    sqlx::query("SELECT coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'changes'), 0) AS head")
        .fetch_one(executor)
        .await
        .port()?
        .number("head")
}

/// The next entries after a position.
pub(super) async fn page(
    connection: &mut SqliteConnection,
    after: LogPosition,
    most: usize,
) -> PortResult<Vec<Entry>> {
    let rows = sqlx::query(
        "SELECT position, kind, document_id, version, chunk_ids FROM changes WHERE position > ? ORDER BY position \
         LIMIT ?",
    )
    .bind(i64::try_from(after).unwrap_or(i64::MAX))
    .bind(limit(most))
    .fetch_all(connection)
    .await
    .port()?;
    rows.iter().map(Entry::of).collect()
}

/// The id of this history, and the last position whose delete may be missing.
pub(super) async fn state(executor: impl SqliteExecutor<'_>) -> PortResult<(Uuid, LogPosition)> {
    let row = sqlx::query("SELECT history, horizon FROM change_log").fetch_one(executor).await.port()?;
    Ok((row.uuid("history")?, row.number("horizon")?))
}

/// Removes entries that no replica needs. The last entry stays, so that who follows the log always arrives at its head.
pub(super) async fn compact(connection: &mut SqliteConnection, before: Timestamp) -> PortResult<()> {
    let head = int(head(&mut *connection).await?)?;
    // Puts that would be left out anyhow.
    sqlx::query(
        "DELETE FROM changes WHERE position < ? AND (\
         kind = 'put_chunks' AND NOT EXISTS (SELECT 1 FROM chunks c WHERE c.position = changes.position) OR \
         kind = 'put_document' AND NOT EXISTS (SELECT 1 FROM documents d WHERE d.id = changes.document_id))",
    )
    .bind(head)
    .execute(&mut *connection)
    .await
    .port()?;
    // Deletes that every replica but one that was asleep for long has seen; that one finds the horizon moved.
    sqlx::query(
        "UPDATE change_log SET horizon = max(horizon, coalesce((SELECT max(position) FROM changes \
         WHERE position < ?1 AND at <= ?2 AND kind IN ('delete_chunks', 'delete_document')), 0))",
    )
    .bind(head)
    .bind(before.timestamp_millis())
    .execute(&mut *connection)
    .await
    .port()?;
    sqlx::query(
        "DELETE FROM changes WHERE position < ?1 AND at <= ?2 AND kind IN ('delete_chunks', 'delete_document')",
    )
    .bind(head)
    .bind(before.timestamp_millis())
    .execute(connection)
    .await
    .map(drop)
    .port()
}
