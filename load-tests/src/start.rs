//! Starts the program on a data folder and measures how long it takes and what it holds when idle.

use std::{
    path::PathBuf,
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::Context;
use clap::Args;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::Command,
};

use crate::process;

/// Start the program on a data folder; reports the time to `ready` and the memory at rest.
#[derive(Args)]
pub struct Start {
    /// The program.
    #[arg(long)]
    binary: PathBuf,
    /// The data folder.
    #[arg(long)]
    data_dir: PathBuf,
    /// How long it rests before its memory is read, in seconds.
    #[arg(long, default_value_t = 5)]
    rest_s: u64,
}

impl Start {
    pub async fn run(self) -> anyhow::Result<Value> {
        let begun = Instant::now();
        let mut child = Command::new(&self.binary)
            .args(["serve", "--listen", "127.0.0.1:0", "--data-dir"])
            .arg(&self.data_dir)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("{} cannot be started", self.binary.display()))?;
        let out = child.stdout.take().context("the program has no standard output")?;
        let mut lines = BufReader::new(out).lines();
        let line = lines.next_line().await?.context("the program ended before it was ready")?;
        let ready_ms = begun.elapsed().as_secs_f64() * 1_000.0;
        anyhow::ensure!(line.starts_with("ready "), "not what a ready server says: {line:?}");
        tokio::time::sleep(Duration::from_secs(self.rest_s)).await;
        let pid = child.id().context("the program ended")?;
        let (resident, peak) = process::memory_mib(pid)?;
        child.kill().await?;
        Ok(json!({"ready_ms": ready_ms, "idle_resident_mib": resident, "peak_resident_mib": peak}))
    }
}
