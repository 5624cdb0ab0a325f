//! Redis servers of the tests' own, which end with them.

use std::{
    net::TcpListener,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use redis::Client;

use super::{PATIENCE, skipped};

/// A server that nobody else uses.
pub(crate) struct TestServer {
    process: Child,
    pub(crate) port: u16,
    _folder: tempfile::TempDir,
}

/// Three masters that share the slots.
pub(crate) struct TestCluster {
    nodes: Vec<TestServer>,
}

/// A master, a replica and a sentinel that watches them.
pub(crate) struct TestService {
    master: TestServer,
    _replica: TestServer,
    sentinel: TestServer,
}

impl TestServer {
    /// A server with these settings; none, and said so, where the program is not installed.
    pub(crate) fn start(test: &str, settings: &[&str]) -> Option<Self> {
        Self::run(test, |_| String::new(), settings)
    }

    /// Starts a server with a configuration made for its port, and waits until it answers.
    fn run(test: &str, config: impl Fn(u16) -> String, arguments: &[&str]) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let port = free_port();
        let file = folder.path().join("redis.conf");
        let usual = format!(
            "port {port}\nbind 127.0.0.1\ndir {}\nsave \"\"\nappendonly no\n{}",
            folder.path().display(),
            config(port)
        );
        std::fs::write(&file, usual).unwrap();
        let started = Command::new("redis-server").arg(&file).args(arguments).stdout(Stdio::null()).spawn();
        let process = match started {
            Ok(process) => process,
            Err(error) => {
                skipped(test, &format!("redis-server cannot be started: {error}"));
                return None;
            }
        };
        let server = Self { process, port, _folder: folder };
        wait(|| server.plain().is_ok());
        Some(server)
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    fn plain(&self) -> redis::RedisResult<redis::Connection> {
        Client::open(self.url())?.get_connection()
    }

    fn ask(&self, command: &str) -> String {
        let mut words = command.split(' ');
        let mut cmd = redis::cmd(words.next().unwrap());
        cmd.arg(words.collect::<Vec<_>>());
        self.plain().and_then(|mut plain| cmd.query(&mut plain)).unwrap_or_default()
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl TestCluster {
    pub(crate) fn start(test: &str) -> Option<Self> {
        let settings = ["--cluster-enabled", "yes", "--cluster-node-timeout", "2000"];
        let nodes: Vec<_> = (0..3).map(|_| TestServer::start(test, &settings)).collect::<Option<Vec<_>>>()?;
        let addresses = nodes.iter().map(|node| format!("127.0.0.1:{}", node.port));
        let created = Command::new("redis-cli")
            .args(["--cluster", "create"])
            .args(addresses)
            .arg("--cluster-yes")
            .stdout(Stdio::null())
            .status();
        match created {
            Ok(status) => assert!(status.success(), "the cluster was not made"),
            Err(error) => {
                skipped(test, &format!("redis-cli cannot be started: {error}"));
                return None;
            }
        }
        for node in &nodes {
            wait(|| node.ask("CLUSTER INFO").contains("cluster_state:ok"));
        }
        Some(Self { nodes })
    }

    /// Through all nodes.
    pub(crate) fn url(&self) -> String {
        let addresses: Vec<_> = self.nodes.iter().map(|node| format!("127.0.0.1:{}", node.port)).collect();
        format!("redis+cluster://{}", addresses.join(","))
    }

    /// One node alone.
    pub(crate) fn node(&self, place: usize) -> &TestServer {
        &self.nodes[place]
    }
}

impl TestService {
    pub(crate) fn start(test: &str) -> Option<Self> {
        let master = TestServer::start(test, &[])?;
        let replica = TestServer::start(test, &["--replicaof", "127.0.0.1", &master.port.to_string()])?;
        wait(|| replica.ask("INFO replication").contains("master_link_status:up"));
        let watch = |_| {
            format!(
                "sentinel monitor main 127.0.0.1 {} 1\nsentinel down-after-milliseconds main 500\nsentinel failover-timeout main 2000\n",
                master.port
            )
        };
        let sentinel = TestServer::run(test, watch, &["--sentinel"])?;
        wait(|| sentinel.ask("INFO sentinel").contains("slaves=1"));
        Some(Self { master, _replica: replica, sentinel })
    }

    pub(crate) fn url(&self) -> String {
        format!("redis+sentinel://127.0.0.1:{}/main", self.sentinel.port)
    }

    /// Kills the master, once the replica has all that it has.
    pub(crate) fn kill_master(&mut self) {
        let mut plain = self.master.plain().unwrap();
        // Counts what this connection wrote: so it writes.
        redis::cmd("SET").arg("last").arg(1).exec(&mut plain).unwrap();
        let copies: u32 = redis::cmd("WAIT").arg(1).arg(30_000).query(&mut plain).unwrap();
        assert_eq!(copies, 1);
        self.master.process.kill().unwrap();
        self.master.process.wait().unwrap();
    }
}

/// A port that is free, and the one that is 10,000 above it, where the nodes of a cluster talk.
fn free_port() -> u16 {
    let is_free = |port| TcpListener::bind(("127.0.0.1", port)).is_ok();
    loop {
        let port = 20_000 + rand::random::<u16>() % 12_000;
        if is_free(port) && is_free(port + 10_000) {
            return port;
        }
    }
}

fn wait(mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < PATIENCE, "the server is not ready");
        std::thread::sleep(Duration::from_millis(20));
    }
}
