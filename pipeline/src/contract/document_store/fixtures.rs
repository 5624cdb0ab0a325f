//! Documents to test with, made as ingestion makes them.

use std::collections::{HashMap, HashSet};

use crate::{
    domain::{
        Chunk, ChunkId, Collection, Document, DocumentId, Metadata, PassageRecord, Placement, Published,
        StagedDocument, StoredEmbedding, Tenant, now,
    },
    ports::{DocumentStore, Staged},
};

/// A document to be: pieces of text, each a chunk.
#[derive(Debug, Clone, PartialEq)]
pub struct Draft {
    pub tenant: Tenant,
    pub collection: Collection,
    pub external_id: String,
    pub title: String,
    pub metadata: Metadata,
    pub model: Option<&'static str>,
    pub pieces: Vec<String>,
}

impl Draft {
    /// In the default collection, embedded by the model `m1`.
    #[must_use]
    pub fn new(external_id: &str, pieces: &[&str]) -> Self {
        Self {
            tenant: Tenant::default(),
            collection: Collection::default(),
            external_id: external_id.into(),
            title: format!("Title of {external_id}"),
            metadata: Metadata::new(),
            model: Some("m1"),
            pieces: pieces.iter().map(|&piece| piece.into()).collect(),
        }
    }

    #[must_use]
    pub fn of(mut self, tenant: &str) -> Self {
        self.tenant = Tenant::new(tenant).unwrap();
        self
    }

    #[must_use]
    pub fn within(mut self, collection: &str) -> Self {
        self.collection = Collection::new(collection).unwrap();
        self
    }

    #[must_use]
    pub fn with(mut self, key: &str, value: impl Into<serde_json::Value>) -> Self {
        self.metadata.insert(key.into(), value.into());
        self
    }

    /// The text that the pieces are in.
    #[must_use]
    pub fn text(&self) -> String {
        self.pieces.join(" ")
    }

    pub async fn resolve(&self, store: &dyn DocumentStore) -> DocumentId {
        store.resolve(&self.tenant, &self.collection, &self.external_id).await.unwrap()
    }

    /// All its chunks, as if none were stored.
    #[must_use]
    pub fn chunks(&self, id: DocumentId) -> Vec<Chunk> {
        let mut occurrences = HashMap::<&str, u32>::new();
        let mut start = 0;
        let places = self.pieces.iter().enumerate().map(|(ordinal, piece)| {
            let occurrence = occurrences.entry(piece).or_default();
            let content_hash = format!("hash of {piece}");
            let end = start + piece.chars().count();
            let chunk = Chunk {
                id: ChunkId::derive(id, &content_hash, *occurrence),
                content_hash,
                heading_path: vec!["Part".into(), format!("About {piece}")],
                text: piece.clone(),
                place: Placement { ordinal: u32::try_from(ordinal).unwrap(), start, end },
                embedding: self.model.map(|model| embedding(model, piece)),
            };
            *occurrence += 1;
            start = end + 1;
            chunk
        });
        places.collect()
    }

    /// Itself as a new version: what the store has with the same model is kept, the rest is new.
    pub async fn build(&self, store: &dyn DocumentStore) -> StagedDocument {
        let id = self.resolve(store).await;
        let stored: HashSet<_> = store.chunk_ids(id).await.unwrap().into_iter().collect();
        let (kept, new): (Vec<_>, Vec<_>) = self
            .chunks(id)
            .into_iter()
            .partition(|chunk| stored.contains(&(chunk.id, self.model.map(Into::into))));
        StagedDocument {
            document: Document {
                id,
                tenant: self.tenant.clone(),
                collection: self.collection.clone(),
                external_id: self.external_id.clone(),
                title: self.title.clone(),
                uri: Some(format!("file:///{}", self.external_id)),
                media_type: "text/markdown".into(),
                metadata: self.metadata.clone(),
                fingerprint: format!("{:?}", self.pieces),
                version: 0,
                chunks: 0,
                bytes: self.text().len() as u64,
                created_at: now(),
                updated_at: now(),
            },
            text: self.text(),
            new_chunks: new,
            kept_chunks: kept.into_iter().map(|chunk| (chunk.id, chunk.place)).collect(),
            job: None,
            tokens: 0,
        }
    }

    pub async fn stage(&self, store: &dyn DocumentStore) -> Staged {
        let built = self.build(store).await;
        let staged = store.stage(vec![built]).await.unwrap();
        assert_eq!(staged.len(), 1);
        staged[0]
    }

    /// Stages and publishes it.
    pub async fn publish(&self, store: &dyn DocumentStore) -> DocumentId {
        let staged = self.stage(store).await;
        let published = publish(store, staged).await;
        assert!(!published.superseded);
        staged.document_id
    }
}

pub async fn publish(store: &dyn DocumentStore, staged: Staged) -> Published {
    let published = store.publish(&[staged]).await.unwrap();
    assert_eq!(published.len(), 1);
    published[0]
}

/// A unit vector that depends on the text and on the model.
#[must_use]
pub fn embedding(model: &str, text: &str) -> StoredEmbedding {
    let mut vector: Vec<f32> = (0..8_u8)
        .map(|i| {
            let sum: u32 =
                model.bytes().chain(text.bytes()).map(|byte| u32::from(byte) * (u32::from(i) + 3)).sum();
            (sum % 97) as f32 - 48.0
        })
        .collect();
    let length = vector.iter().map(|x| x * x).sum::<f32>().sqrt().max(f32::MIN_POSITIVE);
    vector.iter_mut().for_each(|x| *x /= length);
    StoredEmbedding { model: model.into(), vector }
}

/// The cosine of two unit vectors.
#[must_use]
pub fn cosine(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// The live passages of a document of the default tenant, in the order of the document.
pub async fn passages(store: &dyn DocumentStore, id: DocumentId) -> Vec<PassageRecord> {
    let Some(document) = store.get(&Tenant::default(), id).await.unwrap() else { return Vec::new() };
    let ids: Vec<_> = store.chunk_ids(id).await.unwrap().into_iter().map(|(id, _)| id).collect();
    store.passages(&document.tenant, &document.collection, &ids).await.unwrap()
}

/// Their texts.
pub async fn texts(store: &dyn DocumentStore, id: DocumentId) -> Vec<String> {
    passages(store, id).await.into_iter().map(|passage| passage.text).collect()
}
