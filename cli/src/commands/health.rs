//! `raglan health`: whether a process can serve, for the health checks of containers that hold nothing but this program.

use anyhow::bail;
use clap::Args;
use reqwest::Method;
use serde_json::Value;

use crate::{client::Api, terminal::string};

/// Ask a process whether it can serve; the exit code is 0 where it can.
#[derive(Debug, Args)]
pub struct Health {
    /// Print the report as JSON.
    #[arg(long)]
    pub json: bool,
}

pub async fn run(api: &Api, command: Health) -> anyhow::Result<()> {
    let request = api.request(Method::GET, "/readyz").timeout(std::time::Duration::from_secs(5));
    let answer = request.send().await.map_err(|error| api.unreachable(&error))?;
    let report: Value = answer.json().await?;
    if command.json {
        crate::print_json(&report)?;
    } else {
        for part in report["parts"].as_array().into_iter().flatten() {
            let line = format!(
                "{:<9} {:<14} {}",
                string(part, "state"),
                string(part, "name"),
                string(part, "detail")
            );
            crate::print_line(line.trim_end())?;
        }
    }
    if report["ready"].as_bool() != Some(true) {
        bail!("it cannot serve, yet or any more");
    }
    Ok(())
}
