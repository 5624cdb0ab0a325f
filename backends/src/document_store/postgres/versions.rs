//! The SQL of the tables `versions` and `texts`.

use std::collections::HashMap;

use raglan_pipeline::{
    domain::{Document, DocumentId, Receipt, StagedDocument, Tenant},
    ports::{DocumentFilter, PortResult},
};
use sqlx::{PgConnection, QueryBuilder};
use uuid::Uuid;

use super::keys::{self, Key};
use crate::{
    database::{
        SqlxResultExt as _,
        codec::{RowExt as _, int, json, limit},
        postgres::{column, try_column},
    },
    document_store::rows::{self, Identity, Version, document},
};

/// A document and one of its versions, as [`Document`] wants them. `created_at` and `updated_at` of a document that was
/// never published are those of the staging.
macro_rules! select_document {
    () => {
        "SELECT d.id, d.tenant, d.collection, d.external_id, v.title, v.uri, v.media_type, v.metadata, v.fingerprint, \
         v.version, v.chunks, v.bytes, coalesce(d.created_at, v.staged_at) AS created_at, \
         coalesce(d.updated_at, v.staged_at) AS updated_at FROM documents d JOIN versions v ON v.document = d.id"
    };
}

/// A version that is about to be written.
pub(super) struct NewVersion<'a> {
    pub staged: &'a StagedDocument,
    pub identity: &'a Identity,
    /// Its number.
    pub version: u64,
    /// The log's position after it.
    pub position: u64,
}

/// Writes the texts of versions, which may come later in the same transaction.
pub(super) async fn insert_texts(
    connection: &mut PgConnection,
    texts: &[(&StagedDocument, u64)],
) -> PortResult<()> {
    sqlx::query(
        "INSERT INTO texts (document, version, text) SELECT * FROM UNNEST($1::uuid[], $2::bigint[], $3::text[])",
    )
    .bind(column(texts, |(staged, _)| staged.document.id.0))
    .bind(try_column(texts, |(_, version)| int(*version))?)
    .bind(column(texts, |(staged, _)| staged.text.as_str()))
    .execute(connection)
    .await
    .map(drop)
    .port()
}

