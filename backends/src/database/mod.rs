//! Databases that several stores share: connections, migrations, how values are stored, what errors mean.

mod sqlite;

pub use sqlite::SqliteDatabase;
pub(crate) use sqlite::{SqlxResultExt, codec};
