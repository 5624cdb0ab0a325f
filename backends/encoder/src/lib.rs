//! BERT-family encoders on the CPU, from a folder with `config.json` and `model.safetensors` to the states of texts' tokens.
//!
//! Texts are packed: their tokens follow each other without padding, and only attention knows where one ends. Everything between the products
//! happens to rows while they are in the cache. Weights are packed once for the kernels and shared by all threads; there are no threads here,
//! and whoever has several runs a batch on each.
//!
//! It is a crate of its own, without any I/O but the reading of weights, so that it can be optimised even where the rest is built for
//! debugging.

mod attention;
mod config;
mod error;
mod forward;
mod head;
mod kernels;
mod linear;
#[cfg(test)]
mod reference;
mod sequence;
#[cfg(test)]
mod tests;
#[cfg(any(test, feature = "tiny"))]
pub mod tiny;
mod weights;

pub use self::{
    config::{Activation, EncoderConfig, Family},
    error::EncoderError,
    forward::{Encoder, States},
    head::ScoreHead,
    sequence::Sequence,
    weights::{Weights, read_header},
};

/// The file that describes a model's architecture.
pub const CONFIG: &str = "config.json";
/// The file that holds a model's weights.
pub const WEIGHTS: &str = "model.safetensors";

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
