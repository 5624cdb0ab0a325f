//! The record of documents in SQLite.

mod changes;
mod chunks;
mod collections;
mod documents;
mod stage;
mod write;

use std::time::Duration;

use async_trait::async_trait;
use futures::FutureExt as _;
use raglan_pipeline::{
    domain::{
        Change, ChangeKind, ChunkId, Collection, CollectionInfo, Document, DocumentId, LogPosition,
        PassageRecord, Published, Receipt, StagedDocument, Tenant, now,
    },
    ports::{DocumentFilter, DocumentStore, PortResult, Staged},
};
use sqlx::SqliteConnection;
use uuid::Uuid;

use super::{
    rows::{Entry, EntryKind},
    rules::{Page, Removal},
};
use crate::database::{SqliteDatabase, SqlxResultExt as _, codec::before};

/// How many entries of the log are read at once.
const ENTRIES: usize = 64;

/// Documents in SQLite. All of a call happens in one transaction, but for the removal of a collection, which goes a few
/// hundred documents at a time.
///
/// Vectors are kept in half precision. A chunk belongs to its document and is kept as long as the live version or a staged one
/// has it: what a staged version keeps cannot be taken from it by another version that is published in between. A call
/// whose caller stops waiting may still take effect.
#[derive(Debug, Clone)]
pub struct SqliteDocumentStore {
    database: SqliteDatabase,
}

impl SqliteDocumentStore {
    /// Over an open database.
    #[must_use]
    pub fn new(database: SqliteDatabase) -> Self {
        Self { database }
    }
}

#[async_trait]
impl DocumentStore for SqliteDocumentStore {
    async fn resolve(
        &self,
        tenant: &Tenant,
        collection: &Collection,
        external_id: &str,
    ) -> PortResult<DocumentId> {
        if let Some(id) = documents::find(self.database.readers(), tenant, collection, external_id).await? {
            return Ok(id);
        }
        let (tenant, collection, external_id) = (tenant.clone(), collection.clone(), external_id.to_owned());
        self.database
            .write(move |connection| {
                async move {
                    // Another call may have been first.
                    let found = documents::find(&mut *connection, &tenant, &collection, &external_id).await?;
                    if let Some(id) = found {
                        return Ok(id);
                    }
                    let id = DocumentId::generate();
                    documents::insert(connection, id, (&tenant, &collection, &external_id), now()).await?;
                    Ok(id)
                }
                .boxed()
            })
            .await
    }

    async fn get(&self, tenant: &Tenant, id: DocumentId) -> PortResult<Option<Document>> {
        documents::live(self.database.readers(), tenant, id).await
    }

    async fn text(&self, tenant: &Tenant, id: DocumentId) -> PortResult<Option<String>> {
        documents::live_text(self.database.readers(), tenant, id).await
    }

    async fn chunk_ids(&self, id: DocumentId) -> PortResult<Vec<(ChunkId, Option<String>)>> {
        chunks::live_ids(self.database.readers(), id).await
    }

    async fn receipt(&self, id: DocumentId) -> PortResult<Option<Receipt>> {
        documents::receipt(self.database.readers(), id).await
    }

    async fn list(&self, tenant: &Tenant, filter: &DocumentFilter) -> PortResult<Vec<Document>> {
        let mut reader = self.database.readers().acquire().await.port()?;
        let mut list = Page::new(filter);
        while let Some((after, most)) = list.wanted() {
            list.add(documents::page(&mut reader, tenant, filter, after, most).await?);
        }
        Ok(list.documents())
    }

    async fn stage(&self, documents: Vec<StagedDocument>) -> PortResult<Vec<Staged>> {
        self.database
            .write(move |connection| async move { stage::stage(connection, &documents, now()).await }.boxed())
            .await
    }

    async fn publish(&self, staged: &[Staged]) -> PortResult<Vec<Published>> {
        let staged = staged.to_vec();
        self.database
            .write(move |connection| {
                async move {
                    let now = now();
                    let mut published = Vec::with_capacity(staged.len());
                    for one in staged {
                        published.push(write::publish(connection, one, now).await?);
                    }
                    Ok(published)
                }
                .boxed()
            })
            .await
    }

    async fn delete(&self, tenant: &Tenant, id: DocumentId) -> PortResult<Option<LogPosition>> {
        let tenant = tenant.clone();
        self.database
            .write(move |connection| {
                async move { write::delete(connection, &tenant, id, now()).await }.boxed()
            })
            .await
    }

    async fn passages(
        &self,
        tenant: &Tenant,
        collection: &Collection,
        ids: &[ChunkId],
    ) -> PortResult<Vec<PassageRecord>> {
        chunks::passages(self.database.readers(), tenant, collection, ids).await
    }

