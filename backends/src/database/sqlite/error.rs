//! What SQLite's errors mean to a caller of a port.

use std::time::Duration;

use raglan_pipeline::ports::ErrorKind;
use sqlx::error::DatabaseError;

use crate::database::error::{Meaning, UNKNOWN};

/// What an error means, by its result code.
pub(in crate::database) fn meaning(error: &dyn DatabaseError) -> Meaning {
    from_result_code(error.code().and_then(|code| code.parse().ok()).unwrap_or(0))
}

/// SQLite's primary result codes, the low byte of the extended ones: <https://www.sqlite.org/rescode.html>.
fn from_result_code(extended: i32) -> Meaning {
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
        _ => UNKNOWN,
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
}
