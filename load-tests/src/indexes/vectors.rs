//! The vector index: built through its port from a change log, and searched through its port, beside the graph alone and the scan alone.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use clap::Args;
use raglan_backends::vector_index::usearch::{UsearchIndex, UsearchSettings, Way};
use raglan_pipeline::ports::Replica;
use serde::Serialize;
use uuid::Uuid;

use super::{
    clock::{Latency, measure},
    corpus::{self, BATCH, CHUNKS_OF_A_DOCUMENT},
    exact,
};
use crate::process::{Memory, mib};

/// Build a vector index of mixtures of real vectors, and measure how it is built, saved, opened, searched and compacted.
#[derive(Debug, Args)]
pub struct Vectors {
    /// Real vectors to mix: numbers of 4 bytes, little-endian, one vector after the other.
    #[arg(long, value_name = "FILE")]
    embeddings: PathBuf,
    /// Real questions' vectors, in the same form.
    #[arg(long, value_name = "FILE")]
    questions: PathBuf,
    /// Numbers of a vector.
    #[arg(long, default_value_t = 384)]
    dimension: usize,
    /// Vectors in the index.
    #[arg(long, default_value_t = 100_000)]
    count: usize,
    /// What the mixtures are drawn by.
    #[arg(long, default_value_t = 42)]
    seed: u64,
    /// Where the index is kept. One that is there already and complete is not built again.
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// Questions asked; at most as many as there are.
    #[arg(long, default_value_t = 400)]
    ask: usize,
    /// Hits wanted of each search.
    #[arg(long, default_value_t = 10)]
    limit: usize,
    /// Shares of the collection that filters leave, in hundredths.
    #[arg(long, num_args = 1.., default_values_t = [100, 1, 5, 20])]
    percent: Vec<usize>,
    /// Searches at once.
    #[arg(long, num_args = 1.., default_values_t = [1, 4])]
    searchers: Vec<usize>,
    /// Neighbours of each vector.
    #[arg(long, default_value_t = UsearchSettings::default().connectivity)]
    connectivity: usize,
    /// Candidates kept while adding.
    #[arg(long, default_value_t = UsearchSettings::default().expansion_add)]
    expansion_add: usize,
    /// Candidates kept while searching. Several may be given, to compare.
    #[arg(long, num_args = 1.., default_values_t = [UsearchSettings::default().expansion_search])]
    expansion_search: Vec<usize>,
    /// At the end, delete three in ten documents and measure the compaction. The saved index is not touched.
    #[arg(long)]
    wear: bool,
    /// Print JSON, a line for each measurement.
    #[arg(long)]
    json: bool,
}

/// One measurement.
#[derive(Debug, Serialize)]
#[serde(tag = "measured", rename_all = "snake_case")]
enum Report {
    Built {
        vectors: usize,
        seconds: f64,
        memory_mib: f64,
        graph_mib: f64,
        rows_mib: f64,
        instructions: String,
        searches_meanwhile: Latency,
    },
    Saved {
        seconds: f64,
        disk_mib: f64,
    },
    Opened {
        seconds: f64,
    },
    Searched {
        expansion_search: usize,
        percent: usize,
        way: &'static str,
        searchers: usize,
        recall: f64,
        latency: Latency,
    },
    /// What a candidate of a walk costs, and a vector of a scan: the cost model's constants.
    Costs {
        candidates: usize,
        candidate_us: f64,
        row_ns: f64,
        rows_a_candidate: f64,
    },
    Compacted {
        dead: usize,
        seconds: f64,
        searches_meanwhile: Latency,
        recall: f64,
    },
}

struct Bench<'a> {
    args: &'a Vectors,
    vectors: Arc<Vec<f32>>,
    questions: Arc<Vec<f32>>,
}

#[allow(clippy::cast_precision_loss)] // shown with one digit
fn as_mib(bytes: usize) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

