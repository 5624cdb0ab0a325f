//! The record of documents in PostgreSQL.

mod changes;
mod chunks;
mod clean;
mod collections;
mod documents;
mod keys;
mod publish;
mod stage;
mod versions;

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use raglan_pipeline::{
    domain::{
        Change, ChunkId, Collection, CollectionInfo, Document, DocumentId, LogPosition, PassageRecord,
        Published, Receipt, StagedDocument, Tenant,
    },
    ports::{DocumentFilter, DocumentStore, PortResult, Staged},
};
use uuid::Uuid;

use super::rules::{Page, Removal};
use crate::database::{PostgresDatabase, codec::before};

/// Documents in PostgreSQL. All of a call happens in one transaction, but for the removal of a collection and for cleaning, which
/// go some hundred rows at a time.
///
/// Whoever changes a document holds its row, and adds to the change log last, just before it commits: the log's
/// positions become visible in their order, and others wait for that part alone. Each addition to the log is also a hint (see
/// [`PostgresDatabase::listen`]).
///
/// Vectors are kept in half precision. A chunk belongs to its document and is kept as long as the live version or a staged one
/// has it. `list` may be answered by the read replica. A call whose caller stops waiting may still take effect.
#[derive(Debug, Clone)]
pub struct PostgresDocumentStore {
    database: PostgresDatabase,
    /// How far in the log this process has looked for puts that no longer matter.
    compacted: Arc<AtomicU64>,
}

impl PostgresDocumentStore {
    /// Over a database.
    #[must_use]
    pub fn new(database: PostgresDatabase) -> Self {
        Self { database, compacted: Arc::default() }
    }
}

#[async_trait]
impl DocumentStore for PostgresDocumentStore {
    async fn resolve(
        &self,
        tenant: &Tenant,
        collection: &Collection,
        external_id: &str,
    ) -> PortResult<DocumentId> {
        let name = (tenant, collection, external_id);
        self.database.primary(async |connection| documents::resolve(connection, name).await).await
    }

    async fn get(&self, tenant: &Tenant, id: DocumentId) -> PortResult<Option<Document>> {
        self.database.primary(async |connection| versions::live(connection, tenant, id).await).await
    }

    async fn text(&self, tenant: &Tenant, id: DocumentId) -> PortResult<Option<String>> {
        self.database.primary(async |connection| versions::live_text(connection, tenant, id).await).await
    }

    async fn chunk_ids(&self, id: DocumentId) -> PortResult<Vec<(ChunkId, Option<String>)>> {
        self.database.primary(async |connection| chunks::live_ids(connection, id).await).await
    }

    async fn receipt(&self, id: DocumentId) -> PortResult<Option<Receipt>> {
        self.database.primary(async |connection| versions::receipt(connection, id).await).await
    }

    async fn list(&self, tenant: &Tenant, filter: &DocumentFilter) -> PortResult<Vec<Document>> {
        self.database
            .stale(async |connection| {
                let mut list = Page::new(filter);
                while let Some((after, most)) = list.wanted() {
                    list.add(versions::page(connection, tenant, filter, after, most).await?);
                }
                Ok(list.documents())
            })
            .await
    }

    async fn stage(&self, documents: Vec<StagedDocument>) -> PortResult<Vec<Staged>> {
        if documents.is_empty() {
            return Ok(Vec::new());
        }
        let chunks = documents.iter().map(|staged| staged.new_chunks.len() + staged.kept_chunks.len()).sum();
        self.database
            .transaction_of(chunks, async |connection| stage::stage(connection, &documents).await)
            .await
    }

    async fn publish(&self, staged: &[Staged]) -> PortResult<Vec<Published>> {
        if staged.is_empty() {
            return Ok(Vec::new());
        }
        self.database.transaction(async |connection| publish::publish(connection, staged).await).await
    }

    async fn delete(&self, tenant: &Tenant, id: DocumentId) -> PortResult<Option<LogPosition>> {
        self.database.transaction(async |connection| publish::delete(connection, tenant, id).await).await
    }

