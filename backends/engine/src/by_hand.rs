//! A model driven by hand, a step at a time, without scheduler, texts and threads: to compare its logits with others.

use std::path::Path;

use candle_core::Device;

use crate::{
    DeviceChoice, LoadError, NumberType, Quantization,
    cache::KvCache,
    config::{self, ModelConfig},
    engine::{BLOCK_SIZE, open_device},
    model::{Batch, BatchPart, Model},
    weights::{GgufFile, ModelFiles, Weights},
};

/// A model on a device, with a cache of its own.
pub struct ByHand {
    model: Model,
    cache: KvCache,
    device: Device,
}

impl ByHand {
    /// Loads a model, with a cache of so many blocks.
    ///
    /// # Errors
    /// [`LoadError`] where the model or the device does not allow it.
    pub fn open(
        model: &Path,
        device: DeviceChoice,
        dtype: NumberType,
        quantize: Quantization,
        blocks: usize,
    ) -> Result<Self, LoadError> {
        let device = open_device(device)?;
        let files = ModelFiles::find(model)?;
        let config = match &files {
            ModelFiles::Safetensors { folder, .. } => ModelConfig::read(folder)?,
            ModelFiles::Gguf { file, .. } => config::of_gguf(&GgufFile::open(file)?)?,
        };
        let dtype = dtype.resolve(!device.is_cpu(), config.stored.as_deref());
        let mut weights = Weights::open(&files, &device, dtype, quantize.kind(), &|_, _| ())?;
        let model = Model::load(&config, &mut weights, blocks * BLOCK_SIZE)?;
        let cache = KvCache::new(&config, blocks, BLOCK_SIZE, dtype, &device);
        Ok(Self { model, cache: cache.map_err(|error| LoadError::device(&error))?, device })
    }

    /// The logits behind the last of these tokens of a sequence, which `start` tokens in the cache come before, or none where there is no token.
    /// The sequence lies in these blocks of the cache.
    ///
    /// # Errors
    /// [`LoadError::Device`] with what the device said.
    pub fn logits(&self, tokens: &[u32], start: usize, blocks: &[u32]) -> Result<Vec<f32>, LoadError> {
        let mut all = self.step(&[BatchPart { tokens, start, blocks, completes: true }])?;
        Ok(all.pop().unwrap_or_default())
    }

    /// One step: the logits of the parts that complete.
    pub(crate) fn step(&self, parts: &[BatchPart<'_>]) -> Result<Vec<Vec<f32>>, LoadError> {
        let computed = || {
            let batch = Batch::new(parts, BLOCK_SIZE, self.model.config().head_dim, &self.device)?;
            let logits = self.model.forward(&batch, &self.cache)?;
            logits.map_or(Ok(Vec::new()), |logits| logits.to_vec2())
        };
        computed().map_err(|error| LoadError::device(&error))
    }
}

/// How far `got` is from `expected`, as a part of the length of `expected`. Not a number where one of them is none.
#[must_use]
pub fn distance(got: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(got.len(), expected.len());
    let square = |value: f32| f64::from(value).powi(2);
    let apart: f64 = got.iter().zip(expected).map(|(a, b)| square(a - b)).sum();
    let length: f64 = expected.iter().map(|value| square(*value)).sum();
    (apart / length).sqrt()
}
