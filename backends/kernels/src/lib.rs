//! What a decoder of a language model computes between its matrix products, over candle's tensors: attention over a paged cache, norms, rotary
//! embedding, the gated activation, and the choice of the next token.
//!
//! Tokens of all sequences are packed: they follow each other without padding, whether a sequence brings a whole prompt, a piece of one or a
//! single token. Only [`AttentionBatch`] knows where one ends.
//!
//! Queries, keys and values may be slices of one fused projection, `[tokens, heads + 2 · kv_heads, head_dim]`, narrowed along its heads, and are read
//! where they are; so are the halves of a fused gate and up. What is narrowed first and then reshaped, candle copies.
//!
//! Every operation runs where its tensors are: on the CPU in plain Rust, on all threads of rayon's pool, or, with the feature `cuda`, on an
//! NVIDIA GPU by kernels of ours, which are compiled when they are first used. Numbers are `f32`, `bf16` or `f16`, the same in all tensors of a
//! call; sums are always `f32`.
//!
//! Arguments of the wrong shape, type or device are an error of candle that says what was expected.

// The cases that GPUs are checked with name the crate as others do.
#[cfg(test)]
extern crate self as raglan_kernels;

mod attention;
mod batch;
mod cache;
mod cpu;
#[cfg(feature = "cuda")]
mod cuda;
mod element;
#[cfg(any(test, feature = "cuda"))]
mod gpu;
mod layers;
mod rows;
mod sampling;
#[cfg(test)]
mod tests;

pub use self::{
    attention::{check_heads_on_gpu, paged_attention},
    batch::{AttentionBatch, AttentionSequence},
    cache::{rope_write_kv, write_kv},
    layers::{add_rms_norm, rms_norm, rope, silu_mul},
    sampling::{NO_TOKEN, SampleRow, sample},
};