    async fn passages(
        &self,
        tenant: &Tenant,
        collection: &Collection,
        ids: &[ChunkId],
    ) -> PortResult<Vec<PassageRecord>> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        self.database
            .primary(async |connection| chunks::passages(connection, tenant, collection, ids).await)
            .await
    }

    async fn changes(&self, after: LogPosition, limit: usize) -> PortResult<Vec<Change>> {
        // One snapshot for the entries and what fills them.
        self.database
            .snapshot(async |connection| {
                let entries = changes::page(connection, after, limit).await?;
                changes::fill(connection, entries).await
            })
            .await
    }

    async fn head(&self) -> PortResult<LogPosition> {
        self.database.primary(async |connection| changes::head(connection).await).await
    }

    async fn horizon(&self) -> PortResult<LogPosition> {
        self.database.primary(async |connection| changes::horizon(connection).await).await
    }

    async fn history(&self) -> PortResult<Uuid> {
        self.database.primary(async |connection| changes::history(connection).await).await
    }

    async fn clean(&self, age: Duration) -> PortResult<u64> {
        let now = self.database.primary(async |connection| clean::now(connection).await).await?;
        // Older than the calendar: there is nothing.
        let Some(before) = before(now, age) else { return Ok(0) };
        let mut gone = 0;
        loop {
            let batch = self
                .database
                .transaction(async |connection| clean::drop_stale(connection, before).await)
                .await?;
            gone += batch.done;
            if batch.is_last {
                break;
            }
        }
        while !self
            .database
            .transaction(async |connection| clean::delete_empty(connection, before).await)
            .await?
            .is_last
        {}
        let after = self.compacted.load(Ordering::Relaxed);
        let next =
            self.database.primary(async |connection| clean::compact_puts(connection, after).await).await?;
        self.compacted.store(next, Ordering::Relaxed);
        while !self
            .database
            .transaction(async |connection| clean::compact_deletes(connection, before).await)
            .await?
            .is_last
        {}
        Ok(gone)
    }

    async fn collection(&self, tenant: &Tenant, name: &Collection) -> PortResult<Option<CollectionInfo>> {
        let found = self
            .database
            .primary(async |connection| collections::select(connection, tenant, Some(name)).await)
            .await?;
        Ok(found.into_iter().next())
    }

    async fn collections(&self, tenant: &Tenant) -> PortResult<Vec<CollectionInfo>> {
        self.database.primary(async |connection| collections::select(connection, tenant, None).await).await
    }

    async fn put_collection(
        &self,
        tenant: &Tenant,
        name: &Collection,
        description: &str,
    ) -> PortResult<bool> {
        self.database
            .primary(async |connection| collections::put(connection, tenant, name, description).await)
            .await
    }

    async fn delete_collection(&self, tenant: &Tenant, name: &Collection) -> PortResult<Option<LogPosition>> {
        let mut is_begun = false;
        loop {
            let removal = self
                .database
                .transaction(async |connection| {
                    publish::delete_from_collection(connection, tenant, name).await
                })
                .await?;
            match removal {
                Removal::All(position) => return Ok(Some(position)),
                Removal::Some => is_begun = true,
                // Another call was faster with the rest.
                Removal::Nothing if is_begun => return self.head().await.map(Some),
                Removal::Nothing => return Ok(None),
            }
        }
    }
}

/// Splits a batch into parts in which no document stands twice, each item with its place in the batch: what is about one
/// document happens in the order given.
fn waves<T>(batch: &[T], document: impl Fn(&T) -> DocumentId) -> Vec<Vec<(usize, &T)>> {
    let mut seen = HashMap::<DocumentId, usize>::new();
    let mut waves = Vec::<Vec<_>>::new();
    for (at, item) in batch.iter().enumerate() {
        let turn = seen.entry(document(item)).or_default();
        if *turn == waves.len() {
            waves.push(Vec::new());
        }
        waves[*turn].push((at, item));
        *turn += 1;
    }
    waves
}

#[cfg(test)]
mod tests;
