//! The SQL of the tables `changes` and `change_log`.

use raglan_pipeline::{
    domain::{Change, ChangeKind, DocumentId, IndexChunk, LogPosition},
    ports::PortResult,
};
use sqlx::PgConnection;
use uuid::Uuid;

use super::{chunks, versions};
use crate::{
    database::{
        SqlxResultExt as _,
        codec::RowExt as _,
        postgres::{CHANGES_CHANNEL, column, try_column},
    },
    document_store::rows::{Entry, EntryKind},
};

/// How many entries of the log are read at once.
const ENTRIES: i64 = 256;

/// An entry to be added to the log.
pub(super) struct NewEntry {
    pub document: DocumentId,
    pub kind: EntryKind,
    /// The number of a put.
    pub put: Option<i64>,
}

/// Numbers for so many puts, of which not all need come into the log.
pub(super) async fn put_numbers(connection: &mut PgConnection, count: usize) -> PortResult<Vec<i64>> {
    sqlx::query_scalar("SELECT nextval('puts') FROM generate_series(1, $1)")
        .bind(i32::try_from(count).unwrap_or(i32::MAX))
        .fetch_all(connection)
        .await
        .port()
}

/// Adds entries, in their order. The position before the first of them.
///
/// From here until the transaction ends nobody else can add any: it should be the last that a transaction does.
pub(super) async fn append(connection: &mut PgConnection, new: &[NewEntry]) -> PortResult<LogPosition> {
    if new.is_empty() {
        return head(connection).await;
    }
    let stored = try_column(new, |new| new.kind.columns())?;
    sqlx::query(
        "WITH log AS (UPDATE change_log SET head = head + cardinality($1) WHERE id = 1 \
         RETURNING head - cardinality($1) AS before), \
         added AS (INSERT INTO changes (position, document_id, at, kind, put, version, chunk_ids) \
         SELECT log.before + new.number, new.document, date_trunc('milliseconds', now()), new.kind, new.put, new.version, \
         new.chunk_ids FROM log, UNNEST($1::uuid[], $2::text[], $3::bigint[], $4::bigint[], $5::bytea[]) WITH ORDINALITY \
         AS new (document, kind, put, version, chunk_ids, number)) \
         SELECT before, pg_notify($6, current_schema()) FROM log",
    )
    .bind(column(new, |new| new.document.0))
    .bind(column(&stored, |entry| entry.kind))
    .bind(column(new, |new| new.put))
    .bind(column(&stored, |entry| entry.version))
    .bind(column(&stored, |entry| entry.chunk_ids.as_deref()))
    .bind(CHANGES_CHANNEL)
    .fetch_one(connection)
    .await
    .port()?
    .number("before")
}

/// The position of the last entry there ever was.
pub(super) async fn head(connection: &mut PgConnection) -> PortResult<LogPosition> {
    sqlx::query("SELECT head FROM change_log").fetch_one(connection).await.port()?.number("head")
}

/// The last position whose delete may be missing.
pub(super) async fn horizon(connection: &mut PgConnection) -> PortResult<LogPosition> {
    sqlx::query("SELECT horizon FROM change_log").fetch_one(connection).await.port()?.number("horizon")
}

/// The id of this history.
pub(super) async fn history(connection: &mut PgConnection) -> PortResult<Uuid> {
    sqlx::query("SELECT history FROM change_log").fetch_one(connection).await.port()?.uuid("history")
}

/// An entry of the log that still matters, with its number where it is a put.
pub(super) struct Found {
    entry: Entry,
    put: Option<i64>,
}

/// Of a position and a number of entries. A put costs its chunks of a page's limit, a delete the ids that it names.
pub(super) const PAGE: &str = "SELECT e.position, e.document_id, e.kind, e.put, e.version, e.chunk_ids, \
     CASE e.kind WHEN 'put_chunks' THEN (SELECT count(*) FROM chunks c WHERE c.put = e.put) \
     WHEN 'delete_chunks' THEN length(e.chunk_ids) / 16 ELSE 1 END AS weight FROM changes e WHERE e.position > $1 \
     AND CASE e.kind WHEN 'put_chunks' THEN EXISTS (SELECT FROM chunks c WHERE c.put = e.put) \
     WHEN 'put_document' THEN EXISTS (SELECT FROM versions v WHERE v.document = e.document_id) ELSE true END \
     ORDER BY e.position LIMIT $2";

/// The next entries after a position that still matter, until they cost the limit; at least one, where there is one.
pub(super) async fn page(
    connection: &mut PgConnection,
    after: LogPosition,
    limit: usize,
) -> PortResult<Vec<Found>> {
    let most = i64::try_from(limit).unwrap_or(ENTRIES).clamp(1, ENTRIES);
    let rows = sqlx::query(PAGE)
        .bind(i64::try_from(after).unwrap_or(i64::MAX))
        .bind(most)
        .fetch_all(connection)
        .await
        .port()?;
    let mut cost = 0_usize;
    let mut page = Vec::new();
    for row in &rows {
        page.push(Found { entry: Entry::of(row)?, put: row.optional_integer("put")? });
        cost += row.number::<usize>("weight")?;
        if cost >= limit {
            break;
        }
    }
    Ok(page)
}

/// Entries with what they are about, as the record has it now.
pub(super) async fn fill(connection: &mut PgConnection, entries: Vec<Found>) -> PortResult<Vec<Change>> {
    let puts: Vec<_> = entries.iter().filter_map(|found| found.put).collect();
    let mut chunks = chunks::of_puts(connection, &puts).await?;
    let wanted: Vec<_> = entries
        .iter()
        .filter_map(|found| match found.entry.kind {
            EntryKind::PutChunks(version) => Some((found.entry.document_id, Some(version))),
            EntryKind::PutDocument => Some((found.entry.document_id, None)),
            EntryKind::DeleteChunks(_) | EntryKind::DeleteDocument => None,
        })
        .collect();
    let mut documents = versions::for_index(connection, &wanted).await?.into_iter();
    let mut changes = Vec::with_capacity(entries.len());
    for Found { entry: Entry { position, document_id, kind }, put } in entries {
        let kind = match kind {
            EntryKind::PutChunks(_) => {
                let chunks: Vec<IndexChunk> = put.and_then(|put| chunks.remove(&put)).unwrap_or_default();
                let document = documents.next().flatten().filter(|_| !chunks.is_empty());
                document.map(|document| ChangeKind::PutChunks { document: Box::new(document), chunks })
            }
            EntryKind::PutDocument => {
                let document = documents.next().flatten();
                document.map(|document| ChangeKind::PutDocument { document: Box::new(document) })
            }
            EntryKind::DeleteChunks(chunk_ids) => Some(ChangeKind::DeleteChunks { document_id, chunk_ids }),
            EntryKind::DeleteDocument => Some(ChangeKind::DeleteDocument { document_id }),
        };
        changes.extend(kind.map(|kind| Change { position, kind }));
    }
    Ok(changes)
}
