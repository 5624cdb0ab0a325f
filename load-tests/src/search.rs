//! Asks all judged questions of a data set and measures ranking and latency.

use std::{path::PathBuf, time::Instant};

use clap::Args;
use serde_json::{Value, json};

use crate::{
    dataset,
    ranking::{ndcg, recall},
};

/// Search with all judged questions, one after the other; reports quality and latency.
#[derive(Args)]
pub struct Search {
    #[arg(long, default_value = "http://127.0.0.1:8765")]
    url: String,
    /// Folder of the data set.
    #[arg(long)]
    dataset: PathBuf,
    #[arg(long, default_value = "default")]
    collection: String,
    /// hybrid, vector or keyword.
    #[arg(long, default_value = "hybrid")]
    mode: String,
}

impl Search {
    pub async fn run(self) -> anyhow::Result<Value> {
        let judgements = dataset::judgements(&self.dataset)?;
        let queries = dataset::queries(&self.dataset, &judgements)?;
        let http = reqwest::Client::new();
        let (mut ndcg_10, mut recall_5, mut times) = (0.0, 0.0, Vec::new());
        for query in &queries {
            let body =
                json!({"query": query.text, "collection": self.collection, "mode": self.mode, "top_k": 20});
            let begun = Instant::now();
            let answered = http.post(format!("{}/v1/search", self.url)).json(&body).send().await?;
            anyhow::ensure!(answered.status() == 200, "refused: {}", answered.text().await?);
            let found: Value = answered.json().await?;
            times.push(begun.elapsed().as_secs_f64() * 1_000.0);
            anyhow::ensure!(found["degraded"] == json!([]), "degraded: {}", found["degraded"]);
            // Passages make a ranking of documents: each at its best passage's place.
            let mut ranking: Vec<String> = Vec::new();
            for passage in found["passages"].as_array().into_iter().flatten() {
                let id = passage["external_id"].as_str().unwrap_or_default().to_owned();
                if !ranking.contains(&id) {
                    ranking.push(id);
                }
            }
            ndcg_10 += ndcg(&ranking, &judgements[&query.id], 10);
            recall_5 += recall(&ranking, &judgements[&query.id], 5);
        }
        times.sort_by(f64::total_cmp);
        let at = |share: f64| times.get((times.len() as f64 * share) as usize).copied();
        let count = queries.len().max(1) as f64;
        Ok(json!({
            "mode": self.mode,
            "queries": queries.len(),
            "ndcg_at_10": ndcg_10 / count,
            "recall_at_5": recall_5 / count,
            "p50_ms": at(0.5),
            "p99_ms": at(0.99),
        }))
    }
}
