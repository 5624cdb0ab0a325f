//! Re-ranking by a cross-encoder (an encoder that reads question and passage together) in this process, on the CPU or on a GPU.

use std::sync::Arc;

use async_trait::async_trait;
use raglan_encoder::{Encoder, ScoreHead, Weights};
use raglan_pipeline::ports::{ModelError, Reranker};

use crate::models::{
    BatchSettings, Engine, Lane, LoadError, Model, ModelFolder, ModelTokenizer, Packed, Placement, Reading,
    Sequence, Tokenizing, max_tokens,
};

/// A [`Reranker`] that runs a cross-encoder of one label in this process: a `BertForSequenceClassification` or a
/// `RobertaForSequenceClassification` (`XLMRoberta…`, `Camembert…`). Its score is the model's raw logit. Dropping it waits for the batches that run.
pub struct LocalReranker {
    model: String,
    engine: Engine<Pairs>,
}

impl LocalReranker {
    /// Loads a model and starts its threads. Blocks for as long as reading the weights takes: call it off the runtime.
    ///
    /// # Errors
    /// [`LoadError`] where a file is missing or wrong, the model is none that can be run, or the GPU is not there or has no room.
    pub fn load(
        folder: &ModelFolder,
        placement: Placement,
        batches: &BatchSettings,
    ) -> Result<Self, LoadError> {
        match placement {
            Placement::Cpu(precision) => {
                let mut weights = Weights::open(folder.path())?;
                let encoder = Encoder::load(folder.path(), &mut weights, precision)?;
                let max_tokens = max_tokens(folder, encoder.config().positions())?;
                let reading = Scores(ScoreHead::read(folder.path(), &mut weights, encoder.config().width)?);
                Self::start(folder, max_tokens, Box::new(Packed { encoder, reading }), batches)
            }
            #[cfg(feature = "candle")]
            Placement::Cuda(number, precision) => {
                let device = crate::models::candle::cuda(number)?;
                Self::on_device(folder, precision, &device, batches)
            }
            #[cfg(not(feature = "candle"))]
            Placement::Cuda(..) => Err(LoadError::no_cuda(placement)),
        }
    }

    /// Loads a model onto a device of candle's.
    #[cfg(feature = "candle")]
    fn on_device(
        folder: &ModelFolder,
        precision: crate::models::GpuPrecision,
        device: &candle_core::Device,
        batches: &BatchSettings,
    ) -> Result<Self, LoadError> {
        use crate::models::candle::{DeviceScores, OnDevice};
        let head = |weights: &mut Weights, config: &raglan_encoder::EncoderConfig, device: &_| {
            DeviceScores::load(folder, weights, config, device)
        };
        let model = OnDevice::load(folder, device, precision, head)?;
        let max_tokens = max_tokens(folder, model.config().positions())?;
        model.warm_up(max_tokens, batches.batch_tokens)?;
        Self::start(folder, max_tokens, Box::new(model), batches)
    }

    fn start(
        folder: &ModelFolder,
        max_tokens: usize,
        runs: Box<dyn Model>,
        batches: &BatchSettings,
    ) -> Result<Self, LoadError> {
        let pairs = Pairs { tokenizer: ModelTokenizer::load(folder)?, max_tokens };
        let model = folder.id();
        let engine = Engine::start("reranker", &model, (pairs, runs), batches)?;
        Ok(Self { model, engine })
    }
}

#[async_trait]
impl Reranker for LocalReranker {
    fn model(&self) -> &str {
        &self.model
    }

    async fn score(&self, query: &str, texts: Vec<String>) -> Result<Vec<f32>, ModelError> {
        let query: Arc<str> = query.into();
        let pairs = texts.into_iter().map(|text| (Arc::clone(&query), text)).collect();
        let scores = self.engine.run(pairs, Lane::Query).await?;
        Ok(scores.into_iter().flat_map(|(score, ())| score).collect())
    }
}

/// Pairs of a question and a text as the model reads them.
struct Pairs {
    tokenizer: ModelTokenizer,
    max_tokens: usize,
}

impl Tokenizing for Pairs {
    type Input = (Arc<str>, String);
    type Note = ();

    fn tokenize(&self, (query, text): &(Arc<str>, String)) -> Result<(Sequence, ()), String> {
        // A question is short beside a passage: to read it again for each costs little.
        let query = self.tokenizer.encode_first(query, self.max_tokens)?;
        let text = self.tokenizer.encode_first(text, self.max_tokens)?;
        Ok((self.tokenizer.pair(&query, text, self.max_tokens)?, ()))
    }
}

/// A pair's score, as the only number of a row.
struct Scores(ScoreHead);

impl Reading for Scores {
    fn read(&self, states: &[f32], _: usize) -> Vec<f32> {
        vec![self.0.score(states)]
    }
}

#[cfg(test)]
mod tests;
