//! Start-up and memory at rest.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use clap::Args;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde::Serialize;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
};

use crate::{
    api::{Api, Server},
    process::{Memory, mib},
    stats::percentile,
};

/// Start the binary on a data folder: how long until it is ready, and what it holds in memory after a while without work.
#[derive(Debug, Args)]
pub struct Start {
    /// The raglan binary.
    #[arg(long)]
    binary: PathBuf,
    /// Its data folder. No other process may use it.
    #[arg(long, value_name = "DIR")]
    data_dir: PathBuf,
    /// Its configuration file.
    #[arg(long)]
    config: Option<PathBuf>,
    /// How often it is started; the times are told as medians.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..))]
    runs: u64,
    /// How long it is left alone before its memory is read, in seconds.
    #[arg(long, default_value_t = 5)]
    rest_s: u64,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// What was measured.
#[derive(Debug, Serialize)]
struct Report {
    /// From the start of the process to its line `ready`, in milliseconds, each run.
    ready_ms: Vec<f64>,
    /// Until `/readyz` says that all parts are there, indexes that had to catch up too.
    all_parts_ms: Vec<f64>,
    resident_bytes: Vec<u64>,
    peak_bytes: Vec<u64>,
}

/// How long a start may take, and a stop.
const PATIENCE: Duration = Duration::from_secs(120);

pub async fn run(start: &Start) -> anyhow::Result<()> {
    let mut report =
        Report { ready_ms: vec![], all_parts_ms: vec![], resident_bytes: vec![], peak_bytes: vec![] };
    for _ in 0..start.runs {
        let begun = Instant::now();
        let mut child = launch(start)?;
        let url =
            tokio::time::timeout(PATIENCE, ready_line(&mut child)).await.context("it never got ready")??;
        report.ready_ms.push(begun.elapsed().as_secs_f64() * 1_000.0);
        tokio::time::timeout(PATIENCE, all_parts(&url)).await.context("its parts never got ready")?;
        report.all_parts_ms.push(begun.elapsed().as_secs_f64() * 1_000.0);
        tokio::time::sleep(Duration::from_secs(start.rest_s)).await;
        let memory = Memory::of(child.id().context("it has ended by itself")?)?;
        report.resident_bytes.push(memory.resident);
        report.peak_bytes.push(memory.peak);
        stop(child).await?;
    }
    if start.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
        return Ok(());
    }
    let milliseconds = |times: &[f64]| format!("{:.0} ms", percentile(times, 0.5).unwrap_or_default());
    let most = |bytes: &[u64]| mib(bytes.iter().copied().max().unwrap_or_default());
    println!("starts           {}", start.runs);
    println!("ready            {} (median)", milliseconds(&report.ready_ms));
    println!("all parts ready  {} (median)", milliseconds(&report.all_parts_ms));
    println!(
        "resident         {} after {} s of rest (the most of all starts)",
        most(&report.resident_bytes),
        start.rest_s
    );
    println!("peak             {} (the most of all starts)", most(&report.peak_bytes));
    Ok(())
}

fn launch(start: &Start) -> anyhow::Result<Child> {
    let mut command = Command::new(absolute(&start.binary)?);
    command.arg("serve").args(["--listen", "127.0.0.1:0"]).arg("--data-dir").arg(&start.data_dir);
    if let Some(config) = &start.config {
        command.arg("--config").arg(config);
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true);
    command.spawn().with_context(|| start.binary.display().to_string())
}

/// So that a plain file name is not looked for in the search path.
fn absolute(path: &Path) -> anyhow::Result<PathBuf> {
    std::path::absolute(path).with_context(|| path.display().to_string())
}

/// Waits for the line `ready http://ADDRESS`; the address.
async fn ready_line(child: &mut Child) -> anyhow::Result<String> {
    let stdout = child.stdout.take().context("its output is not to be had")?;
    let mut lines = BufReader::new(stdout).lines();
    while let Some(line) = lines.next_line().await? {
        if let Some(url) = line.strip_prefix("ready ") {
            return Ok(url.to_owned());
        }
    }
    bail!("it ended before it was ready: run it by hand to see why")
}

async fn all_parts(url: &str) {
    let api = Api::new(Server { url: url.to_owned(), key: None });
    while !api.get("/readyz").send().await.is_ok_and(|response| response.status().is_success()) {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Ends it as a service manager would.
async fn stop(mut child: Child) -> anyhow::Result<()> {
    let pid = i32::try_from(child.id().context("it has ended by itself")?)?;
    kill(Pid::from_raw(pid), Signal::SIGTERM)?;
    let status = tokio::time::timeout(PATIENCE, child.wait()).await.context("it does not stop")??;
    if !status.success() {
        bail!("it did not stop cleanly: {status}");
    }
    Ok(())
}
