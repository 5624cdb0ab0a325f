//! What Redis' and its driver's errors mean to a caller of a port.

use std::time::Duration;

use raglan_pipeline::ports::{ErrorKind, PortError};
use redis::{ErrorKind as Kind, RedisError, ServerErrorKind as Server};

/// The error of a connection that could not be had: nothing was sent.
pub(crate) fn not_connected(error: RedisError) -> PortError {
    if error.is_io_error() {
        return PortError::new(ErrorKind::Unavailable, "redis cannot be reached").with_source(error);
    }
    answered(error)
}

/// The error of a call whose connection went before the answer came.
pub(crate) fn lost(error: RedisError) -> PortError {
    PortError::new(ErrorKind::Timeout, "the connection to redis was lost before its answer came")
        .with_source(error)
}

/// The error that Redis or its driver gave for an answer.
pub(crate) fn answered(error: RedisError) -> PortError {
    if error.is_io_error() {
        return lost(error);
    }
    let (kind, message) = meaning(&error);
    let port = PortError::new(kind, message).with_source(error);
    if kind == ErrorKind::Overloaded { port.with_retry_after(Duration::from_secs(1)) } else { port }
}

fn meaning(error: &RedisError) -> (ErrorKind, &'static str) {
    // A command that fails within a script has its code in the text, on some versions behind others.
    if says(error, "OOM") {
        return (ErrorKind::Overloaded, "redis has no memory left; raise maxmemory or let it evict");
    }
    if refuses_writes(error) {
        return (ErrorKind::Unavailable, "redis is not the master");
    }
    match error.kind() {
        Kind::Server(Server::BusyLoading) => (ErrorKind::Unavailable, "redis is loading its data"),
        Kind::Server(
            Server::MasterDown | Server::ClusterDown | Server::TryAgain | Server::Moved | Server::Ask,
        )
        | Kind::ClusterConnectionNotFound => (ErrorKind::Unavailable, "the redis cluster is not complete"),
        Kind::MasterNameNotFoundBySentinel | Kind::NoValidReplicasFoundBySentinel => {
            (ErrorKind::Unavailable, "the sentinels know no working master of this name")
        }
        Kind::AuthenticationFailed | Kind::Server(Server::NoPerm) => {
            (ErrorKind::Invalid, "redis does not let this user in; check user, password and rights")
        }
        Kind::InvalidClientConfig | Kind::EmptySentinelList | Kind::Client => {
            (ErrorKind::Invalid, "redis cannot be used so; check its address")
        }
        Kind::RESP3NotSupported => (ErrorKind::Invalid, "redis is too old; version 6 or newer is needed"),
        Kind::Parse | Kind::UnexpectedReturnType => {
            (ErrorKind::Corrupt, "redis holds something else under this key")
        }
        _ => match error.code() {
            Some("NOAUTH" | "WRONGPASS") => {
                (ErrorKind::Invalid, "redis does not let this user in; check user, password and rights")
            }
            Some("WRONGTYPE") => (ErrorKind::Corrupt, "redis holds something else under this key"),
            Some("BUSY") => (ErrorKind::Unavailable, "redis is busy with a script"),
            Some("MISCONF") => (ErrorKind::Unavailable, "redis cannot save its data and refuses writes"),
            Some("NOREPLICAS") => (ErrorKind::Unavailable, "redis has too few replicas and refuses writes"),
            _ => (ErrorKind::Internal, "redis refused a command"),
        },
    }
}

/// Whether the server has become a replica: the master is another one now.
pub(crate) fn refuses_writes(error: &RedisError) -> bool {
    error.kind() == Kind::Server(Server::ReadOnly) || says(error, "READONLY")
}

fn says(error: &RedisError, code: &str) -> bool {
    let in_text =
        || error.detail().is_some_and(|text| text.split([' ', '-', ':', '\'']).any(|word| word == code));
    error.code() == Some(code) || (matches!(error.kind(), Kind::Server(Server::ResponseError)) && in_text())
}

#[cfg(test)]
mod tests {
    use redis::parse_redis_value;

    use super::*;

    fn refusal(line: &str) -> RedisError {
        parse_redis_value(format!("-{line}\r\n").as_bytes()).unwrap().extract_error().unwrap_err()
    }

    #[test]
    fn refusals_tell_whether_to_try_again() {
        let expected = [
            ("OOM command not allowed when used memory > 'maxmemory'.", ErrorKind::Overloaded),
            (
                "ERR Error running script (call to f_1): @user_script:1: -OOM command not allowed",
                ErrorKind::Overloaded,
            ),
            ("READONLY You can't write against a read only replica.", ErrorKind::Unavailable),
            ("LOADING Redis is loading the dataset in memory", ErrorKind::Unavailable),
            ("CLUSTERDOWN Hash slot not served", ErrorKind::Unavailable),
            ("MISCONF Redis is configured to save RDB snapshots", ErrorKind::Unavailable),
            ("BUSY Redis is busy running a script", ErrorKind::Unavailable),
            ("NOAUTH Authentication required.", ErrorKind::Invalid),
            ("NOPERM this user has no permissions", ErrorKind::Invalid),
            ("WRONGTYPE Operation against a key holding the wrong kind of value", ErrorKind::Corrupt),
            ("ERR syntax error", ErrorKind::Internal),
        ];
        for (line, kind) in expected {
            assert_eq!(answered(refusal(line)).kind(), kind, "{line}");
        }
    }

    #[test]
    fn a_lost_connection_leaves_open_whether_the_call_took_effect() {
        let broken = || RedisError::from(std::io::Error::from(std::io::ErrorKind::BrokenPipe));
        assert_eq!(not_connected(broken()).kind(), ErrorKind::Unavailable);
        assert_eq!(answered(broken()).kind(), ErrorKind::Timeout);
    }
}
