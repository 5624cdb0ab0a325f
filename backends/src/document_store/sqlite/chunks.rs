//! The SQL of the tables `chunks` and `placements`.

use raglan_pipeline::{
    domain::{Chunk, ChunkId, Collection, DocumentId, IndexChunk, PassageRecord, Placement, Tenant},
    ports::PortResult,
};
use sqlx::{SqliteConnection, SqliteExecutor};

use crate::{
    database::{
        SqlxResultExt as _,
        codec::{RowExt as _, int, json, vector},
    },
    document_store::rows::{chunk_and_model, index_chunk, passage},
};

/// Writes a chunk, or the new vector of one that is there with another model or none. Whether anything was written.
pub(super) async fn put(
    connection: &mut SqliteConnection,
    key: i64,
    version: u64,
    position: u64,
    chunk: &Chunk,
) -> PortResult<bool> {
    let embedding = chunk.embedding.as_ref();
    sqlx::query(
        "INSERT INTO chunks (id, document, version, position, model, content_hash, heading_path, text, vector) \
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET version = excluded.version, \
         position = excluded.position, model = excluded.model, vector = excluded.vector \
         WHERE excluded.model IS NOT NULL AND chunks.model IS NOT excluded.model \
         AND chunks.document = excluded.document",
    )
    .bind(chunk.id.0.as_bytes().as_slice())
    .bind(key)
    .bind(int(version)?)
    .bind(int(position)?)
    .bind(embedding.map(|embedding| embedding.model.as_str()))
    .bind(chunk.content_hash.as_str())
    .bind(json(&chunk.heading_path)?)
    .bind(chunk.text.as_str())
    .bind(embedding.map(|embedding| vector(&embedding.vector)))
    .execute(connection)
    .await
    .port()
    .map(|done| done.rows_affected() > 0)
}

/// Places chunks of a document in a version. How many of them the document has: fewer than given where some have gone.
pub(super) async fn place(
    connection: &mut SqliteConnection,
    key: i64,
    version: u64,
    places: impl Iterator<Item = (ChunkId, Placement)>,
) -> PortResult<u64> {
    let places: Vec<_> = places
        .map(|(id, place)| (id.0.simple().to_string(), place.ordinal, place.start, place.end))
        .collect();
    sqlx::query(
        "INSERT INTO placements (chunk, version, ordinal, start_char, end_char) \
         SELECT c.key, ?1, p.value ->> 1, p.value ->> 2, p.value ->> 3 FROM json_each(?2) p \
         CROSS JOIN chunks c ON c.id = unhex(p.value ->> 0) WHERE c.document = ?3",
    )
    .bind(int(version)?)
    .bind(json(&places)?)
    .bind(key)
    .execute(connection)
    .await
    .port()
    .map(|done| done.rows_affected())
}

/// Whether a version has chunks that it did not write itself.
pub(super) async fn has_kept(connection: &mut SqliteConnection, key: i64, version: u64) -> PortResult<bool> {
    sqlx::query_scalar(
        "SELECT EXISTS (SELECT 1 FROM chunks c JOIN placements p ON p.chunk = c.key AND p.version = ?2 \
         WHERE c.document = ?1 AND c.version <> ?2)",
    )
    .bind(key)
    .bind(int(version)?)
    .fetch_one(connection)
    .await
    .port()
}

/// Whether a version has chunks that neither it nor the live version vouches for: another staged version wrote them.
pub(super) async fn has_foreign(
    connection: &mut SqliteConnection,
    key: i64,
    version: u64,
    live: Option<u64>,
) -> PortResult<bool> {
    sqlx::query_scalar(
        "SELECT EXISTS (SELECT 1 FROM chunks c JOIN placements p ON p.chunk = c.key AND p.version = ?2 \
         WHERE c.document = ?1 AND c.version <> ?2 \
         AND NOT EXISTS (SELECT 1 FROM placements l WHERE l.chunk = c.key AND l.version = ?3))",
    )
    .bind(key)
    .bind(int(version)?)
    .bind(live.map(int).transpose()?)
    .fetch_one(connection)
    .await
    .port()
}

