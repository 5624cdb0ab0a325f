//! The SQL of the tables `documents`, `versions` and `texts`.

use raglan_pipeline::{
    domain::{Collection, Document, DocumentId, Receipt, StagedDocument, Tenant, Timestamp},
    ports::{DocumentFilter, PortResult},
};
use sqlx::{QueryBuilder, SqliteConnection, SqliteExecutor};
use uuid::Uuid;

use crate::{
    database::{
        SqlxResultExt as _,
        codec::{RowExt as _, int, json, limit},
    },
    document_store::rows::{self, Identity, Version, document},
};

/// A document and one of its versions, as [`Document`] wants them. `created_at` and `updated_at` of a document that was
/// never published are those of the staging.
const DOCUMENT: &str = "SELECT d.id, d.tenant, d.collection, d.external_id, v.title, v.uri, v.media_type, v.metadata, \
     v.fingerprint, v.version, v.chunks, v.bytes, coalesce(d.created_at, v.staged_at) AS created_at, \
     coalesce(d.updated_at, v.staged_at) AS updated_at FROM documents d JOIN versions v ON v.document = d.key";

/// Finds a document by its id, with its key for other tables.
pub(super) async fn identity(
    connection: &mut SqliteConnection,
    id: DocumentId,
) -> PortResult<Option<(i64, Identity)>> {
    sqlx::query(
        "SELECT key, id, tenant, collection, external_id, live_version, last_version FROM documents WHERE id = ?",
    )
    .bind(id.0.as_bytes().as_slice())
    .fetch_optional(connection)
    .await
    .port()?
    .map(|row| Ok((row.number("key")?, Identity::of(&row)?)))
    .transpose()
}

/// Makes a document with this name. A `Conflict` where its external id belongs to another.
pub(super) async fn insert(
    connection: &mut SqliteConnection,
    id: DocumentId,
    (tenant, collection, external_id): (&Tenant, &Collection, &str),
    now: Timestamp,
) -> PortResult<(i64, Identity)> {
    let done = sqlx::query(
        "INSERT INTO documents (id, tenant, collection, external_id, resolved_at) VALUES (?, ?, ?, ?, ?)",
    )
    .bind(id.0.as_bytes().as_slice())
    .bind(tenant.as_str())
    .bind(collection.as_str())
    .bind(external_id)
    .bind(now.timestamp_millis())
    .execute(connection)
    .await
    .port()?;
    let identity = Identity {
        id,
        tenant: tenant.clone(),
        collection: collection.clone(),
        external_id: external_id.to_owned(),
        live_version: None,
        last_version: 0,
    };
    Ok((done.last_insert_rowid(), identity))
}

/// Finds a document's id by its external id.
pub(super) async fn find(
    executor: impl SqliteExecutor<'_>,
    tenant: &Tenant,
    collection: &Collection,
    external_id: &str,
) -> PortResult<Option<DocumentId>> {
    sqlx::query("SELECT id FROM documents WHERE tenant = ? AND collection = ? AND external_id = ?")
        .bind(tenant.as_str())
        .bind(collection.as_str())
        .bind(external_id)
        .fetch_optional(executor)
        .await
        .port()?
        .map(|row| row.uuid("id").map(DocumentId))
        .transpose()
}

/// Writes a version of a document with its text, and counts it as the last.
pub(super) async fn insert_version(
    connection: &mut SqliteConnection,
    (key, identity): (i64, &Identity),
    version: u64,
    position: u64,
    staged: &StagedDocument,
    now: Timestamp,
) -> PortResult<()> {
    let document = &staged.document;
    sqlx::query(
        "INSERT INTO versions (document, version, base_version, position, chunks, bytes, staged_at, fingerprint, \
         media_type, title, uri, metadata, job, embedded, tokens, created) \
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
    )
    .bind(key)
    .bind(int(version)?)
    .bind(identity.live_version.map(int).transpose()?)
    .bind(int(position)?)
    .bind(limit(staged.new_chunks.len() + staged.kept_chunks.len()))
    .bind(int(document.bytes)?)
    .bind(now.timestamp_millis())
    .bind(document.fingerprint.as_str())
    .bind(document.media_type.as_str())
    .bind(document.title.as_str())
    .bind(document.uri.as_deref())
    .bind(json(&document.metadata)?)
    .bind(staged.job.as_ref().map(|job| job.0.as_bytes().as_slice()))
    .bind(limit(staged.new_chunks.len()))
    .bind(int(staged.tokens)?)
    .bind(identity.live_version.is_none())
    .execute(&mut *connection)
    .await
    .port()?;
    sqlx::query("INSERT INTO texts (document, version, text) VALUES (?, ?, ?)")
        .bind(key)
        .bind(int(version)?)
        .bind(staged.text.as_str())
        .execute(&mut *connection)
        .await
        .port()?;
    sqlx::query("UPDATE documents SET last_version = ? WHERE key = ?")
        .bind(int(version)?)
        .bind(key)
        .execute(connection)
        .await
        .map(drop)
        .port()
}

