//! Kills a server at random moments and starts it again on the same data.

use std::{
    ops::Range,
    time::{Duration, Instant},
};

use raglan_tests::{Server, ServerOptions};
use rand::{Rng, SeedableRng, rngs::StdRng};
use tokio::sync::watch;

use crate::client::Client;

/// One start in so many is killed before it is ready.
const STARTS_PER_KILL: u32 = 4;
/// How long after its beginning such a start is killed, in milliseconds.
const DURING_START_MS: Range<u64> = 1..150;

/// A server and what is done to it.
pub struct Crasher {
    server: Server,
    address: watch::Sender<Option<String>>,
    rng: StdRng,
    /// Kills of a process that was ready.
    pub kills: usize,
    /// Kills of a process that was not ready yet.
    pub kills_during_start: usize,
    /// How long each start took that was let finish.
    starts: Vec<Duration>,
}

impl Crasher {
    pub async fn start(options: ServerOptions, seed: u64) -> Self {
        let server = Server::start(options).await;
        let (address, _) = watch::channel(Some(server.url().to_owned()));
        let rng = StdRng::seed_from_u64(seed);
        Self { server, address, rng, kills: 0, kills_during_start: 0, starts: Vec::new() }
    }

    /// A client that follows the server from process to process.
    pub fn client(&self) -> Client {
        Client::new(self.address.subscribe())
    }

    pub fn server(&mut self) -> &mut Server {
        &mut self.server
    }

    /// Lets the process live for a random time, kills it, and starts it again. Some of the new processes die before they are ready.
    pub async fn crash(&mut self, life_ms: Range<u64>) {
        let life = self.rng.random_range(life_ms);
        tokio::time::sleep(Duration::from_millis(life)).await;
        self.server.kill9();
        self.kills += 1;
        self.address.send_replace(None);
        while self.rng.random_ratio(1, STARTS_PER_KILL) {
            let killed_after = Duration::from_millis(self.rng.random_range(DURING_START_MS));
            // Cut off, the start leaves its process behind, ready or not.
            let _ = tokio::time::timeout(killed_after, self.server.restart()).await;
            self.server.kill9();
            self.kills_during_start += 1;
        }
        self.restart().await;
    }

    /// Starts the server again, which does not run.
    pub async fn restart(&mut self) {
        let begun = Instant::now();
        self.server.restart().await;
        self.starts.push(begun.elapsed());
        self.address.send_replace(Some(self.server.url().to_owned()));
    }

    /// From the start of a process to its `ready`: the median and the longest, in milliseconds.
    pub fn ready_ms(&mut self) -> (u128, u128) {
        self.starts.sort_unstable();
        let longest = self.starts.last().unwrap().as_millis();
        (self.starts[self.starts.len() / 2].as_millis(), longest)
    }
}
