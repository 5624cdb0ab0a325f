//! The record of webhook deliveries: see [`raglan_pipeline::ports::DeliveryStore`].

#[cfg(feature = "postgres")]
pub(crate) mod postgres;
mod row;
mod rules;
#[cfg(feature = "sqlite")]
pub(crate) mod sqlite;

#[cfg(feature = "postgres")]
pub use postgres::PostgresDeliveryStore;
#[cfg(feature = "sqlite")]
pub use sqlite::SqliteDeliveryStore;
