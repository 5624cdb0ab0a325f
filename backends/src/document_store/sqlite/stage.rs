//! Staging, within the caller's transaction.

use std::collections::HashSet;

use raglan_pipeline::{
    domain::{Chunk, Collection, DocumentId, LogPosition, StagedDocument, Tenant, Timestamp},
    ports::{ErrorKind, PortError, PortResult, Staged},
};
use sqlx::SqliteConnection;

use super::{changes, chunks, collections, documents};
use crate::document_store::{
    rows::{EntryKind, Identity},
    rules::{self, CHUNKS_PER_ENTRY},
};

/// Writes versions beside the live ones.
pub(super) async fn stage(
    connection: &mut SqliteConnection,
    documents: &[StagedDocument],
    now: Timestamp,
) -> PortResult<Vec<Staged>> {
    let head = changes::head(&mut *connection).await?;
    let mut staging = Staging { connection, now, head, collections: HashSet::new() };
    let mut staged = Vec::with_capacity(documents.len());
    for document in documents {
        staged.push(staging.document(document).await?);
    }
    Ok(staged)
}

/// One call's staging. It knows what it need not ask the database twice.
struct Staging<'a> {
    connection: &'a mut SqliteConnection,
    now: Timestamp,
    /// The log's position.
    head: LogPosition,
    /// The collections that are known to be there.
    collections: HashSet<(&'a Tenant, &'a Collection)>,
}

impl<'a> Staging<'a> {
    async fn document(&mut self, staged: &'a StagedDocument) -> PortResult<Staged> {
        let document = &staged.document;
        rules::check_chunks(staged)?;
        if self.collections.insert((&document.tenant, &document.collection)) {
            collections::ensure(self.connection, &document.tenant, &document.collection, self.now).await?;
        }
        let (key, identity) = self.identity(staged).await?;
        let version = identity.last_version + 1;

        // A live chunk that gets the vector of another model stays the live version's: whoever indexes it now must take
        // it with the title and metadata that readers see.
        let live = match identity.live_version {
            Some(_) => chunks::live_ids(&mut *self.connection, document.id).await?,
            None => Vec::new(),
        };
        let live: HashSet<_> = live.into_iter().map(|(id, _)| id).collect();
        let (renewed, new): (Vec<_>, Vec<_>) =
            staged.new_chunks.iter().partition(|chunk| live.contains(&chunk.id));
        self.put_chunks((key, identity.id), version, &new).await?;
        let renewing = identity.live_version.unwrap_or(version);
        self.put_chunks((key, identity.id), renewing, &renewed).await?;

        let places = staged.new_chunks.iter().map(|chunk| (chunk.id, chunk.place));
        let places = places.chain(staged.kept_chunks.iter().copied());
        let wanted = staged.new_chunks.len() + staged.kept_chunks.len();
        let placed = chunks::place(self.connection, key, version, places).await?;
        if usize::try_from(placed) != Ok(wanted) {
            return Err(rules::chunks_gone(document.id));
        }
        let identity = (key, &identity);
        documents::insert_version(self.connection, identity, version, self.head, staged, self.now).await?;
        Ok(Staged { document_id: document.id, version, position: self.head })
    }

    /// The document's identity. One that was deleted since its id was resolved is made again under that id.
    async fn identity(&mut self, staged: &StagedDocument) -> PortResult<(i64, Identity)> {
        let document = &staged.document;
        let identity = match documents::identity(self.connection, document.id).await? {
            Some(identity) => identity,
            None => {
                let name = (&document.tenant, &document.collection, document.external_id.as_str());
                documents::insert(self.connection, document.id, name, self.now).await?
            }
        };
        rules::check_identity(&identity.1, document)?;
        Ok(identity)
    }

    /// Writes the chunks that the store does not have so yet, and logs them as those of a version.
    async fn put_chunks(
        &mut self,
        (key, id): (i64, DocumentId),
        version: u64,
        chunks: &[&Chunk],
    ) -> PortResult<()> {
        for chunks in chunks.chunks(CHUNKS_PER_ENTRY) {
            // The one writer knows what the next entry's position will be.
            let position = self.head + 1;
            let mut written = false;
            for chunk in chunks {
                written |= chunks::put(self.connection, key, version, position, chunk).await?;
            }
            if written {
                let kind = EntryKind::PutChunks(version);
                self.head = changes::append(self.connection, id, &kind, self.now).await?;
                if self.head != position {
                    return Err(PortError::new(ErrorKind::Internal, "somebody else wrote to the change log"));
                }
            }
        }
        Ok(())
    }
}
