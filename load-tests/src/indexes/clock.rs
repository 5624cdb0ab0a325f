//! Latencies.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use serde::Serialize;

use crate::stats::percentile;

/// How long something took, often.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Latency {
    pub p50_ms: f64,
    pub p99_ms: f64,
    pub longest_ms: f64,
    /// How many a second, of all callers together.
    pub per_s: f64,
}

impl Latency {
    #[allow(clippy::cast_precision_loss)] // counts of searches
    pub fn of(taken: &[Duration], whole: Duration) -> Self {
        let ms: Vec<f64> = taken.iter().map(|one| one.as_secs_f64() * 1_000.0).collect();
        let at = |share| percentile(&ms, share).unwrap_or_default();
        Self {
            p50_ms: at(0.5),
            p99_ms: at(0.99),
            longest_ms: at(1.0),
            per_s: taken.len() as f64 / whole.as_secs_f64().max(1e-9),
        }
    }
}

/// Runs `callers` loops at once, which together do `count` times what `call` does with the number of the time.
pub async fn measure<F, C>(callers: usize, count: usize, call: C) -> anyhow::Result<Latency>
where
    C: Fn(usize) -> F + Send + Sync + 'static,
    F: Future<Output = anyhow::Result<()>> + Send,
{
    let call = Arc::new(call);
    let begun = Instant::now();
    let tasks: Vec<_> = (0..callers)
        .map(|caller| {
            let call = call.clone();
            tokio::spawn(async move {
                let mut taken = Vec::new();
                for number in (caller..count).step_by(callers) {
                    let begun = Instant::now();
                    call(number).await?;
                    taken.push(begun.elapsed());
                }
                anyhow::Ok(taken)
            })
        })
        .collect();
    let mut taken = Vec::new();
    for task in tasks {
        taken.extend(task.await??);
    }
    Ok(Latency::of(&taken, begun.elapsed()))
}
