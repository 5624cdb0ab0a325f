//! Publishing and deleting, each within the caller's transaction.

use std::collections::{HashMap, HashSet};

use raglan_pipeline::{
    domain::{ChunkId, Collection, DocumentId, LogPosition, Published, Tenant},
    ports::{PortResult, Staged},
};
use sqlx::PgConnection;

use super::{
    changes::{self, NewEntry},
    chunks, collections, documents,
    keys::Key,
    versions::{self, Note},
    waves,
};
use crate::document_store::{
    rows::{EntryKind, Identity, Version},
    rules::{self, CHUNKS_PER_ENTRY, DOCUMENTS_PER_STEP, Removal, Step},
};

/// No more documents of a collection are removed at once than those that come to so many chunks.
const CHUNKS_PER_STEP: u64 = 20_000;

/// Makes staged versions live and removes what they replace.
pub(super) async fn publish(connection: &mut PgConnection, staged: &[Staged]) -> PortResult<Vec<Published>> {
    let mut answers = Vec::with_capacity(staged.len());
    for wave in waves(staged, |staged| staged.document_id) {
        let (places, staged): (Vec<_>, Vec<_>) = wave.into_iter().map(|(at, staged)| (at, *staged)).unzip();
        answers.extend(places.into_iter().zip(publish_wave(connection, &staged).await?));
    }
    answers.sort_unstable_by_key(|(at, _)| *at);
    Ok(answers.into_iter().map(|(_, published)| published).collect())
}

/// A version that is to be made live.
struct Publishing<'a> {
    key: Key,
    identity: &'a Identity,
    version: &'a Version,
    /// Whether it has another title, uri or metadata than the version that is live now.
    changes_attributes: bool,
}

/// What is to be done about the versions of different documents.
#[derive(Default)]
struct Work<'a> {
    publishing: Vec<Publishing<'a>>,
    /// Versions that are to go.
    dropped: Vec<Key>,
    /// The documents of all these, in the order given.
    touched: Vec<DocumentId>,
}

/// What was removed, and what is to be logged, in the order of the documents.
struct Replaced {
    /// How many chunks of each document went.
    chunks: HashMap<DocumentId, u64>,
    entries: Vec<NewEntry>,
}

impl Work<'_> {
    /// Makes versions live, and removes what they replace and what is dropped.
    async fn replace(self, connection: &mut PgConnection) -> PortResult<Replaced> {
        if self.touched.is_empty() {
            return Ok(Replaced { chunks: HashMap::new(), entries: Vec::new() });
        }
        let known_otherwise = self.make_live(connection).await?;
        if !self.dropped.is_empty() {
            chunks::delete_placements_of(connection, &self.dropped).await?;
            versions::delete_staged(connection, &self.dropped).await?;
        }
        let mut unplaced = chunks::delete_unplaced(connection, &self.touched).await?;
        let chunks: HashMap<_, _> = unplaced.iter().map(|(id, chunks)| (*id, chunks.len() as u64)).collect();
        let notes: Vec<_> = self
            .publishing
            .iter()
            .map(|one| Note {
                key: one.key,
                deleted: chunks.get(&one.key.0).copied().unwrap_or(0),
                created: one.identity.live_version.is_none(),
            })
            .collect();
        versions::note_published(connection, &notes).await?;
        let mut entries = Vec::new();
        for id in self.touched {
            entries.extend(deletions(id, &unplaced.remove(&id).unwrap_or_default()));
            if known_otherwise.contains(&id) {
                entries.push(NewEntry { document: id, kind: EntryKind::PutDocument, put: None });
            }
        }
        Ok(Replaced { chunks, entries })
    }

    /// Makes versions live in place of those before them. The documents whose title, uri or metadata the indexes must be told.
    async fn make_live(&self, connection: &mut PgConnection) -> PortResult<HashSet<DocumentId>> {
        let keys: Vec<_> = self.publishing.iter().map(|one| one.key).collect();
        let with_live: Vec<_> =
            self.publishing.iter().map(|one| (one.key, one.identity.live_version)).collect();
        let origins = chunks::origins(connection, &with_live).await?;
        documents::set_live(connection, &keys).await?;
        chunks::delete_placements_before(connection, &keys).await?;
        versions::delete_before(connection, &keys).await?;
        let known_otherwise = self.publishing.iter().filter(|one| indexes_know_otherwise(one, &origins));
        Ok(known_otherwise.map(|one| one.key.0).collect())
    }
}

