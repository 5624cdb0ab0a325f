//! Staging, within the caller's transaction.

use std::collections::{BTreeSet, HashMap, HashSet};

use raglan_pipeline::{
    domain::{Chunk, ChunkId, DocumentId, StagedDocument},
    ports::{PortResult, Staged},
};
use sqlx::PgConnection;

use super::{
    changes::{self, NewEntry},
    chunks::{self, NewChunk, NewPlacement},
    collections, documents,
    versions::{self, NewVersion},
    waves,
};
use crate::document_store::{
    rows::{EntryKind, Identity},
    rules::{self, CHUNKS_PER_ENTRY},
};

/// Writes versions beside the live ones.
pub(super) async fn stage(
    connection: &mut PgConnection,
    documents: &[StagedDocument],
) -> PortResult<Vec<Staged>> {
    for staged in documents {
        rules::check_chunks(staged)?;
    }
    let names: BTreeSet<_> =
        documents.iter().map(|staged| (&staged.document.tenant, &staged.document.collection)).collect();
    collections::hold(connection, &names).await?;
    let mut answers = Vec::with_capacity(documents.len());
    for wave in waves(documents, |staged| staged.document.id) {
        let staged: Vec<_> = wave.iter().map(|(_, staged)| *staged).collect();
        let done = stage_wave(connection, &staged).await?;
        answers.extend(wave.into_iter().map(|(at, _)| at).zip(done));
    }
    answers.sort_unstable_by_key(|(at, _)| *at);
    Ok(answers.into_iter().map(|(_, staged)| staged).collect())
}

/// Writes one version each of different documents.
async fn stage_wave(connection: &mut PgConnection, wave: &[&StagedDocument]) -> PortResult<Vec<Staged>> {
    let held = documents::hold(connection, wave).await?;
    let identities: Vec<&Identity> = wave
        .iter()
        .map(|staged| {
            let identity =
                held.get(&staged.document.id).ok_or_else(|| rules::chunks_gone(staged.document.id))?;
            rules::check_identity(identity, &staged.document).map(|()| identity)
        })
        .collect::<PortResult<_>>()?;
    let puts = put_chunks(connection, wave, &identities).await?;
    place_chunks(connection, wave, &identities).await?;

    let texts: Vec<_> =
        wave.iter().zip(&identities).map(|(staged, identity)| (*staged, identity.last_version + 1)).collect();
    versions::insert_texts(connection, &texts).await?;
    let last: Vec<_> = identities.iter().map(|identity| (identity.id, identity.last_version + 1)).collect();
    documents::set_last(connection, &last).await?;

    // From here on others wait.
    let mut position = changes::append(connection, &puts).await?;
    let mut entries = HashMap::<DocumentId, u64>::new();
    for put in &puts {
        *entries.entry(put.document).or_default() += 1;
    }
    let new: Vec<_> = wave
        .iter()
        .zip(identities)
        .map(|(staged, identity)| {
            position += entries.get(&identity.id).copied().unwrap_or(0);
            NewVersion { staged, identity, version: identity.last_version + 1, position }
        })
        .collect();
    versions::insert(connection, &new).await?;
    Ok(new
        .iter()
        .map(|new| Staged { document_id: new.identity.id, version: new.version, position: new.position })
        .collect())
}

/// Writes the chunks that the store does not have so yet. The entries that tell of them, in the order of the documents.
async fn put_chunks(
    connection: &mut PgConnection,
    wave: &[&StagedDocument],
    identities: &[&Identity],
) -> PortResult<Vec<NewEntry>> {
    // A live chunk that gets the vector of another model stays the live version's: whoever indexes it now must take
    // it with the title and metadata that readers see.
    let asked: Vec<_> = wave
        .iter()
        .zip(identities)
        .filter(|(_, identity)| identity.live_version.is_some())
        .flat_map(|(staged, _)| staged.new_chunks.iter().map(|chunk| chunk.id))
        .collect();
    let live = match asked.is_empty() {
        true => HashSet::new(),
        false => chunks::live_among(connection, &asked).await?,
    };
    let puts: Vec<Put<'_>> =
        wave.iter().zip(identities).flat_map(|(staged, identity)| puts_of(staged, identity, &live)).collect();
    if puts.is_empty() {
        return Ok(Vec::new());
    }
    let numbers = changes::put_numbers(connection, puts.len()).await?;
    let numbered = || puts.iter().zip(numbers.iter().copied());
    let new: Vec<_> = numbered()
        .flat_map(|(put, number)| {
            let Put { document, version, chunks } = put;
            chunks.iter().enumerate().map(move |(at, chunk)| NewChunk {
                document: *document,
                version: *version,
                put: number,
                number: at,
                chunk,
            })
        })
        .collect();
    let written = chunks::put(connection, &new).await?;
    let entry = |(put, number): (&Put<'_>, i64)| NewEntry {
        document: put.document,
        kind: EntryKind::PutChunks(put.version),
        put: Some(number),
    };
    Ok(numbered().filter(|(_, number)| written.contains(number)).map(entry).collect())
}

/// Chunks that share an entry of the log.
struct Put<'a> {
    document: DocumentId,
    /// The version as whose they are logged.
    version: u64,
    chunks: Vec<&'a Chunk>,
}

/// The new chunks of a document by the entries that will tell of them: those that no reader sees, and then those that the
/// live version has too.
fn puts_of<'a>(staged: &'a StagedDocument, identity: &Identity, live: &HashSet<ChunkId>) -> Vec<Put<'a>> {
    let version = identity.last_version + 1;
    let (renewed, new): (Vec<_>, Vec<_>) =
        staged.new_chunks.iter().partition(|chunk| live.contains(&chunk.id));
    [(version, new), (identity.live_version.unwrap_or(version), renewed)]
        .iter()
        .flat_map(|(version, chunks)| {
            let puts = chunks.chunks(CHUNKS_PER_ENTRY);
            puts.map(|chunks| Put { document: identity.id, version: *version, chunks: chunks.to_vec() })
        })
        .collect()
}

/// Places the chunks of the new versions, new and kept.
async fn place_chunks(
    connection: &mut PgConnection,
    wave: &[&StagedDocument],
    identities: &[&Identity],
) -> PortResult<()> {
    let mut new = Vec::new();
    for (staged, identity) in wave.iter().zip(identities) {
        let places = staged.new_chunks.iter().map(|chunk| (chunk.id, chunk.place));
        new.extend(places.chain(staged.kept_chunks.iter().copied()).map(|(chunk, place)| NewPlacement {
            document: identity.id,
            version: identity.last_version + 1,
            chunk,
            place,
        }));
    }
    let placed = chunks::place(connection, &new).await?;
    for staged in wave {
        let wanted = staged.new_chunks.len() + staged.kept_chunks.len();
        if placed.get(&staged.document.id).copied().unwrap_or(0) != wanted {
            return Err(rules::chunks_gone(staged.document.id));
        }
    }
    Ok(())
}
