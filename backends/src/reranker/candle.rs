//! Re-ranking by a cross-encoder (a BERT that reads question and passage together) on candle, on the CPU.

use std::sync::Arc;

use async_trait::async_trait;
use candle_core::{D, Module};
use candle_nn::Linear;
use raglan_pipeline::ports::{ModelError, Reranker};

use crate::models::{
    BatchSettings, Batcher, Encoder, Lane, LoadError, Model, ModelFolder, ModelTokenizer, Sequence,
    max_tokens,
};

/// A [`Reranker`] that runs a `BertForSequenceClassification` of one label in this process. Its score is the model's raw logit.
/// Dropping it waits for the batches that run.
pub struct CandleReranker {
    model: String,
    max_tokens: usize,
    tokenizer: Arc<ModelTokenizer>,
    batcher: Batcher,
}

impl CandleReranker {
    /// Loads a model and starts its threads. Blocks for as long as reading the weights takes: call it off the runtime.
    ///
    /// # Errors
    /// [`LoadError`] where a file is missing or wrong, or the model is none that can be run.
    pub fn load(folder: &ModelFolder, settings: &BatchSettings) -> Result<Self, LoadError> {
        let loaded = Encoder::load(folder)?;
        let max_tokens = max_tokens(folder, loaded.config.max_position_embeddings)?;
        let tokenizer = Arc::new(ModelTokenizer::load(folder)?);
        let width = loaded.config.hidden_size;
        let layer = |name: &str, rows: usize| {
            let at = loaded.weights.pp(name);
            Ok(Linear::new(at.get((rows, width), "weight")?, Some(at.get(rows, "bias")?)))
        };
        let head = |error: candle_core::Error| {
            LoadError::unsupported(
                folder.path(),
                format!("it is no cross-encoder with a pooler and one label: {error}"),
            )
        };
        let model = CrossEncoder {
            pooler: layer("bert.pooler.dense", width).map_err(head)?,
            classifier: layer("classifier", 1).map_err(head)?,
            encoder: loaded.encoder,
        };
        let batcher = Batcher::start("reranker", Arc::new(model), settings).map_err(LoadError::Thread)?;
        Ok(Self { model: folder.id(), max_tokens, tokenizer, batcher })
    }
}

#[async_trait]
impl Reranker for CandleReranker {
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

/// The encoder with its pooler and classifier.
struct CrossEncoder {
    encoder: Encoder,
    pooler: Linear,
    classifier: Linear,
}

impl Model for CrossEncoder {
    fn run(&self, batch: &[&Sequence]) -> Result<Vec<Vec<f32>>, String> {
        let score = || -> candle_core::Result<Vec<f32>> {
            let first = self.encoder.forward(batch)?.first()?;
            let pooled = self.pooler.forward(&first)?.tanh()?;
            self.classifier.forward(&pooled)?.squeeze(D::Minus1)?.to_vec1()
        };
        let scores = score().map_err(|error| error.to_string())?;
        Ok(scores.into_iter().map(|score| vec![score]).collect())
    }
}

#[cfg(test)]
mod tests;
