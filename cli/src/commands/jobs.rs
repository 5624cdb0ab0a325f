//! `raglan jobs` and `raglan cancel`.

use std::io::Write;

use clap::Args;
use serde_json::Value;

use crate::{
    client::Api,
    terminal::{plain, string},
};

/// List jobs, or show one.
#[derive(Debug, Args)]
pub struct Jobs {
    /// A job's id; without one, the newest jobs are listed.
    pub id: Option<String>,
    /// Only jobs in this status.
    #[arg(long)]
    pub status: Option<String>,
    /// Only jobs of this kind (query, ingestion).
    #[arg(long)]
    pub kind: Option<String>,
    /// At most so many.
    #[arg(long, default_value_t = 20)]
    pub limit: usize,
    /// Print as JSON.
    #[arg(long)]
    pub json: bool,
}

/// Cancel a job.
#[derive(Debug, Args)]
pub struct Cancel {
    /// The job's id.
    pub id: String,
    /// Print as JSON.
    #[arg(long)]
    pub json: bool,
}

pub async fn list(api: &Api, jobs: Jobs) -> anyhow::Result<()> {
    if let Some(id) = &jobs.id {
        let job: Value = api.get(&format!("/v1/jobs/{id}")).await?;
        return if jobs.json { crate::print_json(&job) } else { detail(&job) };
    }
    let mut query = vec![("limit", jobs.limit.to_string())];
    query.extend(jobs.status.map(|status| ("status", status)));
    query.extend(jobs.kind.map(|kind| ("kind", kind)));
    let page: Value = api.send(api.request(reqwest::Method::GET, "/v1/jobs").query(&query)).await?;
    if jobs.json {
        return crate::print_json(&page);
    }
    let mut out = std::io::stdout().lock();
    for job in page["jobs"].as_array().into_iter().flatten() {
        let progress = match job.get("progress").filter(|progress| progress.is_object()) {
            Some(progress) => {
                format!("{}/{} {}", progress["done"], progress["total"], string(progress, "unit"))
            }
            None => String::new(),
        };
        let (id, kind, status) = (string(job, "job_id"), string(job, "kind"), string(job, "status"));
        writeln!(out, "{id}  {kind:<9}  {status:<10}  {}  {progress}", string(job, "created_at"))?;
    }
    Ok(())
}

fn detail(job: &Value) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    for field in ["job_id", "kind", "status", "created_at", "started_at", "completed_at", "deadline"] {
        writeln!(out, "{field:<13} {}", job[field].as_str().unwrap_or("-"))?;
    }
    if let Some(answer) = job["result"]["answer"].as_str() {
        writeln!(out, "\n{}", plain(answer))?;
    } else if job["result"].is_object() {
        writeln!(out, "\n{}", serde_json::to_string_pretty(&job["result"])?)?;
    }
    if let Some(message) = job["error"]["message"].as_str() {
        writeln!(out, "\n{}: {}", string(&job["error"], "code"), plain(message))?;
    }
    Ok(())
}

pub async fn cancel(api: &Api, cancel: Cancel) -> anyhow::Result<()> {
    let request = api.request(reqwest::Method::POST, &format!("/v1/jobs/{}/cancel", cancel.id));
    let job: Value = api.send(request).await?;
    if cancel.json {
        return crate::print_json(&job);
    }
    let mut out = std::io::stdout().lock();
    writeln!(out, "{} is {}", cancel.id, string(&job, "status"))?;
    Ok(())
}
