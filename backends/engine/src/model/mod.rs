//! One decoder for all families: tokens of many sequences, packed, through all layers.

mod batch;
mod layer;
mod linear;

use candle_core::{DType, Device, Result, Tensor};
use raglan_kernels::rms_norm;

use self::layer::{Layer, LayerInput};
pub(crate) use self::{
    batch::{Batch, BatchPart},
    linear::Linear,
};
use crate::{LoadError, cache::KvCache, config::ModelConfig, weights::Weights};

/// A decoder on a device.
pub(crate) struct Model {
    config: ModelConfig,
    table: Tensor,
    layers: Vec<Layer>,
    norm: Tensor,
    output: Linear,
    /// `f32 [positions, head_dim / 2]`.
    cos: Tensor,
    sin: Tensor,
}

impl Model {
    /// Loads the weights. The rotary embedding's tables reach to `positions`.
    pub(crate) fn load(
        config: &ModelConfig,
        weights: &mut Weights<'_>,
        positions: usize,
    ) -> std::result::Result<Self, LoadError> {
        let ModelConfig { vocabulary, width, tied, .. } = *config;
        let table = weights.tensor("model.embed_tokens.weight", &[vocabulary, width])?;
        let layers = (0..config.layers)
            .map(|layer| Layer::load(config, layer, weights))
            .collect::<std::result::Result<Vec<_>, _>>()?;
        let norm = weights.tensor("model.norm.weight", &[width])?;
        let output = if tied {
            Linear::new(vec![weights.matrix(table.clone(), width)?], None)
        } else {
            weights.linear(&["lm_head".to_owned()], &[vocabulary], width, false)?
        };
        let divisors = weights.frequency_divisors(config.head_dim / 2)?;
        let (cos, sin) = tables(config, divisors.as_deref(), positions, weights.device())
            .map_err(|error| LoadError::device(&error))?;
        Ok(Self { config: config.clone(), table, layers, norm, output, cos, sin })
    }

    /// Its shape.
    pub(crate) fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Computes a step: keys and values go into the cache, and the logits of the chosen tokens come out, `f32 [rows, vocabulary]`; none where no
    /// token is chosen.
    pub(crate) fn forward(&self, batch: &Batch, cache: &KvCache) -> Result<Option<Tensor>> {
        let mut state = LayerInput::first(self.table.index_select(&batch.tokens, 0)?);
        let mut attention = batch.attention.clone();
        for (index, layer) in self.layers.iter().enumerate() {
            let window = self.config.windows[index];
            if attention.window() != window {
                attention = batch.attention.with_window(window)?;
            }
            state = layer.forward(state, batch, &attention, (&self.cos, &self.sin), cache.layer(index))?;
        }
        if batch.chosen.elem_count() == 0 {
            return Ok(None);
        }
        let state = state.sum()?.index_select(&batch.chosen, 0)?;
        let state = rms_norm(&state, &self.norm, self.config.epsilon as f32)?;
        Ok(Some(self.output.forward(&state)?.to_dtype(DType::F32)?))
    }
}

/// Cosines and sines of every position's angles.
fn tables(
    config: &ModelConfig,
    divisors: Option<&[f32]>,
    positions: usize,
    device: &Device,
) -> Result<(Tensor, Tensor)> {
    let mut frequencies = config.rope.frequencies(config.head_dim);
    for (frequency, divisor) in frequencies.iter_mut().zip(divisors.unwrap_or_default()) {
        *frequency /= divisor;
    }
    let amplitude = config.rope.amplitude();
    let angles = (0..positions).flat_map(|position| {
        // As the reference does: the product is rounded to f32, and then its sine is taken.
        frequencies.iter().map(move |frequency| position as f32 * frequency)
    });
    let (cos, sin): (Vec<f32>, Vec<f32>) = angles
        .map(|angle| {
            let (sin, cos) = f64::from(angle).sin_cos();
            ((cos * amplitude) as f32, (sin * amplitude) as f32)
        })
        .unzip();
    let shape = (positions, frequencies.len());
    Ok((Tensor::from_vec(cos, shape, device)?, Tensor::from_vec(sin, shape, device)?))
}
