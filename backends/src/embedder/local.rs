//! Sentence embeddings by a BERT-family encoder in this process, on the CPU or on a GPU.

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
    BatchSettings, Engine, Lane, LoadError, Model, ModelFolder, ModelTokenizer, Packed, Placement, Reading,
    Sequence, Tokenized, Tokenizing,
};

/// What a model's folder leaves open.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EmbedderSettings {
    /// Where the model runs, and in which numbers.
    pub placement: Placement,
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
pub struct LocalEmbedder {
    info: EmbedderInfo,
    config: EmbeddingConfig,
    tokenizer: Arc<ModelTokenizer>,
    engine: Engine<Texts>,
}

impl LocalEmbedder {
    /// Loads a model and starts its threads. Blocks for as long as reading the weights takes: call it off the runtime.
    ///
    /// # Errors
    /// [`LoadError`] where a file is missing or wrong, the model is none that can be run, or the GPU is not there or has no room.
    pub fn load(
        folder: &ModelFolder,
        settings: &EmbedderSettings,
        batches: &BatchSettings,
    ) -> Result<Self, LoadError> {
        match settings.placement {
            Placement::Cpu(precision) => {
                let mut weights = Weights::open(folder.path())?;
                let encoder = Encoder::load(folder.path(), &mut weights, precision)?;
                let (width, positions) = (encoder.config().width, encoder.config().positions());
                let config = EmbeddingConfig::read(folder, settings, positions)?;
                let model = Box::new(Packed { encoder, reading: config.pooling });
                Self::start(folder, config, width, (settings.placement, model), batches)
            }
            #[cfg(feature = "candle")]
            Placement::Cuda(number, precision) => {
                let device = crate::models::candle::cuda(number)?;
                Self::on_device(folder, settings, precision, &device, batches)
            }
            #[cfg(not(feature = "candle"))]
            Placement::Cuda(..) => Err(LoadError::no_cuda(settings.placement)),
        }
    }

    /// Loads a model onto a device of candle's.
    #[cfg(feature = "candle")]
    fn on_device(
        folder: &ModelFolder,
        settings: &EmbedderSettings,
        precision: crate::models::GpuPrecision,
        device: &candle_core::Device,
        batches: &BatchSettings,
    ) -> Result<Self, LoadError> {
        use crate::models::candle::OnDevice;
        let positions = raglan_encoder::EncoderConfig::read(folder.path())?.positions();
        let config = EmbeddingConfig::read(folder, settings, positions)?;
        let pooling = config.pooling;
        let model = OnDevice::load(folder, device, precision, |_, _, _| Ok(pooling))?;
        model.warm_up(config.max_tokens, batches.batch_tokens)?;
        let width = model.config().width;
        Self::start(folder, config, width, (settings.placement, Box::new(model)), batches)
    }

    fn start(
        folder: &ModelFolder,
        config: EmbeddingConfig,
        dimension: usize,
        (placement, model): (Placement, Box<dyn Model>),
        batches: &BatchSettings,
    ) -> Result<Self, LoadError> {
        let tokenizer = Arc::new(ModelTokenizer::load(folder)?);
        let max_tokens = config.max_tokens;
        let info = EmbedderInfo { model: config.model_id(folder, placement), dimension, max_tokens };
        let texts = Texts { tokenizer: Arc::clone(&tokenizer), max_tokens };
        let engine = Engine::start("embedder", &info.model, (texts, model), batches)?;
        Ok(Self { info, config, tokenizer, engine })
    }
}

#[async_trait]
impl Embedder for LocalEmbedder {
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

#[cfg(feature = "candle")]
impl crate::models::candle::DeviceReading for Pooling {
    fn read(
        &self,
        states: &candle_core::Tensor,
        mask: Option<&candle_core::Tensor>,
    ) -> candle_core::Result<candle_core::Tensor> {
        use crate::models::candle::{first, greatest, sum};
        match self {
            Self::Mean => sum(states, mask),
            Self::First => first(states),
            Self::Max => greatest(states, mask),
        }
    }

    fn finish(&self, mut row: Vec<f32>) -> Vec<f32> {
        super::unit::normalise(&mut row);
        row
    }
}

#[cfg(test)]
mod tests;
