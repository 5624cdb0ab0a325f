//! Many searchers at once.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::bail;
use clap::{Args, ValueEnum};
use serde::Serialize;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::{
    api::{Api, Server, send},
    dataset,
    sequences::{sequences, tokenizer},
    stats::{mean, percentile},
};

/// Let N searchers ask one question after the other through `POST /v1/search` for a while: how many searches a second, and how long each takes.
#[derive(Debug, Args)]
pub struct Searchers {
    #[command(flatten)]
    server: Server,
    /// The data set whose questions are asked, each in its turn.
    #[arg(long, value_name = "DIR")]
    dataset: PathBuf,
    /// Where to look.
    #[arg(long, default_value = "default")]
    collection: String,
    /// Which search; the pipeline's own where absent.
    #[arg(long, value_enum)]
    mode: Option<Mode>,
    /// Passages of each search.
    #[arg(long, default_value_t = 10)]
    top_k: usize,
    /// Only questions of so many tokens of a model, special ones included …
    #[arg(long, requires = "model")]
    tokens: Option<usize>,
    /// … whose folder this is.
    #[arg(long, value_name = "DIR")]
    model: Option<PathBuf>,
    /// How many searchers; several numbers are measured one after the other.
    #[arg(long, num_args = 1.., default_values_t = [50], value_parser = clap::value_parser!(u64).range(1..))]
    searchers: Vec<u64>,
    /// How long each number of them searches, in seconds.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,
    /// Seconds before that which are not counted.
    #[arg(long, default_value_t = 2)]
    warm_up_s: u64,
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

/// What was measured with one number of searchers.
#[derive(Debug, Serialize)]
struct Report {
    searchers: u64,
    mode: Option<Mode>,
    seconds: f64,
    searches: usize,
    searches_per_s: f64,
    /// Seen from the client, in milliseconds.
    mean_ms: f64,
    p50_ms: f64,
    p90_ms: f64,
    p99_ms: f64,
    /// Searches that a part of the server could not take part in.
    degraded: usize,
}

/// A search that began in the time that counts.
struct Searched {
    took_ms: f64,
    degraded: bool,
}

pub async fn run(searchers: &Searchers) -> anyhow::Result<()> {
    let api = Api::new(searchers.server.clone());
    let bodies: Arc<Vec<Value>> =
        Arc::new(searchers.questions()?.iter().map(|text| searchers.body(text)).collect());
    let mut reports = Vec::new();
    for number in &searchers.searchers {
        reports.push(searchers.measure(&api, &bodies, *number).await?);
    }
    if searchers.json {
        println!("{}", serde_json::to_string_pretty(&reports)?);
        return Ok(());
    }
    println!("searchers  searches  searches/s  mean ms   p50 ms   p90 ms   p99 ms  degraded");
    for report in &reports {
        println!(
            "{:>9} {:>9} {:>11.1} {:>8.1} {:>8.1} {:>8.1} {:>8.1} {:>9}",
            report.searchers,
            report.searches,
            report.searches_per_s,
            report.mean_ms,
            report.p50_ms,
            report.p90_ms,
            report.p99_ms,
            report.degraded
        );
    }
    Ok(())
}

impl Searchers {
    fn questions(&self) -> anyhow::Result<Vec<String>> {
        let mut questions = dataset::questions(&self.dataset)?;
        if let (Some(tokens), Some(model)) = (self.tokens, &self.model) {
            let read = sequences(&tokenizer(model)?, &questions)?;
            let mut read = read.iter();
            questions.retain(|_| read.next().is_some_and(|sequence| sequence.len() == tokens));
            if questions.is_empty() {
                bail!("no question has {tokens} tokens");
            }
        }
        Ok(questions)
    }

    fn body(&self, text: &str) -> Value {
        let mut body = json!({"query": text, "collection": self.collection, "top_k": self.top_k});
        if let Some(mode) = self.mode {
            body["mode"] = json!(mode);
        }
        body
    }

    #[allow(clippy::cast_precision_loss)] // counts of searches
    async fn measure(&self, api: &Api, bodies: &Arc<Vec<Value>>, number: u64) -> anyhow::Result<Report> {
        let next = Arc::new(AtomicUsize::new(0));
        let begins = Instant::now() + Duration::from_secs(self.warm_up_s);
        let ends = begins + Duration::from_secs(self.seconds);
        let mut tasks = JoinSet::new();
        for _ in 0..number {
            tasks.spawn(search(api.clone(), bodies.clone(), next.clone(), begins, ends));
        }
        let mut all: Vec<Searched> = Vec::new();
        while let Some(searched) = tasks.join_next().await {
            all.extend(searched??);
        }
        // Until the last that was begun in time had its answer.
        let seconds = begins.elapsed().as_secs_f64();
        if all.is_empty() {
            bail!("no search ended within {} s", self.seconds);
        }
        let took: Vec<f64> = all.iter().map(|one| one.took_ms).collect();
        let at = |share| percentile(&took, share).unwrap_or_default();
        Ok(Report {
            searchers: number,
            mode: self.mode,
            seconds,
            searches: all.len(),
            searches_per_s: all.len() as f64 / seconds,
            mean_ms: mean(&took),
            p50_ms: at(0.5),
            p90_ms: at(0.9),
            p99_ms: at(0.99),
            degraded: all.iter().filter(|one| one.degraded).count(),
        })
    }
}

/// One searcher: the next question that nobody has asked yet, until the time is over.
async fn search(
    api: Api,
    bodies: Arc<Vec<Value>>,
    next: Arc<AtomicUsize>,
    begins: Instant,
    ends: Instant,
) -> anyhow::Result<Vec<Searched>> {
    let mut searched = Vec::new();
    while Instant::now() < ends {
        let body = &bodies[next.fetch_add(1, Ordering::Relaxed) % bodies.len()];
        let begun = Instant::now();
        let answer = send(api.post("/v1/search").json(body)).await?;
        if begun >= begins {
            searched.push(Searched {
                took_ms: begun.elapsed().as_secs_f64() * 1_000.0,
                degraded: answer["degraded"].as_array().is_some_and(|parts| !parts.is_empty()),
            });
        }
    }
    Ok(searched)
}
