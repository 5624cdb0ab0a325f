//! The pipeline without models: the whole of Raglan, and the least that any pipeline over the same servers must do.

pub mod floor;
pub mod jobs;
pub mod readers;
pub mod waiting;

use anyhow::Context;
use serde_json::{Value, json};

use crate::api::{Api, send};

/// A question that no other one is like.
fn question(number: usize, pipeline: &str, collection: &str) -> Value {
    json!({
        "query": format!("question {number}"),
        "pipeline": pipeline,
        "collection": collection,
        "cache": "bypass",
    })
}

/// Submits a question; the id of its job.
async fn submit(api: &Api, question: &Value) -> anyhow::Result<String> {
    let job = send(api.post("/v1/queries").json(question)).await?;
    Ok(job["job_id"].as_str().context("the answer names no job")?.to_owned())
}

/// Whether nothing follows an event of this type.
fn is_final(kind: &str) -> bool {
    matches!(kind, "job.succeeded" | "job.failed" | "job.cancelled" | "job.expired")
}
