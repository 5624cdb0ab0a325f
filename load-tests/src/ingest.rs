//! Takes a corpus in as one NDJSON request and follows its job.

use std::{path::PathBuf, time::Instant};

use clap::Args;
use serde_json::{Value, json};

use crate::{dataset, process};

/// Take a corpus in; reports time, chunks and the server's memory.
#[derive(Args)]
pub struct Ingest {
    #[arg(long, default_value = "http://127.0.0.1:8765")]
    url: String,
    /// Folder of the data set.
    #[arg(long)]
    dataset: PathBuf,
    #[arg(long, default_value = "default")]
    collection: String,
    /// The server's process, for its memory.
    #[arg(long)]
    pid: Option<u32>,
}

impl Ingest {
    pub async fn run(self) -> anyhow::Result<Value> {
        let corpus = dataset::corpus(&self.dataset)?;
        let mut body = String::new();
        for document in &corpus {
            let line = json!({"external_id": document.id, "title": document.title, "text": document.text});
            body.push_str(&line.to_string());
            body.push('\n');
        }
        let http = reqwest::Client::new();
        let begun = Instant::now();
        let accepted = http
            .post(format!("{}/v1/documents", self.url))
            .query(&[("collection", &self.collection)])
            .header("content-type", "application/x-ndjson")
            .body(body)
            .send()
            .await?;
        anyhow::ensure!(accepted.status() == 202, "refused: {}", accepted.text().await?);
        let mut job: Value = accepted.json().await?;
        let accepted_s = begun.elapsed().as_secs_f64();
        let id = job["job_id"].as_str().unwrap_or_default().to_owned();
        while job["completed_at"].is_null() {
            job = http.get(format!("{}/v1/jobs/{id}?wait=30", self.url)).send().await?.json().await?;
        }
        anyhow::ensure!(job["status"] == "succeeded", "the job ended as {}: {}", job["status"], job["error"]);
        let seconds = begun.elapsed().as_secs_f64();
        let memory = self.pid.map(process::memory_mib).transpose()?;
        Ok(json!({
            "documents": corpus.len(),
            "accepted_s": accepted_s,
            "seconds": seconds,
            "documents_per_s": corpus.len() as f64 / seconds,
            "result": {"documents": job["result"]["documents"], "chunks": job["result"]["chunks"]},
            "resident_mib": memory.map(|(now, _)| now),
            "peak_resident_mib": memory.map(|(_, peak)| peak),
        }))
    }
}
