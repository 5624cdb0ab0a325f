//! Products of bf16 matrices into `f32`, for attention where the processor has instructions for them.

use super::{Aligned, Kernels, PANEL, ROW_TILE};

/// Steps of depth in one tile.
const STEP: usize = 32;

/// A right-hand matrix of bf16, packed: panels of sixteen columns, each with pairs of rows interleaved by column.
#[derive(Debug, Default)]
pub(crate) struct Bf16Panels {
    data: Aligned<u16>,
    depth: usize,
    panels: usize,
}

impl Bf16Panels {
    /// Makes room for a matrix, rounded up to whole tiles: `depth` to a multiple of 32, `columns` too. All rows are to be
    /// set; columns beyond `columns` may hold anything.
    pub(crate) fn reset(&mut self, depth: usize, columns: usize) {
        self.depth = depth.next_multiple_of(STEP);
        self.panels = columns.next_multiple_of(2 * PANEL) / PANEL;
        self.data.grow(self.depth * self.panels * PANEL);
    }

    pub(crate) fn columns(&self) -> usize {
        self.panels * PANEL
    }

    /// Sets one column.
    pub(crate) fn set_column(&mut self, column: usize, values: &[u16]) {
        let start = column / PANEL * PANEL * self.depth + column % PANEL * 2;
        let (pairs, _) = values.as_chunks::<2>();
        for (row, pair) in pairs.iter().enumerate() {
            self.data[start + row * 2 * PANEL..][..2].copy_from_slice(pair);
        }
    }

    /// Sets the rows `2 * pair` and `2 * pair + 1`.
    pub(crate) fn set_row_pair(&mut self, pair: usize, even: &[u16], odd: &[u16]) {
        for (panel, (even, odd)) in even.chunks(PANEL).zip(odd.chunks(PANEL)).enumerate() {
            let start = panel * PANEL * self.depth + pair * 2 * PANEL;
            let (places, _) = self.data[start..][..2 * PANEL].as_chunks_mut::<2>();
            for ((place, even), odd) in places.iter_mut().zip(even).zip(odd) {
                *place = [*even, *odd];
            }
        }
    }
}

/// `out = a · b`, where [`Kernels::has_bf16`]. `a` has as many columns as `b` has rows, and both it and `out` have whole tiles of
/// rows ([`ROW_TILE`]); `out` has as many columns as `b`. Strides are in values.
pub(crate) fn bf16_multiply(
    kernels: Kernels,
    (a, a_stride): (&[u16], usize),
    rows: usize,
    b: &Bf16Panels,
    out: &mut [f32],
) {
    assert!(kernels.has_bf16(), "the processor has no products of bf16");
    let rows = rows.next_multiple_of(ROW_TILE);
    if rows == 0 || b.panels == 0 || b.depth == 0 {
        return;
    }
    assert!(a.len() >= (rows - 1) * a_stride + b.depth, "the left matrix is too small");
    assert!(out.len() >= rows * b.columns(), "the result does not fit");
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    // SAFETY: the kernels were found usable; sizes were checked above, and `reset` made whole tiles of the panels.
    unsafe {
        super::amx::multiply(
            super::amx::Tile::Bf16,
            (a.as_ptr().cast(), a_stride * 2),
            rows,
            (b.data.as_ptr().cast(), b.depth / STEP),
            b.panels,
            (out.as_mut_ptr().cast(), b.columns() * 4),
        );
    }
}
