//! Attention of the tokens of one text to each other.

use crate::kernels::{Aligned, Bf16Panels, F32Panels, Kernels, ROW_TILE, bf16_multiply, f32_multiply, rows};

/// Heads are this wide or a multiple of it; the weights of narrower ones are filled up with zeros.
pub(crate) const HEAD_TILE: usize = 32;

/// How queries, keys and values lie in a row: all heads' queries, then all keys, then all values.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Heads {
    pub(crate) count: usize,
    /// The values of a head, a multiple of [`HEAD_TILE`].
    pub(crate) width: usize,
    /// How far apart rows of queries, keys and values begin.
    pub(crate) stride: usize,
    /// Whether products may be of bf16.
    pub(crate) bf16: bool,
}

/// Memory that is used again for every text.
#[derive(Debug, Default)]
pub(crate) struct AttentionScratch {
    scores: Aligned<f32>,
    sums: Vec<f32>,
    exact: (F32Panels, F32Panels),
    rounded: (Bf16Panels, Bf16Panels),
    queries: Aligned<u16>,
    weights: Aligned<u16>,
    context: Aligned<f32>,
    row: Aligned<u16>,
}

impl Heads {
    /// The values of all heads.
    pub(crate) fn total(&self) -> usize {
        self.count * self.width
    }

    /// Attends the tokens of one text to each other: `inputs` are its rows of queries (scaled already), keys and values, `out` its rows of
    /// [`Self::total`] values.
    pub(crate) fn attend(
        &self,
        kernels: Kernels,
        inputs: &[f32],
        tokens: usize,
        out: &mut [f32],
        scratch: &mut AttentionScratch,
    ) {
        for head in 0..self.count {
            let start = head * self.width;
            if self.bf16 {
                self.rounded(kernels, &inputs[start..], tokens, &mut out[start..], scratch);
            } else {
                self.exact(kernels, &inputs[start..], tokens, &mut out[start..], scratch);
            }
        }
    }

    /// One head in `f32`. `inputs` and `out` begin at the head.
    fn exact(
        &self,
        kernels: Kernels,
        inputs: &[f32],
        tokens: usize,
        out: &mut [f32],
        scratch: &mut AttentionScratch,
    ) {
        /// Rows of scores at a time: few enough for the cache, and a multiple of what kernels take at once.
        const ROWS: usize = 48;
        let AttentionScratch { scores, sums, exact: (keys, values), context, .. } = scratch;
        let (total, width) = (self.total(), self.width);
        keys.reset(width, tokens);
        values.reset(tokens, width);
        for token in 0..tokens {
            let row = &inputs[token * self.stride..];
            keys.set_column(token, &row[total..total + width]);
            values.set_row(token, &row[2 * total..2 * total + width]);
        }
        scores.grow(ROWS * tokens);
        context.grow(ROWS * width);
        sums.resize(ROWS, 0.0);
        for first in (0..tokens).step_by(ROWS) {
            let count = ROWS.min(tokens - first);
            let scores = &mut scores[..count * tokens];
            f32_multiply(
                kernels,
                (&inputs[first * self.stride..], self.stride),
                count,
                keys,
                (scores, tokens),
            );
            rows::exp_rows(kernels, scores, tokens, &mut sums[..count]);
            let context = &mut context[..count * width];
            f32_multiply(kernels, (scores, tokens), count, values, (context, width));
            rows::divide_rows(kernels, context, width, &sums[..count], &mut out[first * total..], total);
        }
    }

    /// One head in bf16, with sums and the exponential in `f32`.
    fn rounded(
        &self,
        kernels: Kernels,
        inputs: &[f32],
        tokens: usize,
        out: &mut [f32],
        scratch: &mut AttentionScratch,
    ) {
        let AttentionScratch {
            scores, sums, rounded: (keys, values), queries, weights, context, row, ..
        } = scratch;
        let (total, width, stride) = (self.total(), self.width, self.stride);
        let padded = tokens.next_multiple_of(ROW_TILE);
        keys.reset(width, tokens);
        values.reset(tokens, width);
        queries.grow(padded * width);
        rows::round_to_bf16(kernels, inputs, stride, width, &mut queries[..tokens * width]);
        row.grow(2 * width);
        for token in 0..tokens {
            let key = &mut row[..width];
            rows::round_to_bf16(kernels, &inputs[token * stride + total..], stride, width, key);
            keys.set_column(token, key);
        }
        for first in (0..padded).step_by(2) {
            // Weights beyond the text are zero, but zero times what is left from another text need not be.
            let there = tokens.saturating_sub(first).min(2);
            let pair = &mut row[..2 * width];
            pair[there * width..].fill(0);
            if there > 0 {
                let from = &inputs[first * stride + 2 * total..];
                rows::round_to_bf16(kernels, from, stride, width, &mut pair[..there * width]);
            }
            let (even, odd) = pair.split_at(width);
            values.set_row_pair(first / 2, even, odd);
        }
        scores.grow(ROW_TILE * padded);
        weights.grow(ROW_TILE * padded);
        context.grow(ROW_TILE * width);
        sums.resize(ROW_TILE, 0.0);
        for first in (0..tokens).step_by(ROW_TILE) {
            let count = ROW_TILE.min(tokens - first);
            bf16_multiply(kernels, (&queries[first * width..], width), ROW_TILE, keys, scores);
            rows::exp_rows_bf16(kernels, &scores[..count * padded], tokens, padded, weights, sums);
            bf16_multiply(kernels, (weights, padded), ROW_TILE, values, context);
            let context = &context[..count * width];
            rows::divide_rows(kernels, context, width, &sums[..count], &mut out[first * total..], total);
        }
    }
}
