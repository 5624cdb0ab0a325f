//! The changes to documents, each within the caller's transaction: stage, publish, delete, clean.

use std::collections::HashSet;

use raglan_pipeline::{
    domain::{
        Chunk, ChunkId, Collection, DocumentId, LogPosition, Published, StagedDocument, Tenant, Timestamp,
    },
    ports::{ErrorKind, PortError, PortResult, Staged},
};
use sqlx::SqliteConnection;

use super::{
    changes::{self, EntryKind},
    chunks, collections, documents,
    documents::{Identity, Version},
};

/// At most so many chunks share an entry of the log, so that who reads it can bound what it holds in memory.
const CHUNKS_PER_ENTRY: usize = 256;

/// Writes a version beside the live one.
pub(super) async fn stage(
    connection: &mut SqliteConnection,
    staged: &StagedDocument,
    now: Timestamp,
) -> PortResult<Staged> {
    let document = &staged.document;
    check_chunks(staged)?;
    collections::ensure(connection, &document.tenant, &document.collection, now).await?;
    let identity = identity(connection, staged, now).await?;
    let version = identity.last_version + 1;
    documents::insert_version(connection, &identity, version, staged, now).await?;

    // A live chunk that gets the vector of another model stays the live version's: whoever indexes it now must take it
    // with the title and metadata that readers see.
    let live = chunks::live_ids(&mut *connection, document.id).await?;
    let live: HashSet<_> = live.into_iter().map(|(id, _)| id).collect();
    let (renewed, new): (Vec<_>, Vec<_>) =
        staged.new_chunks.iter().partition(|chunk| live.contains(&chunk.id));
    put_chunks(connection, &identity, version, &new, now).await?;
    put_chunks(connection, &identity, identity.live_version.unwrap_or(version), &renewed, now).await?;
    let position = changes::head(&mut *connection).await?;

    let places = staged.new_chunks.iter().map(|chunk| (chunk.id, chunk.place));
    let places = places.chain(staged.kept_chunks.iter().copied());
    let wanted = staged.new_chunks.len() + staged.kept_chunks.len();
    let placed = chunks::place(connection, identity.key, version, places).await?;
    if usize::try_from(placed) != Ok(wanted) {
        return Err(conflict(document.id, "chunks that it should keep have gone; chunk it again"));
    }
    documents::set_position(connection, identity.key, version, position).await?;
    Ok(Staged { document_id: document.id, version, position })
}

/// A chunk stands in a version once.
fn check_chunks(staged: &StagedDocument) -> PortResult<()> {
    let ids = staged.new_chunks.iter().map(|chunk| chunk.id);
    let ids = ids.chain(staged.kept_chunks.iter().map(|(id, _)| *id));
    let mut seen = HashSet::new();
    match ids.into_iter().find(|id| !seen.insert(*id)) {
        None => Ok(()),
        Some(ChunkId(id)) => Err(PortError::new(
            ErrorKind::Invalid,
            format!("document {} names chunk {id} twice", staged.document.id),
        )),
    }
}

/// The document's identity. One that was deleted since its id was resolved is made again under that id.
async fn identity(
    connection: &mut SqliteConnection,
    staged: &StagedDocument,
    now: Timestamp,
) -> PortResult<Identity> {
    let document = &staged.document;
    if documents::identity(connection, document.id).await?.is_none() {
        let name = (&document.tenant, &document.collection, document.external_id.as_str());
        documents::insert(connection, document.id, name, now).await?;
    }
    let identity = documents::identity(connection, document.id)
        .await?
        .ok_or_else(|| PortError::new(ErrorKind::Internal, "a document that was just made is not there"))?;
    if (&identity.tenant, &identity.collection, &identity.external_id)
        != (&document.tenant, &document.collection, &document.external_id)
    {
        return Err(PortError::new(
            ErrorKind::Invalid,
            format!("document {} has another tenant, collection or external id", document.id),
        ));
    }
    Ok(identity)
}

/// Writes the chunks that the store does not have so yet, and logs them as those of a version.
async fn put_chunks(
    connection: &mut SqliteConnection,
    identity: &Identity,
    version: u64,
    chunks: &[&Chunk],
    now: Timestamp,
) -> PortResult<()> {
    for chunks in chunks.chunks(CHUNKS_PER_ENTRY) {
        // The one writer knows what the next entry's position will be.
        let position = changes::head(&mut *connection).await? + 1;
        let mut written = false;
        for chunk in chunks {
            written |= chunks::put(connection, identity.key, version, position, chunk).await?;
        }
        if written
            && changes::append(connection, identity.id, &EntryKind::PutChunks(version), now).await?
                != position
        {
            return Err(PortError::new(ErrorKind::Internal, "somebody else wrote to the change log"));
        }
    }
    Ok(())
}

/// Makes a staged version live and removes what it replaces.
pub(super) async fn publish(
    connection: &mut SqliteConnection,
    staged: Staged,
    now: Timestamp,
) -> PortResult<Published> {
    let gone = || conflict(staged.document_id, "its staged version has gone; stage it again");
    let identity = documents::identity(connection, staged.document_id).await?.ok_or_else(gone)?;
    let nothing = |position, superseded| Published { position, deleted_chunks: 0, superseded };
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
    let document_changed = indexes_know_otherwise(connection, &identity, staged.version, &version).await?;
    documents::set_live(connection, identity.key, staged.version, now).await?;
    chunks::delete_placements_before(connection, identity.key, staged.version).await?;
    documents::delete_versions_before(connection, identity.key, staged.version).await?;
    let deleted = delete_unplaced(connection, identity.key, staged.document_id, now).await?;
    if document_changed {
        changes::append(connection, staged.document_id, &EntryKind::PutDocument, now).await?;
    }
    Ok(Published { position: changes::head(connection).await?, deleted_chunks: deleted, superseded: false })
}

/// Whether an index that has followed the log may hold some chunk of this version with a title, uri or metadata that
/// is not this version's. An index has them from the version that wrote the chunk, or from the last version that was
/// published with a change of them.
async fn indexes_know_otherwise(
    connection: &mut SqliteConnection,
    identity: &Identity,
    number: u64,
    version: &Version,
) -> PortResult<bool> {
    if let Some(live) = identity.live_version {
        let live_version = documents::version(connection, identity.key, live).await?;
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

/// Removes a collection with all its documents.
pub(super) async fn delete_collection(
    connection: &mut SqliteConnection,
    tenant: &Tenant,
    name: &Collection,
    now: Timestamp,
) -> PortResult<Option<LogPosition>> {
    if !collections::delete(connection, tenant, name).await? {
        return Ok(None);
    }
    for id in documents::delete_all(connection, tenant, name).await? {
        changes::append(connection, id, &EntryKind::DeleteDocument, now).await?;
    }
    changes::head(connection).await.map(Some)
}

/// Removes what nobody will publish and what no replica will read. How many versions went.
pub(super) async fn clean(
    connection: &mut SqliteConnection,
    before: Timestamp,
    now: Timestamp,
) -> PortResult<u64> {
    let stale = documents::stale_versions(connection, before).await?;
    for (key, id, version) in &stale {
        chunks::delete_placements_of(connection, *key, *version).await?;
        documents::delete_version(connection, *key, *version).await?;
        delete_unplaced(connection, *key, *id, now).await?;
    }
    documents::delete_empty(connection, before).await?;
    changes::compact(connection, before).await?;
    Ok(stale.len() as u64)
}

fn conflict(id: DocumentId, what: &str) -> PortError {
    PortError::new(ErrorKind::Conflict, format!("document {id}: {what}"))
}
