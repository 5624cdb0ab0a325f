//! From a file to visible chunks: parse, chunk, embed what changed, stage, publish.

pub mod chunker;
pub mod clean;
pub mod word_tokenizer;