/// Writes versions.
pub(super) async fn insert(connection: &mut PgConnection, new: &[NewVersion<'_>]) -> PortResult<()> {
    sqlx::query(
        "INSERT INTO versions (document, version, base_version, position, chunks, bytes, staged_at, job, embedded, tokens, \
         created, fingerprint, media_type, title, uri, metadata) \
         SELECT document, version, base_version, position, chunks, bytes, date_trunc('milliseconds', now()), job, embedded, \
         tokens, base_version IS NULL, fingerprint, media_type, title, uri, metadata \
         FROM UNNEST($1::uuid[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[], $7::uuid[], \
         $8::bigint[], $9::bigint[], $10::text[], $11::text[], $12::text[], $13::text[], $14::json[]) \
         AS new (document, version, base_version, position, chunks, bytes, job, embedded, tokens, fingerprint, media_type, \
         title, uri, metadata)",
    )
    .bind(column(new, |new| new.identity.id.0))
    .bind(try_column(new, |new| int(new.version))?)
    .bind(try_column(new, |new| new.identity.live_version.map(int).transpose())?)
    .bind(try_column(new, |new| int(new.position))?)
    .bind(column(new, |new| limit(new.staged.new_chunks.len() + new.staged.kept_chunks.len())))
    .bind(try_column(new, |new| int(new.staged.document.bytes))?)
    .bind(column(new, |new| new.staged.job.map(|job| job.0)))
    .bind(column(new, |new| limit(new.staged.new_chunks.len())))
    .bind(try_column(new, |new| int(new.staged.tokens))?)
    .bind(column(new, |new| new.staged.document.fingerprint.as_str()))
    .bind(column(new, |new| new.staged.document.media_type.as_str()))
    .bind(column(new, |new| new.staged.document.title.as_str()))
    .bind(column(new, |new| new.staged.document.uri.as_deref()))
    .bind(try_column(new, |new| json(&new.staged.document.metadata))?)
    .execute(connection)
    .await
    .map(drop)
    .port()
}

/// Versions by their keys, those that are there.
pub(super) async fn select(connection: &mut PgConnection, keys: &[Key]) -> PortResult<HashMap<Key, Version>> {
    let rows = keys::about(
        "SELECT document, version, base_version, position, job, title, uri, metadata::text AS metadata FROM versions \
         WHERE (document, version) IN (SELECT * FROM UNNEST($1::uuid[], $2::bigint[]))",
        keys,
    )?
    .fetch_all(connection)
    .await
    .port()?;
    rows.iter().map(|row| Ok((keys::key(row)?, Version::of(row)?))).collect()
}

/// What publishing a version changed.
pub(super) struct Note {
    pub key: Key,
    /// Chunks removed with it.
    pub deleted: u64,
    /// Whether there was no live version before.
    pub created: bool,
}

/// Notes that versions are published, and what that changed.
pub(super) async fn note_published(connection: &mut PgConnection, notes: &[Note]) -> PortResult<()> {
    sqlx::query(
        "UPDATE versions SET published = true, deleted = new.deleted, created = new.created \
         FROM UNNEST($1::uuid[], $2::bigint[], $3::bigint[], $4::boolean[]) AS new (document, version, deleted, created) \
         WHERE versions.document = new.document AND versions.version = new.version",
    )
    .bind(column(notes, |note| note.key.0.0))
    .bind(try_column(notes, |note| int(note.key.1))?)
    .bind(try_column(notes, |note| int(note.deleted))?)
    .bind(column(notes, |note| note.created))
    .execute(connection)
    .await
    .map(drop)
    .port()
}

/// Removes the versions of each document before one.
pub(super) async fn delete_before(connection: &mut PgConnection, keys: &[Key]) -> PortResult<()> {
    keys::execute(
        connection,
        "DELETE FROM versions USING UNNEST($1::uuid[], $2::bigint[]) AS live (document, version) \
         WHERE versions.document = live.document AND versions.version < live.version",
        keys,
    )
    .await
}

/// Removes versions that are not live. Which of them were there.
pub(super) async fn delete_staged(connection: &mut PgConnection, keys: &[Key]) -> PortResult<Vec<Key>> {
    let rows = keys::about(
        "DELETE FROM versions USING UNNEST($1::uuid[], $2::bigint[]) AS gone (document, version) \
         WHERE versions.document = gone.document AND versions.version = gone.version AND NOT published \
         RETURNING versions.document, versions.version",
        keys,
    )?
    .fetch_all(connection)
    .await
    .port()?;
    rows.iter().map(keys::key).collect()
}

/// What was done for the live version of a document.
pub(super) async fn receipt(connection: &mut PgConnection, id: DocumentId) -> PortResult<Option<Receipt>> {
    sqlx::query(
        "SELECT v.job, v.created, v.chunks, v.embedded, v.deleted, v.tokens FROM documents d \
         JOIN versions v ON v.document = d.id AND v.version = d.live_version WHERE d.id = $1 AND v.job IS NOT NULL",
    )
    .bind(id.0)
    .fetch_optional(connection)
    .await
    .port()?
    .as_ref()
    .map(rows::receipt)
    .transpose()
}

/// A live document, or none.
pub(super) async fn live(
    connection: &mut PgConnection,
    tenant: &Tenant,
    id: DocumentId,
) -> PortResult<Option<Document>> {
    sqlx::query(concat!(
        select_document!(),
        " AND v.version = d.live_version WHERE d.id = $1 AND d.tenant = $2",
    ))
    .bind(id.0)
    .bind(tenant.as_str())
    .fetch_optional(connection)
    .await
    .port()?
    .as_ref()
    .map(document)
    .transpose()
}

/// Documents as an index should hold them for chunks that a version wrote: as that version says while it is staged, else as
/// the live one does, else as the newest that is left. In the order asked; none where there is no version at all.
pub(super) async fn for_index(
    connection: &mut PgConnection,
    wanted: &[(DocumentId, Option<u64>)],
) -> PortResult<Vec<Option<Document>>> {
    let rows = sqlx::query(concat!(
        "SELECT wanted.number, found.* FROM UNNEST($1::uuid[], $2::bigint[]) WITH ORDINALITY \
         AS wanted (document, version, number) CROSS JOIN LATERAL (",
        select_document!(),
        " WHERE d.id = wanted.document ORDER BY v.version IS NOT DISTINCT FROM wanted.version DESC, \
         v.version IS NOT DISTINCT FROM d.live_version DESC, v.version DESC LIMIT 1) AS found",
    ))
    .bind(column(wanted, |(id, _)| id.0))
    .bind(try_column(wanted, |(_, version)| version.map(int).transpose())?)
    .fetch_all(connection)
    .await
    .port()?;
    let mut found: Vec<_> = wanted.iter().map(|_| None).collect();
    for row in &rows {
        let number: usize = row.number("number")?;
        if let Some(place) = number.checked_sub(1).and_then(|at| found.get_mut(at)) {
            *place = Some(document(row)?);
        }
    }
    Ok(found)
}

/// The text of a live document, or none.
pub(super) async fn live_text(
    connection: &mut PgConnection,
    tenant: &Tenant,
    id: DocumentId,
) -> PortResult<Option<String>> {
    sqlx::query_scalar(
        "SELECT t.text FROM documents d JOIN texts t ON t.document = d.id AND t.version = d.live_version \
         WHERE d.id = $1 AND d.tenant = $2",
    )
    .bind(id.0)
    .bind(tenant.as_str())
    .fetch_optional(connection)
    .await
    .port()
}

/// The next `most` live documents by id, before the filter by metadata.
pub(super) async fn page(
    connection: &mut PgConnection,
    tenant: &Tenant,
    filter: &DocumentFilter,
    after: Uuid,
    most: usize,
) -> PortResult<Vec<Document>> {
    let mut query = QueryBuilder::new(select_document!());
    query.push(" AND v.version = d.live_version WHERE d.live_version IS NOT NULL AND d.tenant = ");
    query.push_bind(tenant.as_str());
    if let Some(collection) = &filter.collection {
        query.push(" AND d.collection = ").push_bind(collection.as_str());
    }
    if let Some(prefix) = &filter.external_id_prefix {
        query.push(" AND starts_with(d.external_id, ").push_bind(prefix.as_str()).push(")");
    }
    query.push(" AND d.id > ").push_bind(after);
    query.push(" ORDER BY d.id LIMIT ").push_bind(limit(most));
    let rows = query.build().fetch_all(connection).await.port()?;
    rows.iter().map(document).collect()
}