pub async fn run(args: &Vectors) -> anyhow::Result<()> {
    let real = corpus::read_vectors(&args.embeddings, args.dimension)?;
    let real = corpus::without_twins(&real, args.dimension);
    let asked = corpus::read_vectors(&args.questions, args.dimension)?;
    // Spread over the file: questions of different data sets.
    let held = asked.len() / args.dimension;
    let step = (held / args.ask).max(1);
    let questions: Vec<f32> =
        asked.chunks_exact(args.dimension).step_by(step).take(args.ask).flatten().copied().collect();
    eprintln!("mixing {} vectors of {} real ones", args.count, real.len() / args.dimension);
    let vectors = Arc::new(corpus::mix(&real, args.dimension, args.count, args.seed));
    drop((real, asked));
    let bench = Bench { args, vectors, questions: Arc::new(questions) };
    let index = bench.open(args.expansion_search[0])?;
    let index = if index.count().await? == args.count as u64 { index } else { bench.build(index).await? };
    drop(index);
    let truths: Vec<(usize, Vec<Vec<u32>>)> =
        args.percent.iter().map(|percent| (*percent, bench.truth(*percent, |_| true))).collect();
    let mut last = None;
    for expansion in &args.expansion_search {
        drop(last.take());
        let begun = Instant::now();
        let index = Arc::new(bench.open(*expansion)?);
        bench.print(&Report::Opened { seconds: begun.elapsed().as_secs_f64() })?;
        for (percent, truth) in &truths {
            bench.search(&index, *expansion, *percent, truth).await?;
        }
        last = Some(index);
    }
    match last {
        Some(index) if args.wear => bench.wear(index).await,
        _ => Ok(()),
    }
}

