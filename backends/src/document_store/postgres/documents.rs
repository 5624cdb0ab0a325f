//! The SQL of the table `documents`: identities.

use std::collections::HashMap;

use raglan_pipeline::{
    domain::{Collection, DocumentId, StagedDocument, Tenant},
    ports::{ErrorKind, PortError, PortResult},
};
use sqlx::PgConnection;
use uuid::Uuid;

use super::keys::{self, Key};
use crate::{
    database::{
        SqlxResultExt as _,
        codec::{RowExt as _, limit},
        postgres::column,
    },
    document_store::rows::Identity,
};

/// How often an id that is removed in the same moment is looked for again.
const TRIES: usize = 5;

/// A document by its tenant, collection and external id.
pub(super) type Name<'a> = (&'a Tenant, &'a Collection, &'a str);

/// The id of the document with this name, made now if there is none.
pub(super) async fn resolve(connection: &mut PgConnection, name: Name<'_>) -> PortResult<DocumentId> {
    for _ in 0..TRIES {
        if let Some(id) = find(connection, name).await? {
            return Ok(id);
        }
        // Of several that make it at once one does, and the others find it.
        if let Some(id) = insert(connection, name).await? {
            return Ok(id);
        }
    }
    Err(PortError::new(ErrorKind::Unavailable, "the document is being removed; try again"))
}

async fn find(
    connection: &mut PgConnection,
    (tenant, collection, external_id): Name<'_>,
) -> PortResult<Option<DocumentId>> {
    let found: Option<Uuid> = sqlx::query_scalar(
        "SELECT id FROM documents WHERE tenant = $1 AND collection = $2 AND external_id = $3",
    )
    .bind(tenant.as_str())
    .bind(collection.as_str())
    .bind(external_id)
    .fetch_optional(connection)
    .await
    .port()?;
    Ok(found.map(DocumentId))
}

/// Makes a document with this name under a new id. None where there is one by now.
async fn insert(
    connection: &mut PgConnection,
    (tenant, collection, external_id): Name<'_>,
) -> PortResult<Option<DocumentId>> {
    let id = DocumentId::generate();
    let done = sqlx::query(
        "INSERT INTO documents (id, tenant, collection, external_id, resolved_at) \
         VALUES ($1, $2, $3, $4, date_trunc('milliseconds', now())) \
         ON CONFLICT (tenant, collection, external_id) DO NOTHING",
    )
    .bind(id.0)
    .bind(tenant.as_str())
    .bind(collection.as_str())
    .bind(external_id)
    .execute(connection)
    .await
    .port()?;
    Ok((done.rows_affected() > 0).then_some(id))
}

/// Reads the identities of documents, in the order of their ids, and keeps others from changing these documents until the
/// transaction ends.
pub(super) async fn lock(
    connection: &mut PgConnection,
    ids: &[DocumentId],
) -> PortResult<HashMap<DocumentId, Identity>> {
    let rows = sqlx::query(
        "SELECT id, tenant, collection, external_id, live_version, last_version FROM documents WHERE id = ANY ($1) \
         ORDER BY id FOR NO KEY UPDATE",
    )
    .bind(column(ids, |id| id.0))
    .fetch_all(connection)
    .await
    .port()?;
    rows.iter().map(|row| Identity::of(row).map(|identity| (identity.id, identity))).collect()
}

