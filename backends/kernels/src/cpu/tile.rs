//! The inner loops of attention: some rows of queries against a tile of keys. They are compiled for several instruction sets, and the widest that
//! the processor has is used.

use super::math::exp;
use crate::element::Element;

/// Keys of a tile.
pub(super) const TILE: usize = 32;
/// Values of a row that are summed in registers at once; rows of values are filled up to a multiple of it.
const LANES: usize = 32;
/// From so many rows on it pays to transpose a tile's keys.
const TRANSPOSE_ROWS: usize = 6;

/// What the processor can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Isa {
    /// What every processor of its kind can.
    Plain,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

impl Isa {
    /// The widest that this processor has.
    pub(super) fn detect() -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512vl") {
                return Self::Avx512;
            }
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                return Self::Avx2;
            }
        }
        Self::Plain
    }
}

/// A tile, and what has been summed up for the rows over the tiles so far.
#[derive(Debug, Default)]
pub(super) struct Tile {
    rows: usize,
    head_dim: usize,
    /// `head_dim` filled up to whole [`LANES`].
    padded: usize,
    /// `[rows, head_dim]`, scaled.
    queries: Vec<f32>,
    /// `[TILE, head_dim]`.
    keys: Vec<f32>,
    /// `[head_dim, TILE]`: the same, where there are many rows.
    columns: Vec<f32>,
    /// `[TILE, padded]`.
    values: Vec<f32>,
    /// `[rows, TILE]`: scores, then weights.
    scores: Vec<f32>,
    /// `[rows, padded]`.
    contexts: Vec<f32>,
    /// The highest score of each row.
    highest: Vec<f32>,
    /// The sum of each row's weights, relative to the highest.
    sums: Vec<f32>,
}

impl Tile {
    /// Makes room for rows of which nothing is known yet.
    pub(super) fn reset(&mut self, rows: usize, head_dim: usize) {
        self.rows = rows;
        self.head_dim = head_dim;
        self.padded = head_dim.next_multiple_of(LANES);
        for (values, len) in [
            (&mut self.queries, rows * head_dim),
            (&mut self.keys, TILE * head_dim),
            (&mut self.columns, head_dim * TILE),
            (&mut self.values, TILE * self.padded),
            (&mut self.scores, rows * TILE),
            (&mut self.contexts, rows * self.padded),
            (&mut self.sums, rows),
        ] {
            values.clear();
            values.resize(len, 0.0);
        }
        self.highest.clear();
        self.highest.resize(rows, f32::NEG_INFINITY);
    }

    /// A row's query.
    pub(super) fn set_query<T: Element>(&mut self, row: usize, values: &[T], scale: f32) {
        let query = &mut self.queries[row * self.head_dim..][..self.head_dim];
        T::widen(values, query);
        for value in query {
            *value *= scale;
        }
    }

    /// A key of the tile, and its value.
    pub(super) fn set_key<T: Element>(&mut self, key: usize, keys: &[T], values: &[T]) {
        T::widen(keys, &mut self.keys[key * self.head_dim..][..self.head_dim]);
        T::widen(values, &mut self.values[key * self.padded..][..self.head_dim]);
    }

    /// The contexts of all rows, one after the other.
    pub(super) fn finish(&self) -> Vec<f32> {
        let mut out = Vec::with_capacity(self.rows * self.head_dim);
        for (context, sum) in self.contexts.chunks_exact(self.padded).zip(&self.sums) {
            let share = 1.0 / sum;
            out.extend(context[..self.head_dim].iter().map(|value| value * share));
        }
        out
    }
}

