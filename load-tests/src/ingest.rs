//! Taking a corpus in through the API.

use std::{path::PathBuf, time::Instant};

use anyhow::{Context, bail};
use clap::Args;
use serde::Serialize;
use serde_json::{Value, json};

use crate::{
    api::{Api, Server, send},
    dataset::{self, Document},
    process::{Memory, mib, processor_time_of, seconds},
};

/// Send a corpus as NDJSON and follow its jobs to their end.
#[derive(Debug, Args)]
pub struct Ingest {
    #[command(flatten)]
    server: Server,
    /// The data set.
    #[arg(long, value_name = "DIR")]
    dataset: PathBuf,
    /// Where the documents go.
    #[arg(long, default_value = "default")]
    collection: String,
    /// Documents of one request, and so of one job.
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(1..))]
    batch: u64,
    /// The server's process on this machine, to tell its memory.
    #[arg(long)]
    pid: Option<u32>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// What was measured.
#[derive(Debug, Default, Serialize)]
struct Report {
    documents: u64,
    created: u64,
    updated: u64,
    unchanged: u64,
    failed: u64,
    chunks_embedded: u64,
    chunks_unchanged: u64,
    chunks_deleted: u64,
    /// Tokens that the embedding model read.
    tokens: u64,
    /// From the first request to the end of the last job: when it has ended, searches find everything.
    seconds: f64,
    documents_per_s: f64,
    chunks_per_s: f64,
    tokens_per_s: f64,
    /// Of the server, from the first request on.
    cpu_seconds: Option<f64>,
    model: Option<String>,
    resident_bytes: Option<u64>,
    peak_bytes: Option<u64>,
}

pub async fn run(ingest: &Ingest) -> anyhow::Result<()> {
    let api = Api::new(ingest.server.clone());
    let mut corpus = dataset::corpus(&ingest.dataset)?;
    let cpu = |pid| processor_time_of(pid);
    let cpu_before = ingest.pid.map(cpu).transpose()?;
    let begun = Instant::now();
    let mut jobs = Vec::new();
    loop {
        let batch: Vec<Document> =
            corpus.by_ref().take(usize::try_from(ingest.batch)?).collect::<anyhow::Result<_>>()?;
        if batch.is_empty() {
            break;
        }
        jobs.push(submit(&api, &ingest.collection, &batch).await?);
    }
    let mut report = Report::default();
    for job in &jobs {
        report.add(&follow(&api, job).await?);
    }
    report.finish(begun.elapsed().as_secs_f64(), ingest.pid.map(Memory::of).transpose()?);
    if let (Some(before), Some(after)) = (cpu_before, ingest.pid.map(cpu).transpose()?) {
        report.cpu_seconds = Some(seconds(after.saturating_sub(before)));
    }
    if ingest.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        report.print();
    }
    Ok(())
}

/// The id of the job.
async fn submit(api: &Api, collection: &str, batch: &[Document]) -> anyhow::Result<String> {
    let mut lines = String::new();
    for document in batch {
        let mut line = json!({"external_id": document.id, "text": document.text, "collection": collection});
        if !document.title.is_empty() {
            line["title"] = json!(document.title);
        }
        lines.push_str(&line.to_string());
        lines.push('\n');
    }
    let request = api.post("/v1/documents").header("content-type", "application/x-ndjson").body(lines);
    let job = send(request).await?;
    Ok(job["job_id"].as_str().context("the answer has no job_id")?.to_owned())
}

/// The job when it has ended well.
async fn follow(api: &Api, id: &str) -> anyhow::Result<Value> {
    loop {
        let job = send(api.get(&format!("/v1/jobs/{id}?wait=20"))).await?;
        match job["status"].as_str() {
            Some("succeeded") => return Ok(job),
            Some("failed" | "cancelled" | "expired") => bail!("job {id} ended: {job:#}"),
            _ => {}
        }
    }
}

impl Report {
    fn add(&mut self, job: &Value) {
        let result = &job["result"];
        let count = |of: &str, name: &str| result[of][name].as_u64().unwrap_or_default();
        self.created += count("documents", "created");
        self.updated += count("documents", "updated");
        self.unchanged += count("documents", "unchanged");
        self.failed += count("documents", "failed");
        self.chunks_embedded += count("chunks", "embedded");
        self.chunks_unchanged += count("chunks", "unchanged");
        self.chunks_deleted += count("chunks", "deleted");
        self.tokens += result["tokens"].as_u64().unwrap_or_default();
        self.model = result["model"].as_str().map(ToOwned::to_owned);
    }

    #[allow(clippy::cast_precision_loss)] // counts of documents
    fn finish(&mut self, seconds: f64, memory: Option<Memory>) {
        self.documents = self.created + self.updated + self.unchanged + self.failed;
        self.seconds = seconds;
        self.documents_per_s = self.documents as f64 / seconds;
        self.chunks_per_s = self.chunks_embedded as f64 / seconds;
        self.tokens_per_s = self.tokens as f64 / seconds;
        self.resident_bytes = memory.map(|memory| memory.resident);
        self.peak_bytes = memory.map(|memory| memory.peak);
    }

    fn print(&self) {
        println!(
            "documents  {} ({} created, {} updated, {} unchanged, {} failed)",
            self.documents, self.created, self.updated, self.unchanged, self.failed
        );
        println!(
            "chunks     {} embedded ({} tokens), {} unchanged, {} deleted",
            self.chunks_embedded, self.tokens, self.chunks_unchanged, self.chunks_deleted
        );
        println!("model      {}", self.model.as_deref().unwrap_or("none"));
        println!(
            "time       {:.1} s, {:.1} documents/s, {:.1} chunks/s, {:.0} tokens/s",
            self.seconds, self.documents_per_s, self.chunks_per_s, self.tokens_per_s
        );
        if let Some(cpu) = self.cpu_seconds {
            println!("processor  {cpu:.1} s");
        }
        if let (Some(resident), Some(peak)) = (self.resident_bytes, self.peak_bytes) {
            println!("memory     {} resident, {} at most since the server's start", mib(resident), mib(peak));
        }
    }
}
