//! The commands, one a file.

pub mod api;
pub mod ask;
pub mod check;
pub mod destroy;
pub mod eval;
pub mod health;
pub mod ingest;
pub mod jobs;
pub mod migrate;
pub mod models;
mod node;
mod process;
pub mod search;
pub mod serve;
pub mod worker;
