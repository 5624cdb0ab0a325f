//! Measures a running Raglan from outside, through its public API: taking a data set in, searching it, starting with it.
//!
//! ```sh
//! cargo run --release -p raglan-load-tests -- ingest --dataset DIR --pid PID
//! cargo run --release -p raglan-load-tests -- search --dataset DIR --mode hybrid
//! cargo run --release -p raglan-load-tests -- start --binary target/release/raglan --data-dir DIR
//! ```
//!
//! A data set is in the layout of BEIR: `corpus.jsonl` or `corpus.jsonl.gz`, `queries.jsonl`, `qrels/test.tsv`.

mod dataset;
mod ingest;
mod process;
mod ranking;
mod search;
mod start;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(about = "Measures a running Raglan through its public API.")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Ingest(ingest::Ingest),
    Search(search::Search),
    Start(start::Start),
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let report = match Arguments::parse().command {
        Command::Ingest(command) => command.run().await?,
        Command::Search(command) => command.run().await?,
        Command::Start(command) => command.run().await?,
    };
    use std::io::Write;
    writeln!(std::io::stdout().lock(), "{}", serde_json::to_string_pretty(&report)?)?;
    Ok(())
}
