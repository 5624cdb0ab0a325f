//! How good and how quick searches are.

use std::{collections::HashSet, path::PathBuf, time::Instant};

use anyhow::Context;
use clap::{Args, ValueEnum};
use futures::{StreamExt, TryStreamExt, stream};
use serde::Serialize;
use serde_json::{Value, json};

use crate::{
    api::{Api, Server, send},
    dataset::{self, Judgements, Query},
    ranking::{ndcg, recall},
    stats::{mean, percentile},
};

/// Ask the questions of a data set through `POST /v1/search`, and compare what is found with the judgements.
#[derive(Debug, Args)]
pub struct Search {
    #[command(flatten)]
    server: Server,
    /// The data set.
    #[arg(long, value_name = "DIR")]
    dataset: PathBuf,
    /// Where to look.
    #[arg(long, default_value = "default")]
    collection: String,
    /// Which searches; several may be given.
    #[arg(long, value_enum, num_args = 1.., default_values_t = Mode::ALL)]
    mode: Vec<Mode>,
    /// Passages of each search. A document counts where its best passage stands; the server's `limits.top_k` is the most.
    #[arg(long, default_value_t = 50)]
    top_k: usize,
    /// Searches at once.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    concurrency: u64,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "snake_case")]
enum Mode {
    Hybrid,
    Vector,
    Keyword,
}

impl Mode {
    const ALL: [Self; 3] = [Self::Hybrid, Self::Vector, Self::Keyword];
}

/// What was measured in one mode.
#[derive(Debug, Serialize)]
struct Report {
    mode: Mode,
    queries: usize,
    top_k: usize,
    ndcg_at_10: f64,
    recall_at_5: f64,
    /// Seen from the client, in milliseconds.
    p50_ms: f64,
    p99_ms: f64,
    queries_per_s: f64,
    /// Searches that a part of the system could not take part in.
    degraded: usize,
}

/// What came of one question.
struct Answered {
    ndcg_at_10: f64,
    recall_at_5: f64,
    took_ms: f64,
    degraded: bool,
}

pub async fn run(search: &Search) -> anyhow::Result<()> {
    let api = Api::new(search.server.clone());
    let judged = dataset::judged_queries(&search.dataset)?;
    let mut reports = Vec::new();
    for mode in &search.mode {
        reports.push(measure(&api, search, &judged, *mode).await?);
    }
    if search.json {
        println!("{}", serde_json::to_string_pretty(&reports)?);
        return Ok(());
    }
    println!("mode     queries  nDCG@10  Recall@5   p50 ms   p99 ms  queries/s  degraded");
    for report in &reports {
        let mode = format!("{:?}", report.mode).to_lowercase();
        println!(
            "{mode:<8} {:>7} {:>8.4} {:>9.4} {:>8.1} {:>8.1} {:>10.1} {:>9}",
            report.queries,
            report.ndcg_at_10,
            report.recall_at_5,
            report.p50_ms,
            report.p99_ms,
            report.queries_per_s,
            report.degraded
        );
    }
    Ok(())
}

#[allow(clippy::cast_precision_loss)] // counts of questions
async fn measure(
    api: &Api,
    search: &Search,
    judged: &[(Query, Judgements)],
    mode: Mode,
) -> anyhow::Result<Report> {
    let begun = Instant::now();
    let answered: Vec<Answered> = stream::iter(judged)
        .map(|(query, judgements)| ask(api, search, mode, query, judgements))
        .buffer_unordered(usize::try_from(search.concurrency)?)
        .try_collect()
        .await?;
    let seconds = begun.elapsed().as_secs_f64();
    let column = |value: fn(&Answered) -> f64| answered.iter().map(value).collect::<Vec<f64>>();
    let took = column(|one| one.took_ms);
    Ok(Report {
        mode,
        queries: answered.len(),
        top_k: search.top_k,
        ndcg_at_10: mean(&column(|one| one.ndcg_at_10)),
        recall_at_5: mean(&column(|one| one.recall_at_5)),
        p50_ms: percentile(&took, 0.5).unwrap_or_default(),
        p99_ms: percentile(&took, 0.99).unwrap_or_default(),
        queries_per_s: answered.len() as f64 / seconds,
        degraded: answered.iter().filter(|one| one.degraded).count(),
    })
}

async fn ask(
    api: &Api,
    search: &Search,
    mode: Mode,
    query: &Query,
    judgements: &Judgements,
) -> anyhow::Result<Answered> {
    let body = json!({
        "query": query.text,
        "collection": search.collection,
        "mode": mode,
        "top_k": search.top_k,
    });
    let begun = Instant::now();
    let answer = send(api.post("/v1/search").json(&body)).await?;
    let took_ms = begun.elapsed().as_secs_f64() * 1_000.0;
    let ranking = documents(&answer)?;
    Ok(Answered {
        ndcg_at_10: ndcg(&ranking, judgements, 10),
        recall_at_5: recall(&ranking, judgements, 5),
        took_ms,
        degraded: answer["degraded"].as_array().is_some_and(|parts| !parts.is_empty()),
    })
}

/// The documents of a search's passages, each where its best passage stands.
fn documents(answer: &Value) -> anyhow::Result<Vec<String>> {
    let passages = answer["passages"].as_array().context("the answer has no passages")?;
    let mut seen = HashSet::new();
    let ids = passages.iter().filter_map(|passage| passage["external_id"].as_str());
    Ok(ids.filter(|id| seen.insert(*id)).map(ToOwned::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_counts_once() {
        let answer = json!({"passages": [
            {"external_id": "b"}, {"external_id": "a"}, {"external_id": "b"}, {"external_id": "c"},
        ]});
        assert_eq!(documents(&answer).unwrap(), ["b", "a", "c"]);
        assert!(documents(&json!({})).is_err());
    }
}