/// Takes in a tile of as many keys. `sees` says for a row the first key that it sees and the one after its last.
pub(super) fn step(isa: Isa, tile: &mut Tile, keys: usize, sees: impl Fn(usize) -> (usize, usize)) {
    match isa {
        Isa::Plain => take_in::<false>(tile, keys, sees),
        // Safety: the processor has been asked.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => unsafe { take_in_avx2(tile, keys, sees) },
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => unsafe { take_in_avx512(tile, keys, sees) },
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn take_in_avx2(tile: &mut Tile, keys: usize, sees: impl Fn(usize) -> (usize, usize)) {
    take_in::<true>(tile, keys, sees);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512vl,avx2,fma")]
fn take_in_avx512(tile: &mut Tile, keys: usize, sees: impl Fn(usize) -> (usize, usize)) {
    take_in::<true>(tile, keys, sees);
}

/// `a * b + c`, in one instruction where there is one.
#[inline(always)]
fn multiply_add<const FUSED: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FUSED { a.mul_add(b, c) } else { a * b + c }
}

#[inline(always)]
fn take_in<const FUSED: bool>(tile: &mut Tile, keys: usize, sees: impl Fn(usize) -> (usize, usize)) {
    if tile.rows < TRANSPOSE_ROWS {
        score_by_dots::<FUSED>(tile, keys);
    } else {
        transpose(tile, keys);
        score_by_columns::<FUSED>(tile);
    }
    for row in 0..tile.rows {
        let (from, to) = sees(row);
        if from < to {
            weigh(tile, row, from, to);
            add_values::<FUSED>(tile, row, from, to);
        }
    }
}

/// Scores as dot products of rows.
#[inline(always)]
fn score_by_dots<const FUSED: bool>(tile: &mut Tile, keys: usize) {
    /// Sums that run side by side.
    const SUMS: usize = 16;
    for row in 0..tile.rows {
        let query = &tile.queries[row * tile.head_dim..][..tile.head_dim];
        for key in 0..keys {
            let other = &tile.keys[key * tile.head_dim..][..tile.head_dim];
            let mut sums = [0f32; SUMS];
            let (query_parts, query_rest) = query.as_chunks::<SUMS>();
            let (key_parts, key_rest) = other.as_chunks::<SUMS>();
            for (a, b) in query_parts.iter().zip(key_parts) {
                for lane in 0..SUMS {
                    sums[lane] = multiply_add::<FUSED>(a[lane], b[lane], sums[lane]);
                }
            }
            let mut score: f32 = query_rest.iter().zip(key_rest).map(|(a, b)| a * b).sum();
            let mut width = SUMS / 2;
            while width > 0 {
                for lane in 0..width {
                    sums[lane] += sums[lane + width];
                }
                width /= 2;
            }
            score += sums[0];
            tile.scores[row * TILE + key] = score;
        }
    }
}

#[inline(always)]
fn transpose(tile: &mut Tile, keys: usize) {
    for (dim, column) in tile.columns.chunks_exact_mut(TILE).enumerate() {
        for (key, value) in column.iter_mut().enumerate().take(keys) {
            *value = tile.keys[key * tile.head_dim + dim];
        }
    }
}

/// Scores as sums of columns of keys. What stands for keys beyond the tile's is not read.
#[inline(always)]
fn score_by_columns<const FUSED: bool>(tile: &mut Tile) {
    let (columns, _) = tile.columns.as_chunks::<TILE>();
    let (scores, _) = tile.scores.as_chunks_mut::<TILE>();
    // Two rows at a time, for which a column is loaded once.
    for (pair, scores) in scores.chunks_mut(2).enumerate() {
        let queries = &tile.queries[2 * pair * tile.head_dim..];
        let first = &queries[..tile.head_dim];
        let mut sums = [[0f32; TILE]; 2];
        if scores.len() == 2 {
            let second = &queries[tile.head_dim..][..tile.head_dim];
            for ((column, a), b) in columns.iter().zip(first).zip(second) {
                for key in 0..TILE {
                    sums[0][key] = multiply_add::<FUSED>(*a, column[key], sums[0][key]);
                    sums[1][key] = multiply_add::<FUSED>(*b, column[key], sums[1][key]);
                }
            }
        } else {
            for (column, a) in columns.iter().zip(first) {
                for key in 0..TILE {
                    sums[0][key] = multiply_add::<FUSED>(*a, column[key], sums[0][key]);
                }
            }
        }
        scores.copy_from_slice(&sums[..scores.len()]);
    }
}

/// Turns a row's scores of the keys that it sees into weights, and what was summed so far to the new highest score.
#[inline(always)]
fn weigh(tile: &mut Tile, row: usize, from: usize, to: usize) {
    let scores = &mut tile.scores[row * TILE..][from..to];
    let highest = scores.iter().fold(tile.highest[row], |highest, score| highest.max(*score));
    let mut sum = 0.0;
    for score in scores {
        *score = exp(*score - highest);
        sum += *score;
    }
    let before = tile.highest[row];
    if highest > before {
        let shrink = exp(before - highest);
        tile.sums[row] *= shrink;
        for value in &mut tile.contexts[row * tile.padded..][..tile.padded] {
            *value *= shrink;
        }
        tile.highest[row] = highest;
    }
    tile.sums[row] += sum;
}

/// Adds the weighted values of the keys that a row sees to its context.
#[inline(always)]
fn add_values<const FUSED: bool>(tile: &mut Tile, row: usize, from: usize, to: usize) {
    let weights = &tile.scores[row * TILE..][from..to];
    let (contexts, _) = tile.contexts[row * tile.padded..][..tile.padded].as_chunks_mut::<LANES>();
    let (values, _) = tile.values.as_chunks::<LANES>();
    let parts = contexts.len();
    for (part, context) in contexts.iter_mut().enumerate() {
        let mut sums = *context;
        for (key, weight) in (from..to).zip(weights) {
            let value = &values[key * parts + part];
            for lane in 0..LANES {
                sums[lane] = multiply_add::<FUSED>(*weight, value[lane], sums[lane]);
            }
        }
        *context = sums;
    }
}
