use std::time::Duration;

use raglan_pipeline::{
    ports::{ErrorKind, PortError, PortResult},
    secret::Secret,
};

/// Where Redis is and how it is spoken to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RedisSettings {
    /// The address, in one of these forms. `rediss` instead of `redis` is TLS: certificates are checked against the system's roots, and the
    /// process must have a rustls provider installed before the first connection.
    /// - `redis://[user:password@]host[:6379][/db]`: one server.
    /// - `redis+sentinel://[user:password@]host[:26379],host…/service[/db]`: the master of a service, as the sentinels name it. The user is the
    ///   servers'; sentinels that want one too get `?sentinel_username=…&sentinel_password=…`.
    /// - `redis+cluster://[user:password@]host[:6379],host…`: a cluster, found through any of these nodes. Name several: the one
    ///   connection that events are heard on goes to one of them.
    pub url: Secret,
    /// What every key, channel and connection name begins with: 1 to 64 of `a-z A-Z 0-9 . _ -`. Installations that share a Redis have one each.
    pub prefix: String,
    /// How many connections carry the commands of this process, all callers' at once; 0 is as 1. Of a cluster so many a node. One more
    /// hears events. On fewer connections more commands go together, which costs this process and Redis less; on more, a large value holds fewer others up.
    pub connections: usize,
    /// How long opening a connection may take, finding the master included.
    pub connect_timeout: Duration,
    /// How long a call may take as a whole. Beyond it the call fails; several in a row and calls are refused at once for a moment.
    pub command_timeout: Duration,
}

impl Default for RedisSettings {
    fn default() -> Self {
        Self {
            url: Secret::new("redis://127.0.0.1:6379"),
            prefix: "raglan".to_owned(),
            connections: 1,
            connect_timeout: Duration::from_secs(2),
            command_timeout: Duration::from_millis(500),
        }
    }
}

impl RedisSettings {
    /// Refuses a prefix that would not be one everywhere: braces would put all keys into one slot of a cluster.
    pub(super) fn check_prefix(&self) -> PortResult<()> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        if (1..=64).contains(&self.prefix.len()) && self.prefix.chars().all(allowed) {
            return Ok(());
        }
        let message =
            format!("{:?} is no prefix for Redis: 1 to 64 of a-z A-Z 0-9 . _ - are allowed", self.prefix);
        Err(PortError::new(ErrorKind::Invalid, message))
    }
}
