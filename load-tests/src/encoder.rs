//! The encoder by itself: tokens a second over batches that other engines can be given too, and a question's latency.

use std::{
    fs::File,
    io::{BufWriter, Write},
    path::{Path, PathBuf},
    time::Instant,
};

use anyhow::{Context, bail};
use clap::{Args, ValueEnum};
use raglan_encoder::{Encoder, Sequence, States, Weights};
use serde::Serialize;

use crate::{
    dataset,
    process::seconds,
    sequences::{run_all, sequences, tokenizer},
    stats::percentile,
};

/// Questions that are embedded one after the other for the latency.
const QUESTIONS: usize = 2_000;

/// Measure the encoder alone, over documents sorted by length and cut into batches. `load-tests/compare/encoder.py` measures ONNX Runtime beside it.
#[derive(Debug, Args)]
pub struct EncoderAlone {
    /// The data set.
    #[arg(long, value_name = "DIR")]
    dataset: PathBuf,
    /// The folder of the embedding model.
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// In which numbers it computes.
    #[arg(long, value_enum, num_args = 1.., default_values_t = [Precision::F32, Precision::Int8])]
    precision: Vec<Precision>,
    /// Threads, each running a batch of its own.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..))]
    threads: u64,
    /// At most so many documents, spread evenly over all of them.
    #[arg(long, default_value_t = 800)]
    sample: usize,
    /// Documents of a batch.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u64).range(1..))]
    batch: u64,
    /// Tokens of a question, special ones included, whose latency on one thread is measured.
    #[arg(long, default_value_t = 20)]
    question_tokens: usize,
    /// Write the batches' token ids to a file: an array of batches, which are arrays of texts, which are arrays of ids.
    #[arg(long, value_name = "FILE")]
    batches: Option<PathBuf>,
    /// Write the vectors of the last precision to a file, in the order of the batches: numbers of 4 bytes, little-endian.
    #[arg(long, value_name = "FILE")]
    vectors: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// In which numbers the encoder computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "snake_case")]
enum Precision {
    F32,
    Int8,
}

impl From<Precision> for raglan_encoder::Precision {
    fn from(precision: Precision) -> Self {
        match precision {
            Precision::F32 => Self::F32,
            Precision::Int8 => Self::Int8,
        }
    }
}

/// What was measured in one precision.
#[derive(Debug, Serialize)]
struct Report {
    precision: Precision,
    kernels: &'static str,
    texts: usize,
    tokens: usize,
    threads: u64,
    seconds: f64,
    tokens_per_s: f64,
    weights_bytes: usize,
    question_tokens: usize,
    question_p50_ms: f64,
    question_p99_ms: f64,
    /// The least and the mean over all texts, where both precisions were run.
    cosine_to_f32: Option<(f64, f64)>,
}

pub fn run(args: &EncoderAlone) -> anyhow::Result<()> {
    let tokenizer = tokenizer(&args.model)?;
    let texts: Vec<String> = dataset::corpus(&args.dataset)?
        .map(|document| document.map(|document| format!("{}. {}", document.title, document.text)))
        .collect::<anyhow::Result<_>>()?;
    let step = (texts.len() as f64 / args.sample.max(1) as f64).max(1.0);
    let picked: Vec<String> = (0..texts.len().min(args.sample))
        .filter_map(|number| texts.get((number as f64 * step) as usize).cloned())
        .collect();
    let mut all = sequences(&tokenizer, &picked)?;
    all.sort_by_key(Sequence::len);
    let batches: Vec<Vec<&Sequence>> =
        all.chunks(usize::try_from(args.batch)?).map(|batch| batch.iter().collect()).collect();
    if batches.is_empty() {
        bail!("{}: there are no documents", args.dataset.display());
    }
    if let Some(path) = &args.batches {
        write_batches(path, &batches)?;
    }
    let mut reports = Vec::new();
    let mut exact: Option<Vec<Vec<f32>>> = None;
    for precision in &args.precision {
        let (mut report, vectors) = args.measure(*precision, &batches)?;
        match &exact {
            _ if *precision == Precision::F32 => exact = Some(vectors),
            Some(exact) => report.cosine_to_f32 = Some(cosines(exact, &vectors)),
            None => {}
        }
        reports.push(report);
    }
    if args.json {
        println!("{}", serde_json::to_string_pretty(&reports)?);
    } else {
        reports.iter().for_each(Report::print);
    }
    Ok(())
}

impl EncoderAlone {
    fn measure(
        &self,
        precision: Precision,
        batches: &[Vec<&Sequence>],
    ) -> anyhow::Result<(Report, Vec<Vec<f32>>)> {
        let encoder = Encoder::load(&self.model, &mut Weights::open(&self.model)?, precision.into())?;
        let threads = usize::try_from(self.threads)?;
        // Memory that is used again for every batch is taken from the system once, for the longest.
        let longest = &batches[batches.len().saturating_sub(threads)..];
        run_all(&encoder, longest, threads, pool)?;
        let begun = Instant::now();
        let vectors: Vec<Vec<f32>> =
            run_all(&encoder, batches, threads, pool)?.into_iter().flatten().collect();
        let seconds = seconds(begun.elapsed());
        let tokens = batches.iter().flatten().map(|sequence| sequence.len()).sum::<usize>();
        let took = self.questions(&encoder, batches)?;
        if let Some(path) = &self.vectors {
            write_vectors(path, &vectors)?;
        }
        let report = Report {
            precision,
            kernels: encoder.kernels(),
            texts: vectors.len(),
            tokens,
            threads: self.threads,
            seconds,
            tokens_per_s: tokens as f64 / seconds,
            weights_bytes: encoder.bytes(),
            question_tokens: self.question_tokens,
            question_p50_ms: percentile(&took, 0.5).unwrap_or_default(),
            question_p99_ms: percentile(&took, 0.99).unwrap_or_default(),
            cosine_to_f32: None,
        };
        Ok((report, vectors))
    }

