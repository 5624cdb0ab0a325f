//! The executable contract of each port: ordinary async functions that panic where an implementation breaks its
//! promise. Every backend's tests call `run_all` of its port with a factory for fresh instances.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]
pub mod blob_store;
pub mod broker;
pub mod cache;
pub mod coordination;
pub mod delivery_store;
pub mod document_store;
pub mod event_log;
pub mod generator;
pub mod index;
pub mod job_store;
pub mod models;
pub mod parser;
