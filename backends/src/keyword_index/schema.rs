//! The fields of the keyword index, and how text becomes words.

use raglan_pipeline::domain::{ChunkId, Collection, Document, DocumentId, IndexChunk, Tenant};
use tantivy::{
    TantivyDocument, Term,
    schema::{
        BytesOptions, FAST, Field, IndexRecordOption, STORED, STRING, Schema, TextFieldIndexing, TextOptions,
        Value,
    },
    tokenizer::{
        AsciiFoldingFilter, Language, LowerCaser, RemoveLongFilter, SimpleTokenizer, Stemmer, StopWordFilter,
        TextAnalyzer,
    },
};
use uuid::Uuid;

use crate::replica::terms;

/// The name under which the analyser is registered. Part of the format: see [`FORMAT`].
pub(super) const ANALYSER: &str = "raglan_english";
/// Rises whenever the fields or the analyser change, so that an index of an older release is built anew.
pub(super) const FORMAT: u32 = 1;
/// Words of more bytes are left out: they are encoded data, not language.
const LONGEST_WORD: usize = 100;
pub(super) const CHUNK_HIGH: &str = "chunk_high";
pub(super) const CHUNK_LOW: &str = "chunk_low";

/// English text to words: split at what is neither letter nor digit, lower case, without accents, without stop words, stemmed
/// (Porter 2).
pub(super) fn analyser() -> TextAnalyzer {
    let words = TextAnalyzer::builder(SimpleTokenizer::default())
        .filter(RemoveLongFilter::limit(LONGEST_WORD))
        .filter(LowerCaser)
        .filter(AsciiFoldingFilter);
    let stop_words = StopWordFilter::new(Language::English).unwrap_or_else(|| StopWordFilter::remove([]));
    words.filter(stop_words).filter(Stemmer::new(Language::English)).build()
}

/// The fields. A chunk is one entry.
#[derive(Debug, Clone)]
pub(super) struct Fields {
    pub schema: Schema,
    pub title: Field,
    pub headings: Field,
    /// Title, headings and text: a chunk is about what stands above it too. With the title in a field of its own only, the best weight for
    /// it differs from corpus to corpus (nDCG@10 on SciFact, XQuAD and a multi-hop set: 0.694, 0.911, 0.671 apart, and 0.692, 0.926,
    /// 0.681 together).
    pub body: Field,
    /// Tenant and collection in one term.
    pub scope: Field,
    /// See [`terms`].
    pub metadata: Field,
    /// The chunk's text, verbatim, not searched.
    stored_text: Field,
    document: Field,
    /// The chunk's id, to delete by.
    chunk: Field,
    /// The chunk's id, to read quickly.
    chunk_high: Field,
    chunk_low: Field,
}

impl Fields {
    pub(super) fn new() -> Self {
        let mut schema = Schema::builder();
        let words = TextFieldIndexing::default()
            .set_tokenizer(ANALYSER)
            .set_index_option(IndexRecordOption::WithFreqs)
            .set_fieldnorms(true);
        let text = TextOptions::default().set_indexing_options(words);
        let id = BytesOptions::default().set_indexed();
        let title = schema.add_text_field("title", text.clone());
        // Stored, because a new title or new metadata means writing the entry again.
        let headings = schema.add_text_field("headings", text.clone().set_stored());
        let body = schema.add_text_field("body", text);
        let stored_text = schema.add_text_field("text", STORED);
        let scope = schema.add_text_field("scope", STRING);
        let metadata = schema.add_text_field("metadata", STRING);
        let document = schema.add_bytes_field("document", id.clone());
        let chunk = schema.add_bytes_field("chunk", id.set_stored());
        let chunk_high = schema.add_u64_field(CHUNK_HIGH, FAST);
        let chunk_low = schema.add_u64_field(CHUNK_LOW, FAST);
        Self {
            schema: schema.build(),
            title,
            headings,
            body,
            stored_text,
            scope,
            metadata,
            document,
            chunk,
            chunk_high,
            chunk_low,
        }
    }

    /// A chunk as an entry.
    pub(super) fn entry(&self, document: &Document, chunk: &IndexChunk) -> TantivyDocument {
        let mut entry = TantivyDocument::new();
        entry.add_text(self.title, &document.title);
        entry.add_text(self.body, &document.title);
        for heading in &chunk.heading_path {
            entry.add_text(self.headings, heading);
            entry.add_text(self.body, heading);
        }
        entry.add_text(self.body, &chunk.text);
        entry.add_text(self.stored_text, &chunk.text);
        entry.add_text(self.scope, scope_term(&document.tenant, &document.collection));
        for term in terms::of_metadata(&document.metadata) {
            entry.add_text(self.metadata, term);
        }
        entry.add_bytes(self.document, document.id.0.as_bytes());
        entry.add_bytes(self.chunk, chunk.id.0.as_bytes());
        let (high, low) = chunk.id.0.as_u64_pair();
        entry.add_u64(self.chunk_high, high);
        entry.add_u64(self.chunk_low, low);
        entry
    }

    /// The chunk of a stored entry; none where a field is missing.
    pub(super) fn stored_chunk(&self, entry: &TantivyDocument) -> Option<IndexChunk> {
        let id = Uuid::from_slice(entry.get_first(self.chunk)?.as_bytes()?).ok()?;
        let text = entry.get_first(self.stored_text)?.as_str()?.to_owned();
        let headings = entry.get_all(self.headings).map(|heading| heading.as_str().map(str::to_owned));
        Some(IndexChunk {
            id: ChunkId(id),
            heading_path: headings.collect::<Option<_>>()?,
            text,
            embedding: None,
        })
    }

    pub(super) fn chunk_term(&self, chunk: ChunkId) -> Term {
        Term::from_field_bytes(self.chunk, chunk.0.as_bytes())
    }

    pub(super) fn document_term(&self, document: DocumentId) -> Term {
        Term::from_field_bytes(self.document, document.0.as_bytes())
    }

    pub(super) fn scope_term(&self, tenant: &Tenant, collection: &Collection) -> Term {
        Term::from_field_text(self.scope, &scope_term(tenant, collection))
    }
}

/// A slash occurs in no name.
fn scope_term(tenant: &Tenant, collection: &Collection) -> String {
    format!("{tenant}/{collection}")
}
