//! The routes, one file each.

pub(crate) mod collections;
pub(crate) mod deliveries;
pub(crate) mod documents;
pub(crate) mod events;
pub(crate) mod ingest;
pub(crate) mod jobs;
pub(crate) mod multiplex;
pub(crate) mod operations;
pub(crate) mod page;
pub(crate) mod queries;
pub(crate) mod search;
pub(crate) mod socket;
pub(crate) mod tickets;
pub(crate) mod uploads;
