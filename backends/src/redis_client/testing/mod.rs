//! What the tests of everything on Redis share: a corner of the test server, servers of their own, and a network that fails.
#![allow(clippy::unwrap_used)]

mod proxy;
mod servers;

use std::{sync::Arc, time::Duration};

use raglan_pipeline::secret::Secret;
use redis::{Client, ConnectionLike, RedisResult};

pub(crate) use self::{
    proxy::Proxy,
    servers::{TestCluster, TestServer, TestService},
};
use super::{RedisClient, RedisSettings};
use crate::test_servers::{redis_url, skipped};

/// What must come is waited for so long.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Keys of a prefix of their own on a server that others use too. They are removed at the end, however the test ends.
pub(crate) struct Corner {
    url: String,
    pub(crate) prefix: String,
}

impl Corner {
    /// A corner of the test server; none, and said so, where there is no such server.
    pub(crate) fn of_test_server(test: &str) -> Option<Self> {
        let url = redis_url();
        match Client::open(url.as_str()).and_then(|client| client.get_connection_with_timeout(PATIENCE)) {
            Ok(_) => Some(Self::of(url)),
            Err(error) => {
                skipped(test, &format!("no redis for tests: {error}"));
                None
            }
        }
    }

    /// A corner of this server.
    pub(crate) fn of(url: impl Into<String>) -> Self {
        Self { url: url.into(), prefix: format!("raglan-test-{:016x}", rand::random::<u64>()) }
    }

    /// The server's `host:port`.
    pub(crate) fn address(&self) -> String {
        Client::open(self.url.as_str()).unwrap().get_connection_info().addr().to_string()
    }

    /// Patient settings: what is slow here is the machine.
    pub(crate) fn settings(&self) -> RedisSettings {
        RedisSettings {
            url: Secret::new(self.url.clone()),
            prefix: self.prefix.clone(),
            connections: 2,
            connect_timeout: PATIENCE,
            command_timeout: PATIENCE,
        }
    }

    /// The same through a proxy.
    pub(crate) fn settings_through(&self, proxy: &Proxy) -> RedisSettings {
        RedisSettings { url: Secret::new(format!("redis://{}", proxy.address())), ..self.settings() }
    }

    pub(crate) fn client(&self) -> Arc<RedisClient> {
        RedisClient::new(&self.settings()).unwrap()
    }

    /// A plain connection, past everything under test.
    pub(crate) fn plain(&self) -> redis::Connection {
        Client::open(self.url.as_str()).unwrap().get_connection().unwrap()
    }

    /// The keys of this corner.
    pub(crate) fn keys(&self) -> Vec<String> {
        keys(&mut self.plain(), &self.prefix).unwrap()
    }

    /// Removes all keys, as a flush would.
    pub(crate) fn clear(&self) {
        clear(&mut self.plain(), &self.prefix).unwrap();
    }

    /// How many connections of clients of this corner there are with this name's end.
    pub(crate) fn connections(&self, of: &str) -> usize {
        let list: String = redis::cmd("CLIENT").arg("LIST").query(&mut self.plain()).unwrap();
        list.matches(&format!("name={}:{of} ", self.prefix)).count()
    }

    /// How many channels of this corner have subscribers.
    pub(crate) fn channels(&self) -> usize {
        let pattern = format!("{}:*", self.prefix);
        let channels: Vec<String> =
            redis::cmd("PUBSUB").arg("CHANNELS").arg(pattern).query(&mut self.plain()).unwrap();
        channels.len()
    }
}

impl Drop for Corner {
    fn drop(&mut self) {
        // A server that the test has killed has nothing left to remove.
        if let Ok(mut connection) =
            Client::open(self.url.as_str()).and_then(|client| client.get_connection_with_timeout(PATIENCE))
        {
            let _ = clear(&mut connection, &self.prefix);
        }
    }
}

fn keys(connection: &mut dyn ConnectionLike, prefix: &str) -> RedisResult<Vec<String>> {
    let mut scan = redis::cmd("SCAN");
    scan.cursor_arg(0).arg("MATCH").arg(format!("{prefix}:*")).arg("COUNT").arg(1_000);
    scan.iter(connection)?.collect()
}

fn clear(connection: &mut dyn ConnectionLike, prefix: &str) -> RedisResult<()> {
    for key in keys(connection, prefix)? {
        redis::cmd("UNLINK").arg(key).exec(connection)?;
    }
    Ok(())
}

/// Waits until something is so.
pub(crate) async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let begun = std::time::Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < PATIENCE, "not so yet: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
