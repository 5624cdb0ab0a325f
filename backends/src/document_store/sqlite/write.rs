//! Publishing, deleting and cleaning, each within the caller's transaction.

use raglan_pipeline::{
    domain::{Collection, DocumentId, LogPosition, Published, Tenant, Timestamp},
    ports::{ErrorKind, PortError, PortResult, Staged},
};
use sqlx::SqliteConnection;

use super::{
    changes::{self, EntryKind},
    chunks, collections, documents,
    documents::{Identity, Version},
};

/// At most so many chunks share an entry of the log, so that who reads it can bound what it holds in memory.
pub(super) const CHUNKS_PER_ENTRY: usize = 256;

/// At most so many documents of a collection are removed at once, so that nobody else's write waits for all of them.
const DOCUMENTS_PER_STEP: usize = 200;

/// Makes a staged version live and removes what it replaces.
pub(super) async fn publish(
    connection: &mut SqliteConnection,
    staged: Staged,
    now: Timestamp,
) -> PortResult<Published> {
    let gone = || conflict(staged.document_id, "its staged version has gone; stage it again");
    let identity = documents::identity(connection, staged.document_id).await?.ok_or_else(gone)?;
    let nothing =
        |position, superseded| Published { position, deleted_chunks: 0, superseded, created: false };
    // What an older version left went when the newer one was published.
    if identity.live_version.is_some_and(|live| live > staged.version) {
        return Ok(nothing(changes::head(connection).await?, true));
    }
    let version = documents::version(connection, identity.key, staged.version)
        .await?
        // A document that was deleted and made again counts its versions anew: this may be another one.
        .filter(|version| version.position == staged.position)
        .ok_or_else(gone)?;
    if identity.live_version == Some(staged.version) {
        return Ok(nothing(changes::head(connection).await?, false));
    }
    let live_version = match identity.live_version {
        Some(live) => documents::version(connection, identity.key, live).await?,
        None => None,
    };
    // Jobs at once may be staged in any order. What was sent last stays: the ids of jobs are in the order in which they came.
    let live_job = live_version.as_ref().and_then(|live| live.job);
    if version.job.is_some() && version.job < live_job {
        drop_staged(connection, identity.key, &staged, now).await?;
        return Ok(nothing(changes::head(connection).await?, true));
    }
    let document_changed =
        indexes_know_otherwise(connection, &identity, (staged.version, &version), live_version).await?;
    documents::set_live(connection, identity.key, staged.version, now).await?;
    chunks::delete_placements_before(connection, identity.key, staged.version).await?;
    documents::delete_versions_before(connection, identity.key, staged.version).await?;
    let deleted = delete_unplaced(connection, identity.key, staged.document_id, now).await?;
    if document_changed {
        changes::append(connection, staged.document_id, &EntryKind::PutDocument, now).await?;
    }
    let created = identity.live_version.is_none();
    if deleted > 0 || created != version.base_version.is_none() {
        documents::note_published(connection, identity.key, staged.version, (deleted, created)).await?;
    }
    let position = changes::head(connection).await?;
    Ok(Published { position, deleted_chunks: deleted, superseded: false, created })
}

/// Whether an index that has followed the log may hold some chunk of this version with a title, uri or metadata that
/// is not this version's. An index has them from the version that wrote the chunk, or from the last version that was
/// published with a change of them.
async fn indexes_know_otherwise(
    connection: &mut SqliteConnection,
    identity: &Identity,
    (number, version): (u64, &Version),
    live_version: Option<Version>,
) -> PortResult<bool> {
    if identity.live_version.is_some() {
        let changed = live_version.is_none_or(|live| live.attributes != version.attributes);
        let overtaken = version.base_version != identity.live_version;
        if changed && (overtaken || chunks::has_kept(connection, identity.key, number).await?) {
            return Ok(true);
        }
    }
    chunks::has_foreign(connection, identity.key, number, identity.live_version).await
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
        .filter(|identity| identity.tenant == *tenant && identity.live_version.is_some());
    let Some(identity) = identity else { return Ok(None) };
    documents::delete(connection, identity.key).await?;
    changes::append(connection, id, &EntryKind::DeleteDocument, now).await.map(Some)
}

/// What one step of removing a collection did.
pub(super) enum Removal {
    /// There was no such collection.
    Nothing,
    /// There are more documents to remove.
    Some,
    /// All are gone, and the collection with them: the log's position after it.
    All(LogPosition),
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

/// The caller is to begin anew with what the store has now.
pub(super) fn conflict(id: DocumentId, what: &str) -> PortError {
    PortError::new(ErrorKind::Conflict, format!("document {id}: {what}"))
}
