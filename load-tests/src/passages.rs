//! What the parts of an ingestion cost by themselves, without a server: parsing, cutting, cutting into tokens, and the encoder alone.
//!
//! The last is the least time that taking the same corpus in can take; `ingest` says how long it does take.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use clap::Args;
use raglan_backends::{
    models::{BatchSettings, ModelFolder, ModelTokenizer},
    parser::DefaultParser,
};
use raglan_encoder::{Encoder, Precision, Sequence, States, Weights};
use raglan_pipeline::{
    ingestion::chunker::{ChunkerSettings, chunk, embedded_text},
    ports::{Parser, SourceFile},
};
use serde::Serialize;

use crate::{
    dataset,
    process::{processor_time, seconds},
    sequences::{run_all, sequences, tokenizer},
};

/// Measure the parts of an ingestion by themselves, the encoder above all.
#[derive(Debug, Args)]
pub struct Passages {
    /// A data set in BEIR's layout …
    #[arg(long, value_name = "DIR", required_unless_present = "files")]
    dataset: Option<PathBuf>,
    /// … or a folder of files.
    #[arg(long, value_name = "DIR", conflicts_with = "dataset")]
    files: Option<PathBuf>,
    /// The folder of the embedding model.
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// Threads that run the encoder; as many as the server takes where absent.
    #[arg(long)]
    threads: Option<usize>,
    /// Compute in 32-bit floats rather than in 8-bit integers.
    #[arg(long)]
    exact: bool,
    /// How often the encoder runs; the median counts.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// At most so many chunks, spread evenly over all of them.
    #[arg(long)]
    sample: Option<usize>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// What was measured.
#[derive(Debug, Default, Serialize)]
struct Report {
    documents: usize,
    unreadable: usize,
    chunks: usize,
    /// Special tokens included.
    tokens: usize,
    /// On one thread, of processor time.
    parse_cpu_s: f64,
    /// Cutting into chunks, the tokens of the whole documents included.
    chunk_cpu_s: f64,
    /// Cutting the chunks into tokens, as the embedder does once more.
    tokenise_cpu_s: f64,
    threads: usize,
    kernels: String,
    /// The encoder alone, on these threads: the median of all rounds.
    encoder_s: f64,
    encoder_cpu_s: f64,
    tokens_per_s: f64,
    tokens_per_cpu_s: f64,
}

pub fn run(passages: &Passages) -> anyhow::Result<()> {
    let mut report = Report::default();
    let texts = texts(passages, &mut report)?;
    let tokenizer = tokenizer(&passages.model)?;
    let begun = processor_time()?;
    let mut sequences = sequences(&tokenizer, &texts)?;
    report.tokenise_cpu_s = seconds(processor_time()? - begun);
    if let Some(sample) = passages.sample.filter(|sample| (1..sequences.len()).contains(sample)) {
        let step = sequences.len() as f64 / sample as f64;
        let picked = (0..sample).map(|n| sequences[(n as f64 * step) as usize].clone()).collect();
        sequences = picked;
    }
    report.chunks = sequences.len();
    report.tokens = sequences.iter().map(Sequence::len).sum();
    measure_encoder(passages, &sequences, &mut report)?;
    if passages.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        report.print();
    }
    Ok(())
}

/// What is embedded of the corpus, chunk by chunk.
fn texts(passages: &Passages, report: &mut Report) -> anyhow::Result<Vec<String>> {
    let tokenizer = ModelTokenizer::load(&ModelFolder::open(&passages.model)?)?;
    let sources: Vec<Source> = sources(passages)?.collect::<anyhow::Result<_>>()?;
    report.documents = sources.len();

    let begun = processor_time()?;
    let parser = DefaultParser::default();
    let parsed: Vec<_> = sources
        .into_iter()
        .filter_map(|(file, title)| {
            let parsed = parser.parse(&file).ok()?;
            let title = title.or_else(|| parsed.title.clone()).unwrap_or(file.name);
            Some((parsed, title))
        })
        .collect();
    let parsed_at = processor_time()?;
    report.parse_cpu_s = seconds(parsed_at - begun);
    report.unreadable = report.documents - parsed.len();

    let settings = ChunkerSettings::default();
    let mut texts = Vec::new();
    for (parsed, title) in parsed {
        let drafts = chunk(&parsed, &title, &tokenizer, &settings);
        texts.extend(drafts.iter().map(|draft| embedded_text(&title, &draft.heading_path, &draft.text)));
    }
    report.chunk_cpu_s = seconds(processor_time()? - parsed_at);
    if texts.is_empty() {
        bail!("there is no text");
    }
    Ok(texts)
}