/// Publishes one version each of different documents.
async fn publish_wave(connection: &mut PgConnection, wave: &[Staged]) -> PortResult<Vec<Published>> {
    let ids: Vec<_> = wave.iter().map(|staged| staged.document_id).collect();
    let identities = documents::lock(connection, &ids).await?;
    let live_key = |identity: &Identity| identity.live_version.map(|live| (identity.id, live));
    let mut keys: Vec<_> = wave.iter().map(|staged| (staged.document_id, staged.version)).collect();
    keys.extend(identities.values().filter_map(live_key));
    let found = versions::select(connection, &keys).await?;

    let (mut steps, mut work) = (Vec::new(), Work::default());
    for staged in wave {
        let key = (staged.document_id, staged.version);
        let identity = identities.get(&staged.document_id);
        let live = identity.and_then(live_key).and_then(|key| found.get(&key));
        let step = rules::step(staged, identity, found.get(&key), live)?;
        match (&step, identity) {
            (Step::Drop, _) => {
                work.dropped.push(key);
                work.touched.push(key.0);
            }
            (Step::Publish(version), Some(identity)) => {
                let changes_attributes = rules::attributes_change(identity, version, live);
                work.publishing.push(Publishing { key, identity, version, changes_attributes });
                work.touched.push(key.0);
            }
            _ => {}
        }
        steps.push((staged, step));
    }
    let mut replaced = work.replace(connection).await?;

    // From here on others wait.
    let mut position = changes::append(connection, &replaced.entries).await?;
    Ok(steps
        .into_iter()
        .map(|(staged, step)| {
            let id = staged.document_id;
            position += replaced.entries.iter().filter(|entry| entry.document == id).count() as u64;
            let is_published = matches!(step, Step::Publish(_));
            Published {
                position,
                deleted_chunks: replaced.chunks.remove(&id).filter(|_| is_published).unwrap_or(0),
                superseded: matches!(step, Step::Overtaken | Step::Drop),
                created: is_published
                    && identities.get(&id).is_some_and(|identity| identity.live_version.is_none()),
            }
        })
        .collect())
}

/// Whether an index that has followed the log may hold some chunk of this version with a title, uri or metadata that
/// is not this version's. An index has them from the version that wrote the chunk, or from the last version that was
/// published with a change of them.
fn indexes_know_otherwise(one: &Publishing<'_>, origins: &HashMap<DocumentId, chunks::Origins>) -> bool {
    let overtaken = one.version.base_version != one.identity.live_version;
    origins
        .get(&one.key.0)
        .is_some_and(|origins| origins.foreign || one.changes_attributes && (overtaken || origins.kept))
}

/// The entries that tell of chunks that went.
pub(super) fn deletions(document: DocumentId, chunks: &[ChunkId]) -> impl Iterator<Item = NewEntry> {
    chunks.chunks(CHUNKS_PER_ENTRY).map(move |chunks| NewEntry {
        document,
        kind: EntryKind::DeleteChunks(chunks.to_vec()),
        put: None,
    })
}

/// Removes a live document of a tenant with everything staged for it.
pub(super) async fn delete(
    connection: &mut PgConnection,
    tenant: &Tenant,
    id: DocumentId,
) -> PortResult<Option<LogPosition>> {
    let identities = documents::lock(connection, &[id]).await?;
    let is_theirs = identities
        .get(&id)
        .is_some_and(|identity| identity.tenant == *tenant && identity.live_version.is_some());
    if !is_theirs {
        return Ok(None);
    }
    documents::delete(connection, &[id]).await?;
    changes::append(connection, &[deleted(id)]).await.map(|before| Some(before + 1))
}

/// Removes some documents of a collection, and with the last of them the collection itself.
pub(super) async fn delete_from_collection(
    connection: &mut PgConnection,
    tenant: &Tenant,
    name: &Collection,
) -> PortResult<Removal> {
    if !collections::lock(connection, tenant, name).await? {
        return Ok(Removal::Nothing);
    }
    let found = documents::lock_some(connection, tenant, name, DOCUMENTS_PER_STEP).await?;
    let (mut step, mut chunks) = (Vec::new(), 0);
    // At least one, however large.
    for document in &found {
        if chunks < CHUNKS_PER_STEP {
            chunks += document.chunks;
            step.push(document);
        }
    }
    let is_last = step.len() == found.len() && found.len() < DOCUMENTS_PER_STEP;
    documents::delete(connection, &step.iter().map(|document| document.id).collect::<Vec<_>>()).await?;
    if is_last {
        collections::delete(connection, tenant, name).await?;
    }
    let entries: Vec<_> =
        step.iter().filter(|document| document.was_staged).map(|document| deleted(document.id)).collect();
    let before = changes::append(connection, &entries).await?;
    Ok(if is_last { Removal::All(before + entries.len() as u64) } else { Removal::Some })
}

fn deleted(document: DocumentId) -> NewEntry {
    NewEntry { document, kind: EntryKind::DeleteDocument, put: None }
}
