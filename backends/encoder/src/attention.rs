//! Attention of the tokens of one text to each other, one head at a time.

use crate::kernels::{
    Aligned, Bf16Panels, F32Panels, Kernels, ROW_TILE, bf16_multiply, exp2_rows, f32_multiply, round_to_bf16,
    rows,
};

/// Heads are this wide or a multiple of it; the weights of narrower ones are filled up with zeros.
pub(crate) const HEAD_TILE: usize = 32;

/// A head of attention.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Head {
    /// Its values, a multiple of [`HEAD_TILE`].
    pub(crate) width: usize,
    /// Whether products may be of bf16.
    pub(crate) bf16: bool,
}

impl Head {
    /// By what queries must have been multiplied for a head of this many values: scores are divided by the root of a head's width, and where
    /// powers are of 2, they are multiplied by log₂ e.
    pub(crate) fn scale(self, values: usize) -> f32 {
        let base = if self.bf16 { std::f32::consts::LOG2_E } else { 1.0 };
        base / (values as f32).sqrt()
    }
}

/// Memory that is used again for every text.
#[derive(Debug, Default)]
pub(crate) struct AttentionScratch {
    scores: Aligned<f32>,
    sums: Vec<f32>,
    context: Aligned<f32>,
    exact: (F32Panels, F32Panels),
    rounded: (Bf16Panels, Bf16Panels),
    queries: Aligned<u16>,
    weights: Aligned<u16>,
    row: Aligned<u16>,
}

impl Head {
    /// Attends the tokens of one text to each other. A row of `inputs` holds a token's query (scaled already), key and value, one after
    /// the other; the result is written to as many rows of `out`. Strides are in values.
    pub(crate) fn attend(
        self,
        kernels: Kernels,
        inputs: (&[f32], usize),
        tokens: usize,
        out: (&mut [f32], usize),
        scratch: &mut AttentionScratch,
    ) {
        if self.bf16 {
            self.rounded(kernels, inputs, tokens, out, scratch);
        } else {
            self.exact(kernels, inputs, tokens, out, scratch);
        }
    }

    /// In `f32`.
    fn exact(
        self,
        kernels: Kernels,
        (inputs, stride): (&[f32], usize),
        tokens: usize,
        (out, out_stride): (&mut [f32], usize),
        scratch: &mut AttentionScratch,
    ) {
        /// Rows of scores at a time: few enough for the cache, and a multiple of what kernels take at once.
        const ROWS: usize = 48;
        let AttentionScratch { scores, sums, context, exact: (keys, values), .. } = scratch;
        let width = self.width;
        keys.reset(width, tokens);
        values.reset(tokens, width);
        for (token, row) in inputs.chunks(stride).take(tokens).enumerate() {
            keys.set_column(token, &row[width..2 * width]);
            values.set_row(token, &row[2 * width..3 * width]);
        }
        scores.grow(ROWS * tokens);
        context.grow(ROWS * width);
        sums.resize(ROWS, 0.0);
        for first in (0..tokens).step_by(ROWS) {
            let count = ROWS.min(tokens - first);
            let scores = &mut scores[..count * tokens];
            f32_multiply(kernels, (&inputs[first * stride..], stride), count, keys, (scores, tokens));
            rows::exp_rows(kernels, scores, tokens, &mut sums[..count]);
            let context = &mut context[..count * width];
            f32_multiply(kernels, (scores, tokens), count, values, (context, width));
            rows::divide_rows(kernels, context, width, sums, &mut out[first * out_stride..], out_stride);
        }
    }

    /// In bf16, with sums and the exponential in `f32`.
    fn rounded(
        self,
        kernels: Kernels,
        (inputs, stride): (&[f32], usize),
        tokens: usize,
        (out, out_stride): (&mut [f32], usize),
        scratch: &mut AttentionScratch,
    ) {
        let AttentionScratch {
            scores, sums, context, rounded: (keys, values), queries, weights, row, ..
        } = scratch;
        let width = self.width;
        let padded = tokens.next_multiple_of(ROW_TILE);
        keys.reset(width, tokens);
        values.reset(tokens, width);
        queries.grow(padded * width);
        round_to_bf16(kernels, (inputs, stride), width, &mut queries[..tokens * width]);
        row.grow(2 * width);
        for token in 0..tokens {
            let key = &mut row[..width];
            round_to_bf16(kernels, (&inputs[token * stride + width..], stride), width, key);
            keys.set_column(token, key);
        }
        for first in (0..padded).step_by(2) {
            // Weights beyond the text are zero, but zero times what is left from another text need not be.
            let there = tokens.saturating_sub(first).min(2);
            let pair = &mut row[..2 * width];
            pair[there * width..].fill(0);
            if there > 0 {
                let from = &inputs[first * stride + 2 * width..];
                round_to_bf16(kernels, (from, stride), width, &mut pair[..there * width]);
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
            exp2_rows(kernels, &scores[..count * padded], tokens, padded, weights, sums);
            bf16_multiply(kernels, (weights, padded), ROW_TILE, values, context);
            let context = &context[..count * width];
            rows::divide_rows(kernels, context, width, sums, &mut out[first * out_stride..], out_stride);
        }
    }
}
