//! BERT-family encoders on the CPU.
//!
//! Texts are packed: their tokens follow each other without padding, and only attention knows where one ends. Everything between the products
//! happens to rows while they are in the cache. Weights are packed once for the kernels and shared by all threads.

mod attention;
mod config;
mod forward;
mod kernels;
mod linear;
#[cfg(test)]
mod tests;
mod weights;

pub(crate) use self::{forward::PackedEncoder, weights::Weights};

/// In which numbers an encoder computes its products.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Precision {
    /// 8-bit integers: weights rounded once for each output, activations for each token. Sums, softmax, GELU and layer norm are `f32`; attention
    /// is too, or bf16 where the processor multiplies these.
    #[default]
    Int8,
    /// `f32` throughout.
    F32,
}
