//! How fast texts are embedded and pairs are scored, with weights of MiniLM's true shape that are made up on the spot.
//!
//! ```text
//! encoder_bench make FOLDER [--texts 8192] [--layers 6]
//! encoder_bench check FOLDER [--device cpu|cuda:0]
//! encoder_bench run FOLDER [--device cpu|cuda:0] [--batch-tokens 16384,65536]
//! ```
//!
//! `make` writes an embedder, a cross-encoder, and texts of 128 tokens for both. `check` compares the device's vectors and scores of texts of many
//! lengths with those of the CPU in f32, and fails where they differ. `run` embeds and scores all texts, in f16 on a GPU and in f32 on the CPU, and
//! prints one line of JSON: embeddings and pairs a second, each at the best of the sizes of a batch. It leaves some of its vectors and scores in
//! `FOLDER/ours.json`, for others to compare theirs with.
#![allow(clippy::print_stdout)] // it is what it is for

mod made;

use std::{collections::BTreeMap, error::Error, fs, path::Path, time::Instant};

use raglan_backends::{
    embedder::local::{EmbedderSettings, LocalEmbedder},
    models::{BatchSettings, GpuPrecision, ModelFolder, Placement, Precision},
    reranker::local::LocalReranker,
};
use raglan_pipeline::{
    domain::EmbedPurpose,
    ports::{Embedder, Reranker},
};
use serde_json::json;
use tokio::runtime::Runtime;

use self::made::Texts;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// How many vectors and scores are left for others.
const LEFT: usize = 16;

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["make", folder, options @ ..] => {
            let options = Options::parse(options)?;
            made::write(Path::new(folder), options.layers, options.texts)
        }
        ["check", folder, options @ ..] => check(Path::new(folder), &Options::parse(options)?),
        ["run", folder, options @ ..] => run(Path::new(folder), &Options::parse(options)?),
        _ => Err("encoder_bench make|check|run FOLDER [--option VALUE]…".into()),
    }
}

struct Options {
    /// The number of a GPU; none is the CPU.
    gpu: Option<usize>,
    batch_tokens: Vec<usize>,
    texts: usize,
    layers: usize,
}

impl Options {
    fn parse(words: &[&str]) -> Result<Self> {
        let mut given: BTreeMap<&str, &str> = BTreeMap::new();
        for pair in words.chunks(2) {
            let [name, value] = pair else { return Err("every option has a value".into()) };
            given.insert(name.trim_start_matches("--"), value);
        }
        let mut take = |name: &str, usual: &'static str| given.remove(name).unwrap_or(usual).to_owned();
        let gpu = match take("device", "cpu").as_str() {
            "cpu" => None,
            "cuda" => Some(0),
            other => match other.strip_prefix("cuda:") {
                Some(number) => Some(number.parse()?),
                None => return Err(format!("there is no device {other}").into()),
            },
        };
        let sizes = take("batch-tokens", "16384");
        let options = Self {
            gpu,
            batch_tokens: sizes.split(',').map(str::parse).collect::<std::result::Result<_, _>>()?,
            texts: take("texts", "8192").parse()?,
            layers: take("layers", "6").parse()?,
        };
        match given.keys().next() {
            Some(unknown) => Err(format!("there is no option --{unknown}").into()),
            None => Ok(options),
        }
    }

    fn placement(&self, precision: GpuPrecision) -> Placement {
        self.gpu.map_or(Placement::Cpu(Precision::F32), |number| Placement::Cuda(number, precision))
    }
}

/// Both models, and a runtime to call them from.
struct Models {
    embedder: LocalEmbedder,
    reranker: LocalReranker,
    runtime: Runtime,
}

impl Models {
    fn load(folder: &Path, placement: Placement, batch_tokens: Option<usize>) -> Result<Self> {
        let mut batches = BatchSettings::of(placement);
        batches.batch_tokens = batch_tokens.unwrap_or(batches.batch_tokens);
        let open = |part: &str| ModelFolder::open(&folder.join(part));
        let settings = EmbedderSettings { placement, ..EmbedderSettings::default() };
        Ok(Self {
            embedder: LocalEmbedder::load(&open(made::EMBEDDER)?, &settings, &batches)?,
            reranker: LocalReranker::load(&open(made::RERANKER)?, placement, &batches)?,
            runtime: Runtime::new()?,
        })
    }

