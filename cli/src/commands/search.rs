//! `raglan search`: passages, without an answer.

use std::io::Write;

use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use super::ask::filter;
use crate::{
    client::Api,
    terminal::{Stderr, plain, string},
};

/// Which searches take part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    Hybrid,
    Vector,
    Keyword,
}

/// Find passages.
#[derive(Debug, Args)]
pub struct Search {
    /// The question or the words.
    pub query: String,
    /// Where to look.
    #[arg(long, default_value = "default")]
    pub collection: String,
    /// By vectors, by words, or both; the pipeline's choice where absent.
    #[arg(long)]
    pub mode: Option<Mode>,
    /// How many passages.
    #[arg(long, default_value_t = 5)]
    pub top_k: usize,
    /// Only documents with this metadata, KEY=VALUE; may be given more than once.
    #[arg(long = "filter", value_name = "KEY=VALUE")]
    pub filters: Vec<String>,
    /// Print the answer of the server as JSON.
    #[arg(long)]
    pub json: bool,
}

pub async fn run(api: &Api, search: Search) -> anyhow::Result<()> {
    let mut body = json!({
        "query": search.query,
        "collection": search.collection,
        "top_k": search.top_k,
        "filter": filter(&search.filters)?,
    });
    if let Some(mode) = search.mode.and_then(|mode| mode.to_possible_value()) {
        body["mode"] = json!(mode.get_name());
    }
    let found: Value = api.post("/v1/search", &body).await?;
    if search.json {
        return crate::print_json(&found);
    }
    let mut out = std::io::stdout().lock();
    let passages = found["passages"].as_array().map(Vec::as_slice).unwrap_or_default();
    for (number, passage) in (1..).zip(passages) {
        let title = plain(string(passage, "title"));
        let id = plain(string(passage, "external_id"));
        let score = passage["score"].as_f64().unwrap_or_default();
        writeln!(out, "{number}. {title} · {id} · {score:.3}")?;
        for line in plain(string(passage, "text")).lines().filter(|line| !line.trim().is_empty()) {
            writeln!(out, "   {line}")?;
        }
        writeln!(out)?;
    }
    drop(out);
    let degraded: Vec<&str> =
        found["degraded"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let mut notes = Stderr::new();
    if !degraded.is_empty() {
        notes.line(&format!("degraded: {}", degraded.join(", ")));
    }
    if passages.is_empty() {
        notes.line("nothing found");
    }
    Ok(())
}
