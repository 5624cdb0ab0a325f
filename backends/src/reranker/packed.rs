//! Re-ranking by a cross-encoder (an encoder that reads question and passage together) in this process, on the CPU.

use std::sync::Arc;

use async_trait::async_trait;
use raglan_encoder::{Encoder, ScoreHead, Weights};
use raglan_pipeline::ports::{ModelError, Reranker};

use crate::models::{
    BatchSettings, Batcher, Lane, LoadError, Model, ModelFolder, ModelTokenizer, Precision, Sequence,
    max_tokens, report,
};

/// A [`Reranker`] that runs a cross-encoder of one label in this process: a `BertForSequenceClassification` or a
/// `RobertaForSequenceClassification` (`XLMRoberta…`, `Camembert…`). Its score is the model's raw logit. Dropping it waits for the batches that run.
pub struct PackedReranker {
    model: String,
    max_tokens: usize,
    tokenizer: Arc<ModelTokenizer>,
    batcher: Batcher,
}

impl PackedReranker {
    /// Loads a model and starts its threads. Blocks for as long as reading the weights takes: call it off the runtime.
    ///
    /// # Errors
    /// [`LoadError`] where a file is missing or wrong, or the model is none that can be run.
    pub fn load(
        folder: &ModelFolder,
        precision: Precision,
        batches: &BatchSettings,
    ) -> Result<Self, LoadError> {
        let mut weights = Weights::open(folder.path())?;
        let encoder = Encoder::load(folder.path(), &mut weights, precision)?;
        let max_tokens = max_tokens(folder, encoder.config().positions())?;
        let tokenizer = Arc::new(ModelTokenizer::load(folder)?);
        let head = ScoreHead::read(folder.path(), &mut weights, encoder.config().width)?;
        let model = folder.id();
        report("reranker", &model, &encoder);
        let batcher = Batcher::start("reranker", Arc::new(CrossEncoder { encoder, head }), batches)
            .map_err(LoadError::Thread)?;
        Ok(Self { model, max_tokens, tokenizer, batcher })
    }
}

#[async_trait]
impl Reranker for PackedReranker {
    fn model(&self) -> &str {
        &self.model
    }

    async fn score(&self, query: &str, texts: Vec<String>) -> Result<Vec<f32>, ModelError> {
        if texts.is_empty() {
            return Ok(Vec::new());
        }
        let (tokenizer, max, query) = (Arc::clone(&self.tokenizer), self.max_tokens, query.to_owned());
        let pairs = tokio::task::spawn_blocking(move || {
            let query = tokenizer.encode_first(&query, max)?;
            texts
                .into_iter()
                .map(|text| tokenizer.pair(&query, tokenizer.encode_first(&text, max)?, max))
                .collect::<Result<Vec<_>, String>>()
        })
        .await
        .map_err(|error| ModelError::Permanent(format!("the tokeniser failed: {error}")))?
        .map_err(|error| ModelError::Permanent(format!("the tokeniser failed: {error}")))?;
        let rows = self.batcher.run(pairs, Lane::Query).await?;
        Ok(rows.into_iter().flatten().collect())
    }
}

/// The encoder with its classifier.
struct CrossEncoder {
    encoder: Encoder,
    head: ScoreHead,
}

impl Model for CrossEncoder {
    fn run(&self, batch: &[&Sequence]) -> Result<Vec<Vec<f32>>, String> {
        self.encoder.run(batch, |mut states| {
            let score = |sequence: &&Sequence| vec![self.head.score(states.next(sequence.len()))];
            batch.iter().map(score).collect()
        })
    }
}

#[cfg(test)]
mod tests;
