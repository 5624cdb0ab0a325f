//! Documents for the suites. A chunk is about one *topic*: a word that occurs in no other topic's chunks, and a direction that is
//! far from every other topic's. So "which chunks are about this topic" has one right answer for any kind of index.

use std::sync::atomic::{AtomicU64, Ordering};

use rand::{Rng, SeedableRng, rngs::StdRng};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::{
    domain::{
        Change, ChangeKind, ChunkId, Collection, Document, DocumentId, IndexChunk, LogPosition, Metadata,
        MetadataFilter, StoredEmbedding, Tenant, now,
    },
    ports::SearchScope,
};

/// The model whose vectors the suites' chunks have.
pub const MODEL: &str = "contract-model";
/// Its dimension.
pub const DIMENSION: usize = 32;

/// The word of a topic.
#[must_use]
pub fn word(topic: u32) -> String {
    // Made of letters that no stemmer cuts anything from.
    topic.to_string().chars().fold("topik".to_owned(), |word, digit| {
        word + ["bo", "ko", "do", "fo", "go", "zo", "mo", "no", "po", "ro"][digit as usize - '0' as usize]
    })
}

/// The direction of a topic: a unit vector, the same whenever it is asked for. Two of them are about at right angles.
#[must_use]
pub fn direction(topic: u32) -> Vec<f32> {
    let mut rng = StdRng::seed_from_u64(u64::from(topic) + 1);
    unit((0..DIMENSION).map(|_| normal(&mut rng)).collect())
}

/// Scales to length 1.
#[must_use]
pub fn unit(vector: Vec<f32>) -> Vec<f32> {
    let length = vector.iter().map(|x| x * x).sum::<f32>().sqrt();
    vector.into_iter().map(|x| x / length).collect()
}

/// A draw from about the normal distribution.
pub fn normal(rng: &mut StdRng) -> f32 {
    (0..12).map(|_| rng.random::<f32>()).sum::<f32>() - 6.0
}

/// A document without chunks, in the default tenant and collection.
#[must_use]
pub fn document(title: &str, metadata: Value) -> Document {
    let at = now();
    let id = DocumentId::generate();
    Document {
        id,
        tenant: Tenant::default(),
        collection: Collection::default(),
        external_id: id.to_string(),
        title: title.to_owned(),
        uri: None,
        media_type: "text/plain".to_owned(),
        metadata: object(metadata),
        fingerprint: String::new(),
        version: 1,
        chunks: 0,
        bytes: 0,
        created_at: at,
        updated_at: at,
    }
}

/// A JSON object as metadata.
#[must_use]
pub fn object(value: Value) -> Metadata {
    match value {
        Value::Object(fields) => fields,
        other => panic!("{other} is not an object"),
    }
}

/// A chunk about a topic. `occurrence` tells chunks of one document about one topic apart.
#[must_use]
pub fn chunk(document: &Document, topic: u32, occurrence: u32) -> IndexChunk {
    IndexChunk {
        id: ChunkId::derive(document.id, &word(topic), occurrence),
        heading_path: vec!["Handbook".to_owned()],
        text: format!("A paragraph about {} and nothing else.", word(topic)),
        embedding: Some(StoredEmbedding { model: MODEL.to_owned(), vector: direction(topic) }),
    }
}

/// Gives changes their positions, one after the other.
#[derive(Debug, Default)]
pub struct Log(AtomicU64);

impl Log {
    /// A log whose next change comes after this position.
    #[must_use]
    pub fn after(position: LogPosition) -> Self {
        Self(AtomicU64::new(position))
    }

    /// The next change.
    pub fn next(&self, kind: ChangeKind) -> Change {
        // Positions may have gaps.
        Change { position: self.0.fetch_add(3, Ordering::Relaxed) + 3, kind }
    }

    /// Chunks that are put.
    pub fn put(&self, document: &Document, chunks: Vec<IndexChunk>) -> Change {
        self.next(ChangeKind::PutChunks { document: Box::new(document.clone()), chunks })
    }

    /// A chunk about each of these topics.
    pub fn put_topics(&self, document: &Document, topics: &[u32]) -> Change {
        self.put(document, topics.iter().map(|topic| chunk(document, *topic, 0)).collect())
    }

    /// A document whose title or metadata changed.
    pub fn put_document(&self, document: &Document) -> Change {
        self.next(ChangeKind::PutDocument { document: Box::new(document.clone()) })
    }

    /// Chunks that go.
    pub fn delete_chunks(&self, document: &Document, chunk_ids: Vec<ChunkId>) -> Change {
        self.next(ChangeKind::DeleteChunks { document_id: document.id, chunk_ids })
    }

    /// A document that goes.
    pub fn delete_document(&self, document: &Document) -> Change {
        self.next(ChangeKind::DeleteDocument { document_id: document.id })
    }
}

/// Everything of the default tenant and collection.
#[must_use]
pub fn everywhere(limit: usize) -> SearchScope {
    filtered(json!({}), limit)
}

/// What of the default tenant and collection has this metadata.
#[must_use]
pub fn filtered(filter: Value, limit: usize) -> SearchScope {
    SearchScope {
        tenant: Tenant::default(),
        collection: Collection::default(),
        filter: MetadataFilter(object(filter).into_iter().collect()),
        limit,
    }
}

/// A history's id.
#[must_use]
pub fn history() -> Uuid {
    Uuid::new_v4()
}
