//! What the errors of sqlx mean to a caller of a port. What those of an engine mean, the engine's module knows.

use std::time::Duration;

use raglan_pipeline::ports::{ErrorKind, PortError, PortResult};
use sqlx::{error::DatabaseError, migrate::MigrateError};

/// Turns a result of sqlx into that of a port.
pub(crate) trait SqlxResultExt<T> {
    /// The same result with the error's kind found out.
    fn port(self) -> PortResult<T>;
}

impl<T> SqlxResultExt<T> for Result<T, sqlx::Error> {
    fn port(self) -> PortResult<T> {
        self.map_err(from_sqlx)
    }
}

/// What an error means: its kind, in words, and when to try again where that can be said.
pub(super) type Meaning = (ErrorKind, &'static str, Option<Duration>);

/// An engine's error that nobody thought of.
pub(super) const UNKNOWN: Meaning = (ErrorKind::Internal, "the database failed", None);

pub(super) fn from_sqlx(error: sqlx::Error) -> PortError {
    let meaning = match &error {
        sqlx::Error::Database(database) => of_engine(&**database),
        sqlx::Error::PoolTimedOut => {
            (ErrorKind::Overloaded, "the database has no connection free", Some(Duration::from_secs(1)))
        }
        sqlx::Error::PoolClosed | sqlx::Error::WorkerCrashed => {
            (ErrorKind::Unavailable, "the database is closed", None)
        }
        sqlx::Error::Io(_) => (ErrorKind::Unavailable, "the database cannot be reached", None),
        sqlx::Error::Tls(_) => (ErrorKind::Unavailable, "no encrypted connection to the database", None),
        // A connection that was cut where an answer began or ended.
        sqlx::Error::Protocol(_) | sqlx::Error::BeginFailed => {
            (ErrorKind::Unavailable, "the connection to the database broke", None)
        }
        sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_) => {
            (ErrorKind::Corrupt, "the database holds a value that cannot be read", None)
        }
        sqlx::Error::Encode(_) => (ErrorKind::Invalid, "a value is too big for the database", None),
        sqlx::Error::Configuration(_) => (ErrorKind::Invalid, "the database cannot be opened so", None),
        _ => UNKNOWN,
    };
    explained(meaning, error)
}

/// An error of a port that means this and was caused by that.
pub(super) fn explained((kind, message, retry_after): Meaning, source: sqlx::Error) -> PortError {
    let port = PortError::new(kind, message).with_source(source);
    match retry_after {
        Some(after) => port.with_retry_after(after),
        None => port,
    }
}

/// Each engine's errors are of a type of their own.
fn of_engine(error: &dyn DatabaseError) -> Meaning {
    #[cfg(feature = "sqlite")]
    if error.try_downcast_ref::<sqlx::sqlite::SqliteError>().is_some() {
        return super::sqlite::meaning(error);
    }
    #[cfg(feature = "postgres")]
    if let Some(error) = error.try_downcast_ref::<sqlx::postgres::PgDatabaseError>() {
        return super::postgres::meaning(error.code());
    }
    UNKNOWN
}

pub(super) fn from_migration(error: MigrateError) -> PortError {
    match error {
        MigrateError::Execute(source) | MigrateError::ExecuteMigration(source, _) => from_sqlx(source),
        MigrateError::VersionMissing(_) | MigrateError::VersionTooNew(..) => newer().with_source(error),
        other => PortError::new(ErrorKind::Invalid, "the database's tables are not those of this program")
            .with_source(other),
    }
}

/// Its tables are of a Raglan that this one does not know.
pub(super) fn newer() -> PortError {
    PortError::new(ErrorKind::Invalid, "the database was written by a newer version of Raglan")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_busy_pool_is_overload_and_a_closed_one_is_unavailable() {
        assert_eq!(from_sqlx(sqlx::Error::PoolTimedOut).kind(), ErrorKind::Overloaded);
        assert_eq!(from_sqlx(sqlx::Error::PoolClosed).kind(), ErrorKind::Unavailable);
    }
}
