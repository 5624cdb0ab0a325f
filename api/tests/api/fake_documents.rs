//! A store of documents and an index of words, in memory.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use raglan_pipeline::{domain::*, ports::*};

/// Documents of one chunk each.
#[derive(Default)]
pub struct Documents {
    pub documents: Mutex<BTreeMap<DocumentId, (Document, String)>>,
    collections: Mutex<BTreeMap<(Tenant, Collection), String>>,
}

impl Documents {
    /// Adds a document whose chunk has its id.
    pub fn add(&self, tenant: &Tenant, external_id: &str, text: &str) -> DocumentId {
        let id = DocumentId::generate();
        let document = Document {
            id,
            tenant: tenant.clone(),
            collection: Collection::default(),
            external_id: external_id.to_owned(),
            title: "A title".to_owned(),
            uri: None,
            media_type: "text/plain".to_owned(),
            metadata: serde_json::json!({"lang": "en"}).as_object().unwrap().clone(),
            fingerprint: String::new(),
            version: 1,
            chunks: 1,
            bytes: text.len() as u64,
            created_at: now(),
            updated_at: now(),
        };
        self.collections.lock().unwrap().entry((tenant.clone(), Collection::default())).or_default();
        self.documents.lock().unwrap().insert(id, (document, text.to_owned()));
        id
    }

    fn info(&self, tenant: &Tenant, name: &Collection) -> Option<CollectionInfo> {
        let description = self.collections.lock().unwrap().get(&(tenant.clone(), name.clone()))?.clone();
        let documents = self.documents.lock().unwrap();
        let count =
            documents.values().filter(|(d, _)| d.tenant == *tenant && d.collection == *name).count() as u64;
        Some(CollectionInfo {
            name: name.clone(),
            description,
            documents: count,
            chunks: count,
            created_at: now(),
        })
    }
}

fn not_used<T>() -> PortResult<T> {
    Err(PortError::new(ErrorKind::Internal, "not used by the API"))
}

#[async_trait]
impl DocumentStore for Documents {
    async fn resolve(&self, _: &Tenant, _: &Collection, _: &str) -> PortResult<DocumentId> {
        not_used()
    }

    async fn get(&self, tenant: &Tenant, id: DocumentId) -> PortResult<Option<Document>> {
        let documents = self.documents.lock().unwrap();
        Ok(documents.get(&id).filter(|(d, _)| d.tenant == *tenant).map(|(d, _)| d.clone()))
    }

    async fn text(&self, tenant: &Tenant, id: DocumentId) -> PortResult<Option<String>> {
        let documents = self.documents.lock().unwrap();
        Ok(documents.get(&id).filter(|(d, _)| d.tenant == *tenant).map(|(_, text)| text.clone()))
    }

    async fn chunk_ids(&self, _: DocumentId) -> PortResult<Vec<(ChunkId, Option<String>)>> {
        not_used()
    }

    async fn receipt(&self, _: DocumentId) -> PortResult<Option<Receipt>> {
        Ok(None)
    }

    async fn list(&self, tenant: &Tenant, filter: &DocumentFilter) -> PortResult<Vec<Document>> {
        let documents = self.documents.lock().unwrap();
        Ok(documents
            .values()
            .map(|(document, _)| document)
            .filter(|d| d.tenant == *tenant)
            .filter(|d| filter.collection.as_ref().is_none_or(|wanted| d.collection == *wanted))
            .filter(|d| filter.external_id_prefix.as_ref().is_none_or(|p| d.external_id.starts_with(p)))
            .filter(|d| filter.metadata.matches(&d.metadata))
            .filter(|d| filter.after.is_none_or(|after| d.id > after))
            .take(filter.limit)
            .cloned()
            .collect())
    }

    async fn stage(&self, _: Vec<StagedDocument>) -> PortResult<Vec<Staged>> {
        not_used()
    }

    async fn publish(&self, _: &[Staged]) -> PortResult<Vec<Published>> {
        not_used()
    }

