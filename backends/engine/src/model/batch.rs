//! A step on its way to the device.

use candle_core::{Device, Result, Tensor};
use raglan_kernels::{AttentionBatch, AttentionSequence};

/// One sequence's part of a step.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BatchPart<'a> {
    /// The tokens that are computed.
    pub(crate) tokens: &'a [u32],
    /// The place of the first of them in the sequence; those before it are in the cache.
    pub(crate) start: usize,
    /// The blocks of the cache that hold the sequence.
    pub(crate) blocks: &'a [u32],
    /// Whether the successor of the last one is to be chosen.
    pub(crate) completes: bool,
}

/// What a step brings to the model: the tokens of all its sequences, one after the other.
pub(crate) struct Batch {
    /// `u32 [tokens]`.
    pub(super) tokens: Tensor,
    /// `u32 [tokens]`: each token's place in its sequence.
    pub(super) positions: Tensor,
    /// `u32 [tokens]`: each token's place in the cache.
    pub(super) slots: Tensor,
    /// Which token belongs to which sequence.
    pub(super) attention: AttentionBatch,
    /// `u32 [rows]`: the tokens whose successors are to be chosen.
    pub(super) chosen: Tensor,
}

impl Batch {
    /// Packs the parts of a step. Blocks of the cache have `block_size` tokens; heads have `head_dim` values.
    pub(crate) fn new(
        parts: &[BatchPart<'_>],
        block_size: usize,
        head_dim: usize,
        device: &Device,
    ) -> Result<Self> {
        let total = parts.iter().map(|part| part.tokens.len()).sum();
        let (mut tokens, mut positions) = (Vec::with_capacity(total), Vec::with_capacity(total));
        let (mut slots, mut chosen) = (Vec::with_capacity(total), Vec::new());
        let mut sequences = Vec::with_capacity(parts.len());
        for part in parts {
            let context_len = part.start + part.tokens.len();
            let used = context_len.div_ceil(block_size);
            let Some(blocks) = part.blocks.get(..used) else {
                candle_core::bail!("{} blocks cannot hold {context_len} tokens", part.blocks.len());
            };
            sequences.push(AttentionSequence {
                query_start: tokens.len(),
                query_len: part.tokens.len(),
                context_len,
                blocks: blocks.to_vec(),
            });
            tokens.extend_from_slice(part.tokens);
            for position in part.start..context_len {
                positions.push(position as u32);
                let place = blocks[position / block_size] as usize * block_size + position % block_size;
                slots.push(place as u32);
            }
            if part.completes {
                chosen.push(tokens.len() as u32 - 1);
            }
        }
        let rows = chosen.len();
        // One transfer for all.
        let numbers = [tokens, positions, slots, chosen].concat();
        let numbers = Tensor::from_vec(numbers, 3 * total + rows, device)?;
        let scale = 1.0 / (head_dim as f32).sqrt();
        Ok(Self {
            tokens: numbers.narrow(0, 0, total)?,
            positions: numbers.narrow(0, total, total)?,
            slots: numbers.narrow(0, 2 * total, total)?,
            chosen: numbers.narrow(0, 3 * total, rows)?,
            attention: AttentionBatch::new(sequences, block_size, scale, None, device)?,
        })
    }
}
