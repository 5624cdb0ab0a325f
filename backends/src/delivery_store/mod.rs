//! The record of webhook deliveries: see [`raglan_pipeline::ports::DeliveryStore`].

pub(crate) mod sqlite;

pub use sqlite::SqliteDeliveryStore;
