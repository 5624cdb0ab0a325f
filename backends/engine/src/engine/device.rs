//! Devices and their memory.

use candle_core::{DType, Device};

use super::{
    memory,
    settings::{BLOCK_SIZE, CacheSize, DeviceChoice, EngineSettings},
};
use crate::{LoadError, config::ModelConfig};

/// Below so many tokens a cache is no use: not even a question with its passages fits.
const LEAST_TOKENS: usize = 256;

/// Opens the device.
pub(crate) fn open(choice: DeviceChoice) -> Result<Device, LoadError> {
    match choice {
        DeviceChoice::Cpu => Ok(Device::Cpu),
        DeviceChoice::Cuda(ordinal) => open_cuda(ordinal),
        DeviceChoice::Auto => Ok(open_cuda(0).unwrap_or(Device::Cpu)),
    }
}

#[cfg(not(feature = "cuda"))]
fn open_cuda(ordinal: usize) -> Result<Device, LoadError> {
    Err(LoadError::Device(format!(
        "device cuda:{ordinal}: this program was built without CUDA; build it with scripts/cuda-build (cargo's feature cuda), or set device: cpu"
    )))
}

#[cfg(feature = "cuda")]
fn open_cuda(ordinal: usize) -> Result<Device, LoadError> {
    Device::new_cuda(ordinal).map_err(|error| {
        LoadError::Device(format!(
            "device cuda:{ordinal} cannot be used ({}); it needs an NVIDIA GPU with its driver and the libraries of CUDA 13, or set device: cpu",
            crate::error::first_line(&error)
        ))
    })
}

/// The device's name in reports.
pub(super) fn name(device: &Device) -> String {
    match device.location() {
        candle_core::DeviceLocation::Cpu => "cpu".to_owned(),
        candle_core::DeviceLocation::Cuda { gpu_id } => format!("cuda:{gpu_id}"),
        candle_core::DeviceLocation::Metal { gpu_id } => format!("metal:{gpu_id}"),
    }
}

/// Bytes of the device's memory that are free; none where nobody can tell.
pub(super) fn free_bytes(device: &Device) -> Option<u64> {
    match device {
        #[cfg(feature = "cuda")]
        Device::Cuda(cuda) => cuda.cuda_stream().context().mem_get_info().ok().map(|(free, _)| free as u64),
        _ => memory::available(),
    }
}

/// What a model needs on its device.
pub(super) struct Needs<'a> {
    pub(super) config: &'a ModelConfig,
    pub(super) settings: &'a EngineSettings,
    pub(super) dtype: DType,
    pub(super) weight_bytes: u64,
    /// The most tokens of a sequence.
    pub(super) context_tokens: usize,
}

impl Needs<'_> {
    fn block_bytes(&self) -> u64 {
        (BLOCK_SIZE * self.config.cache_numbers_per_token() * self.dtype.size_in_bytes()) as u64
    }

    /// What a step needs beside weights and cache: the states of its tokens and the logits, each a few times over.
    fn step_bytes(&self) -> u64 {
        let ModelConfig { width, inner, heads, kv_heads, head_dim, vocabulary, .. } = *self.config;
        let state = 4 * width + 3 * inner + 2 * (heads + 2 * kv_heads) * head_dim;
        let states = self.settings.batch_tokens.saturating_mul(state * self.dtype.size_in_bytes());
        let rows = self.settings.sequences.min(self.settings.batch_tokens);
        states.saturating_add(rows.saturating_mul(vocabulary * 4 * 3)) as u64
    }

    /// Refuses what cannot fit, before anything is loaded.
    pub(super) fn check(&self, device: &Device) -> Result<(), LoadError> {
        let Some(free) = free_bytes(device) else { return Ok(()) };
        let weights = self.weight_bytes;
        let blocks = match self.settings.cache {
            CacheSize::Blocks(blocks) => blocks,
            CacheSize::Fraction(_) => LEAST_TOKENS.min(self.context_tokens).div_ceil(BLOCK_SIZE),
        };
        let cache = (blocks as u64).saturating_mul(self.block_bytes());
        let needed = weights.saturating_add(self.step_bytes()).saturating_add(cache);
        if needed <= free {
            return Ok(());
        }
        let mb = |bytes: u64| bytes.div_ceil(1_000_000);
        Err(LoadError::Memory {
            device: name(device),
            reason: format!(
                "{} MB are needed ({} MB of weights, {} MB for a step, {} MB of cache), {} MB are free; a smaller model, quantize: q8_0, fewer max_batch_tokens or a smaller cache need less",
                mb(needed),
                mb(weights),
                mb(self.step_bytes()),
                mb(cache),
                mb(free)
            ),
        })
    }

    /// The blocks of the cache, once the weights are loaded.
    pub(super) fn blocks(&self, device: &Device) -> Result<usize, LoadError> {
        let most = self.context_tokens.div_ceil(BLOCK_SIZE).saturating_mul(self.settings.sequences);
        let fraction = match self.settings.cache {
            CacheSize::Blocks(0) => {
                return Err(LoadError::Settings("cache_blocks must be at least 1".to_owned()));
            }
            CacheSize::Blocks(blocks) => return Ok(blocks),
            CacheSize::Fraction(fraction) if fraction > 0.0 && fraction <= 1.0 => fraction,
            CacheSize::Fraction(fraction) => {
                let message = format!("cache_fraction must be above 0 and not above 1, not {fraction}");
                return Err(LoadError::Settings(message));
            }
        };
        let Some(free) = free_bytes(device) else { return Ok(most) };
        let left = free.saturating_sub(self.step_bytes());
        let fitting = (left as f64 * fraction / self.block_bytes() as f64) as usize;
        let least = LEAST_TOKENS.min(self.context_tokens).div_ceil(BLOCK_SIZE);
        if fitting < least {
            return Err(LoadError::Memory {
                device: name(device),
                reason: format!(
                    "the weights leave room for {} tokens in the cache; a smaller model, quantize: q8_0 or fewer max_batch_tokens leave more",
                    fitting * BLOCK_SIZE
                ),
            });
        }
        Ok(fitting.min(most).max(1))
    }
}
