//! The arithmetic of the encoder: products of matrices and what happens to rows between them, each with the best instructions
//! that the processor has, found at run time.
//!
//! A matrix of weights is packed once into panels of [`PANEL`] columns. One layout serves all instruction sets, so the same
//! packed weights are shared by every thread whatever kernel runs. Activations are plain rows and never packed.

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod amx;
mod bf16;
mod buffer;
mod f32;
mod int8;
mod isa;
pub(crate) mod rows;
#[cfg(test)]
mod tests;
mod vector;

pub(crate) use self::{
    bf16::{Bf16Panels, bf16_multiply, exp2_rows, round_to_bf16},
    buffer::Aligned,
    f32::{F32Panels, f32_multiply},
    int8::{Int8Panels, QuantizedRows, dequantise, dequantise_into, int8_multiply},
    isa::Kernels,
};

/// Columns of a packed panel.
pub(crate) const PANEL: usize = 16;

/// Buffers that the integer and bf16 kernels read and write hold a multiple of this many rows: kernels compute whole tiles, and
/// what lies beyond the rows that were asked for is scratch.
pub(crate) const ROW_TILE: usize = 32;
