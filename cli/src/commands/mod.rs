//! The commands, one a file.

pub mod ask;
pub mod check;
pub mod eval;
pub mod ingest;
pub mod jobs;
pub mod models;
pub mod search;
pub mod serve;
