//! A language model of one's own: Raglan's engine, on the processor or on an NVIDIA GPU.

mod admission;
#[cfg(test)]
mod tests;

use std::{
    ops::Range,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use async_trait::async_trait;
use futures::stream::BoxStream;
pub use raglan_engine::{CacheSize, DeviceChoice, LoadError, NumberType, Quantization};
use raglan_engine::{
    Engine, EngineInfo, EngineSettings, Output, Prompt, Reason, Request, RequestError, Sampling,
};
use raglan_pipeline::{
    domain::{FinishReason, Usage},
    generation::prompt::says_not_found,
    ports::{Generated, GenerationRequest, Generator, ModelError, Place, Tokenize},
};
use rand::Rng;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use self::admission::Admission;
use crate::models::{Progress, words};

/// Tokens that a prompt may have beyond what was counted of its parts: words join differently at the seams.
const SEAMS: usize = 16;

/// A model and how it is run.
#[derive(Debug, Clone, PartialEq)]
pub struct CandleSettings {
    /// The name that results carry as `model`.
    pub name: String,
    /// The model's folder, or its GGUF file.
    pub model: PathBuf,
    /// Where it runs.
    pub device: DeviceChoice,
    /// In which numbers it computes.
    pub dtype: NumberType,
    /// How its weights are kept.
    pub quantize: Quantization,
    /// The most tokens of a step.
    pub max_batch_tokens: usize,
    /// The most texts at once.
    pub max_sequences: usize,
    /// The size of the cache.
    pub cache: CacheSize,
    /// The most tokens of a prompt with its answer; none for as many as the model was made for.
    pub max_context_tokens: Option<usize>,
    /// Where an answer is not to be always the same: how its tokens are chosen. The temperature comes with each request.
    pub top_k: u32,
    /// As above.
    pub top_p: f32,
    /// Above 1, tokens that are there already become less likely.
    pub repetition_penalty: f32,
    /// Decides what is drawn; none draws anew for each request.
    pub seed: Option<u64>,
    /// Strings before which an answer ends.
    pub stop: Vec<String>,
}

impl CandleSettings {
    /// The usual settings for this model.
    #[must_use]
    pub fn new(name: impl Into<String>, model: impl Into<PathBuf>) -> Self {
        let usual = EngineSettings::new(model);
        Self {
            name: name.into(),
            model: usual.model,
            device: usual.device,
            dtype: usual.dtype,
            quantize: usual.quantize,
            max_batch_tokens: usual.batch_tokens,
            max_sequences: usual.sequences,
            cache: usual.cache,
            max_context_tokens: usual.context_tokens,
            top_k: 0,
            top_p: 1.0,
            repetition_penalty: 1.0,
            seed: None,
            stop: Vec::new(),
        }
    }

    fn engine(&self) -> EngineSettings {
        EngineSettings {
            model: self.model.clone(),
            device: self.device,
            dtype: self.dtype,
            quantize: self.quantize,
            batch_tokens: self.max_batch_tokens,
            sequences: self.max_sequences,
            // Workers take no more than can be begun soon, but of these all may come between two steps, and then wait until the next one; who asks
            // without a place may wait as long as the queue of a full house is.
            waiting: self.max_sequences.max(16).saturating_mul(2),
            cache: self.cache,
            context_tokens: self.max_context_tokens,
        }
    }
}

/// Writes with a model of its own. All its texts share one engine.
pub struct CandleGenerator {
    settings: CandleSettings,
    engine: Arc<Engine>,
    admission: Arc<Admission>,
    /// Tokens of a prompt beside the words that are counted.
    frame: usize,
}

impl CandleGenerator {
    /// Loads the model. It takes as long as the weights take to be read, on a thread that may wait.
    ///
    /// # Errors
    /// [`LoadError`] where the model, the device or the settings do not allow it.
    pub async fn load(settings: CandleSettings, progress: Arc<dyn Progress>) -> Result<Self, LoadError> {
        let load = move || {
            let (admission, observer) = Admission::new(&settings.name, settings.max_sequences);
            let (bar, what) = (progress.clone(), format!("loading {}", settings.name));
            let begun = AtomicBool::new(false);
            let told = move |done, total| {
                if !begun.swap(true, Ordering::Relaxed) {
                    bar.start(&what, Some(total));
                }
                bar.advance(done);
            };
            let engine = Engine::start(settings.engine(), Box::new(told), observer);
            progress.finish();
            let engine = Arc::new(engine?);
            let empty = Prompt::Chat { system: "x".to_owned(), user: "x".to_owned() };
            let frame = engine.count_tokens(&empty).map_err(|error| LoadError::Invalid {
                path: settings.model.clone(),
                reason: error.to_string(),
            })?;
            Ok(Self { settings, engine, admission, frame: frame + SEAMS })
        };
        tokio::task::spawn_blocking(load)
            .await
            .map_err(|error| LoadError::Device(format!("loading the model failed: {error}")))?
    }

    /// Looks at a model and its device without loading the weights; answers in words.
    ///
    /// # Errors
    /// [`LoadError`] where [`Self::load`] would not succeed.
    pub async fn check(settings: &CandleSettings) -> Result<String, LoadError> {
        let settings = settings.engine();
        let checked = tokio::task::spawn_blocking(move || Engine::check(&settings)).await;
        let (device, config) =
            checked.map_err(|error| LoadError::Device(format!("the model was not looked at: {error}")))??;
        let millions = config.parameters() / 1_000_000;
        Ok(format!("{:?}, {millions} million parameters, on {device}", config.family))
    }

    /// What is known of its engine.
    #[must_use]
    pub fn info(&self) -> &EngineInfo {
        self.engine.info()
    }

    fn request(&self, request: GenerationRequest) -> Request {
        let settings = &self.settings;
        Request {
            prompt: Prompt::Chat { system: request.system, user: request.user },
            max_tokens: request.options.max_tokens as usize,
            sampling: Sampling {
                temperature: request.options.temperature,
                top_k: settings.top_k,
                top_p: settings.top_p,
                repetition_penalty: settings.repetition_penalty,
                seed: settings.seed.unwrap_or_else(|| rand::rng().random()),
            },
            stop: settings.stop.clone(),
            // Whoever has a deadline cancels.
            deadline: None,
            ignore_end: false,
        }
    }
}

#[async_trait]
impl Generator for CandleGenerator {
    fn model(&self) -> &str {
        &self.settings.name
    }

    fn context_tokens(&self) -> Option<usize> {
        Some(self.engine.longest().saturating_sub(self.frame).max(1))
    }

    fn tokenizer(&self) -> Option<Arc<dyn Tokenize>> {
        Some(Arc::new(EngineTokens(self.engine.clone())))
    }

    async fn place(&self) -> Place {
        self.admission.place().await
    }

    async fn generate(
        &self,
        request: GenerationRequest,
        cancel: CancellationToken,
    ) -> Result<BoxStream<'static, Result<Generated, ModelError>>, ModelError> {
        if cancel.is_cancelled() {
            return Err(ModelError::Cancelled);
        }
        // As many as the answer has tokens, at most: the engine's thread must not wait for a reader.
        let (pieces, mut receiver) = mpsc::unbounded_channel();
        let (engine, request) = (self.engine.clone(), self.request(request));
        let sink = Box::new(move |output| {
            // Where nobody listens any more the ticket is dropped too, and the engine stops.
            let _ = pieces.send(output);
        });
        let submitted = tokio::task::spawn_blocking(move || engine.submit(request, sink)).await;
        let ticket = submitted
            .map_err(|error| ModelError::try_later(format!("the prompt was not tokenised: {error}")))?
            .map_err(refused)?;
        let stream = async_stream::stream! {
            // It lives as long as the stream does.
            let ticket = ticket;
            let mut answer = String::new();
            loop {
                let output = tokio::select! {
                    biased;
                    () = cancel.cancelled() => Some(Output::Cancelled),
                    output = receiver.recv() => output,
                };
                match ended(output, &mut answer) {
                    Ok(piece) => yield Ok(Generated::Delta(piece)),
                    Err(end) => {
                        drop(ticket);
                        yield end;
                        return;
                    }
                }
            }
        };
        Ok(Box::pin(stream))
    }
}

