//! The fields of the keyword index.

use raglan_pipeline::domain::{ChunkId, Collection, Document, DocumentId, IndexChunk, Tenant};
use tantivy::{
    TantivyDocument, Term,
    schema::{
        BytesOptions, FAST, Field, IndexRecordOption, STORED, STRING, Schema, TextFieldIndexing, TextOptions,
        Value,
    },
    tokenizer::{TextAnalyzer, WhitespaceTokenizer},
};
use uuid::Uuid;

use super::{analysis::Analyser, language::Tongue};
use crate::replica::terms;

/// The name of what takes words apart again. Part of the format: see [`FORMAT`].
pub(super) const SPLITTER: &str = "raglan_words";
/// Rises whenever the fields or the analysis change, so that an index of an older release is built anew.
pub(super) const FORMAT: u32 = 2;
pub(super) const CHUNK_HIGH: &str = "chunk_high";
pub(super) const CHUNK_LOW: &str = "chunk_low";

/// How an entry's words depend on its language is nothing that tantivy knows of: they are made before, and come with spaces between them.
pub(super) fn splitter() -> TextAnalyzer {
    TextAnalyzer::from(WhitespaceTokenizer::default())
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
    /// Tenant and collection in one term, and tenant, collection and language in another.
    pub scope: Field,
    /// See [`terms`].
    pub metadata: Field,
    /// The code of the language, not searched.
    stored_language: Field,
    /// The chunk's headings, verbatim, not searched. Stored, because a new title or new metadata means writing the entry again.
    stored_headings: Field,
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
            .set_tokenizer(SPLITTER)
            .set_index_option(IndexRecordOption::WithFreqs)
            .set_fieldnorms(true);
        let text = TextOptions::default().set_indexing_options(words);
        let id = BytesOptions::default().set_indexed();
        let title = schema.add_text_field("title", text.clone());
        let headings = schema.add_text_field("headings", text.clone());
        let body = schema.add_text_field("body", text);
        let stored_language = schema.add_text_field("language", STORED);
        let stored_headings = schema.add_text_field("heading_path", STORED);
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
            stored_language,
            stored_headings,
            stored_text,
            scope,
            metadata,
            document,
            chunk,
            chunk_high,
            chunk_low,
        }
    }

    /// A chunk of a document of this language as an entry.
    pub(super) fn entry(
        &self,
        analyser: &Analyser,
        tongue: Tongue,
        document: &Document,
        chunk: &IndexChunk,
    ) -> TantivyDocument {
        let words = |text: &str| analyser.words(tongue, text);
        let mut entry = TantivyDocument::new();
        let title = words(&document.title);
        entry.add_text(self.title, &title);
        entry.add_text(self.body, &title);
        for heading in &chunk.heading_path {
            let words = words(heading);
            entry.add_text(self.headings, &words);
            entry.add_text(self.body, &words);
            entry.add_text(self.stored_headings, heading);
        }
        entry.add_text(self.body, words(&chunk.text));
        entry.add_text(self.stored_text, &chunk.text);
        entry.add_text(self.stored_language, tongue.code());
        entry.add_text(self.scope, scope_term(&document.tenant, &document.collection));
        entry.add_text(self.scope, language_term(&document.tenant, &document.collection, tongue));
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

    /// The chunk of a stored entry and its language; none where a field is missing.
    pub(super) fn stored_chunk(&self, entry: &TantivyDocument) -> Option<(IndexChunk, Tongue)> {
        let id = Uuid::from_slice(entry.get_first(self.chunk)?.as_bytes()?).ok()?;
        let text = entry.get_first(self.stored_text)?.as_str()?.to_owned();
        let headings = entry.get_all(self.stored_headings).map(|heading| heading.as_str().map(str::to_owned));
        let heading_path = headings.collect::<Option<_>>()?;
        let tongue = Tongue::of_code(entry.get_first(self.stored_language)?.as_str()?)?;
        Some((IndexChunk { id: ChunkId(id), heading_path, text, embedding: None }, tongue))
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

    pub(super) fn language_term(&self, tenant: &Tenant, collection: &Collection, tongue: Tongue) -> Term {
        Term::from_field_text(self.scope, &language_term(tenant, collection, tongue))
    }
}

/// A slash occurs in no name.
fn scope_term(tenant: &Tenant, collection: &Collection) -> String {
    format!("{tenant}/{collection}")
}

fn language_term(tenant: &Tenant, collection: &Collection, tongue: Tongue) -> String {
    format!("{tenant}/{collection}/{}", tongue.code())
}
