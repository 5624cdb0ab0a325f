//! Publishing, deleting and cleaning, each within the caller's transaction.

use raglan_pipeline::{
    domain::{Collection, DocumentId, LogPosition, Published, Tenant, Timestamp},
    ports::{PortResult, Staged},
};
use sqlx::SqliteConnection;

use super::{changes, chunks, collections, documents};
use crate::document_store::{
    rows::{EntryKind, Identity, Version},
    rules::{self, CHUNKS_PER_ENTRY, DOCUMENTS_PER_STEP, Removal, Step},
};

/// Makes a staged version live and removes what it replaces.
pub(super) async fn publish(
    connection: &mut SqliteConnection,
    staged: Staged,
    now: Timestamp,
) -> PortResult<Published> {
    let found = documents::identity(connection, staged.document_id).await?;
    let (version, live) = match &found {
        Some((key, identity)) => {
            let live = match identity.live_version {
                Some(live) => documents::version(connection, *key, live).await?,
                None => None,
            };
            (documents::version(connection, *key, staged.version).await?, live)
        }
        None => (None, None),
    };
    let step =
        rules::step(&staged, found.as_ref().map(|(_, identity)| identity), version.as_ref(), live.as_ref())?;
    let (Some((key, identity)), Step::Publish(version)) = (&found, &step) else {
        if let (Some((key, _)), Step::Drop) = (&found, &step) {
            drop_staged(connection, *key, &staged, now).await?;
        }
        let position = changes::head(connection).await?;
        let superseded = !matches!(step, Step::Done);
        return Ok(Published { position, deleted_chunks: 0, superseded, created: false });
    };
    let key = *key;
    let document_changed =
        indexes_know_otherwise(connection, (key, identity), (staged.version, version), live.as_ref()).await?;
    documents::set_live(connection, key, staged.version, now).await?;
    chunks::delete_placements_before(connection, key, staged.version).await?;
    documents::delete_versions_before(connection, key, staged.version).await?;
    let deleted = delete_unplaced(connection, key, staged.document_id, now).await?;
    if document_changed {
        changes::append(connection, staged.document_id, &EntryKind::PutDocument, now).await?;
    }
    let created = identity.live_version.is_none();
    if deleted > 0 || created != version.base_version.is_none() {
        documents::note_published(connection, key, staged.version, (deleted, created)).await?;
    }
    let position = changes::head(connection).await?;
    Ok(Published { position, deleted_chunks: deleted, superseded: false, created })
}

/// Whether an index that has followed the log may hold some chunk of this version with a title, uri or metadata that
/// is not this version's. An index has them from the version that wrote the chunk, or from the last version that was
/// published with a change of them.
async fn indexes_know_otherwise(
    connection: &mut SqliteConnection,
    (key, identity): (i64, &Identity),
    (number, version): (u64, &Version),
    live: Option<&Version>,
) -> PortResult<bool> {
    if rules::attributes_change(identity, version, live) {
        let overtaken = version.base_version != identity.live_version;
        if overtaken || chunks::has_kept(connection, key, number).await? {
            return Ok(true);
        }
    }
    chunks::has_foreign(connection, key, number, identity.live_version).await
}

/// Removes what no version has any more. How many chunks those were.
async fn delete_unplaced(
    connection: &mut SqliteConnection,
    key: i64,
    id: DocumentId,
    now: Timestamp,
) -> PortResult<u64> {
    let mut deleted = chunks::delete_unplaced(connection, key).await?;
    let count = deleted.len();
    while !deleted.is_empty() {
        let rest = deleted.split_off(deleted.len().min(CHUNKS_PER_ENTRY));
        changes::append(connection, id, &EntryKind::DeleteChunks(deleted), now).await?;
        deleted = rest;
    }
    Ok(count as u64)
}

/// Removes a version that is not live, with what only it has.
async fn drop_staged(
    connection: &mut SqliteConnection,
    key: i64,
    staged: &Staged,
    now: Timestamp,
) -> PortResult<()> {
    chunks::delete_placements_of(connection, key, staged.version).await?;
    documents::delete_version(connection, key, staged.version).await?;
    delete_unplaced(connection, key, staged.document_id, now).await.map(drop)
}

/// Removes a live document of a tenant with everything staged for it.
pub(super) async fn delete(
    connection: &mut SqliteConnection,
    tenant: &Tenant,
    id: DocumentId,
    now: Timestamp,
) -> PortResult<Option<LogPosition>> {
    let identity = documents::identity(connection, id)
        .await?
        .filter(|(_, identity)| identity.tenant == *tenant && identity.live_version.is_some());
    let Some((key, _)) = identity else { return Ok(None) };
    documents::delete(connection, key).await?;
    changes::append(connection, id, &EntryKind::DeleteDocument, now).await.map(Some)
}

/// Removes some documents of a collection, and with the last of them the collection itself.
pub(super) async fn delete_from_collection(
    connection: &mut SqliteConnection,
    tenant: &Tenant,
    name: &Collection,
    now: Timestamp,
) -> PortResult<Removal> {
    if !collections::exists(connection, tenant, name).await? {
        return Ok(Removal::Nothing);
    }
    let removed = documents::delete_some(connection, tenant, name, DOCUMENTS_PER_STEP).await?;
    for (id, _) in removed.iter().filter(|(_, was_staged)| *was_staged) {
        changes::append(connection, *id, &EntryKind::DeleteDocument, now).await?;
    }
    if removed.len() == DOCUMENTS_PER_STEP {
        return Ok(Removal::Some);
    }
    collections::delete(connection, tenant, name).await?;
    changes::head(connection).await.map(Removal::All)
}

/// Removes what nobody will publish and what no replica will read. How many versions went.
pub(super) async fn clean(
    connection: &mut SqliteConnection,
    before: Timestamp,
    now: Timestamp,
) -> PortResult<u64> {
    let stale = documents::stale_versions(connection, before).await?;
    for (key, document_id, version) in &stale {
        let staged = Staged { document_id: *document_id, version: *version, position: 0 };
        drop_staged(connection, *key, &staged, now).await?;
    }
    documents::delete_empty(connection, before).await?;
    changes::compact(connection, before).await?;
    Ok(stale.len() as u64)
}