/// The tokens of the engine's model.
struct EngineTokens(Arc<Engine>);

impl Tokenize for EngineTokens {
    fn tokens(&self, text: &str) -> Vec<Range<usize>> {
        self.0.token_ranges(text).unwrap_or_else(|error| {
            tracing::warn!(%error, "tokeniser failed; words are counted instead");
            words(text)
        })
    }
}

/// The next piece of an answer, or how it ends.
fn ended(output: Option<Output>, answer: &mut String) -> Result<String, Result<Generated, ModelError>> {
    Err(match output {
        Some(Output::Text(piece)) => {
            answer.push_str(&piece);
            return Ok(piece);
        }
        Some(Output::End { reason, prompt_tokens, answer_tokens }) => Ok(Generated::End {
            reason: match reason {
                Reason::Stop => FinishReason::Stop,
                Reason::Length => FinishReason::Length,
            },
            usage: Usage { prompt_tokens: prompt_tokens as u64, completion_tokens: answer_tokens as u64 },
            found: !answer.trim().is_empty() && !says_not_found(answer),
            degraded: Vec::new(),
        }),
        Some(Output::Refused(error)) => Err(refused(error)),
        Some(Output::Cancelled | Output::Late) => Err(ModelError::Cancelled),
        Some(Output::Failed(message)) => Err(ModelError::try_later(message)),
        None => Err(ModelError::try_later("the engine ended without a word")),
    })
}

fn refused(error: RequestError) -> ModelError {
    match error {
        RequestError::TooLong { .. } => ModelError::TooLong(error.to_string()),
        RequestError::Invalid(message) => ModelError::Permanent(message),
        RequestError::Full { .. } | RequestError::Stopped(_) => ModelError::try_later(error.to_string()),
    }
}
