//! Real vectors, for the others to mix.

use std::{
    fs::File,
    io::{BufWriter, Write},
    path::{Path, PathBuf},
};

use clap::Args;
use raglan_backends::{
    embedder::local::{EmbedderSettings, LocalEmbedder},
    models::{BatchSettings, ModelFolder},
};
use raglan_pipeline::{domain::EmbedPurpose, ports::Embedder};

use crate::dataset;

/// Texts embedded at a time.
const BATCH: usize = 256;

/// Embed the documents and the questions of data sets with the embedder of the product, and write the vectors to files for `vectors` and `keyword`.
#[derive(Debug, Args)]
pub struct Embed {
    /// The data sets.
    #[arg(long, value_name = "DIR", num_args = 1.., required = true)]
    dataset: Vec<PathBuf>,
    /// The model's folder.
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// Where the documents' vectors go: numbers of 4 bytes, little-endian, one vector after the other.
    #[arg(long, value_name = "FILE")]
    embeddings: PathBuf,
    /// Where the questions' vectors go, in the order of the data sets and of their files.
    #[arg(long, value_name = "FILE")]
    questions: PathBuf,
}

pub async fn run(args: &Embed) -> anyhow::Result<()> {
    let folder = ModelFolder::open(&args.model)?;
    let embedder = LocalEmbedder::load(&folder, &EmbedderSettings::default(), &BatchSettings::default())?;
    let (mut texts, mut questions) = (Vec::new(), Vec::new());
    for folder in &args.dataset {
        for document in dataset::corpus(folder)? {
            let document = document?;
            texts.push(format!("{}. {}", document.title, document.text));
        }
        questions.extend(dataset::questions(folder)?);
    }
    write(&embedder, texts, EmbedPurpose::Passage, &args.embeddings).await?;
    write(&embedder, questions, EmbedPurpose::Query, &args.questions).await
}

async fn write(
    embedder: &impl Embedder,
    texts: Vec<String>,
    purpose: EmbedPurpose,
    path: &Path,
) -> anyhow::Result<()> {
    let mut file = BufWriter::new(File::create(path)?);
    for batch in texts.chunks(BATCH) {
        for embedding in embedder.embed(batch.to_vec(), purpose).await? {
            for number in embedding.vector {
                file.write_all(&number.to_le_bytes())?;
            }
        }
    }
    file.flush()?;
    println!("{} vectors of {} numbers in {}", texts.len(), embedder.info().dimension, path.display());
    Ok(())
}
