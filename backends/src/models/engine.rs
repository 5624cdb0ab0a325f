//! What embedder and re-ranker have in common: texts are tokenised on threads of their own, and their tokens go through an encoder on
//! others.

use std::time::Instant;

use futures::future::try_join_all;
use raglan_encoder::{Encoder, Sequence, States};
use raglan_pipeline::ports::ModelError;

use super::{BatchSettings, Batcher, Lane, LoadError, batcher::Work};

/// Texts that are tokenised before the first of them goes on to the encoder, so that both work at once.
const PIECE: usize = 16;
/// So many threads of the encoder are kept busy by one that tokenises.
const WORKERS_PER_TOKENIZER: usize = 4;

/// Makes tokens of a text, and what is to be told of it.
pub(crate) trait Tokenizing: Send + Sync + 'static {
    /// A text, and what else belongs to it.
    type Input: Send + 'static;
    /// What is to be told of the text besides the encoder's answer.
    type Note: Send + 'static;

    /// The tokens that the encoder reads.
    fn tokenize(&self, input: &Self::Input) -> Result<(Sequence, Self::Note), String>;
}

/// Makes an answer of a text's states.
pub(crate) trait Reading: Send + Sync + 'static {
    /// The numbers that are wanted of a text: a vector, or a score. `width` is the length of a state.
    fn read(&self, states: &[f32], width: usize) -> Vec<f32>;
}

/// A tokeniser and an encoder, each with its threads.
pub(crate) struct Engine<T: Tokenizing, R: Reading> {
    tokenizer: Batcher<Tokenizer<T>>,
    encoder: Batcher<Reader<R>>,
}

struct Tokenizer<T>(T);

struct Reader<R> {
    encoder: Encoder,
    reading: R,
    tokens: metrics::Counter,
    seconds: metrics::Histogram,
}

impl<T: Tokenizing, R: Reading> Engine<T, R> {
    /// Starts the threads, and says once what runs, on which instructions, and what memory its weights take.
    pub(crate) fn start(
        part: &'static str,
        model: &str,
        (tokenizing, encoder, reading): (T, Encoder, R),
        settings: &BatchSettings,
    ) -> Result<Self, LoadError> {
        let (kernels, weights_bytes, threads) = (encoder.kernels(), encoder.bytes(), settings.workers);
        tracing::info!(part, model, kernels, threads, weights_bytes, "model packed for the processor");
        metrics::gauge!("raglan_model_weights_bytes", "model" => part).set(weights_bytes as f64);
        let reader = Reader {
            encoder,
            reading,
            tokens: metrics::counter!("raglan_model_tokens_total", "model" => part),
            seconds: metrics::histogram!("raglan_model_batch_seconds", "model" => part),
        };
        let tokenizers = BatchSettings {
            workers: settings.workers.div_ceil(WORKERS_PER_TOKENIZER),
            batch_tokens: 1,
            waiting_texts: settings.waiting_texts,
        };
        Ok(Self {
            tokenizer: Batcher::start(&format!("{part}-text"), Tokenizer(tokenizing), &tokenizers)
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

impl<R: Reading> Work for Reader<R> {
    type Input = Sequence;
    type Output = Vec<f32>;

    fn cost(&self, input: &Sequence) -> usize {
        input.len()
    }

    fn run(&self, batch: &[&Sequence]) -> Result<Vec<Vec<f32>>, String> {
        let started = Instant::now();
        let width = self.encoder.config().width;
        let read = |mut states: States<'_>| -> Vec<Vec<f32>> {
            batch.iter().map(|text| self.reading.read(states.next(text.len()), width)).collect()
        };
        let answers = self.encoder.run(batch, read)?;
        self.tokens.increment(batch.iter().map(|text| text.len() as u64).sum());
        self.seconds.record(started.elapsed());
        if answers.iter().flatten().all(|value| value.is_finite()) {
            Ok(answers)
        } else {
            Err("it computed something that is not a number".to_owned())
        }
    }
}