/// A version, or none.
pub(super) async fn version(
    connection: &mut SqliteConnection,
    key: i64,
    version: u64,
) -> PortResult<Option<Version>> {
    sqlx::query(
        "SELECT base_version, position, job, title, uri, metadata FROM versions WHERE document = ? AND version = ?",
    )
    .bind(key)
    .bind(int(version)?)
    .fetch_optional(connection)
    .await
    .port()?
    .as_ref()
    .map(Version::of)
    .transpose()
}

/// Notes with a version what publishing it changed, where that is not what staging it expected.
pub(super) async fn note_published(
    connection: &mut SqliteConnection,
    key: i64,
    version: u64,
    (deleted, created): (u64, bool),
) -> PortResult<()> {
    sqlx::query("UPDATE versions SET deleted = ?, created = ? WHERE document = ? AND version = ?")
        .bind(int(deleted)?)
        .bind(created)
        .bind(key)
        .bind(int(version)?)
        .execute(connection)
        .await
        .map(drop)
        .port()
}

/// What was done for the live version of a document.
pub(super) async fn receipt(
    executor: impl SqliteExecutor<'_>,
    id: DocumentId,
) -> PortResult<Option<Receipt>> {
    sqlx::query(
        "SELECT v.job, v.created, v.chunks, v.embedded, v.deleted, v.tokens FROM documents d \
         JOIN versions v ON v.document = d.key AND v.version = d.live_version WHERE d.id = ? AND v.job IS NOT NULL",
    )
    .bind(id.0.as_bytes().as_slice())
    .fetch_optional(executor)
    .await
    .port()?
    .as_ref()
    .map(rows::receipt)
    .transpose()
}

/// Makes a version the live one.
pub(super) async fn set_live(
    connection: &mut SqliteConnection,
    key: i64,
    version: u64,
    now: Timestamp,
) -> PortResult<()> {
    sqlx::query(
        "UPDATE documents SET live_version = ?1, created_at = coalesce(created_at, ?2), updated_at = ?2 WHERE key = ?3",
    )
    .bind(int(version)?)
    .bind(now.timestamp_millis())
    .bind(key)
    .execute(connection)
    .await
    .map(drop)
    .port()
}

/// Removes the versions of a document before one.
pub(super) async fn delete_versions_before(
    connection: &mut SqliteConnection,
    key: i64,
    version: u64,
) -> PortResult<()> {
    sqlx::query("DELETE FROM versions WHERE document = ? AND version < ?")
        .bind(key)
        .bind(int(version)?)
        .execute(connection)
        .await
        .map(drop)
        .port()
}

/// Removes a document with everything of it.
pub(super) async fn delete(connection: &mut SqliteConnection, key: i64) -> PortResult<()> {
    sqlx::query("DELETE FROM documents WHERE key = ?").bind(key).execute(connection).await.map(drop).port()
}

/// Removes up to `most` documents of a collection, also those that were never published. The id of each, and whether the
/// log may have told of its chunks.
pub(super) async fn delete_some(
    connection: &mut SqliteConnection,
    tenant: &Tenant,
    collection: &Collection,
    most: usize,
) -> PortResult<Vec<(DocumentId, bool)>> {
    let rows = sqlx::query(
        "DELETE FROM documents WHERE key IN \
         (SELECT key FROM documents WHERE tenant = ? AND collection = ? LIMIT ?) \
         RETURNING id, last_version > 0 AS was_staged",
    )
    .bind(tenant.as_str())
    .bind(collection.as_str())
    .bind(limit(most))
    .fetch_all(connection)
    .await
    .port()?;
    rows.iter().map(|row| Ok((DocumentId(row.uuid("id")?), row.flag("was_staged")?))).collect()
}

