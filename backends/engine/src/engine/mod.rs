//! A model at work: a thread of its own, which many requests share.

mod device;
mod memory;
mod metrics;
mod request;
mod run;
mod settings;
mod text;
mod writer;

use std::{
    ops::Range,
    sync::{Arc, mpsc},
};

use candle_core::{DType, Device};

#[cfg(any(test, feature = "tiny"))]
pub(crate) use self::device::open as open_device;
use self::{
    device::Needs,
    run::{Runner, Submission},
    text::{BuiltIn, Texts},
};
pub use self::{
    metrics::{Observer, Snapshot},
    request::{Output, Prompt, Reason, Request, Sampling, Sink, Ticket},
    settings::{BLOCK_SIZE, CacheSize, DeviceChoice, EngineSettings, NumberType, Quantization},
    text::TOKENIZER,
};
use crate::{
    LoadError, RequestError,
    cache::KvCache,
    config::{self, ModelConfig},
    error::first_line,
    model::Model,
    scheduler::{Limits, Scheduler},
    weights::{GgufFile, ModelFiles, Weights, weight_bytes},
};

/// Told how many of how many bytes of weights are loaded, on the engine's thread.
pub type LoadProgress = Box<dyn Fn(u64, u64) + Send + Sync>;

/// What is known of an engine once it runs.
#[derive(Debug, Clone, PartialEq)]
pub struct EngineInfo {
    /// Where it runs: `cpu` or `cuda:0`.
    pub device: String,
    /// In which numbers it computes: `f32`, `bf16` or `f16`.
    pub dtype: &'static str,
    /// The shape of its model.
    pub config: ModelConfig,
    /// What bounds its work.
    pub limits: Limits,
    /// Bytes of the model's weights on the device, as they were reckoned before it was loaded.
    pub weight_bytes: u64,
    /// Bytes of the cache.
    pub cache_bytes: u64,
}

/// An engine. It works while this exists; dropping it ends what is under way.
pub struct Engine {
    info: EngineInfo,
    texts: Arc<Texts>,
    submissions: mpsc::Sender<Submission>,
}

/// What loading gives.
struct Loaded {
    runner: Runner,
    info: EngineInfo,
    texts: Arc<Texts>,
}

impl Engine {
    /// Loads a model and starts its thread. It takes as long as the weights take to be read, and blocks.
    ///
    /// # Errors
    /// [`LoadError`] where the model, the device or the settings do not allow it.
    pub fn start(
        settings: EngineSettings,
        progress: LoadProgress,
        observer: Observer,
    ) -> Result<Self, LoadError> {
        Self::start_with(settings, progress, observer, None)
    }

    /// As [`Self::start`]; `overlap` says whether texts are passed on while the next step is computed, where it is given.
    pub(crate) fn start_with(
        settings: EngineSettings,
        progress: LoadProgress,
        observer: Observer,
        overlap: Option<bool>,
    ) -> Result<Self, LoadError> {
        let (submissions, queue) = mpsc::channel();
        let (told, loaded) = mpsc::sync_channel(1);
        // Everything that touches the device happens on its thread.
        let thread = move || {
            let mut runner = match load(&settings, &*progress, observer) {
                Ok(Loaded { runner, info, texts }) => {
                    let _ = told.send(Ok((info, texts)));
                    runner
                }
                Err(error) => {
                    let _ = told.send(Err(error));
                    return;
                }
            };
            runner.overlap = overlap.unwrap_or(runner.overlap);
            runner.run(&queue);
            run::refuse(&queue, "its device failed again and again");
        };
        std::thread::Builder::new()
            .name("raglan-engine".to_owned())
            .spawn(thread)
            .map_err(|error| LoadError::Device(format!("no thread could be started: {error}")))?;
        let (info, texts) =
            loaded.recv().map_err(|_| LoadError::Device("loading the model panicked".to_owned()))??;
        Ok(Self { info, texts, submissions })
    }

    /// Looks at all that can be looked at without loading the weights: files, shape, tokeniser, template, device and memory. It blocks. Answers
    /// with the device and the model's shape.
    ///
    /// # Errors
    /// [`LoadError`] where [`Self::start`] would not succeed.
    pub fn check(settings: &EngineSettings) -> Result<(String, ModelConfig), LoadError> {
        let Prepared { config, device, .. } = prepare(settings)?;
        Ok((device::name(&device), config))
    }

    /// What is known of it.
    #[must_use]
    pub fn info(&self) -> &EngineInfo {
        &self.info
    }

    /// The most tokens of a sequence, its answer included.
    #[must_use]
    pub fn longest(&self) -> usize {
        self.info.limits.longest()
    }

    /// How many tokens a prompt has. It takes as long as the text is: not for an asynchronous runtime's threads.
    ///
    /// # Errors
    /// [`RequestError::Invalid`] where it cannot be tokenised.
    pub fn count_tokens(&self, prompt: &Prompt) -> Result<usize, RequestError> {
        self.texts.tokens(prompt).map(|tokens| tokens.len())
    }

