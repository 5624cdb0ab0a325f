//! What SQLite's and sqlx's errors mean to a caller of a port.

use std::time::Duration;

use raglan_pipeline::ports::{ErrorKind, PortError, PortResult};
use sqlx::migrate::MigrateError;

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

pub(super) fn from_sqlx(error: sqlx::Error) -> PortError {
    let (kind, message, retry_after) = match &error {
        sqlx::Error::Database(database) => {
            let code = database.code().and_then(|code| code.parse().ok()).unwrap_or(0);
            from_result_code(code)
        }
        sqlx::Error::PoolTimedOut => {
            (ErrorKind::Overloaded, "the database has no reader free", Some(Duration::from_secs(1)))
        }
        sqlx::Error::PoolClosed | sqlx::Error::WorkerCrashed => {
            (ErrorKind::Unavailable, "the database is closed", None)
        }
        sqlx::Error::Io(_) => (ErrorKind::Unavailable, "the database cannot be reached", None),
        sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_) => {
            (ErrorKind::Corrupt, "the database holds a value that cannot be read", None)
        }
        sqlx::Error::Configuration(_) => (ErrorKind::Invalid, "the database cannot be opened so", None),
        _ => (ErrorKind::Internal, "the database failed", None),
    };
    let port = PortError::new(kind, message).with_source(error);
    match retry_after {
        Some(after) => port.with_retry_after(after),
        None => port,
    }
}

/// SQLite's primary result codes, the low byte of the extended ones: <https://www.sqlite.org/rescode.html>.
fn from_result_code(extended: i32) -> (ErrorKind, &'static str, Option<Duration>) {
    let second = Some(Duration::from_secs(1));
    match extended & 0xff {
        5 | 6 => (ErrorKind::Unavailable, "the database is locked by another process", second),
        7 => (ErrorKind::Overloaded, "the database has no memory left", second),
        13 => (ErrorKind::Overloaded, "the disk is full; nothing was stored", Some(Duration::from_secs(30))),
        3 | 8 | 14 | 23 => {
            (ErrorKind::Unavailable, "the database file cannot be opened for writing; check its rights", None)
        }
        10 => (ErrorKind::Unavailable, "the disk failed under the database", second),
        11 | 26 => (
            ErrorKind::Corrupt,
            "the database file is damaged or is not a database; restore it from a backup",
            None,
        ),
        18 => (ErrorKind::Invalid, "a value is too big for the database", None),
        19 => (ErrorKind::Conflict, "the database already holds something else there", None),
        _ => (ErrorKind::Internal, "the database failed", None),
    }
}

pub(super) fn from_migration(error: MigrateError) -> PortError {
    match error {
        MigrateError::Execute(source) | MigrateError::ExecuteMigration(source, _) => from_sqlx(source),
        MigrateError::VersionMissing(_) | MigrateError::VersionTooNew(..) => {
            PortError::new(ErrorKind::Invalid, "the database was written by a newer version of Raglan")
                .with_source(error)
        }
        other => PortError::new(ErrorKind::Invalid, "the database's tables are not those of this program")
            .with_source(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extended_codes_are_read_by_their_low_byte() {
        for (code, kind) in [
            (5, ErrorKind::Unavailable),
            (517, ErrorKind::Unavailable),
            (6, ErrorKind::Unavailable),
            (13, ErrorKind::Overloaded),
            (11, ErrorKind::Corrupt),
            (26, ErrorKind::Corrupt),
            (2067, ErrorKind::Conflict),
            (787, ErrorKind::Conflict),
            (1, ErrorKind::Internal),
        ] {
            assert_eq!(from_result_code(code).0, kind, "code {code}");
        }
    }

    #[test]
    fn a_busy_pool_is_overload_and_a_closed_one_is_unavailable() {
        assert_eq!(from_sqlx(sqlx::Error::PoolTimedOut).kind(), ErrorKind::Overloaded);
        assert_eq!(from_sqlx(sqlx::Error::PoolClosed).kind(), ErrorKind::Unavailable);
    }
}