    fn embed(&self, texts: &[String]) -> Result<Vec<Vec<f32>>> {
        let embedded = self.embedder.embed(texts.to_vec(), EmbedPurpose::Passage);
        Ok(self.runtime.block_on(embedded)?.into_iter().map(|embedding| embedding.vector).collect())
    }

    fn score(&self, query: &str, passages: &[String]) -> Result<Vec<f32>> {
        Ok(self.runtime.block_on(self.reranker.score(query, passages.to_vec()))?)
    }
}

/// Compares vectors and scores with those of the CPU.
fn check(folder: &Path, options: &Options) -> Result<()> {
    /// The least cosine of vectors, and how far scores may be apart, as a part of their length.
    const BOUNDS: [(&str, GpuPrecision, f64, f64); 2] =
        [("f32", GpuPrecision::F32, 0.999_99, 1e-3), ("f16", GpuPrecision::F16, 0.999, 2e-2)];
    let Texts { texts, query, .. } = Texts::read(folder)?;
    // Of many lengths, so that something is padded; more than a batch.
    let texts: Vec<String> =
        texts.iter().take(256).enumerate().map(|(at, text)| cut(text, 1 + at * 7 % 100)).collect();
    let cpu = Models::load(folder, Placement::Cpu(Precision::F32), None)?;
    let (vectors, scores) = (cpu.embed(&texts)?, cpu.score(&query, &texts)?);
    let (mut report, mut wrong) = (json!({"texts": texts.len()}), Vec::new());
    for (numbers, precision, least, most) in BOUNDS {
        let device = Models::load(folder, options.placement(precision), Some(8_192))?;
        let cosines = vectors.iter().zip(device.embed(&texts)?).map(|(a, b)| dot(a, &b));
        let cosine = cosines
            .fold(1.0, |least: f64, cosine| if cosine < least || cosine.is_nan() { cosine } else { least });
        let got = device.score(&query, &texts)?;
        let differences: Vec<f32> = scores.iter().zip(&got).map(|(a, b)| a - b).collect();
        let apart = (dot(&differences, &differences) / dot(&scores, &scores)).sqrt();
        report[numbers] = json!({"least_cosine": cosine, "cosine_allowed": least, "scores_apart": apart, "apart_allowed": most});
        // Not where something is not a number.
        let is_right = cosine >= least && apart <= most;
        if !is_right {
            wrong.push(format!("{numbers}: cosine {cosine:.6}, scores {apart:.2e} apart"));
        }
    }
    println!("{report}");
    match wrong.as_slice() {
        [] => Ok(()),
        wrong => Err(format!("the device differs from the CPU: {}", wrong.join("; ")).into()),
    }
}

/// The first words of a text.
fn cut(text: &str, words: usize) -> String {
    text.split(' ').take(words).collect::<Vec<_>>().join(" ")
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}

fn run(folder: &Path, options: &Options) -> Result<()> {
    let Texts { texts, query, passages } = Texts::read(folder)?;
    let placement = options.placement(GpuPrecision::F16);
    // How many a second, at which batch size.
    let mut embeddings: Vec<(f64, usize)> = Vec::new();
    let mut pairs: Vec<(f64, usize)> = Vec::new();
    let mut left = json!(null);
    for &size in &options.batch_tokens {
        let models = Models::load(folder, placement, Some(size))?;
        // What threads and device prepare at first is not measured.
        let some = texts.len().min(512);
        models.embed(&texts[..some])?;
        models.score(&query, &passages[..some])?;
        let begun = Instant::now();
        let vectors = models.embed(&texts)?;
        embeddings.push((texts.len() as f64 / begun.elapsed().as_secs_f64(), size));
        let begun = Instant::now();
        let scores = models.score(&query, &passages)?;
        pairs.push((passages.len() as f64 / begun.elapsed().as_secs_f64(), size));
        let some = texts.len().min(LEFT);
        left = json!({"vectors": vectors[..some], "scores": scores[..some]});
    }
    fs::write(folder.join("ours.json"), left.to_string())?;
    let best =
        |rates: &[(f64, usize)]| rates.iter().copied().max_by(|a, b| a.0.total_cmp(&b.0)).unwrap_or_default();
    let ((embeddings, embedding_batch), (pairs, pair_batch)) = (best(&embeddings), best(&pairs));
    let report = json!({
        "device": placement.to_string(), "texts": texts.len(), "tokens": made::TOKENS,
        "embeddings_per_s": embeddings, "embedding_batch_tokens": embedding_batch,
        "pairs_per_s": pairs, "pair_batch_tokens": pair_batch,
    });
    println!("{report}");
    Ok(())
}
