//! What PostgreSQL's errors mean to a caller of a port.

use std::time::Duration;

use raglan_pipeline::ports::{ErrorKind, PortError};

use crate::database::error::{Meaning, UNKNOWN, explained, from_sqlx};

/// What an error means, by its SQLSTATE: <https://www.postgresql.org/docs/current/errcodes-appendix.html>.
pub(in crate::database) fn meaning(code: &str) -> Meaning {
    let soon = Some(Duration::from_millis(100));
    let second = Some(Duration::from_secs(1));
    match code {
        "57014" => (ErrorKind::Timeout, "the database took too long for a statement", None),
        "40003" => UNKNOWN_COMMIT,
        "55P03" => (ErrorKind::Unavailable, "the database waited too long for a lock", soon),
        "57P01" | "57P02" | "57P03" => {
            (ErrorKind::Unavailable, "the database is starting, stopping or failing over", second)
        }
        "57P05" | "25P03" | "25P04" => {
            (ErrorKind::Unavailable, "the database closed a connection that was idle for too long", soon)
        }
        "25006" => (ErrorKind::Unavailable, "the database is read-only: a standby or a failover", second),
        "53100" => (
            ErrorKind::Overloaded,
            "the database's disk is full; nothing was stored",
            Some(Duration::from_secs(30)),
        ),
        "42501" => (ErrorKind::Unavailable, "the database refuses that to this user; check its rights", None),
        "3D000" => (ErrorKind::Unavailable, "there is no such database; make it, or check the URL", None),
        "3F000" | "42P01" | "42703" => {
            (ErrorKind::Unavailable, "the database lacks the tables of this program; migrate it", None)
        }
        "XX001" | "XX002" => (ErrorKind::Corrupt, "the database is damaged; restore it from a backup", None),
        _ => of_class(code),
    }
}

/// The first two characters of a code are its class.
fn of_class(code: &str) -> Meaning {
    let second = Some(Duration::from_secs(1));
    match code.get(..2) {
        Some("08") => (ErrorKind::Unavailable, "the connection to the database broke", None),
        // Serialization failures and deadlocks: of those that met, at least one went through.
        Some("40") => (
            ErrorKind::Unavailable,
            "two writes to the database got into each other's way",
            Some(Duration::from_millis(100)),
        ),
        Some("53") => (ErrorKind::Overloaded, "the database has no connection or memory left", second),
        Some("58") => (ErrorKind::Unavailable, "the disk failed under the database", second),
        Some("28") => (ErrorKind::Unavailable, "the database refuses this user or password", None),
        Some("23" | "42" | "21") if is_taken(code) => {
            (ErrorKind::Conflict, "the database already holds something else there", None)
        }
        Some("22" | "54") => {
            (ErrorKind::Invalid, "a value is too big for the database or cannot be stored", None)
        }
        _ => UNKNOWN,
    }
}

/// Integrity violations, and that something of this name is there already.
fn is_taken(code: &str) -> bool {
    code.starts_with("23") || matches!(code, "42P06" | "42P07" | "42710" | "21000")
}

/// A commit whose answer never came.
const UNKNOWN_COMMIT: Meaning =
    (ErrorKind::Timeout, "the database went away during a commit, which may or may not have happened", None);

/// What a commit's error means: where the connection is lost, nobody knows whether it happened.
pub(crate) fn from_commit(error: sqlx::Error) -> PortError {
    match &error {
        sqlx::Error::Io(_) | sqlx::Error::Protocol(_) => explained(UNKNOWN_COMMIT, error),
        sqlx::Error::Database(database) if database.code().is_some_and(|code| code.starts_with("57P")) => {
            explained(UNKNOWN_COMMIT, error)
        }
        _ => from_sqlx(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_mean_what_the_caller_must_do() {
        for (code, kind) in [
            ("57014", ErrorKind::Timeout),
            ("57P01", ErrorKind::Unavailable),
            ("57P03", ErrorKind::Unavailable),
            ("40001", ErrorKind::Unavailable),
            ("40P01", ErrorKind::Unavailable),
            ("08006", ErrorKind::Unavailable),
            ("25006", ErrorKind::Unavailable),
            ("53100", ErrorKind::Overloaded),
            ("53300", ErrorKind::Overloaded),
            ("23505", ErrorKind::Conflict),
            ("23503", ErrorKind::Conflict),
            ("42P06", ErrorKind::Conflict),
            ("22021", ErrorKind::Invalid),
            ("54000", ErrorKind::Invalid),
            ("XX001", ErrorKind::Corrupt),
            ("42601", ErrorKind::Internal),
            ("XX000", ErrorKind::Internal),
            ("", ErrorKind::Internal),
        ] {
            assert_eq!(meaning(code).0, kind, "code {code}");
        }
    }

    #[test]
    fn nobody_knows_whether_a_commit_happened_whose_answer_is_lost() {
        let lost = sqlx::Error::Io(std::io::ErrorKind::UnexpectedEof.into());
        assert_eq!(from_commit(lost).kind(), ErrorKind::Timeout);
        assert_eq!(from_commit(sqlx::Error::PoolClosed).kind(), ErrorKind::Unavailable);
    }
}
