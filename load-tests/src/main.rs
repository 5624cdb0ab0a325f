//! Measures raglan from outside, over HTTP, and its indexes by themselves. What it prints is what `docs/performance.md` is made of.
//!
//! ```sh
//! cargo run --release -p raglan-load-tests -- ingest --dataset DIR --pid PID
//! cargo run --release -p raglan-load-tests -- passages --dataset DIR --model DIR
//! cargo run --release -p raglan-load-tests -- encoder --dataset DIR --model DIR
//! cargo run --release -p raglan-load-tests -- searchers --dataset DIR --searchers 1 10 50 --seconds 20
//! cargo run --release -p raglan-load-tests -- floor --jobs 20000
//! cargo run --release -p raglan-load-tests -- jobs --jobs 20000 --pipeline nothing
//! cargo run --release -p raglan-load-tests -- waiting --jobs 100000
//! cargo run --release -p raglan-load-tests -- readers --readers 5000 --pid PID --workers 'raglan worker retrieval generation'
//! cargo run --release -p raglan-load-tests -- start --binary target/release/raglan --data-dir DIR
//! cargo run --release -p raglan-load-tests -- embed --dataset DIR --model DIR --embeddings FILE --questions FILE
//! cargo run --release -p raglan-load-tests -- vectors --embeddings FILE --questions FILE --count 1000000 --dir DIR
//! cargo run --release -p raglan-load-tests -- keyword --dataset DIR --count 1000000 --dir DIR
//! ```
//!
//! Data sets have BEIR's layout: `corpus.jsonl` or `corpus.jsonl.gz`, `queries.jsonl`. How good answers are is measured by `raglan eval`.
#![allow(clippy::print_stdout)] // the figures are the output

mod api;
mod dataset;
mod encoder;
mod indexes;
mod ingest;
mod passages;
mod pipeline;
mod process;
mod searchers;
mod sequences;
mod start;
mod stats;

use clap::{Parser, Subcommand};

/// Measures a running raglan.
#[derive(Debug, Parser)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Embed(indexes::embed::Embed),
    Floor(pipeline::floor::Floor),
    Encoder(encoder::EncoderAlone),
    Ingest(ingest::Ingest),
    Jobs(pipeline::jobs::Jobs),
    Passages(passages::Passages),
    Readers(pipeline::readers::Readers),
    Waiting(pipeline::waiting::Waiting),
    Keyword(indexes::keyword::Keyword),
    Searchers(searchers::Searchers),
    Start(start::Start),
    Vectors(indexes::vectors::Vectors),
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    match Cli::parse().command {
        Command::Embed(embed) => indexes::embed::run(&embed).await,
        Command::Floor(floor) => pipeline::floor::run(&floor).await,
        Command::Encoder(encoder) => encoder::run(&encoder),
        Command::Ingest(ingest) => ingest::run(&ingest).await,
        Command::Jobs(jobs) => pipeline::jobs::run(&jobs).await,
        Command::Passages(passages) => passages::run(&passages),
        Command::Readers(readers) => pipeline::readers::run(&readers).await,
        Command::Waiting(waiting) => pipeline::waiting::run(&waiting).await,
        Command::Keyword(keyword) => indexes::keyword::run(&keyword).await,
        Command::Searchers(searchers) => searchers::run(&searchers).await,
        Command::Start(start) => start::run(&start).await,
        Command::Vectors(vectors) => indexes::vectors::run(&vectors).await,
    }
}