/// The same; those that were deleted since their ids were resolved are made again under these. A `Conflict` where
/// the external id belongs to another document by now.
pub(super) async fn hold(
    connection: &mut PgConnection,
    staged: &[&StagedDocument],
) -> PortResult<HashMap<DocumentId, Identity>> {
    let ids = column(staged, |staged| staged.document.id);
    let mut held = lock(connection, &ids).await?;
    let missing: Vec<_> = staged
        .iter()
        .map(|staged| &staged.document)
        .filter(|document| !held.contains_key(&document.id))
        .collect();
    if missing.is_empty() {
        return Ok(held);
    }
    sqlx::query(
        "INSERT INTO documents (id, tenant, collection, external_id, resolved_at) \
         SELECT id, tenant, collection, external_id, date_trunc('milliseconds', now()) \
         FROM UNNEST($1::uuid[], $2::text[], $3::text[], $4::text[]) AS new (id, tenant, collection, external_id) \
         ORDER BY id ON CONFLICT (id) DO NOTHING",
    )
    .bind(column(&missing, |document| document.id.0))
    .bind(column(&missing, |document| document.tenant.as_str()))
    .bind(column(&missing, |document| document.collection.as_str()))
    .bind(column(&missing, |document| document.external_id.as_str()))
    .execute(&mut *connection)
    .await
    .port()?;
    held.extend(lock(connection, &column(&missing, |document| document.id)).await?);
    Ok(held)
}

/// Counts a version of each document as its last.
pub(super) async fn set_last(connection: &mut PgConnection, versions: &[Key]) -> PortResult<()> {
    keys::execute(
        connection,
        "UPDATE documents SET last_version = new.version FROM UNNEST($1::uuid[], $2::bigint[]) AS new (id, version) \
         WHERE documents.id = new.id",
        versions,
    )
    .await
}

/// Makes a version of each document its live one.
pub(super) async fn set_live(connection: &mut PgConnection, versions: &[Key]) -> PortResult<()> {
    keys::execute(
        connection,
        "UPDATE documents SET live_version = new.version, \
         created_at = coalesce(created_at, date_trunc('milliseconds', now())), \
         updated_at = date_trunc('milliseconds', now()) \
         FROM UNNEST($1::uuid[], $2::bigint[]) AS new (id, version) WHERE documents.id = new.id",
        versions,
    )
    .await
}

/// Removes documents with everything of them.
pub(super) async fn delete(connection: &mut PgConnection, ids: &[DocumentId]) -> PortResult<()> {
    sqlx::query("DELETE FROM documents WHERE id = ANY ($1)")
        .bind(column(ids, |id| id.0))
        .execute(connection)
        .await
        .map(drop)
        .port()
}

/// A document that is to go with its collection.
pub(super) struct Removable {
    pub id: DocumentId,
    /// Whether the log may have told of its chunks.
    pub was_staged: bool,
    /// About how many rows go with it.
    pub chunks: u64,
}

/// Up to `most` documents of a collection, also those that were never published, kept from others until the transaction ends.
pub(super) async fn lock_some(
    connection: &mut PgConnection,
    tenant: &Tenant,
    collection: &Collection,
    most: usize,
) -> PortResult<Vec<Removable>> {
    let rows = sqlx::query(
        "SELECT id, last_version > 0 AS was_staged, coalesce((SELECT sum(v.chunks) FROM versions v \
         WHERE v.document = documents.id), 0)::bigint AS chunks FROM documents WHERE tenant = $1 AND collection = $2 \
         ORDER BY id LIMIT $3 FOR UPDATE",
    )
    .bind(tenant.as_str())
    .bind(collection.as_str())
    .bind(limit(most))
    .fetch_all(connection)
    .await
    .port()?;
    rows.iter()
        .map(|row| {
            Ok(Removable {
                id: DocumentId(row.uuid("id")?),
                was_staged: row.flag("was_staged")?,
                chunks: row.number("chunks")?,
            })
        })
        .collect()
}

/// Those of the documents that nobody is changing, kept from others until the transaction ends.
pub(super) async fn lock_free(
    connection: &mut PgConnection,
    ids: &[DocumentId],
) -> PortResult<Vec<DocumentId>> {
    let ids: Vec<Uuid> = sqlx::query_scalar(
        "SELECT id FROM documents WHERE id = ANY ($1) ORDER BY id FOR NO KEY UPDATE SKIP LOCKED",
    )
    .bind(column(ids, |id| id.0))
    .fetch_all(connection)
    .await
    .port()?;
    Ok(ids.into_iter().map(DocumentId).collect())
}
