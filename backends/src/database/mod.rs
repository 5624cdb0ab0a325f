//! Databases that several stores share: connections, migrations, how values are stored, what errors mean.

pub(crate) mod codec;
mod error;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
mod migrations;
#[cfg(feature = "postgres")]
pub(crate) mod postgres;
#[cfg(feature = "sqlite")]
mod sqlite;

pub(crate) use self::error::SqlxResultExt;
#[cfg(feature = "postgres")]
pub use self::postgres::{PostgresDatabase, PostgresSettings};
#[cfg(feature = "sqlite")]
pub use self::sqlite::SqliteDatabase;
