//! Keyword indexes: best matches by words (BM25). See [`raglan_pipeline::ports::KeywordIndex`].

#[cfg(feature = "tantivy")]
mod analysis;
#[cfg(feature = "tantivy")]
mod batch;
#[cfg(feature = "tantivy")]
mod checked_directory;
#[cfg(feature = "tantivy")]
mod language;
#[cfg(feature = "tantivy")]
mod schema;
#[cfg(feature = "tantivy")]
mod search;
#[cfg(feature = "tantivy")]
mod segmenter;
#[cfg(feature = "tantivy")]
mod storage;
#[cfg(feature = "tantivy")]
pub mod tantivy;
