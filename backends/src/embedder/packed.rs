//! Sentence embeddings by a BERT-family encoder in this process, on the CPU.

mod config;
mod pooling;

use std::sync::Arc;

use async_trait::async_trait;
use raglan_encoder::{Encoder, Weights};
use raglan_pipeline::{
    domain::{EmbedPurpose, Embedding},
    ports::{Embedder, EmbedderInfo, ModelError, Tokenize},
};

use self::{config::EmbeddingConfig, pooling::Pooling};
use crate::models::{
    BatchSettings, Batcher, Lane, LoadError, Model, ModelFolder, ModelTokenizer, Precision, Sequence, report,
};

/// What a model's folder leaves open.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EmbedderSettings {
    /// In which numbers the model computes.
    pub precision: Precision,
    /// The text put before a question. None: what the model's folder says.
    pub query_prefix: Option<String>,
    /// The text put before a passage. None: what the model's folder says.
    pub passage_prefix: Option<String>,
}

/// An [`Embedder`] that runs an encoder in this process.
///
/// What decides the vectors is read from the model's folder: pooling from `1_Pooling/config.json` (mean where there is none), the
/// number of tokens from `sentence_bert_config.json` or `tokenizer_config.json`, the texts put before a question or a passage from
/// `config_sentence_transformers.json`. Vectors have unit length whether or not the model asks for it. Questions overtake passages. Dropping it
/// waits for the batches that run.
pub struct PackedEmbedder {
    info: EmbedderInfo,
    config: EmbeddingConfig,
    tokenizer: Arc<ModelTokenizer>,
    batcher: Batcher,
}

impl PackedEmbedder {
    /// Loads a model and starts its threads. Blocks for as long as reading the weights takes: call it off the runtime.
    ///
    /// # Errors
    /// [`LoadError`] where a file is missing or wrong, or the model is none that can be run.
    pub fn load(
        folder: &ModelFolder,
        settings: &EmbedderSettings,
        batches: &BatchSettings,
    ) -> Result<Self, LoadError> {
        let mut weights = Weights::open(folder.path())?;
        let encoder = Encoder::load(folder.path(), &mut weights, settings.precision)?;
        let config = EmbeddingConfig::read(folder, settings, encoder.config().positions())?;
        let tokenizer = Arc::new(ModelTokenizer::load(folder)?);
        let info = EmbedderInfo {
            model: config.model_id(folder, settings.precision),
            dimension: encoder.config().width,
            max_tokens: config.max_tokens,
        };
        report("embedder", &info.model, &encoder);
        let model = SentenceModel { encoder, pooling: config.pooling };
        let batcher = Batcher::start("embedder", Arc::new(model), batches).map_err(LoadError::Thread)?;
        Ok(Self { info, config, tokenizer, batcher })
    }
}

#[async_trait]
impl Embedder for PackedEmbedder {
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
}

impl Model for SentenceModel {
    fn run(&self, batch: &[&Sequence]) -> Result<Vec<Vec<f32>>, String> {
        let width = self.encoder.config().width;
        self.encoder.run(batch, |mut states| {
            let pool = |sequence: &&Sequence| self.pooling.vector(states.next(sequence.len()), width);
            batch.iter().map(pool).collect()
        })
    }
}

#[cfg(test)]
mod tests;
