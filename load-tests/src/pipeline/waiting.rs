//! A long queue: what it does to those who submit and poll.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

use anyhow::Context;
use clap::Args;
use tokio::task::JoinSet;

use super::{question, submit};
use crate::{
    api::{Api, Server, send},
    stats::percentile,
};

/// Submit and poll one after the other while nothing waits, let jobs pile up, and do the same again.
///
/// No worker may run, and `limits.waiting_jobs` must be above the number of jobs.
#[derive(Debug, Args)]
pub struct Waiting {
    #[command(flatten)]
    server: Server,
    /// How many jobs wait in the end.
    #[arg(long, default_value_t = 100_000)]
    jobs: usize,
    /// How many are submitted and polled, one at a time, before and after.
    #[arg(long, default_value_t = 1_000)]
    samples: usize,
    /// How many are submitted at once while they pile up.
    #[arg(long, default_value_t = 64)]
    at_once: usize,
    /// Between these, wait so many seconds for the servers to come to rest.
    #[arg(long, default_value_t = 15)]
    rest_s: u64,
    /// The query pipeline.
    #[arg(long, default_value = "default")]
    pipeline: String,
    /// The collection.
    #[arg(long, default_value = "nothing")]
    collection: String,
}

/// Milliseconds.
struct Latencies {
    submit: Vec<f64>,
    poll: Vec<f64>,
}

pub async fn run(waiting: &Waiting) -> anyhow::Result<()> {
    let api = Api::new(waiting.server.clone());
    // What is done for the first time only is not to be measured.
    measure(&api, waiting, 50).await?;
    let empty = measure(&api, waiting, waiting.samples).await?;
    let pile = waiting.jobs.saturating_sub(2 * waiting.samples);
    let took = pile_up(&api, waiting, pile).await?;
    println!("{pile} more jobs submitted in {took:.1} s");
    tokio::time::sleep(std::time::Duration::from_secs(waiting.rest_s)).await;
    let full = measure(&api, waiting, waiting.samples).await?;
    for (what, empty, full) in [("submit", &empty.submit, &full.submit), ("poll", &empty.poll, &full.poll)] {
        for (name, share) in [("p50", 0.5), ("p99", 0.99)] {
            let at = |values: &[f64]| percentile(values, share).unwrap_or_default();
            let (before, after) = (at(empty), at(full));
            println!(
                "{what} {name}: {before:.2} ms with none waiting, {after:.2} ms with {}: {:.2} times",
                waiting.jobs,
                after / before
            );
        }
    }
    Ok(())
}

async fn measure(api: &Api, waiting: &Waiting, samples: usize) -> anyhow::Result<Latencies> {
    let mut latencies = Latencies { submit: Vec::new(), poll: Vec::new() };
    for number in 0..samples {
        let begun = Instant::now();
        let id = submit(api, &question(number, &waiting.pipeline, &waiting.collection)).await?;
        latencies.submit.push(begun.elapsed().as_secs_f64() * 1_000.0);
        let begun = Instant::now();
        let job = send(api.get(&format!("/v1/jobs/{id}"))).await?;
        latencies.poll.push(begun.elapsed().as_secs_f64() * 1_000.0);
        anyhow::ensure!(job["status"] == "queued", "a worker runs: job {id} is {}", job["status"]);
    }
    Ok(latencies)
}

/// Submits jobs, several at once; how many seconds it took.
async fn pile_up(api: &Api, waiting: &Waiting, jobs: usize) -> anyhow::Result<f64> {
    let begun = Instant::now();
    let next = Arc::new(AtomicUsize::new(0));
    let mut submitters = JoinSet::new();
    for _ in 0..waiting.at_once.max(1) {
        let (api, next) = (api.clone(), next.clone());
        let (pipeline, collection) = (waiting.pipeline.clone(), waiting.collection.clone());
        submitters.spawn(async move {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= jobs {
                    return anyhow::Ok(());
                }
                submit(&api, &question(number, &pipeline, &collection)).await?;
            }
        });
    }
    while let Some(submitted) = submitters.join_next().await {
        submitted?.context("a job was not taken")?;
    }
    Ok(begun.elapsed().as_secs_f64())
}
