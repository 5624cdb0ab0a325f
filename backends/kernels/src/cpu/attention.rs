//! Attention by tiles of keys with a running softmax (Milakov and Gimelshein, "Online normalizer calculation for softmax", 2018; Dao et al.,
//! "FlashAttention", 2022). A unit of work is a head of the cache with some queries of a sequence, so that a tile of keys and values is brought in once
//! for all heads that share it.

use rayon::prelude::*;

use super::tile::{self, Isa, TILE, Tile};
use crate::{AttentionBatch, attention::Shape, batch::AttentionSequence, element::Element, rows::Rows};

/// Rows (a query's heads that share a head of the cache) that a unit of work aims at.
const ROWS: usize = 64;

/// The two caches, from their first block on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Caches<'a, T> {
    pub(crate) keys: &'a [T],
    pub(crate) values: &'a [T],
}

/// A head of the cache with some queries of a sequence.
#[derive(Debug, Clone, Copy)]
struct Unit<'a> {
    sequence: &'a AttentionSequence,
    kv_head: usize,
    /// The first query, counted from the sequence's first of the step.
    first: usize,
    queries: usize,
}

/// The result, a row of all heads for each token.
pub(crate) fn attend<T: Element>(
    q: &[T],
    rows: &Rows,
    caches: Caches<'_, T>,
    shape: Shape,
    batch: &AttentionBatch,
) -> Vec<T> {
    let plan = batch.plan();
    let Shape { kv_heads, group, head_dim } = shape;
    let step = (ROWS / group).max(1);
    let units: Vec<Unit<'_>> = plan
        .sequences
        .iter()
        .flat_map(|sequence| {
            (0..sequence.query_len).step_by(step).flat_map(move |first| {
                let queries = step.min(sequence.query_len - first);
                (0..kv_heads).map(move |kv_head| Unit { sequence, kv_head, first, queries })
            })
        })
        .collect();
    let isa = Isa::detect();
    let contexts: Vec<Vec<f32>> = units
        .par_iter()
        .map_init(Tile::default, |tile, unit| unit.attend(isa, q, rows, caches, shape, batch, tile))
        .collect();
    let mut out = vec![T::zero(); plan.tokens * kv_heads * group * head_dim];
    let width = group * head_dim;
    for (unit, context) in units.iter().zip(&contexts) {
        for (query, context) in context.chunks_exact(width).enumerate() {
            let token = unit.sequence.query_start + unit.first + query;
            let at = (token * kv_heads + unit.kv_head) * width;
            T::narrow(context, &mut out[at..at + width]);
        }
    }
    out
}

impl Unit<'_> {
    /// The contexts of the unit's rows, one after the other.
    #[expect(clippy::too_many_arguments, reason = "what all units share, and the unit's scratch")]
    fn attend<T: Element>(
        &self,
        isa: Isa,
        q: &[T],
        rows: &Rows,
        caches: Caches<'_, T>,
        shape: Shape,
        batch: &AttentionBatch,
        tile: &mut Tile,
    ) -> Vec<f32> {
        let Shape { kv_heads, group, head_dim } = shape;
        let block_size = batch.plan().block_size;
        let sequence = self.sequence;
        tile.reset(self.queries * group, head_dim);
        for query in 0..self.queries {
            let token = rows.group(q, sequence.query_start + self.first + query);
            let heads = &token[self.kv_head * group * head_dim..][..group * head_dim];
            for (head, values) in heads.chunks_exact(head_dim).enumerate() {
                tile.set_query(query * group + head, values, batch.scale());
            }
        }
        // The place in the sequence of the first query, and of the first key that it sees.
        let position = sequence.context_len - sequence.query_len + self.first;
        let window = batch.window().unwrap_or(usize::MAX);
        let end = position + self.queries;
        let mut start = (position + 1).saturating_sub(window);
        while start < end {
            let keys = TILE.min(end - start);
            for key in 0..keys {
                let place = start + key;
                let block = sequence.blocks[place / block_size] as usize;
                let at = ((block * block_size + place % block_size) * kv_heads + self.kv_head) * head_dim;
                tile.set_key(key, &caches.keys[at..at + head_dim], &caches.values[at..at + head_dim]);
            }
            let sees = |row: usize| {
                // Of this tile's keys: from the first that the window reaches to the query itself.
                let own = position + row / group;
                let from = (own + 1).saturating_sub(window).saturating_sub(start);
                let to = (own + 1).saturating_sub(start).min(keys);
                (from.min(to), to)
            };
            tile::step(isa, tile, keys, sees);
            start += keys;
        }
        tile.finish()
    }
}