type Source = (SourceFile, Option<String>);

fn sources(passages: &Passages) -> anyhow::Result<Box<dyn Iterator<Item = anyhow::Result<Source>> + '_>> {
    if let Some(folder) = &passages.dataset {
        let documents = dataset::corpus(folder)?;
        return Ok(Box::new(documents.map(|document| {
            let document = document?;
            let file = SourceFile {
                name: document.id,
                media_type: Some("text/plain".to_owned()),
                bytes: document.text.into(),
            };
            Ok((file, Some(document.title).filter(|title| !title.is_empty())))
        })));
    }
    let folder = passages.files.as_deref().context("neither --dataset nor --files")?;
    let mut paths = BTreeMap::new();
    find(folder, &mut paths)?;
    Ok(Box::new(paths.into_keys().map(|path| {
        let bytes = std::fs::read(&path).with_context(|| path.display().to_string())?.into();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Ok((SourceFile { name, media_type: None, bytes }, None))
    })))
}

fn find(folder: &Path, paths: &mut BTreeMap<PathBuf, ()>) -> anyhow::Result<()> {
    for entry in std::fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        if path.is_dir() {
            find(&path, paths)?;
        } else {
            paths.insert(path, ());
        }
    }
    Ok(())
}

fn measure_encoder(passages: &Passages, sequences: &[Sequence], report: &mut Report) -> anyhow::Result<()> {
    let precision = if passages.exact { Precision::F32 } else { Precision::Int8 };
    let encoder = Encoder::load(&passages.model, &mut Weights::open(&passages.model)?, precision)?;
    let settings = BatchSettings::default();
    let threads = passages.threads.unwrap_or(settings.workers).max(1);
    let batches = batches(sequences, &settings);
    let mut times = Vec::new();
    for _ in 0..passages.rounds {
        let (begun, cpu) = (Instant::now(), processor_time()?);
        // Read, so that it must be there.
        let read = |batch: &[&Sequence], mut states: States<'_>| {
            batch.iter().map(|sequence| states.next(sequence.len())[0]).sum::<f32>()
        };
        std::hint::black_box(run_all(&encoder, &batches, threads, read)?);
        times.push((begun.elapsed(), processor_time()? - cpu));
    }
    times.sort_unstable();
    let (wall, cpu): (Duration, Duration) = times[times.len() / 2];
    report.threads = threads;
    report.kernels = encoder.kernels().to_owned();
    report.encoder_s = seconds(wall);
    report.encoder_cpu_s = seconds(cpu);
    report.tokens_per_s = report.tokens as f64 / report.encoder_s;
    report.tokens_per_cpu_s = report.tokens as f64 / report.encoder_cpu_s;
    Ok(())
}

/// Texts in their order, as many together as a server takes.
fn batches<'a>(sequences: &'a [Sequence], settings: &BatchSettings) -> Vec<Vec<&'a Sequence>> {
    let mut batches: Vec<Vec<&Sequence>> = Vec::new();
    let mut tokens = 0;
    for sequence in sequences {
        match batches.last_mut() {
            Some(batch) if tokens + sequence.len() <= settings.batch_tokens => {
                batch.push(sequence);
                tokens += sequence.len();
            }
            _ => {
                batches.push(vec![sequence]);
                tokens = sequence.len();
            }
        }
    }
    batches
}

impl Report {
    fn print(&self) {
        println!("documents  {} ({} without text or unreadable)", self.documents, self.unreadable);
        println!("chunks     {}, {} tokens", self.chunks, self.tokens);
        println!(
            "one thread {:.1} s parsing, {:.1} s cutting into chunks, {:.1} s cutting these into tokens (processor time)",
            self.parse_cpu_s, self.chunk_cpu_s, self.tokenise_cpu_s
        );
        println!(
            "encoder    {:.1} s on {} threads ({}), {:.1} s of processor time; {:.0} tokens/s, {:.0} a processor second",
            self.encoder_s,
            self.threads,
            self.kernels,
            self.encoder_cpu_s,
            self.tokens_per_s,
            self.tokens_per_cpu_s
        );
    }
}
