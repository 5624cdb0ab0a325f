//! Re-ranking by a cross-encoder (an encoder that reads question and passage together) in this process, on the CPU.

use std::sync::Arc;

use async_trait::async_trait;
use raglan_encoder::{Encoder, ScoreHead, Weights};
use raglan_pipeline::ports::{ModelError, Reranker};

use crate::models::{
    BatchSettings, Engine, Lane, LoadError, ModelFolder, ModelTokenizer, Precision, Reading, Sequence,
    Tokenizing, max_tokens,
};

/// A [`Reranker`] that runs a cross-encoder of one label in this process: a `BertForSequenceClassification` or a
/// `RobertaForSequenceClassification` (`XLMRoberta…`, `Camembert…`). Its score is the model's raw logit. Dropping it waits for the batches that run.
pub struct PackedReranker {
    model: String,
    engine: Engine<Pairs, Scores>,
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
        let head = ScoreHead::read(folder.path(), &mut weights, encoder.config().width)?;
        let pairs = Pairs { tokenizer: ModelTokenizer::load(folder)?, max_tokens };
        let model = folder.id();
        let engine = Engine::start("reranker", &model, (pairs, encoder, Scores(head)), batches)?;
        Ok(Self { model, engine })
    }
}

#[async_trait]
impl Reranker for PackedReranker {
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
