//! `kill -9` of the real process, again and again, while it works; then everything is counted.
//!
//! The moments of the kills come from a seed, which the tables at the end of each test name. `RAGLAN_CRASH_SEED=N` runs with that
//! seed; it brings back the same kills after the same times, though not the same interleaving of threads.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)] // tests fail by panicking

mod boxes;
mod client;
mod crasher;
mod ingestion;
mod ledger;
mod queries;
mod webhooks;

/// How often the process is killed under load in each test. Kills during its start come on top.
const KILLS: usize = 20;

/// The seed of this run.
fn seed() -> u64 {
    match std::env::var("RAGLAN_CRASH_SEED") {
        Ok(seed) => seed.parse().expect("RAGLAN_CRASH_SEED is a number"),
        Err(_) => rand::random_range(0..1_000_000),
    }
}
