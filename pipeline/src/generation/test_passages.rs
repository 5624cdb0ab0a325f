//! Passages for the tests of this folder.

use uuid::Uuid;

use crate::domain::{ChunkId, DocumentId, Metadata, Passage, PassageRecord, Ranks};

/// A passage with this text, which begins at this character of its document.
pub fn passage(text: &str, start: usize) -> Passage {
    Passage {
        record: PassageRecord {
            chunk_id: ChunkId(Uuid::nil()),
            document_id: DocumentId(Uuid::nil()),
            external_id: "doc".to_owned(),
            title: "A title".to_owned(),
            uri: None,
            metadata: Metadata::new(),
            heading_path: Vec::new(),
            text: text.to_owned(),
            ordinal: 0,
            start,
            end: start + text.chars().count(),
        },
        score: 0.5,
        ranks: Ranks::default(),
    }
}
