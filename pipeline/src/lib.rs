//! What Raglan does: take jobs, find passages, write answers, take documents in.
//!
//! This crate holds the domain, the ports and the stages. It names no driver and no HTTP framework; how things are
//! stored, sent and computed is behind [`ports`], and which implementation is used is decided by whoever composes.

pub mod apart;
#[cfg(feature = "contract")]
pub mod contract;
pub mod decorators;
pub mod delivery;
pub mod domain;
pub mod follow;
pub mod generation;
pub mod ingestion;
pub mod job_events;
pub mod lifecycle;
pub mod message;
pub mod pipelines;
pub mod ports;
pub mod replication;
pub mod retrieval;
pub mod secret;
pub mod stage;
pub mod submit;
pub mod sweeper;
pub mod view;