/// Removes the places that versions before one gave to a document's chunks.
pub(super) async fn delete_placements_before(
    connection: &mut SqliteConnection,
    key: i64,
    version: u64,
) -> PortResult<()> {
    sqlx::query(
        "DELETE FROM placements WHERE version < ?2 AND chunk IN (SELECT key FROM chunks WHERE document = ?1)",
    )
    .bind(key)
    .bind(int(version)?)
    .execute(connection)
    .await
    .map(drop)
    .port()
}

/// Removes the places that one version gave.
pub(super) async fn delete_placements_of(
    connection: &mut SqliteConnection,
    key: i64,
    version: u64,
) -> PortResult<()> {
    sqlx::query(
        "DELETE FROM placements WHERE version = ?2 AND chunk IN (SELECT key FROM chunks WHERE document = ?1)",
    )
    .bind(key)
    .bind(int(version)?)
    .execute(connection)
    .await
    .map(drop)
    .port()
}

/// Removes the chunks of a document that no version has any more, and returns them.
pub(super) async fn delete_unplaced(connection: &mut SqliteConnection, key: i64) -> PortResult<Vec<ChunkId>> {
    let rows = sqlx::query(
        "DELETE FROM chunks WHERE document = ? \
         AND NOT EXISTS (SELECT 1 FROM placements p WHERE p.chunk = chunks.key) RETURNING id",
    )
    .bind(key)
    .fetch_all(connection)
    .await
    .port()?;
    rows.iter().map(|row| row.uuid("id").map(ChunkId)).collect()
}

/// Of a position.
pub(super) const PUT_AT: &str = "SELECT id, heading_path, text, model, vector FROM chunks WHERE position = ?";

/// The chunks that one entry of the log put and that are still there with what it put.
pub(super) async fn put_at(connection: &mut SqliteConnection, position: u64) -> PortResult<Vec<IndexChunk>> {
    let rows = sqlx::query(PUT_AT).bind(int(position)?).fetch_all(connection).await.port()?;
    rows.iter().map(index_chunk).collect()
}

/// The live chunks of a document with their models, in order.
pub(super) async fn live_ids(
    executor: impl SqliteExecutor<'_>,
    id: DocumentId,
) -> PortResult<Vec<(ChunkId, Option<String>)>> {
    let rows = sqlx::query(
        "SELECT c.id, c.model FROM documents d JOIN chunks c ON c.document = d.key \
         JOIN placements p ON p.chunk = c.key AND p.version = d.live_version WHERE d.id = ? ORDER BY p.ordinal",
    )
    .bind(id.0.as_bytes().as_slice())
    .fetch_all(executor)
    .await
    .port()?;
    rows.iter().map(chunk_and_model).collect()
}

/// Of a JSON list of ids, a tenant and a collection. CROSS JOIN keeps SQLite to this order of look-ups.
pub(super) const PASSAGES: &str = "SELECT c.id, d.id AS document_id, d.external_id, v.title, v.uri, v.metadata, c.heading_path, \
     c.text, p.ordinal, p.start_char, p.end_char FROM json_each(?1) i \
     CROSS JOIN chunks c ON c.id = unhex(i.value) \
     CROSS JOIN documents d ON d.key = c.document \
     CROSS JOIN versions v ON v.document = d.key AND v.version = d.live_version \
     CROSS JOIN placements p ON p.chunk = c.key AND p.version = d.live_version \
     WHERE d.tenant = ?2 AND d.collection = ?3 ORDER BY i.key";

/// Live chunks with their documents, in the order asked.
pub(super) async fn passages(
    executor: impl SqliteExecutor<'_>,
    tenant: &Tenant,
    collection: &Collection,
    ids: &[ChunkId],
) -> PortResult<Vec<PassageRecord>> {
    let ids: Vec<_> = ids.iter().map(|id| id.0.simple().to_string()).collect();
    let rows = sqlx::query(PASSAGES)
        .bind(json(&ids)?)
        .bind(tenant.as_str())
        .bind(collection.as_str())
        .fetch_all(executor)
        .await
        .port()?;
    rows.iter().map(passage).collect()
}