/// Staged versions that were never published and are older than a time: their documents' keys and ids, and their numbers.
pub(super) async fn stale_versions(
    connection: &mut SqliteConnection,
    before: Timestamp,
) -> PortResult<Vec<(i64, DocumentId, u64)>> {
    let rows = sqlx::query(
        "SELECT v.document, v.version, d.id FROM versions v JOIN documents d ON d.key = v.document \
         WHERE v.staged_at <= ? AND d.live_version IS NOT v.version",
    )
    .bind(before.timestamp_millis())
    .fetch_all(connection)
    .await
    .port()?;
    rows.iter()
        .map(|row| Ok((row.number("document")?, DocumentId(row.uuid("id")?), row.number("version")?)))
        .collect()
}

/// Removes one version.
pub(super) async fn delete_version(
    connection: &mut SqliteConnection,
    key: i64,
    version: u64,
) -> PortResult<()> {
    sqlx::query("DELETE FROM versions WHERE document = ? AND version = ?")
        .bind(key)
        .bind(int(version)?)
        .execute(connection)
        .await
        .map(drop)
        .port()
}

/// Removes documents that were resolved before a time and have no version at all.
pub(super) async fn delete_empty(connection: &mut SqliteConnection, before: Timestamp) -> PortResult<()> {
    sqlx::query(
        "DELETE FROM documents WHERE live_version IS NULL AND resolved_at <= ? \
         AND NOT EXISTS (SELECT 1 FROM versions v WHERE v.document = documents.key)",
    )
    .bind(before.timestamp_millis())
    .execute(connection)
    .await
    .map(drop)
    .port()
}

/// A live document, or none.
pub(super) async fn live(
    executor: impl SqliteExecutor<'_>,
    tenant: &Tenant,
    id: DocumentId,
) -> PortResult<Option<Document>> {
    QueryBuilder::new(DOCUMENT)
        .push(" AND v.version = d.live_version WHERE d.id = ")
        .push_bind(id.0.as_bytes().as_slice())
        .push(" AND d.tenant = ")
        .push_bind(tenant.as_str())
        .build()
        .fetch_optional(executor)
        .await
        .port()?
        .as_ref()
        .map(document)
        .transpose()
}

/// The document as an index should hold it for chunks that `version` wrote: as that version says while it is staged, else as
/// the live one does, else as the newest that is left.
pub(super) async fn for_index(
    connection: &mut SqliteConnection,
    id: DocumentId,
    version: Option<u64>,
) -> PortResult<Option<Document>> {
    QueryBuilder::new(DOCUMENT)
        .push(" WHERE d.id = ")
        .push_bind(id.0.as_bytes().as_slice())
        .push(" ORDER BY v.version = ")
        .push_bind(version.map(int).transpose()?)
        .push(" DESC, v.version IS d.live_version DESC, v.version DESC LIMIT 1")
        .build()
        .fetch_optional(connection)
        .await
        .port()?
        .as_ref()
        .map(document)
        .transpose()
}

/// The text of a live document, or none.
pub(super) async fn live_text(
    executor: impl SqliteExecutor<'_>,
    tenant: &Tenant,
    id: DocumentId,
) -> PortResult<Option<String>> {
    sqlx::query_scalar(
        "SELECT t.text FROM documents d JOIN texts t ON t.document = d.key AND t.version = d.live_version \
         WHERE d.id = ? AND d.tenant = ?",
    )
    .bind(id.0.as_bytes().as_slice())
    .bind(tenant.as_str())
    .fetch_optional(executor)
    .await
    .port()
}

/// The next `most` live documents by id, before the filter by metadata.
pub(super) async fn page(
    connection: &mut SqliteConnection,
    tenant: &Tenant,
    filter: &DocumentFilter,
    after: Uuid,
    most: usize,
) -> PortResult<Vec<Document>> {
    let mut query = QueryBuilder::new(DOCUMENT);
    query.push(" AND v.version = d.live_version WHERE d.live_version IS NOT NULL AND d.tenant = ");
    query.push_bind(tenant.as_str());
    if let Some(collection) = &filter.collection {
        query.push(" AND d.collection = ").push_bind(collection.as_str());
    }
    if let Some(prefix) = &filter.external_id_prefix {
        query.push(" AND substr(d.external_id, 1, ").push_bind(limit(prefix.chars().count()));
        query.push(") = ").push_bind(prefix.as_str());
    }
    query.push(" AND d.id > ").push_bind(after.as_bytes().as_slice());
    query.push(" ORDER BY d.id LIMIT ").push_bind(limit(most));
    let rows = query.build().fetch_all(connection).await.port()?;
    rows.iter().map(document).collect()
}
