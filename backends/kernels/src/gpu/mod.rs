//! What is launched on a GPU: kernels, grids and arguments, made out of addresses. Who launches it is another matter: CUDA, or the emulator of
//! the tests, which runs the same kernels on the CPU.

pub(crate) mod attention;
#[cfg(test)]
mod emulator;
pub(crate) mod layers;
pub(crate) mod program;
pub(crate) mod sampling;

use crate::rows::Rows;

/// A kernel with its grid and arguments.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Launch {
    pub(crate) kernel: &'static str,
    /// Blocks, in each direction.
    pub(crate) grid: [u32; 3],
    /// Threads of a block.
    pub(crate) threads: u32,
    pub(crate) arguments: Vec<Argument>,
}

/// An argument of a kernel.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Argument {
    /// Where something is in the GPU's memory.
    Address(u64),
    /// A count.
    Count(u32),
    /// A distance, in values.
    Stride(i64),
    /// A number.
    Number(f32),
}

/// A tensor in the GPU's memory.
#[derive(Debug, Clone, Copy)]
pub(crate) struct View {
    /// Where its first value is.
    pub(crate) address: u64,
    /// Where its rows are; their `start` is in the address already.
    pub(crate) rows: Rows,
}

impl View {
    /// Whether every group of rows begins at a multiple of 16 bytes and is as long, with values of this size.
    fn is_aligned(&self, value_bytes: usize) -> bool {
        self.address.is_multiple_of(16)
            && (self.rows.group_stride * value_bytes).is_multiple_of(16)
            && (self.rows.width * value_bytes).is_multiple_of(16)
    }
}

/// A length that is a count of a kernel. Tensors of 4 thousand million rows or values a row are not made.
fn count(length: usize) -> Argument {
    Argument::Count(u32::try_from(length).unwrap_or(u32::MAX))
}

/// So many blocks; the same holds.
fn blocks(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

fn stride(values: usize) -> Argument {
    Argument::Stride(values as i64)
}
