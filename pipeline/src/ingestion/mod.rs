//! From a file to visible chunks: parse, chunk, embed what changed, stage, publish.

mod budget;
pub mod chunker;
pub mod clean;
mod embed;
pub mod manifest;
mod prepare;
pub mod progress;
mod stage;
mod tally;
pub mod word_tokenizer;
mod write;

pub use budget::IngestionLimits;
pub use stage::{IngestionParts, IngestionStage};
