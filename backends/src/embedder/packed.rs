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
    BatchSettings, Engine, Lane, LoadError, ModelFolder, ModelTokenizer, Precision, Reading, Sequence,
    Tokenized, Tokenizing,
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
    engine: Engine<Texts, Pooling>,
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
        let texts = Texts { tokenizer: Arc::clone(&tokenizer), max_tokens: config.max_tokens };
        let pooling = config.pooling;
        let engine = Engine::start("embedder", &info.model, (texts, encoder, pooling), batches)?;
        Ok(Self { info, config, tokenizer, engine })
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
        let lane = match purpose {
            EmbedPurpose::Query | EmbedPurpose::Candidate => Lane::Query,
            EmbedPurpose::Passage => Lane::Passage,
        };
        let texts = self.config.prefixes.before(texts, purpose);
        let vectors = self.engine.run(texts, lane).await?;
        let embedding = |(vector, read): (Vec<f32>, Read)| Embedding {
            vector,
            tokens: read.tokens,
            truncated: read.truncated,
        };
        Ok(vectors.into_iter().map(embedding).collect())
    }
}

/// Texts as the model reads them.
struct Texts {
    tokenizer: Arc<ModelTokenizer>,
    max_tokens: usize,
}

/// How much of a text was read.
struct Read {
    tokens: usize,
    truncated: bool,
}

impl Tokenizing for Texts {
    type Input = String;
    type Note = Read;

    fn tokenize(&self, text: &String) -> Result<(Sequence, Read), String> {
        let Tokenized { sequence, truncated } = self.tokenizer.encode(text, self.max_tokens)?;
        let read = Read { tokens: sequence.len(), truncated };
        Ok((sequence, read))
    }
}

impl Reading for Pooling {
    fn read(&self, states: &[f32], width: usize) -> Vec<f32> {
        self.vector(states, width)
    }
}

#[cfg(test)]
mod tests;
