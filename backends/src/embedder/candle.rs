//! Sentence embeddings by a BERT on candle, on the CPU.

mod config;

use std::sync::Arc;

use async_trait::async_trait;
use raglan_pipeline::{
    domain::{EmbedPurpose, Embedding},
    ports::{Embedder, EmbedderInfo, ModelError, Tokenize},
};

use self::config::{EmbeddingConfig, Pooling};
use crate::models::{
    BatchSettings, Batcher, Encoder, Lane, LoadError, Model, ModelFolder, ModelTokenizer, Sequence,
};

/// An [`Embedder`] that runs a BERT in this process.
///
/// Everything that decides the vectors is read from the model's folder: pooling from `1_Pooling/config.json` (mean where there
/// is none), the number of tokens from `sentence_bert_config.json` or `tokenizer_config.json`, the texts put before a question or
/// a passage from `config_sentence_transformers.json`. Questions overtake passages. Dropping it waits for the batches that run.
pub struct CandleEmbedder {
    info: EmbedderInfo,
    config: EmbeddingConfig,
    tokenizer: Arc<ModelTokenizer>,
    batcher: Batcher,
}

impl CandleEmbedder {
    /// Loads a model and starts its threads. Blocks for as long as reading the weights takes: call it off the runtime.
    ///
    /// # Errors
    /// [`LoadError`] where a file is missing or wrong, or the model is none that can be run.
    pub fn load(folder: &ModelFolder, settings: &BatchSettings) -> Result<Self, LoadError> {
        let loaded = Encoder::load(folder)?;
        let config = EmbeddingConfig::read(folder, loaded.config.max_position_embeddings)?;
        let tokenizer = Arc::new(ModelTokenizer::load(folder)?);
        let dimension = loaded.config.hidden_size;
        let model = SentenceModel { encoder: loaded.encoder, pooling: config.pooling, dimension };
        let batcher = Batcher::start("embedder", Arc::new(model), settings).map_err(LoadError::Thread)?;
        let info = EmbedderInfo { model: config.model_id(folder), dimension, max_tokens: config.max_tokens };
        Ok(Self { info, config, tokenizer, batcher })
    }
}

#[async_trait]
impl Embedder for CandleEmbedder {
    fn info(&self) -> &EmbedderInfo {
        &self.info
    }

    fn tokenizer(&self) -> Arc<dyn Tokenize> {
        Arc::clone(&self.tokenizer) as _
    }

    async fn embed(&self, texts: Vec<String>, purpose: EmbedPurpose) -> Result<Vec<Embedding>, ModelError> {
        if texts.is_empty() {
            return Ok(Vec::new());
        }
        let (lane, prefix) = match purpose {
            EmbedPurpose::Query => (Lane::Query, self.config.query_prefix.clone()),
            EmbedPurpose::Passage => (Lane::Passage, self.config.passage_prefix.clone()),
            EmbedPurpose::Candidate => (Lane::Query, self.config.passage_prefix.clone()),
        };
        let (tokenizer, max) = (Arc::clone(&self.tokenizer), self.config.max_tokens);
        let tokenized = tokio::task::spawn_blocking(move || {
            let encode = |text: String| match prefix.as_str() {
                "" => tokenizer.encode(&text, max),
                prefix => tokenizer.encode(&format!("{prefix}{text}"), max),
            };
            texts.into_iter().map(encode).collect::<Result<Vec<_>, _>>()
        })
        .await
        .map_err(|error| ModelError::Permanent(format!("the tokeniser failed: {error}")))?
        .map_err(|error| ModelError::Permanent(format!("the tokeniser failed: {error}")))?;

        let read: Vec<(usize, bool)> =
            tokenized.iter().map(|text| (text.sequence.len(), text.truncated)).collect();
        let sequences = tokenized.into_iter().map(|text| text.sequence).collect();
        let vectors = self.batcher.run(sequences, lane).await?;
        Ok(vectors
            .into_iter()
            .zip(read)
            .map(|(vector, (tokens, truncated))| Embedding { vector, tokens, truncated })
            .collect())
    }
}

/// The encoder with pooling and normalisation.
struct SentenceModel {
    encoder: Encoder,
    pooling: Pooling,
    dimension: usize,
}

impl Model for SentenceModel {
    fn run(&self, batch: &[&Sequence]) -> Result<Vec<Vec<f32>>, String> {
        let pool = || -> candle_core::Result<Vec<Vec<f32>>> {
            let hidden = self.encoder.forward(batch)?;
            batch
                .iter()
                .enumerate()
                .map(|(index, sequence)| {
                    let tokens = match self.pooling {
                        Pooling::Mean => sequence.len(),
                        Pooling::First => 1,
                    };
                    Ok(pooled(&hidden.tokens(index, tokens)?, self.dimension))
                })
                .collect()
        };
        pool().map_err(|error| error.to_string())
    }
}

/// The mean of the tokens' states, scaled to unit length. The scale makes dividing by their number unnecessary.
fn pooled(states: &[f32], dimension: usize) -> Vec<f32> {
    let mut sum = vec![0_f32; dimension];
    for state in states.chunks_exact(dimension) {
        for (total, value) in sum.iter_mut().zip(state) {
            *total += value;
        }
    }
    let length = sum.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>().sqrt();
    if length > 0.0 {
        for value in &mut sum {
            *value = (f64::from(*value) / length) as f32;
        }
    } else if let Some(first) = sum.first_mut() {
        // No direction at all: any is as good, and a vector of length zero would break every search.
        *first = 1.0;
    }
    sum
}

#[cfg(test)]
mod tests;