    /// How long the encoder takes for one question after the other, in milliseconds. The questions are beginnings of the documents.
    fn questions(&self, encoder: &Encoder, batches: &[Vec<&Sequence>]) -> anyhow::Result<Vec<f64>> {
        let cut = |sequence: &&Sequence| {
            let end = self.question_tokens.max(1);
            let mut question = (*sequence).clone();
            let last = question.ids.last().copied()?;
            question.ids.truncate(end);
            question.types.truncate(end);
            *question.ids.last_mut()? = last;
            Some(question)
        };
        let long = batches.iter().flatten().filter(|sequence| sequence.len() >= self.question_tokens);
        let questions: Vec<Sequence> = long.filter_map(cut).collect();
        let mut took = Vec::with_capacity(QUESTIONS);
        for question in questions.iter().cycle().take(QUESTIONS) {
            let begun = Instant::now();
            encoder.run(&[question], |states| pool(&[question], states)).map_err(anyhow::Error::msg)?;
            took.push(begun.elapsed().as_secs_f64() * 1_000.0);
        }
        Ok(took)
    }
}

/// The mean of each text's states, of unit length.
fn pool(batch: &[&Sequence], mut states: States<'_>) -> Vec<Vec<f32>> {
    batch
        .iter()
        .map(|sequence| {
            let rows = states.next(sequence.len());
            let width = rows.len() / sequence.len().max(1);
            let mut vector = vec![0.0; width];
            for row in rows.chunks_exact(width.max(1)) {
                vector.iter_mut().zip(row).for_each(|(sum, value)| *sum += value);
            }
            let length = vector.iter().map(|x| x * x).sum::<f32>().sqrt().max(f32::MIN_POSITIVE);
            vector.iter_mut().for_each(|x| *x /= length);
            vector
        })
        .collect()
}

/// The least and the mean.
fn cosines(one: &[Vec<f32>], other: &[Vec<f32>]) -> (f64, f64) {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    let cosine = |(a, b): (&Vec<f32>, &Vec<f32>)| dot(a, b) / (dot(a, a) * dot(b, b)).sqrt();
    let all: Vec<f64> = one.iter().zip(other).map(cosine).collect();
    (all.iter().copied().fold(1.0, f64::min), crate::stats::mean(&all))
}

fn write_batches(path: &Path, batches: &[Vec<&Sequence>]) -> anyhow::Result<()> {
    let ids: Vec<Vec<&[u32]>> =
        batches.iter().map(|batch| batch.iter().map(|sequence| &sequence.ids[..]).collect()).collect();
    let file = File::create(path).with_context(|| path.display().to_string())?;
    let mut file = BufWriter::new(file);
    serde_json::to_writer(&mut file, &ids)?;
    Ok(file.flush()?)
}

fn write_vectors(path: &Path, vectors: &[Vec<f32>]) -> anyhow::Result<()> {
    let file = File::create(path).with_context(|| path.display().to_string())?;
    let mut file = BufWriter::new(file);
    for value in vectors.iter().flatten() {
        file.write_all(&value.to_le_bytes())?;
    }
    Ok(file.flush()?)
}

impl Report {
    fn print(&self) {
        println!(
            "{:?} ({}): {} texts, {} tokens in {:.1} s on {} threads: {:.0} tokens/s; weights {} MiB",
            self.precision,
            self.kernels,
            self.texts,
            self.tokens,
            self.seconds,
            self.threads,
            self.tokens_per_s,
            self.weights_bytes >> 20
        );
        println!(
            "  a question of {} tokens: p50 {:.2} ms, p99 {:.2} ms",
            self.question_tokens, self.question_p50_ms, self.question_p99_ms
        );
        if let Some((least, mean)) = self.cosine_to_f32 {
            println!("  cosine to f32: {least:.5} at least, {mean:.5} in the mean");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cosines_are_the_least_and_the_mean() {
        let (least, mean) = cosines(&[vec![1.0, 0.0], vec![0.0, 2.0]], &[vec![3.0, 0.0], vec![1.0, 0.0]]);
        assert!(least.abs() < 1e-12 && (mean - 0.5).abs() < 1e-12);
    }

    #[test]
    fn batches_are_written_as_arrays_of_ids() {
        let texts =
            [Sequence { ids: vec![1, 2], types: vec![0, 0] }, Sequence { ids: vec![3], types: vec![0] }];
        let file = tempfile::NamedTempFile::new().unwrap();
        write_batches(file.path(), &[vec![&texts[0], &texts[1]], vec![&texts[1]]]).unwrap();
        assert_eq!(std::fs::read_to_string(file.path()).unwrap(), "[[[1,2],[3]],[[3]]]");
    }
}
