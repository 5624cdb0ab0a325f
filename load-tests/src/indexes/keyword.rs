//! The keyword index: built through its port from a change log, and searched through its port, alone and beside the vector index.

use std::{path::PathBuf, sync::Arc, time::Instant};

use anyhow::{Context, bail};
use clap::Args;
use raglan_backends::{keyword_index::tantivy::TantivyIndex, vector_index::usearch::UsearchIndex};
use raglan_pipeline::ports::{KeywordIndex, Replica, VectorIndex};
use serde::Serialize;
use uuid::Uuid;

use super::{
    clock::{Latency, measure},
    corpus::{self, BATCH, CHUNKS_OF_A_DOCUMENT, Texts},
    vectors::{shown, size_of_folder},
};
use crate::{dataset, process::Memory};

/// Build a keyword index of texts made of real sentences, and measure how it is built, opened and searched.
#[derive(Debug, Args)]
pub struct Keyword {
    /// Data sets to take sentences and questions from.
    #[arg(long, value_name = "DIR", num_args = 1.., required = true)]
    dataset: Vec<PathBuf>,
    /// Chunks in the index.
    #[arg(long, default_value_t = 100_000)]
    count: usize,
    /// What the texts are drawn by.
    #[arg(long, default_value_t = 42)]
    seed: u64,
    /// Where the index is kept. One that is there already and complete is not built again.
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// Searches of each measurement.
    #[arg(long, default_value_t = 1000)]
    ask: usize,
    /// Hits wanted of each search.
    #[arg(long, default_value_t = 100)]
    limit: usize,
    /// Shares of the collection that filters leave, in hundredths.
    #[arg(long, num_args = 1.., default_values_t = [100, 1, 20])]
    percent: Vec<usize>,
    /// Searches at once.
    #[arg(long, num_args = 1.., default_values_t = [1, 4])]
    searchers: Vec<usize>,
    /// A vector index that `vectors` made, to be searched at the same time.
    #[arg(long, value_name = "DIR", requires = "questions")]
    vectors: Option<PathBuf>,
    /// The questions' vectors: numbers of 4 bytes, little-endian, one vector after the other.
    #[arg(long, value_name = "FILE")]
    questions: Option<PathBuf>,
    /// Numbers of a vector.
    #[arg(long, default_value_t = 384)]
    dimension: usize,
    /// Print JSON, a line for each measurement.
    #[arg(long)]
    json: bool,
}

