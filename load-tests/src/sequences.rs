//! Texts as the encoder reads them, and the encoder run over batches of them without a server around it.

use std::{
    path::Path,
    sync::{
        OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
};

use anyhow::{Context, anyhow, bail};
use raglan_encoder::{Encoder, Sequence, States};
use tokenizers::{Tokenizer, TruncationParams};

/// The most tokens of a text that all-MiniLM-L6-v2 reads.
const MOST: usize = 256;

/// The model's tokeniser, without padding: the file carries the settings of the day it was saved.
pub fn tokenizer(model: &Path) -> anyhow::Result<Tokenizer> {
    let mut tokenizer = Tokenizer::from_file(model.join("tokenizer.json")).map_err(|error| anyhow!(error))?;
    tokenizer.with_padding(None);
    let truncation = TruncationParams { max_length: MOST, ..Default::default() };
    tokenizer.with_truncation(Some(truncation)).map_err(|error| anyhow!(error))?;
    Ok(tokenizer)
}

/// The tokens of each text, as the embedder cuts them.
pub fn sequences(tokenizer: &Tokenizer, texts: &[String]) -> anyhow::Result<Vec<Sequence>> {
    let sequence = |text: &String| {
        let encoding = tokenizer.encode_fast(text.as_str(), true).map_err(|error| anyhow!(error))?;
        Ok(Sequence { ids: encoding.get_ids().to_vec(), types: encoding.get_type_ids().to_vec() })
    };
    texts.iter().map(sequence).collect()
}

/// Runs all batches once, each thread taking the next one, and reads each batch's states. Answers in the order of the batches.
pub fn run_all<T: Send + Sync>(
    encoder: &Encoder,
    batches: &[Vec<&Sequence>],
    threads: usize,
    read: impl Fn(&[&Sequence], States<'_>) -> T + Sync,
) -> anyhow::Result<Vec<T>> {
    let next = AtomicUsize::new(0);
    let results: Vec<OnceLock<T>> = batches.iter().map(|_| OnceLock::new()).collect();
    let work = || -> Result<(), String> {
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let (Some(batch), Some(place)) = (batches.get(number), results.get(number)) else {
                return Ok(());
            };
            let result = encoder.run(batch, |states| read(batch, states))?;
            // Each number is taken once.
            let _ = place.set(result);
        }
    };
    std::thread::scope(|scope| {
        let running: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        running.into_iter().try_for_each(|thread| match thread.join() {
            Ok(done) => done.map_err(|error| anyhow!(error)),
            Err(_) => bail!("the encoder panicked"),
        })
    })?;
    results.into_iter().map(|result| result.into_inner().context("a batch was not run")).collect()
}