    /// The byte range of each token of a text as it is in a prompt, special tokens left out. It takes as long as the text is.
    ///
    /// # Errors
    /// [`RequestError::Invalid`] where it cannot be tokenised.
    pub fn token_ranges(&self, text: &str) -> Result<Vec<Range<usize>>, RequestError> {
        self.texts.ranges(text)
    }

    /// Begins a text; what comes of it goes to `sink`. The prompt is tokenised on the caller's thread: not for an asynchronous runtime's threads.
    ///
    /// # Errors
    /// [`RequestError`] where the request is not valid or the engine has stopped. What is refused later, for its length or because too many
    /// wait, is told to the sink.
    pub fn submit(&self, request: Request, sink: Sink) -> Result<Ticket, RequestError> {
        request.sampling.check()?;
        let tokens = self.texts.tokens(&request.prompt)?;
        let (ticket, cancelled) = Ticket::new();
        let submission = Submission { request, tokens, cancelled, sink };
        self.submissions
            .send(submission)
            .map_err(|_| RequestError::Stopped("its thread has ended".to_owned()))?;
        Ok(ticket)
    }
}

/// A model that was looked at and not loaded.
struct Prepared {
    files: ModelFiles,
    config: ModelConfig,
    texts: Texts,
    device: Device,
    dtype: DType,
    weight_bytes: u64,
    context_tokens: usize,
}

/// Checks all that can be checked without reading the weights.
fn prepare(settings: &EngineSettings) -> Result<Prepared, LoadError> {
    for (name, value) in [("max_batch_tokens", settings.batch_tokens), ("max_sequences", settings.sequences)]
    {
        if value == 0 {
            return Err(LoadError::Settings(format!("{name} must be at least 1")));
        }
    }
    let files = ModelFiles::find(&settings.model)?;
    let gguf = match &files {
        ModelFiles::Safetensors { .. } => None,
        ModelFiles::Gguf { file, .. } => Some(GgufFile::open(file)?),
    };
    let (config, built_in) = match &gguf {
        None => (ModelConfig::read(files.folder())?, BuiltIn::default()),
        Some(file) => (config::of_gguf(file)?, BuiltIn::of_gguf(file)),
    };
    let texts = Texts::read(files.folder(), &config, &built_in)?;
    let device = device::open(settings.device)?;
    let dtype = settings.dtype.resolve(!device.is_cpu(), config.stored.as_deref());
    if !device.is_cpu() {
        raglan_kernels::check_heads_on_gpu(dtype, config.head_dim)
            .map_err(|error| LoadError::unsupported(files.folder(), first_line(&error)))?;
    }
    let weight_bytes = match &gguf {
        None => weight_bytes(&config, dtype, settings.quantize.kind()),
        Some(file) => file.weight_bytes(dtype, settings.quantize.kind()),
    };
    let context_tokens = settings.context_tokens.unwrap_or(config.positions).min(config.positions).max(1);
    let prepared = Prepared { files, config, texts, device, dtype, weight_bytes, context_tokens };
    prepared.needs(settings).check(&prepared.device)?;
    Ok(prepared)
}

impl Prepared {
    fn needs<'a>(&'a self, settings: &'a EngineSettings) -> Needs<'a> {
        Needs {
            config: &self.config,
            settings,
            dtype: self.dtype,
            weight_bytes: self.weight_bytes,
            context_tokens: self.context_tokens,
        }
    }
}

fn load(
    settings: &EngineSettings,
    progress: &(dyn Fn(u64, u64) + Send + Sync),
    observer: Observer,
) -> Result<Loaded, LoadError> {
    let prepared = prepare(settings)?;
    let Prepared { files, config, device, dtype, context_tokens, .. } = &prepared;
    let dtype = *dtype;
    let mut weights = Weights::open(files, device, dtype, settings.quantize.kind(), progress)?;
    let model = Model::load(config, &mut weights, *context_tokens)?;
    drop(weights);
    let blocks = prepared.needs(settings).blocks(device)?;
    let failed = |error: candle_core::Error| LoadError::device(&error);
    let cache = KvCache::new(config, blocks, BLOCK_SIZE, dtype, device).map_err(failed)?;
    let scheduler = Scheduler::new(Limits {
        blocks,
        block_size: BLOCK_SIZE,
        batch_tokens: settings.batch_tokens,
        sequences: settings.sequences,
        waiting: settings.waiting,
        context_tokens: *context_tokens,
    });
    let cache_numbers = blocks * BLOCK_SIZE * config.cache_numbers_per_token();
    let info = EngineInfo {
        device: device::name(device),
        dtype: dtype.as_str(),
        limits: *scheduler.limits(),
        weight_bytes: prepared.weight_bytes,
        cache_bytes: (cache_numbers * dtype.size_in_bytes()) as u64,
        config: config.clone(),
    };
    let Prepared { texts, device, .. } = prepared;
    let texts = Arc::new(texts);
    let runner = Runner::new(model, cache, scheduler, texts.clone(), device, observer);
    Ok(Loaded { runner, info, texts })
}