    async fn changes(&self, after: LogPosition, limit: usize) -> PortResult<Vec<Change>> {
        // One snapshot for the entries and what fills them.
        let mut reader = self.database.readers().begin().await.port()?;
        let (mut after, mut weight, mut found) = (after, 0, Vec::new());
        loop {
            let entries = changes::page(&mut reader, after, ENTRIES).await?;
            let is_last = entries.len() < ENTRIES;
            for entry in entries {
                after = entry.position;
                if let Some(change) = fill(&mut reader, entry).await? {
                    weight += weigh(&change.kind);
                    found.push(change);
                    if weight >= limit {
                        return Ok(found);
                    }
                }
            }
            if is_last {
                return Ok(found);
            }
        }
    }

    async fn head(&self) -> PortResult<LogPosition> {
        changes::head(self.database.readers()).await
    }

    async fn horizon(&self) -> PortResult<LogPosition> {
        Ok(changes::state(self.database.readers()).await?.1)
    }

    async fn history(&self) -> PortResult<Uuid> {
        Ok(changes::state(self.database.readers()).await?.0)
    }

    async fn clean(&self, age: Duration) -> PortResult<u64> {
        self.database
            .write(move |connection| {
                async move {
                    let now = now();
                    // Older than the calendar: there is nothing.
                    let Some(before) = before(now, age) else { return Ok(0) };
                    write::clean(connection, before, now).await
                }
                .boxed()
            })
            .await
    }

    async fn collection(&self, tenant: &Tenant, name: &Collection) -> PortResult<Option<CollectionInfo>> {
        Ok(collections::select(self.database.readers(), tenant, Some(name)).await?.pop())
    }

    async fn collections(&self, tenant: &Tenant) -> PortResult<Vec<CollectionInfo>> {
        collections::select(self.database.readers(), tenant, None).await
    }

    async fn put_collection(
        &self,
        tenant: &Tenant,
        name: &Collection,
        description: &str,
    ) -> PortResult<bool> {
        let (tenant, name, description) = (tenant.clone(), name.clone(), description.to_owned());
        self.database
            .write(move |connection| {
                async move {
                    let made = collections::ensure(connection, &tenant, &name, now()).await?;
                    collections::describe(connection, &tenant, &name, &description).await?;
                    Ok(made)
                }
                .boxed()
            })
            .await
    }

    async fn delete_collection(&self, tenant: &Tenant, name: &Collection) -> PortResult<Option<LogPosition>> {
        let mut is_begun = false;
        loop {
            let (tenant, name) = (tenant.clone(), name.clone());
            let removal = self.database.write(move |connection| {
                async move { write::delete_from_collection(connection, &tenant, &name, now()).await }.boxed()
            });
            match removal.await? {
                Removal::All(position) => return Ok(Some(position)),
                Removal::Some => is_begun = true,
                // Another call was faster with the rest.
                Removal::Nothing if is_begun => return self.head().await.map(Some),
                Removal::Nothing => return Ok(None),
            }
        }
    }
}

/// An entry with what it is about, as the record has it now. None when it no longer matters.
async fn fill(connection: &mut SqliteConnection, entry: Entry) -> PortResult<Option<Change>> {
    let Entry { position, document_id, kind } = entry;
    let kind = match kind {
        EntryKind::PutChunks(version) => {
            let chunks = chunks::put_at(connection, position).await?;
            if chunks.is_empty() {
                return Ok(None);
            }
            let document = documents::for_index(connection, document_id, Some(version)).await?;
            document.map(|document| ChangeKind::PutChunks { document: Box::new(document), chunks })
        }
        EntryKind::PutDocument => documents::for_index(connection, document_id, None)
            .await?
            .map(|document| ChangeKind::PutDocument { document: Box::new(document) }),
        EntryKind::DeleteChunks(chunk_ids) => Some(ChangeKind::DeleteChunks { document_id, chunk_ids }),
        EntryKind::DeleteDocument => Some(ChangeKind::DeleteDocument { document_id }),
    };
    Ok(kind.map(|kind| Change { position, kind }))
}

/// What a change costs of a page's limit.
fn weigh(kind: &ChangeKind) -> usize {
    match kind {
        ChangeKind::PutChunks { chunks, .. } => chunks.len(),
        ChangeKind::DeleteChunks { chunk_ids, .. } => chunk_ids.len(),
        ChangeKind::PutDocument { .. } | ChangeKind::DeleteDocument { .. } => 1,
    }
}

#[cfg(test)]
mod tests;
