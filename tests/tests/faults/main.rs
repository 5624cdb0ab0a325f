//! Every part of the distributed shape fails under load, one fault after the other; then everything is counted.
//!
//! The servers are the test's own (`scripts/services --own`), and every role is a process. `RAGLAN_FAULTS_SCALE=25` makes each load 25 times as large: 5,000
//! questions and 500 documents (build with `--release` for that, or name such a binary in `RAGLAN_TEST_BINARY`); `RAGLAN_FAULTS_ONLY=NAME` runs one fault; `RAGLAN_CRASH_SEED=N` repeats the moments of a run. Each fault prints a line of the table
//! in docs/reliability.md.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)] // tests fail by panicking

#[path = "../crash/boxes.rs"]
mod boxes;
#[path = "../crash/client.rs"]
mod client;
mod fault;
#[allow(dead_code)] // its tables are those of the crash tests
#[path = "../crash/ledger.rs"]
mod ledger;
mod load;
#[allow(dead_code)] // its tables are those of the crash tests
#[path = "../crash/webhooks.rs"]
mod webhooks;
mod world;

use std::time::Instant;

use rand::{SeedableRng, rngs::StdRng};

use crate::{fault::Fault, load::Load, world::World};

/// How much larger the load is than that of the test command.
fn scale() -> usize {
    std::env::var("RAGLAN_FAULTS_SCALE")
        .map_or(1, |scale| scale.parse().expect("RAGLAN_FAULTS_SCALE is a number"))
}

fn seed() -> u64 {
    match std::env::var("RAGLAN_CRASH_SEED") {
        Ok(seed) => seed.parse().expect("RAGLAN_CRASH_SEED is a number"),
        Err(_) => rand::random_range(0..1_000_000),
    }
}

/// One test for all faults, since they share the servers and would otherwise take the processor from each other.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nothing_is_lost_or_done_twice_whatever_fails() {
    if raglan_tests::Shape::of_this_run() == raglan_tests::Shape::Embedded {
        println!("for the distributed shape only");
        return;
    }
    let seed = seed();
    let only = std::env::var("RAGLAN_FAULTS_ONLY").ok();
    println!(
        "| fault | jobs | lost | twice | not succeeded | webhooks wrong | half documents | first job after it (ms) | all ended (s) |"
    );
    println!("|---|---|---|---|---|---|---|---|---|");
    let mut faults = Fault::all(scale());
    if let Some(only) = only {
        let names: Vec<_> = faults.iter().map(|fault| fault.name()).collect();
        faults.retain(|fault| fault.name() == only);
        assert!(!faults.is_empty(), "RAGLAN_FAULTS_ONLY: there is no fault {only:?}, only {names:?}");
    }
    for fault in faults {
        if let Some(lacking) = fault.lacks() {
            raglan_tests::skip(&format!("faults: {}", fault.name()), &lacking);
            continue;
        }
        let mut world = World::start(fault.needs_own_servers()).await;
        let mut rng = StdRng::seed_from_u64(seed);
        let begun = Instant::now();
        let load = Load::begin(&world, scale()).await;
        fault.strike(&mut world, &mut rng).await;
        let recovered = load.first_answer().await;
        let outcome = load.settle(&world).await;
        println!(
            "| {} | {} | {} | {} | {} | {} | {} | {} | {:.1} |",
            fault.name(),
            outcome.account.accepted,
            outcome.account.lost.len(),
            outcome.account.duplicated.len() + outcome.account.ended_twice.len(),
            outcome.account.not_succeeded.len(),
            outcome.delivered.two_ids.len() + outcome.delivered.wrong.len(),
            outcome.half_documents.len(),
            recovered.as_millis(),
            begun.elapsed().as_secs_f64(),
        );
        outcome.account.check();
        outcome.delivered.check();
        assert!(outcome.half_documents.is_empty(), "half indexed: {:#?}", outcome.half_documents);
    }
    println!("RAGLAN_CRASH_SEED={seed}");
}
