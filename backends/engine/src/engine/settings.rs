//! What an engine is given: where its model is, on which device it runs, and how much it may do at once.

use std::path::PathBuf;

use candle_core::{DType, quantized::GgmlDType};

/// Where a model runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DeviceChoice {
    /// The first GPU where this program can use one, else the processor.
    #[default]
    Auto,
    /// The processor.
    Cpu,
    /// This NVIDIA GPU, counted from 0.
    Cuda(usize),
}

/// In which numbers a model computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum NumberType {
    /// On a GPU those that the model was stored in, `f16` or else `bf16`; on the processor `f32`.
    #[default]
    Auto,
    /// 32 bits.
    F32,
    /// 16 bits with the range of 32.
    Bf16,
    /// 16 bits, IEEE 754.
    F16,
}

/// How weights are kept that the model's files do not have quantised already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Quantization {
    /// As they are.
    #[default]
    None,
    /// 8 bits each, and a scale for every 32: about half the memory of bf16.
    Q8_0,
}

impl Quantization {
    pub(crate) fn kind(self) -> Option<GgmlDType> {
        match self {
            Self::None => None,
            Self::Q8_0 => Some(GgmlDType::Q8_0),
        }
    }
}

impl NumberType {
    /// The numbers for a device and a model that was stored as its configuration says.
    pub(crate) fn resolve(self, on_gpu: bool, stored: Option<&str>) -> DType {
        match self {
            Self::F32 => DType::F32,
            Self::Bf16 => DType::BF16,
            Self::F16 => DType::F16,
            Self::Auto if !on_gpu => DType::F32,
            Self::Auto if stored == Some("float16") => DType::F16,
            Self::Auto => DType::BF16,
        }
    }
}

/// How large the cache of keys and values is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum CacheSize {
    /// So many blocks of [`BLOCK_SIZE`] tokens.
    Blocks(usize),
    /// This part of the device's memory that is free once the weights are loaded, above 0 and not above 1; but no more than all sequences at
    /// their longest need.
    Fraction(f64),
}

/// Tokens of a block of the cache.
pub const BLOCK_SIZE: usize = 16;

/// What an engine is given.
#[derive(Debug, Clone, PartialEq)]
pub struct EngineSettings {
    /// A folder with a model's files, or a GGUF file.
    pub model: PathBuf,
    /// Where it runs.
    pub device: DeviceChoice,
    /// In which numbers it computes.
    pub dtype: NumberType,
    /// How its weights are kept.
    pub quantize: Quantization,
    /// The most tokens of a step. More of them answer many prompts sooner; fewer let those that write wait less for each token.
    pub batch_tokens: usize,
    /// The most sequences that run at once.
    pub sequences: usize,
    /// The most sequences that wait.
    pub waiting: usize,
    /// The size of the cache.
    pub cache: CacheSize,
    /// The most tokens of one sequence, its answer included; none for as many as the model was made for. What does not fit into the cache is
    /// too long all the same.
    pub context_tokens: Option<usize>,
}

impl EngineSettings {
    /// The usual settings for this model.
    #[must_use]
    pub fn new(model: impl Into<PathBuf>) -> Self {
        Self {
            model: model.into(),
            device: DeviceChoice::default(),
            dtype: NumberType::default(),
            quantize: Quantization::default(),
            batch_tokens: 2_048,
            sequences: 64,
            waiting: 64,
            cache: CacheSize::Fraction(0.8),
            context_tokens: None,
        }
    }
}
