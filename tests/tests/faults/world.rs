//! The processes and servers of one fault.

use std::net::SocketAddr;

use raglan_tests::{Addresses, OwnServers, Proxy, Receiver, Server, ServerOptions};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::watch,
};

use crate::{client::Client, fault::FAKETIME};

/// A wire to each server.
pub struct Wires {
    pub postgres: Proxy,
    pub rabbitmq: Proxy,
    pub redis: Proxy,
}

pub struct World {
    pub server: Server,
    pub wires: Wires,
    /// Servers that may be killed; none where the fault leaves them alone.
    pub own: Option<OwnServers>,
    pub receiver: Receiver,
    address: watch::Sender<Option<String>>,
}

impl World {
    pub async fn start(own_servers: bool) -> Self {
        let own = if own_servers {
            Some(tokio::task::spawn_blocking(OwnServers::start).await.unwrap())
        } else {
            None
        };
        let behind = own.as_ref().map_or_else(Addresses::default, |own| own.addresses().clone());
        let (postgres, postgres_url) = wire(&behind.postgres).await;
        let (rabbitmq, amqp_url) = wire(&behind.amqp).await;
        let (redis, redis_url) = wire(&behind.redis).await;
        let addresses = Addresses { postgres: postgres_url, amqp: amqp_url, redis: redis_url };
        let options = ServerOptions::default().with(settings()).apart(addresses);
        let server = Server::start(options).await;
        let (address, _) = watch::channel(Some(server.url().to_owned()));
        Self {
            server,
            wires: Wires { postgres, rabbitmq, redis },
            own,
            receiver: Receiver::start([]).await,
            address,
        }
    }

    /// A client that follows the API from process to process.
    pub fn client(&self) -> Client {
        Client::new(self.address.subscribe())
    }

    /// Kills the process of a role and starts it again.
    pub async fn crash(&mut self, process: usize) {
        self.server.kill_one(process);
        self.server.restart_one(process).await;
        self.address.send_replace(Some(self.server.url().to_owned()));
    }

    /// The clock that processes have which are started from now on: wrong by so many seconds, or right.
    pub fn set_clock(&mut self, by: Option<i64>) {
        self.server.set_env("LD_PRELOAD", by.map(|_| FAKETIME));
        self.server.set_env("FAKETIME", by.map(|by| format!("{by:+}")).as_deref());
        // Only the time of day is wrong; how long things take is not.
        self.server.set_env("DONT_FAKE_MONOTONIC", by.map(|_| "1"));
    }

    /// Has Redis write its data to disk, from where it reads them when it is started again.
    pub async fn save_redis(&self) {
        let own = self.own.as_ref().expect("the fault has servers of its own");
        let address = own.addresses().redis.trim_start_matches("redis://").to_owned();
        let mut redis = TcpStream::connect(address).await.unwrap();
        redis.write_all(b"SAVE\r\n").await.unwrap();
        let mut answer = [0; 5];
        redis.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"+OK\r\n");
    }

    /// Kills a server, and brings it back after `away`.
    pub async fn crash_server(&self, name: &'static str, away: std::time::Duration) {
        let own = self.own.as_ref().expect("the fault has servers of its own");
        tokio::task::block_in_place(|| own.kill(name));
        tokio::time::sleep(away).await;
        tokio::task::block_in_place(|| own.revive(name));
    }
}

fn settings() -> serde_json::Value {
    json!({
        "limits": {"top_k": 5_000},
        "generators": [
            {"name": "extractive", "type": "extractive"},
            {"name": "steady", "type": "simulated", "tokens": 20, "tokens_per_s": 100},
        ],
        "query_pipelines": [
            {"name": "default"},
            {"name": "steady", "generate": {"generator": "steady"}},
            {"name": "all", "search": {"candidates": 5_000}, "select": {"top_k": 5_000, "collapse_duplicates": false, "merge_neighbours": false}},
        ],
        "indexing_pipelines": [
            {"name": "default", "chunk": {"max_tokens": 96, "target_tokens": 80, "overlap_tokens": 0, "min_tokens": 8}},
        ],
        // No job is to fail because processes and servers were killed under it; that is what the limits are for otherwise.
        // Deadlines are counted on the clocks of the processes: longer than those are wrong.
        "jobs": {"max_attempts": 100, "query_deadline_s": 10_800, "lease_s": 5, "republish_after_s": 2},
        "log": {"level": "warn"},
    })
}

/// A wire to the server of this URL, and the URL that leads through it.
async fn wire(url: &str) -> (Proxy, String) {
    let (before, rest) = url.split_once("://").unwrap();
    let (authority, path) = rest.split_once('/').map_or((rest, ""), |(authority, path)| (authority, path));
    let (user, host) = authority.rsplit_once('@').map_or(("", authority), |(user, host)| (user, host));
    let target: SocketAddr = host.parse().unwrap_or_else(|error| panic!("{url}: {error}"));
    let proxy = Proxy::start(target).await;
    let at = if user.is_empty() { "" } else { "@" };
    let through = format!("{before}://{user}{at}{}/{path}", proxy.address());
    (proxy, through)
}
