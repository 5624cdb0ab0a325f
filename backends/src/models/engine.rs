//! What embedder and re-ranker have in common: texts are tokenised on threads of their own, and their tokens go through a model on
//! others.

use std::time::Instant;

use futures::future::try_join_all;
use raglan_encoder::{Encoder, Sequence, States};
use raglan_pipeline::ports::ModelError;

use super::{BatchSettings, Batcher, Lane, LoadError, batcher::Work};

/// Texts that are tokenised before the first of them goes on to the encoder, so that both work at once.
const PIECE: usize = 16;

/// Makes tokens of a text, and what is to be told of it.
pub(crate) trait Tokenizing: Send + Sync + 'static {
    /// A text, and what else belongs to it.
    type Input: Send + 'static;
    /// What is to be told of the text besides the encoder's answer.
    type Note: Send + 'static;

    /// The tokens that the encoder reads.
    fn tokenize(&self, input: &Self::Input) -> Result<(Sequence, Self::Note), String>;
}

/// An encoder, and what is read of the states that it ends with.
pub(crate) trait Model: Send + Sync + 'static {
    /// What it runs on, in words.
    fn runs_on(&self) -> String;

    /// The memory that its weights take, in bytes.
    fn weights_bytes(&self) -> usize;

    /// The numbers that are wanted of each text, in order: a vector, or a score.
    fn answer(&self, batch: &[&Sequence]) -> Result<Vec<Vec<f32>>, String>;
}

/// Makes an answer of a text's states.
pub(crate) trait Reading: Send + Sync + 'static {
    /// The numbers that are wanted of a text: a vector, or a score. `width` is the length of a state.
    fn read(&self, states: &[f32], width: usize) -> Vec<f32>;
}

/// A model on the processor.
pub(crate) struct Packed<R: Reading> {
    pub(crate) encoder: Encoder,
    pub(crate) reading: R,
}

impl<R: Reading> Model for Packed<R> {
    fn runs_on(&self) -> String {
        self.encoder.kernels().to_owned()
    }

    fn weights_bytes(&self) -> usize {
        self.encoder.bytes()
    }

    fn answer(&self, batch: &[&Sequence]) -> Result<Vec<Vec<f32>>, String> {
        let width = self.encoder.config().width;
        let read = |mut states: States<'_>| -> Vec<Vec<f32>> {
            batch.iter().map(|text| self.reading.read(states.next(text.len()), width)).collect()
        };
        self.encoder.run(batch, read)
    }
}

/// A tokeniser and a model, each with its threads.
pub(crate) struct Engine<T: Tokenizing> {
    tokenizer: Batcher<Tokenizer<T>>,
    encoder: Batcher<Reader>,
}

struct Tokenizer<T>(T);

struct Reader {
    model: Box<dyn Model>,
    tokens: metrics::Counter,
    seconds: metrics::Histogram,
}

impl<T: Tokenizing> Engine<T> {
    /// Starts the threads, and says once what runs, on what, and what memory its weights take.
    pub(crate) fn start(
        part: &'static str,
        name: &str,
        (tokenizing, model): (T, Box<dyn Model>),
        settings: &BatchSettings,
    ) -> Result<Self, LoadError> {
        let (runs_on, weights_bytes) = (model.runs_on(), model.weights_bytes());
        let (threads, tokenizers) = (settings.workers, settings.tokenizers());
        tracing::info!(part, model = name, runs_on, threads, tokenizers, weights_bytes, "model ready to run");
        metrics::gauge!("raglan_model_weights_bytes", "model" => part).set(weights_bytes as f64);
        let reader = Reader {
            model,
            tokens: metrics::counter!("raglan_model_tokens_total", "model" => part),
            seconds: metrics::histogram!("raglan_model_batch_seconds", "model" => part),
        };
        let text = BatchSettings { workers: tokenizers, batch_tokens: 1, ..settings.clone() };
        Ok(Self {
            tokenizer: Batcher::start(&format!("{part}-text"), Tokenizer(tokenizing), &text)
                .map_err(LoadError::Thread)?,
            encoder: Batcher::start(part, reader, settings).map_err(LoadError::Thread)?,
        })
    }

    /// The answer to each text, in order, with the tokeniser's note.
    pub(crate) async fn run(
        &self,
        mut inputs: Vec<T::Input>,
        lane: Lane,
    ) -> Result<Vec<(Vec<f32>, T::Note)>, ModelError> {
        let mut pieces = Vec::with_capacity(inputs.len().div_ceil(PIECE));
        while !inputs.is_empty() {
            let rest = inputs.split_off(inputs.len().min(PIECE));
            pieces.push(self.run_piece(std::mem::replace(&mut inputs, rest), lane));
        }
        Ok(try_join_all(pieces).await?.into_iter().flatten().collect())
    }

    async fn run_piece(
        &self,
        inputs: Vec<T::Input>,
        lane: Lane,
    ) -> Result<Vec<(Vec<f32>, T::Note)>, ModelError> {
        let tokenized = self.tokenizer.run(inputs, lane).await?;
        let (sequences, notes): (Vec<_>, Vec<_>) = tokenized.into_iter().unzip();
        let answers = self.encoder.run(sequences, lane).await?;
        Ok(answers.into_iter().zip(notes).collect())
    }
}

impl<T: Tokenizing> Work for Tokenizer<T> {
    type Input = T::Input;
    type Output = (Sequence, T::Note);

    /// Each text by itself: tokenising gains nothing by batches.
    fn cost(&self, _: &T::Input) -> usize {
        1
    }

    fn run(&self, batch: &[&T::Input]) -> Result<Vec<Self::Output>, String> {
        batch.iter().map(|input| self.0.tokenize(input)).collect()
    }
}

impl Work for Reader {
    type Input = Sequence;
    type Output = Vec<f32>;

    fn cost(&self, input: &Sequence) -> usize {
        input.len()
    }

    fn run(&self, batch: &[&Sequence]) -> Result<Vec<Vec<f32>>, String> {
        let started = Instant::now();
        let answers = self.model.answer(batch)?;
        self.tokens.increment(batch.iter().map(|text| text.len() as u64).sum());
        self.seconds.record(started.elapsed());
        if answers.iter().flatten().all(|value| value.is_finite()) {
            Ok(answers)
        } else {
            Err("it computed something that is not a number".to_owned())
        }
    }
}