    async fn delete(&self, tenant: &Tenant, id: DocumentId) -> PortResult<Option<LogPosition>> {
        let mut documents = self.documents.lock().unwrap();
        if documents.get(&id).is_none_or(|(document, _)| document.tenant != *tenant) {
            return Ok(None);
        }
        documents.remove(&id);
        Ok(Some(7))
    }

    async fn passages(
        &self,
        tenant: &Tenant,
        collection: &Collection,
        ids: &[ChunkId],
    ) -> PortResult<Vec<PassageRecord>> {
        let documents = self.documents.lock().unwrap();
        Ok(ids
            .iter()
            .filter_map(|id| documents.get(&DocumentId(id.0)))
            .filter(|(d, _)| d.tenant == *tenant && d.collection == *collection)
            .map(|(document, text)| PassageRecord {
                chunk_id: ChunkId(document.id.0),
                document_id: document.id,
                external_id: document.external_id.clone(),
                title: document.title.clone(),
                uri: None,
                metadata: document.metadata.clone(),
                heading_path: Vec::new(),
                text: text.clone(),
                ordinal: 0,
                start: 0,
                end: text.chars().count(),
            })
            .collect())
    }

    async fn changes(&self, _: LogPosition, _: usize) -> PortResult<Vec<Change>> {
        not_used()
    }

    async fn head(&self) -> PortResult<LogPosition> {
        Ok(7)
    }

    async fn horizon(&self) -> PortResult<LogPosition> {
        Ok(0)
    }

    async fn history(&self) -> PortResult<uuid::Uuid> {
        not_used()
    }

    async fn clean(&self, _: Duration) -> PortResult<u64> {
        Ok(0)
    }

    async fn collection(&self, tenant: &Tenant, name: &Collection) -> PortResult<Option<CollectionInfo>> {
        Ok(self.info(tenant, name))
    }

    async fn collections(&self, tenant: &Tenant) -> PortResult<Vec<CollectionInfo>> {
        let names: Vec<Collection> = self
            .collections
            .lock()
            .unwrap()
            .keys()
            .filter(|(t, _)| t == tenant)
            .map(|(_, c)| c.clone())
            .collect();
        Ok(names.iter().filter_map(|name| self.info(tenant, name)).collect())
    }

    async fn put_collection(
        &self,
        tenant: &Tenant,
        name: &Collection,
        description: &str,
    ) -> PortResult<bool> {
        let mut collections = self.collections.lock().unwrap();
        Ok(collections.insert((tenant.clone(), name.clone()), description.to_owned()).is_none())
    }

    async fn delete_collection(&self, tenant: &Tenant, name: &Collection) -> PortResult<Option<LogPosition>> {
        let removed = self.collections.lock().unwrap().remove(&(tenant.clone(), name.clone()));
        self.documents.lock().unwrap().retain(|_, (d, _)| d.tenant != *tenant || d.collection != *name);
        Ok(removed.map(|_| 7))
    }
}

/// Finds every document that has the first word of the question.
pub struct Words(pub Arc<Documents>);

#[async_trait]
impl Replica for Words {
    fn name(&self) -> &'static str {
        "words"
    }

    fn position(&self) -> LogPosition {
        7
    }

    fn history(&self) -> Option<uuid::Uuid> {
        None
    }

    async fn apply(&self, _: Vec<Change>) -> PortResult<()> {
        not_used()
    }

    async fn save(&self) -> PortResult<()> {
        Ok(())
    }

    async fn reset(&self, _: uuid::Uuid) -> PortResult<()> {
        not_used()
    }

    async fn count(&self) -> PortResult<u64> {
        Ok(self.0.documents.lock().unwrap().len() as u64)
    }
}

#[async_trait]
impl KeywordIndex for Words {
    async fn search(&self, text: &str, _: &SearchScope) -> PortResult<Vec<Hit>> {
        let word = text.split_whitespace().next().unwrap_or_default();
        let documents = self.0.documents.lock().unwrap();
        Ok(documents
            .values()
            .filter(|(_, text)| text.contains(word))
            .map(|(document, _)| Hit { chunk_id: ChunkId(document.id.0), score: 1.0 })
            .collect())
    }
}
