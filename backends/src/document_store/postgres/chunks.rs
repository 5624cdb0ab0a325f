//! The SQL of the tables `chunks` and `placements`.

use std::collections::{HashMap, HashSet};

use raglan_pipeline::{
    domain::{Chunk, ChunkId, Collection, DocumentId, IndexChunk, PassageRecord, Placement, Tenant},
    ports::PortResult,
};
use sqlx::PgConnection;

use super::keys::{self, Key};
use crate::{
    database::{
        SqlxResultExt as _,
        codec::{RowExt as _, int, json, limit, vector},
        postgres::{column, try_column},
    },
    document_store::rows::{chunk_and_model, index_chunk, passage},
};

/// So many chunks are sent with one statement.
const CHUNKS_PER_STATEMENT: usize = 1_024;
/// So many placements are: they are small.
const PLACEMENTS_PER_STATEMENT: usize = 8_192;

/// A chunk to be written.
pub(super) struct NewChunk<'a> {
    pub document: DocumentId,
    /// The version with whose title and metadata its log entry is read.
    pub version: u64,
    /// That log entry.
    pub put: i64,
    /// Its place in it.
    pub number: usize,
    pub chunk: &'a Chunk,
}

/// Writes chunks, or the new vectors of those that are there with another model or none. The puts by which anything was written.
pub(super) async fn put(connection: &mut PgConnection, new: &[NewChunk<'_>]) -> PortResult<HashSet<i64>> {
    let mut written = HashSet::new();
    for new in new.chunks(CHUNKS_PER_STATEMENT) {
        let model =
            |new: &NewChunk<'_>| new.chunk.embedding.as_ref().map(|embedding| embedding.model.clone());
        let puts: Vec<i64> = sqlx::query_scalar(
            "INSERT INTO chunks (id, document, version, put, number, model, content_hash, heading_path, text, vector) \
             SELECT * FROM UNNEST($1::uuid[], $2::uuid[], $3::bigint[], $4::bigint[], $5::bigint[], $6::text[], $7::text[], \
             $8::json[], $9::text[], $10::bytea[]) \
             ON CONFLICT (id) DO UPDATE SET version = excluded.version, put = excluded.put, number = excluded.number, \
             model = excluded.model, vector = excluded.vector \
             WHERE excluded.model IS NOT NULL AND chunks.model IS DISTINCT FROM excluded.model \
             AND chunks.document = excluded.document RETURNING put",
        )
        .bind(column(new, |new| new.chunk.id.0))
        .bind(column(new, |new| new.document.0))
        .bind(try_column(new, |new| int(new.version))?)
        .bind(column(new, |new| new.put))
        .bind(column(new, |new| limit(new.number)))
        .bind(column(new, model))
        .bind(column(new, |new| new.chunk.content_hash.as_str()))
        .bind(try_column(new, |new| json(&new.chunk.heading_path))?)
        .bind(column(new, |new| new.chunk.text.as_str()))
        .bind(column(new, |new| new.chunk.embedding.as_ref().map(|embedding| vector(&embedding.vector))))
        .fetch_all(&mut *connection)
        .await
        .port()?;
        written.extend(puts);
    }
    Ok(written)
}

/// A place that a version gives to a chunk.
pub(super) struct NewPlacement {
    pub document: DocumentId,
    pub version: u64,
    pub chunk: ChunkId,
    pub place: Placement,
}

/// Places chunks of documents in versions. How many of them each document has: fewer than given where some have gone.
pub(super) async fn place(
    connection: &mut PgConnection,
    new: &[NewPlacement],
) -> PortResult<HashMap<DocumentId, usize>> {
    let mut placed = HashMap::new();
    for new in new.chunks(PLACEMENTS_PER_STATEMENT) {
        let rows = sqlx::query(
            "WITH placed AS (INSERT INTO placements (document, chunk, version, ordinal, start_char, end_char) \
             SELECT c.document, c.id, new.version, new.ordinal, new.start_char, new.end_char \
             FROM UNNEST($1::uuid[], $2::uuid[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[]) \
             AS new (document, chunk, version, ordinal, start_char, end_char) \
             JOIN chunks c ON c.id = new.chunk AND c.document = new.document RETURNING document) \
             SELECT document, count(*) AS placed FROM placed GROUP BY document",
        )
        .bind(column(new, |new| new.document.0))
        .bind(column(new, |new| new.chunk.0))
        .bind(try_column(new, |new| int(new.version))?)
        .bind(column(new, |new| i64::from(new.place.ordinal)))
        .bind(column(new, |new| limit(new.place.start)))
        .bind(column(new, |new| limit(new.place.end)))
        .fetch_all(&mut *connection)
        .await
        .port()?;
        for row in &rows {
            let count: usize = row.number("placed")?;
            *placed.entry(DocumentId(row.uuid("document")?)).or_default() += count;
        }
    }
    Ok(placed)
}

/// Those of the chunks that the live versions of their documents have.
pub(super) async fn live_among(
    connection: &mut PgConnection,
    ids: &[ChunkId],
) -> PortResult<HashSet<ChunkId>> {
    let rows = sqlx::query(
        "SELECT c.id FROM chunks c JOIN documents d ON d.id = c.document \
         JOIN placements p ON p.document = d.id AND p.chunk = c.id AND p.version = d.live_version WHERE c.id = ANY ($1)",
    )
    .bind(column(ids, |id| id.0))
    .fetch_all(connection)
    .await
    .port()?;
    rows.iter().map(|row| row.uuid("id").map(ChunkId)).collect()
}

/// Where the chunks of a staged version come from.
#[derive(Debug, Clone, Copy)]
pub(super) struct Origins {
    /// It has chunks that it did not write itself.
    pub kept: bool,
    /// It has chunks that neither it nor the live version vouches for: another staged version wrote them.
    pub foreign: bool,
}

/// Where the chunks of versions come from, given each with the version that is live now.
pub(super) async fn origins(
    connection: &mut PgConnection,
    versions: &[(Key, Option<u64>)],
) -> PortResult<HashMap<DocumentId, Origins>> {
    let rows = sqlx::query(
        "SELECT new.document, EXISTS (SELECT FROM placements p JOIN chunks c ON c.id = p.chunk \
         WHERE p.document = new.document AND p.version = new.version AND c.version <> new.version) AS kept, \
         EXISTS (SELECT FROM placements p JOIN chunks c ON c.id = p.chunk \
         WHERE p.document = new.document AND p.version = new.version AND c.version <> new.version \
         AND NOT EXISTS (SELECT FROM placements l \
         WHERE l.document = new.document AND l.chunk = p.chunk AND l.version = new.live)) AS foreign \
         FROM UNNEST($1::uuid[], $2::bigint[], $3::bigint[]) AS new (document, version, live)",
    )
    .bind(column(versions, |((id, _), _)| id.0))
    .bind(try_column(versions, |((_, version), _)| int(*version))?)
    .bind(try_column(versions, |(_, live)| live.map(int).transpose())?)
    .fetch_all(connection)
    .await
    .port()?;
    rows.iter()
        .map(|row| {
            let origins = Origins { kept: row.flag("kept")?, foreign: row.flag("foreign")? };
            Ok((DocumentId(row.uuid("document")?), origins))
        })
        .collect()
}

/// Removes the places that versions before one gave to the chunks of each document.
pub(super) async fn delete_placements_before(connection: &mut PgConnection, keys: &[Key]) -> PortResult<()> {
    keys::execute(
        connection,
        "DELETE FROM placements USING UNNEST($1::uuid[], $2::bigint[]) AS live (document, version) \
         WHERE placements.document = live.document AND placements.version < live.version",
        keys,
    )
    .await
}

/// Removes the places that versions gave.
pub(super) async fn delete_placements_of(connection: &mut PgConnection, keys: &[Key]) -> PortResult<()> {
    keys::execute(
        connection,
        "DELETE FROM placements USING UNNEST($1::uuid[], $2::bigint[]) AS gone (document, version) \
         WHERE placements.document = gone.document AND placements.version = gone.version",
        keys,
    )
    .await
}

/// Removes the chunks of documents that no version has any more, and returns them.
pub(super) async fn delete_unplaced(
    connection: &mut PgConnection,
    documents: &[DocumentId],
) -> PortResult<HashMap<DocumentId, Vec<ChunkId>>> {
    let rows = sqlx::query(
        "DELETE FROM chunks WHERE document = ANY ($1) AND NOT EXISTS (SELECT FROM placements p \
         WHERE p.document = chunks.document AND p.chunk = chunks.id) RETURNING document, id",
    )
    .bind(column(documents, |id| id.0))
    .fetch_all(connection)
    .await
    .port()?;
    let mut deleted = HashMap::<_, Vec<_>>::new();
    for row in &rows {
        deleted.entry(DocumentId(row.uuid("document")?)).or_default().push(ChunkId(row.uuid("id")?));
    }
    Ok(deleted)
}

/// Of puts.
pub(super) const OF_PUTS: &str =
    "SELECT put, id, heading_path, text, model, vector FROM chunks WHERE put = ANY ($1) ORDER BY put, number";

/// The chunks that entries of the log put and that are still there with what these put.
pub(super) async fn of_puts(
    connection: &mut PgConnection,
    puts: &[i64],
) -> PortResult<HashMap<i64, Vec<IndexChunk>>> {
    let rows = sqlx::query(OF_PUTS).bind(puts).fetch_all(connection).await.port()?;
    let mut found = HashMap::<_, Vec<_>>::new();
    for row in &rows {
        found.entry(row.number("put")?).or_default().push(index_chunk(row)?);
    }
    Ok(found)
}

/// The live chunks of a document with their models, in order.
pub(super) async fn live_ids(
    connection: &mut PgConnection,
    id: DocumentId,
) -> PortResult<Vec<(ChunkId, Option<String>)>> {
    let rows = sqlx::query(
        "SELECT c.id, c.model FROM documents d JOIN placements p ON p.document = d.id AND p.version = d.live_version \
         JOIN chunks c ON c.id = p.chunk WHERE d.id = $1 ORDER BY p.ordinal",
    )
    .bind(id.0)
    .fetch_all(connection)
    .await
    .port()?;
    rows.iter().map(chunk_and_model).collect()
}

/// Of a list of ids, a tenant and a collection. Each step is looked up by its key for what the step before found, and `OFFSET 0` keeps it so: planned
/// as one join it begins with all documents of the collection wherever the tables have grown since they were analysed (on 11,000 chunks 22 ms
/// instead of 1).
pub(super) const PASSAGES: &str = "SELECT c.id, d.id AS document_id, d.external_id, v.title, v.uri, v.metadata, c.heading_path, \
     c.text, p.ordinal, p.start_char, p.end_char FROM UNNEST($1::uuid[]) WITH ORDINALITY AS wanted (id, number) \
     CROSS JOIN LATERAL (SELECT id, document, heading_path, text FROM chunks WHERE chunks.id = wanted.id OFFSET 0) c \
     CROSS JOIN LATERAL (SELECT id, external_id, live_version FROM documents WHERE documents.id = c.document \
     AND tenant = $2 AND collection = $3 OFFSET 0) d \
     CROSS JOIN LATERAL (SELECT title, uri, metadata FROM versions WHERE versions.document = d.id \
     AND versions.version = d.live_version OFFSET 0) v \
     CROSS JOIN LATERAL (SELECT ordinal, start_char, end_char FROM placements WHERE placements.document = d.id \
     AND placements.chunk = c.id AND placements.version = d.live_version OFFSET 0) p \
     ORDER BY wanted.number";

/// Live chunks with their documents, in the order asked.
pub(super) async fn passages(
    connection: &mut PgConnection,
    tenant: &Tenant,
    collection: &Collection,
    ids: &[ChunkId],
) -> PortResult<Vec<PassageRecord>> {
    let rows = sqlx::query(PASSAGES)
        .bind(column(ids, |id| id.0))
        .bind(tenant.as_str())
        .bind(collection.as_str())
        .fetch_all(connection)
        .await
        .port()?;
    rows.iter().map(passage).collect()
}
