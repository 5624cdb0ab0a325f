//! From a file to visible chunks: parse, chunk, embed what changed, stage, publish.

pub mod chunker;
pub mod clean;
pub mod manifest;
mod prepare;
mod stage;
mod tally;
pub mod word_tokenizer;
mod write;

pub use stage::{IngestionParts, IngestionStage};
