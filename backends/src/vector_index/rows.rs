//! The vectors once more, a byte for each number, to scan.
//!
//! usearch keeps each vector as f16 in memory of its own and gives it out by copying, so going through many that way takes most of its time for
//! looking up and copying. Here they lie one after the other with half the bytes, and are compared by numkong's kernels (AVX-512 VNNI, AVX2,
//! NEON and others, chosen when the process starts). Bytes alone would cost recall: what a scan finds best is compared again with the f16.

use numkong::Dot;

/// Vectors of one block. A block is never moved once it is full, so that growing copies little.
const BLOCK: usize = 1024;

/// A vector's direction, with its numbers as bytes.
pub(super) struct Bytes {
    /// The largest number is 127 or -127, so no bit is wasted on vectors whose numbers are all small, as those of many dimensions are.
    values: Vec<i8>,
    /// What makes a dot product of bytes a cosine. Not negative.
    scale: f32,
}

impl Bytes {
    /// Rounds a vector with this length, which must be above 0.
    pub(super) fn of(vector: &[f32], norm: f32) -> Self {
        let largest = vector.iter().fold(0.0f32, |largest, x| largest.max(x.abs()));
        let to_byte = 127.0 / largest;
        // Within -127 to 127, as the largest is.
        let values = vector.iter().map(|x| (x * to_byte).round() as i8).collect();
        Self { values, scale: largest / 127.0 / norm }
    }
}

/// Vectors by number, from 0 on without gaps.
pub(super) struct Rows {
    dimension: usize,
    blocks: Vec<Vec<i8>>,
    scales: Vec<f32>,
}

impl Rows {
    pub(super) fn new(dimension: usize) -> Self {
        Self { dimension, blocks: Vec::new(), scales: Vec::new() }
    }

    pub(super) fn len(&self) -> usize {
        self.scales.len()
    }

    /// Bytes of memory.
    pub(super) fn memory(&self) -> usize {
        self.blocks.iter().map(Vec::capacity).sum::<usize>() + self.scales.capacity() * size_of::<f32>()
    }

    pub(super) fn push(&mut self, row: &Bytes) {
        if self.len().is_multiple_of(BLOCK) {
            // The first block grows with its collection: there may be many small ones.
            let room = if self.blocks.is_empty() { 0 } else { BLOCK * self.dimension };
            self.blocks.push(Vec::with_capacity(room));
        }
        if let Some(block) = self.blocks.last_mut() {
            block.extend_from_slice(&row.values);
            self.scales.push(row.scale);
        }
    }

    /// Leaves a number without a vector: nothing is near it.
    pub(super) fn push_nothing(&mut self) {
        self.push(&Bytes { values: vec![0; self.dimension], scale: 0.0 });
    }

    /// About the cosine between the question and a vector; none where there is no such vector.
    pub(super) fn cosine(&self, key: u32, query: &Bytes) -> Option<f32> {
        let key = key as usize;
        let from = key % BLOCK * self.dimension;
        let row = self.blocks.get(key / BLOCK)?.get(from..from + self.dimension)?;
        let dot = i8::dot(&query.values, row)?;
        Some(dot as f32 * query.scale * self.scales.get(key)?)
    }
}

#[cfg(test)]
mod tests {
    use raglan_pipeline::contract::index::corpus::{normal, unit};
    use rand::{SeedableRng, rngs::StdRng};

    use super::*;

    #[test]
    fn bytes_give_about_the_cosine_whatever_the_length_and_the_dimension() {
        let mut rng = StdRng::seed_from_u64(1);
        for dimension in [1, 3, 31, 64, 100, 384, 1024] {
            let mut rows = Rows::new(dimension);
            let vectors: Vec<Vec<f32>> =
                (0..BLOCK + 10).map(|_| unit((0..dimension).map(|_| normal(&mut rng)).collect())).collect();
            for (length, vector) in [0.001, 1.0, 300.0].into_iter().cycle().zip(&vectors) {
                rows.push(&Bytes::of(&vector.iter().map(|x| x * length).collect::<Vec<_>>(), length));
            }
            assert_eq!(rows.len(), vectors.len());
            let query = Bytes::of(&vectors[7], 1.0);
            for (key, vector) in (0..).zip(&vectors) {
                let exact: f32 = vectors[7].iter().zip(vector).map(|(a, b)| a * b).sum();
                let cosine = rows.cosine(key, &query).unwrap();
                assert!(
                    (cosine - exact).abs() < 0.02,
                    "{cosine} where the cosine is {exact}, {dimension} dimensions"
                );
            }
            assert_eq!(rows.cosine(vectors.len() as u32, &query), None);
        }
    }

    #[test]
    fn a_number_without_a_vector_is_near_nothing() {
        let mut rows = Rows::new(3);
        rows.push_nothing();
        assert_eq!(rows.cosine(0, &Bytes::of(&[1.0, 2.0, 3.0], 14.0f32.sqrt())), Some(0.0));
    }
}
