//! One layer: attention and the feed-forward part, each behind a norm and beside a residual connection.

use candle_core::{Result, Tensor};
use raglan_kernels::{AttentionBatch, add_rms_norm, paged_attention, rms_norm, rope_write_kv, silu_mul};

use super::{Batch, Linear};
use crate::{LoadError, cache::LayerCache, config::ModelConfig, weights::Weights};

pub(super) struct Layer {
    before_attention: Tensor,
    qkv: Linear,
    /// Of each head of queries and keys, in the families that have them.
    head_norms: Option<(Tensor, Tensor)>,
    output: Linear,
    before_inner: Tensor,
    /// The gate, and what it lets through.
    gate_up: Linear,
    down: Linear,
    shape: Shape,
}

#[derive(Clone, Copy)]
struct Shape {
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    inner: usize,
    epsilon: f32,
}

/// The state between layers: what goes on beside them, and what the last one adds to it, which the next norm does on its way.
pub(super) struct LayerInput {
    residual: Tensor,
    added: Option<Tensor>,
}

impl LayerInput {
    pub(super) fn first(residual: Tensor) -> Self {
        Self { residual, added: None }
    }

    pub(super) fn sum(&self) -> Result<Tensor> {
        match &self.added {
            Some(added) => added + &self.residual,
            None => Ok(self.residual.clone()),
        }
    }

    /// The sum through a norm, and the sum.
    fn normed(self, weight: &Tensor, epsilon: f32) -> Result<(Tensor, Tensor)> {
        match self.added {
            Some(added) => add_rms_norm(&added, &self.residual, weight, epsilon),
            None => Ok((rms_norm(&self.residual, weight, epsilon)?, self.residual)),
        }
    }
}

impl Layer {
    pub(super) fn load(
        config: &ModelConfig,
        layer: usize,
        weights: &mut Weights<'_>,
    ) -> std::result::Result<Self, LoadError> {
        let ModelConfig { width, heads, kv_heads, head_dim, inner, .. } = *config;
        let prefix = format!("model.layers.{layer}");
        let names =
            |parts: &[&str]| -> Vec<String> { parts.iter().map(|part| format!("{prefix}.{part}")).collect() };
        let qkv = weights.linear(
            &names(&["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"]),
            &[heads * head_dim, kv_heads * head_dim, kv_heads * head_dim],
            width,
            config.qkv_bias,
        )?;
        let head_norms = if config.head_norms {
            Some((
                weights.tensor(&format!("{prefix}.self_attn.q_norm.weight"), &[head_dim])?,
                weights.tensor(&format!("{prefix}.self_attn.k_norm.weight"), &[head_dim])?,
            ))
        } else {
            None
        };
        let output =
            weights.linear(&names(&["self_attn.o_proj"]), &[width], heads * head_dim, config.output_bias)?;
        let gate_up = weights.linear(
            &names(&["mlp.gate_proj", "mlp.up_proj"]),
            &[inner, inner],
            width,
            config.inner_bias,
        )?;
        let down = weights.linear(&names(&["mlp.down_proj"]), &[width], inner, config.inner_bias)?;
        Ok(Self {
            before_attention: weights.tensor(&format!("{prefix}.input_layernorm.weight"), &[width])?,
            qkv,
            head_norms,
            output,
            before_inner: weights.tensor(&format!("{prefix}.post_attention_layernorm.weight"), &[width])?,
            gate_up,
            down,
            shape: Shape { heads, kv_heads, head_dim, inner, epsilon: config.epsilon as f32 },
        })
    }

    pub(super) fn forward(
        &self,
        input: LayerInput,
        batch: &Batch,
        attention: &AttentionBatch,
        tables: (&Tensor, &Tensor),
        cache: &LayerCache,
    ) -> Result<LayerInput> {
        let Shape { inner, epsilon, .. } = self.shape;
        let (normed, residual) = input.normed(&self.before_attention, epsilon)?;
        let attended = self.attend(&normed, batch, attention, tables, cache)?;
        let state = LayerInput { residual, added: Some(attended) };
        let (normed, residual) = state.normed(&self.before_inner, epsilon)?;
        let gate_up = self.gate_up.forward(&normed)?;
        let gated = silu_mul(&gate_up.narrow(1, 0, inner)?, &gate_up.narrow(1, inner, inner)?)?;
        Ok(LayerInput { residual, added: Some(self.down.forward(&gated)?) })
    }

    fn attend(
        &self,
        normed: &Tensor,
        batch: &Batch,
        attention: &AttentionBatch,
        (cos, sin): (&Tensor, &Tensor),
        cache: &LayerCache,
    ) -> Result<Tensor> {
        let Shape { heads, kv_heads, head_dim, epsilon, .. } = self.shape;
        let tokens = normed.dim(0)?;
        let qkv = self.qkv.forward(normed)?.reshape((tokens, heads + 2 * kv_heads, head_dim))?;
        let mut q = qkv.narrow(1, 0, heads)?;
        let mut k = qkv.narrow(1, heads, kv_heads)?;
        let v = qkv.narrow(1, heads + kv_heads, kv_heads)?;
        if let Some((q_norm, k_norm)) = &self.head_norms {
            q = rms_norm(&q, q_norm, epsilon)?;
            k = rms_norm(&k, k_norm, epsilon)?;
        }
        let angles = [cos, sin, &batch.positions];
        let q = rope_write_kv([&q, &k, &v], angles, (&cache.keys, &cache.values), &batch.slots)?;
        let attended = paged_attention(&q, &cache.keys, &cache.values, attention)?;
        self.output.forward(&attended.reshape((tokens, heads * head_dim))?)
    }
}