/// One measurement.
#[derive(Debug, Serialize)]
#[serde(tag = "measured", rename_all = "snake_case")]
enum Report {
    Built { chunks: usize, seconds: f64, memory_mib: u64, disk_mib: usize },
    Opened { seconds: f64 },
    Searched { mode: &'static str, percent: usize, searchers: usize, latency: Latency },
}

pub async fn run(args: &Keyword) -> anyhow::Result<()> {
    let mut questions = Vec::new();
    for folder in &args.dataset {
        questions.extend(dataset::questions(folder)?);
    }
    if questions.is_empty() {
        bail!("there are no questions");
    }
    let index = TantivyIndex::open(&args.dir)?;
    if index.count().await? != args.count as u64 {
        build(args, &index).await?;
    }
    drop(index);
    let begun = Instant::now();
    let index = Arc::new(TantivyIndex::open(&args.dir)?);
    print(args, &Report::Opened { seconds: begun.elapsed().as_secs_f64() })?;
    let questions = Arc::new(questions);
    for percent in &args.percent {
        for searchers in &args.searchers {
            let (index, questions, scope) =
                (index.clone(), questions.clone(), corpus::scope(*percent, args.limit));
            let latency = measure(*searchers, args.ask, move |number| {
                let (index, questions, scope) = (index.clone(), questions.clone(), scope.clone());
                async move {
                    index.search(&questions[number * 7 % questions.len()], &scope).await?;
                    Ok(())
                }
            })
            .await?;
            print(
                args,
                &Report::Searched { mode: "keyword", percent: *percent, searchers: *searchers, latency },
            )?;
        }
    }
    if let (Some(dir), Some(file)) = (&args.vectors, &args.questions) {
        let vectors = Arc::new(UsearchIndex::open(dir, corpus::MODEL.to_owned(), args.dimension)?);
        let asked = Arc::new(corpus::read_vectors(file, args.dimension)?);
        both(args, &index, &vectors, &questions, &asked).await?;
    }
    Ok(())
}

/// Feeds the index as replication does.
async fn build(args: &Keyword, index: &TantivyIndex) -> anyhow::Result<()> {
    let mut texts = Texts::read(&args.dataset, args.seed)?;
    index.reset(Uuid::new_v4()).await?;
    let before = Memory::of(std::process::id())?.resident;
    let documents: Vec<usize> = (0..args.count.div_ceil(CHUNKS_OF_A_DOCUMENT)).collect();
    let mut seconds = 0.0;
    for (number, documents) in documents.chunks(BATCH / CHUNKS_OF_A_DOCUMENT).enumerate() {
        let mut changes = Vec::with_capacity(documents.len());
        for document in documents {
            let chunks = corpus::chunks_of(*document, args.count)
                .map(|number| corpus::chunk(number, texts.text(), None));
            let chunks = chunks.collect();
            changes.push(corpus::put(*document, texts.title(), chunks));
        }
        // Making the texts is not what is measured.
        let begun = Instant::now();
        index.apply(changes).await?;
        seconds += begun.elapsed().as_secs_f64();
        if number % 50 == 0 {
            eprintln!("{} chunks after {seconds:.0} s", index.count().await?);
        }
    }
    let memory = Memory::of(std::process::id())?.peak.saturating_sub(before);
    let disk_mib = size_of_folder(&args.dir)? >> 20;
    print(args, &Report::Built { chunks: args.count, seconds, memory_mib: memory >> 20, disk_mib })
}

/// Words and vectors at the same time, as a hybrid search asks for them.
async fn both(
    args: &Keyword,
    keywords: &Arc<TantivyIndex>,
    vectors: &Arc<UsearchIndex>,
    questions: &Arc<Vec<String>>,
    asked: &Arc<Vec<f32>>,
) -> anyhow::Result<()> {
    let dimension = args.dimension;
    let known = asked.len() / dimension;
    let mut modes = Vec::new();
    for percent in &args.percent {
        for searchers in &args.searchers {
            modes.push(("vector", false, *percent, *searchers));
            modes.push(("both", true, *percent, *searchers));
        }
    }
    for (mode, words_too, percent, searchers) in modes {
        let (keywords, vectors) = (keywords.clone(), vectors.clone());
        let (questions, asked) = (questions.clone(), asked.clone());
        let scope = corpus::scope(percent, args.limit);
        let latency = measure(searchers, args.ask, move |number| {
            let (keywords, vectors) = (keywords.clone(), vectors.clone());
            let (questions, asked, scope) = (questions.clone(), asked.clone(), scope.clone());
            async move {
                let number = number * 7 % known.min(questions.len());
                let vector =
                    asked.get(number * dimension..(number + 1) * dimension).context("no such vector")?;
                if words_too {
                    let (by_vector, by_words) = tokio::join!(
                        vectors.search(vector, &scope),
                        keywords.search(&questions[number], &scope)
                    );
                    by_vector?;
                    by_words?;
                } else {
                    vectors.search(vector, &scope).await?;
                }
                Ok(())
            }
        })
        .await?;
        print(args, &Report::Searched { mode, percent, searchers, latency })?;
    }
    Ok(())
}

fn print(args: &Keyword, report: &Report) -> anyhow::Result<()> {
    if args.json {
        println!("{}", serde_json::to_string(report)?);
        return Ok(());
    }
    match report {
        Report::Built { chunks, seconds, memory_mib, disk_mib } => {
            println!(
                "built: {chunks} chunks in {seconds:.1} s; resident at most {memory_mib} MiB more; {disk_mib} MiB on disk"
            );
        }
        Report::Opened { seconds } => println!("opened in {seconds:.2} s"),
        Report::Searched { mode, percent, searchers, latency } => {
            println!("{mode:<7} | {percent:>3} % | {searchers} searchers | {}", shown(latency));
        }
    }
    Ok(())
}
