//! What processes know of each other: see [`raglan_pipeline::ports::Coordination`].

mod postgres;

pub use postgres::PostgresCoordination;