impl Bench<'_> {
    fn open(&self, expansion_search: usize) -> anyhow::Result<UsearchIndex> {
        let Vectors { connectivity, expansion_add, .. } = *self.args;
        let settings = UsearchSettings { connectivity, expansion_add, expansion_search };
        let index =
            UsearchIndex::open_with(&self.args.dir, corpus::MODEL.to_owned(), self.args.dimension, settings)?;
        Ok(index)
    }

    fn vector(&self, number: usize) -> &[f32] {
        &self.vectors[number * self.args.dimension..][..self.args.dimension]
    }

    fn truth(&self, percent: usize, alive: impl Fn(usize) -> bool + Sync) -> Vec<Vec<u32>> {
        eprintln!("comparing everything, for the right answers at {percent} %");
        let allowed = |number: usize| corpus::part(number) < percent && alive(number);
        exact::nearest(&self.vectors, &self.questions, self.args.dimension, self.args.limit, allowed)
    }

    /// Feeds the index as replication does, with one searcher at work.
    async fn build(&self, index: UsearchIndex) -> anyhow::Result<UsearchIndex> {
        let before = Memory::of(std::process::id())?.resident;
        index.reset(Uuid::new_v4()).await?;
        let index = Arc::new(index);
        let searching = self.search_meanwhile(index.clone());
        let begun = Instant::now();
        let documents: Vec<usize> = (0..self.args.count.div_ceil(CHUNKS_OF_A_DOCUMENT)).collect();
        for (number, documents) in documents.chunks(BATCH / CHUNKS_OF_A_DOCUMENT).enumerate() {
            let changes = documents.iter().map(|document| {
                let chunks = corpus::chunks_of(*document, self.args.count)
                    .map(|number| corpus::chunk(number, String::new(), Some(self.vector(number))));
                corpus::put(*document, String::new(), chunks.collect())
            });
            index.apply(changes.collect()).await?;
            if number % 50 == 0 {
                eprintln!("{} vectors after {:.0} s", index.count().await?, begun.elapsed().as_secs_f64());
            }
        }
        let seconds = begun.elapsed().as_secs_f64();
        let searches_meanwhile = searching.stop().await?;
        let resident = Memory::of(std::process::id())?.resident.saturating_sub(before);
        let stats = index.stats()?;
        ensure!(stats.live == self.args.count, "{} of {} vectors are there", stats.live, self.args.count);
        self.print(&Report::Built {
            vectors: stats.live,
            seconds,
            memory_mib: as_mib(usize::try_from(resident)?),
            graph_mib: as_mib(stats.graph_bytes),
            rows_mib: as_mib(stats.row_bytes),
            instructions: stats.instructions.unwrap_or_default(),
            searches_meanwhile,
        })?;
        let begun = Instant::now();
        index.save().await?;
        self.print(&Report::Saved {
            seconds: begun.elapsed().as_secs_f64(),
            disk_mib: as_mib(size_of_folder(&self.args.dir)?),
        })?;
        Arc::into_inner(index).context("the index is still searched")
    }

    /// Searches one after the other until it is told to stop.
    fn search_meanwhile(&self, index: Arc<UsearchIndex>) -> Searching {
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, questions, dimension) = (stop.clone(), self.questions.clone(), self.args.dimension);
        let scope = corpus::scope(100, self.args.limit);
        let task = tokio::spawn(async move {
            let (begun, mut taken) = (Instant::now(), Vec::new());
            for question in questions.chunks_exact(dimension).cycle() {
                if stopped.load(Ordering::Relaxed) {
                    break;
                }
                let begun = Instant::now();
                index.search_by(question, &scope, Way::Cheaper).await?;
                taken.push(begun.elapsed());
                // A searcher who thinks between two questions, and leaves the processors to what is measured.
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            anyhow::Ok(Latency::of(&taken, begun.elapsed()))
        });
        Searching { stop, task }
    }

    async fn search(
        &self,
        index: &Arc<UsearchIndex>,
        expansion_search: usize,
        percent: usize,
        truth: &[Vec<u32>],
    ) -> anyhow::Result<()> {
        let mut medians = Vec::new();
        for (way, name) in [(Way::Cheaper, "chosen"), (Way::Walk, "graph alone"), (Way::Scan, "scan alone")] {
            let recall = self.recall(index, percent, way, truth).await?;
            for searchers in &self.args.searchers {
                if way != Way::Cheaper && *searchers != self.args.searchers[0] {
                    continue;
                }
                let (index, questions, dimension) =
                    (index.clone(), self.questions.clone(), self.args.dimension);
                let scope = corpus::scope(percent, self.args.limit);
                let asked = self.questions.len() / dimension;
                // Long ones less often.
                let times = if way == Way::Cheaper { asked * 4 } else { asked };
                let latency = measure(*searchers, times, move |number| {
                    let (index, questions, scope) = (index.clone(), questions.clone(), scope.clone());
                    async move {
                        let question = &questions[number % asked * dimension..][..dimension];
                        index.search_by(question, &scope, way).await?;
                        Ok(())
                    }
                })
                .await?;
                let searchers = *searchers;
                medians.push((way, searchers, latency.p50_ms));
                self.print(&Report::Searched {
                    expansion_search,
                    percent,
                    way: name,
                    searchers,
                    recall,
                    latency,
                })?;
            }
        }
        let median = |wanted| medians.iter().find(|(way, ..)| *way == wanted).map(|(.., ms)| *ms);
        match (median(Way::Walk), median(Way::Scan)) {
            (Some(walk_ms), Some(scan_ms)) if percent >= 100 => {
                self.print(&self.costs(index, walk_ms, scan_ms))
            }
            _ => Ok(()),
        }
    }

    #[allow(clippy::cast_precision_loss)] // counts of vectors
    fn costs(&self, index: &UsearchIndex, walk_ms: f64, scan_ms: f64) -> Report {
        let candidates = index.candidates(self.args.count, self.args.limit);
        let candidate_us = walk_ms * 1e3 / candidates as f64;
        let row_ns = scan_ms * 1e6 / self.args.count as f64;
        Report::Costs { candidates, candidate_us, row_ns, rows_a_candidate: candidate_us * 1e3 / row_ns }
    }

    #[allow(clippy::cast_precision_loss)] // counts of hits
    async fn recall(
        &self,
        index: &UsearchIndex,
        percent: usize,
        way: Way,
        truth: &[Vec<u32>],
    ) -> anyhow::Result<f64> {
        let scope = corpus::scope(percent, self.args.limit);
        let (mut found, mut wanted) = (0, 0);
        for (question, truth) in self.questions.chunks_exact(self.args.dimension).zip(truth) {
            let hits = index.search_by(question, &scope, way).await?;
            ensure!(hits.len() == truth.len(), "{} hits where there are {}", hits.len(), truth.len());
            found += hits.iter().filter(|hit| truth.contains(&corpus::number(hit.chunk_id))).count();
            wanted += truth.len();
        }
        Ok(found as f64 / wanted.max(1) as f64)
    }

    /// Deletes three documents in ten, and waits until what is left has been built anew.
    async fn wear(&self, index: Arc<UsearchIndex>) -> anyhow::Result<()> {
        let gone = |document: usize| document % 10 < 3;
        let documents = self.args.count.div_ceil(CHUNKS_OF_A_DOCUMENT);
        let mut at = index.position();
        let searching = self.search_meanwhile(index.clone());
        let changes: Vec<_> = (0..documents)
            .filter(|document| gone(*document))
            .map(|document| {
                at += 1;
                corpus::delete(document, at)
            })
            .collect();
        for changes in changes.chunks(BATCH) {
            index.apply(changes.to_vec()).await?;
        }
        let dead = index.stats()?.dead;
        let begun = Instant::now();
        // What was deleted after the compaction began stays until the next one.
        while index.stats()?.dead * 4 > self.args.count {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let seconds = begun.elapsed().as_secs_f64();
        let searches_meanwhile = searching.stop().await?;
        let truth = self.truth(100, |number| !gone(number / CHUNKS_OF_A_DOCUMENT));
        let recall = self.recall(&index, 100, Way::Walk, &truth).await?;
        self.print(&Report::Compacted { dead, seconds, searches_meanwhile, recall })
    }

    fn print(&self, report: &Report) -> anyhow::Result<()> {
        if self.args.json {
            println!("{}", serde_json::to_string(report)?);
            return Ok(());
        }
        match report {
            Report::Built {
                vectors,
                seconds,
                memory_mib,
                graph_mib,
                rows_mib,
                instructions,
                searches_meanwhile,
            } => println!(
                "built: {vectors} vectors in {seconds:.1} s; resident {memory_mib:.0} MiB more (graph {graph_mib:.0}, rows {rows_mib:.0}); {instructions}; \
                 searches meanwhile: {}",
                shown(searches_meanwhile)
            ),
            Report::Saved { seconds, disk_mib } => println!("saved in {seconds:.1} s, {disk_mib:.0} MiB"),
            Report::Opened { seconds } => {
                let memory = Memory::of(std::process::id())?;
                println!("opened in {seconds:.1} s; this process: {}", mib(memory.resident));
            }
            Report::Searched { expansion_search, percent, way, searchers, recall, latency } => println!(
                "{percent:>3} % | ef {expansion_search:>3} | {way:<11} | {searchers} searchers | recall@{} {recall:.4} | {}",
                self.args.limit,
                shown(latency)
            ),
            Report::Costs { candidates, candidate_us, row_ns, rows_a_candidate } => println!(
                "costs: {candidate_us:.2} µs for each of {candidates} candidates, {row_ns:.0} ns a row: {rows_a_candidate:.0} rows a candidate"
            ),
            Report::Compacted { dead, seconds, searches_meanwhile, recall } => println!(
                "compacted: {dead} dead in {seconds:.1} s; recall by the graph {recall:.4}; searches meanwhile: {}",
                shown(searches_meanwhile)
            ),
        }
        Ok(())
    }
}

struct Searching {
    stop: Arc<AtomicBool>,
    task: tokio::task::JoinHandle<anyhow::Result<Latency>>,
}

impl Searching {
    async fn stop(self) -> anyhow::Result<Latency> {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await?
    }
}

pub fn shown(latency: &Latency) -> String {
    let Latency { p50_ms, p99_ms, longest_ms, per_s } = latency;
    format!("p50 {p50_ms:.3} ms, p99 {p99_ms:.3} ms, longest {longest_ms:.1} ms, {per_s:.0}/s")
}

pub fn size_of_folder(dir: &Path) -> anyhow::Result<usize> {
    let mut bytes = 0;
    for entry in fs::read_dir(dir)? {
        bytes += usize::try_from(entry?.metadata()?.len())?;
    }
    Ok(bytes)
}
