//! Many changes as one: what must be deleted and written so that the index is as if they had been applied one by one.
//!
//! tantivy shows what was written after a commit, and a commit takes tens of milliseconds whatever is in it, so a batch must need only one
//! even where a later change builds on an earlier one.

use std::collections::{BTreeMap, HashMap, HashSet};

use raglan_pipeline::domain::{Change, ChangeKind, ChunkId, Document, DocumentId, IndexChunk};

use super::language::Tongue;

/// The sum of some changes, in the order in which it must be written.
#[derive(Debug, Default)]
pub(super) struct Batch<'a> {
    /// First: documents whose entries of before go.
    pub deleted_documents: HashSet<DocumentId>,
    /// And chunks whose entries of before go.
    pub deleted_chunks: HashSet<ChunkId>,
    /// Then: documents whose remaining entries of before are written again, with this title and metadata.
    pub changed_documents: HashMap<DocumentId, &'a Document>,
    /// At last: chunks written, in place of entries of before.
    pub puts: BTreeMap<ChunkId, Put<'a>>,
}

/// A chunk to be written.
#[derive(Debug, Clone, Copy)]
pub(super) struct Put<'a> {
    pub document: &'a Document,
    pub chunk: &'a IndexChunk,
    /// Told from all chunks that came with it.
    pub tongue: Tongue,
}

impl<'a> Batch<'a> {
    pub(super) fn of(changes: &'a [Change]) -> Self {
        let mut batch = Self::default();
        for change in changes {
            batch.add(&change.kind);
        }
        batch
    }

    fn add(&mut self, change: &'a ChangeKind) {
        match change {
            ChangeKind::PutChunks { document, chunks } => {
                let texts = chunks.iter().map(|chunk| chunk.text.as_str());
                let tongue = Tongue::of_document(&document.metadata, texts);
                let puts = chunks.iter().map(|chunk| (chunk.id, Put { document, chunk, tongue }));
                self.puts.extend(puts);
            }
            ChangeKind::PutDocument { document } => {
                for put in self.puts.values_mut().filter(|put| put.document.id == document.id) {
                    put.document = document;
                    put.tongue = Tongue::of_metadata(&document.metadata).unwrap_or(put.tongue);
                }
                self.changed_documents.insert(document.id, document);
            }
            ChangeKind::DeleteChunks { chunk_ids, .. } => {
                for chunk in chunk_ids {
                    self.puts.remove(chunk);
                    self.deleted_chunks.insert(*chunk);
                }
            }
            ChangeKind::DeleteDocument { document_id } => {
                self.puts.retain(|_, put| put.document.id != *document_id);
                self.changed_documents.remove(document_id);
                self.deleted_documents.insert(*document_id);
            }
        }
    }

    /// Whether the entry of before of a chunk stays when its document is written again.
    pub(super) fn keeps(&self, document: DocumentId, chunk: ChunkId) -> bool {
        !self.deleted_documents.contains(&document)
            && !self.deleted_chunks.contains(&chunk)
            && !self.puts.contains_key(&chunk)
    }
}
