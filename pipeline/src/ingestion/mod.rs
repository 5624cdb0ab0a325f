//! From a file to visible chunks: parse, chunk, embed what changed, stage, publish.

pub mod chunker;
pub mod manifest;
