//! Products of `f32` matrices, exact but for the order of the sums.

use super::{
    Aligned, Kernels, PANEL,
    isa::FloatIsa,
    vector::{Array, F32x16},
};

/// A right-hand matrix, packed: panels of sixteen columns, each with its rows one after the other.
#[derive(Debug, Clone, Default)]
pub(crate) struct F32Panels {
    data: Aligned<f32>,
    depth: usize,
    columns: usize,
}

impl F32Panels {
    /// Makes room for a matrix of `depth` rows. What it held is gone, and all values are to be set.
    pub(crate) fn reset(&mut self, depth: usize, columns: usize) {
        self.data.grow(columns.next_multiple_of(PANEL) * depth);
        (self.depth, self.columns) = (depth, columns);
    }

    /// Packs weights as models keep them: a row for each of `columns` outputs, with `depth` inputs each.
    pub(crate) fn pack(weights: &[f32], depth: usize) -> Self {
        let mut panels = Self::default();
        panels.reset(depth, weights.len().checked_div(depth).unwrap_or(0));
        for (column, weights) in weights.chunks_exact(depth.max(1)).enumerate() {
            panels.set_column(column, weights);
        }
        panels
    }

    /// Sets one column.
    pub(crate) fn set_column(&mut self, column: usize, values: &[f32]) {
        let start = column / PANEL * PANEL * self.depth + column % PANEL;
        for (place, value) in self.data[start..].iter_mut().step_by(PANEL).zip(&values[..self.depth]) {
            *place = *value;
        }
    }

    /// Sets one row.
    pub(crate) fn set_row(&mut self, row: usize, values: &[f32]) {
        for (panel, values) in values[..self.columns].chunks(PANEL).enumerate() {
            let start = (panel * self.depth + row) * PANEL;
            self.data[start..][..values.len()].copy_from_slice(values);
        }
    }

    pub(crate) fn columns(&self) -> usize {
        self.columns
    }

    pub(crate) fn bytes(&self) -> usize {
        self.data.bytes()
    }
}

/// `out = a · b` for the first `rows` rows of `a`. Rows of `a` begin `a_stride` values apart, those of `out` `out_stride`; only
/// `b`'s columns of a row of `out` are written.
pub(crate) fn f32_multiply(
    kernels: Kernels,
    (a, a_stride): (&[f32], usize),
    rows: usize,
    b: &F32Panels,
    (out, out_stride): (&mut [f32], usize),
) {
    if rows == 0 || b.columns == 0 {
        return;
    }
    assert!(a.len() >= (rows - 1) * a_stride + b.depth, "the left matrix is too small");
    assert!(out.len() >= (rows - 1) * out_stride + b.columns, "the result does not fit");
    let product = Product {
        a: a.as_ptr(),
        a_stride,
        rows,
        b: b.data.as_ptr(),
        depth: b.depth,
        columns: b.columns,
        out: out.as_mut_ptr(),
        out_stride,
    };
    // SAFETY: the sizes were checked above, the panels hold whole rows of sixteen, and `Kernels` names only what the processor has.
    unsafe {
        match kernels.float {
            #[cfg(target_arch = "x86_64")]
            FloatIsa::Avx512 => avx512(&product),
            #[cfg(target_arch = "x86_64")]
            FloatIsa::Avx2 => avx2(&product),
            FloatIsa::Baseline if cfg!(target_arch = "aarch64") => product.run::<Array, 6, 1>(),
            FloatIsa::Baseline => product.run::<Array, 2, 1>(),
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,fma")]
unsafe fn avx512(product: &Product) {
    // 24 of the 32 registers hold sums.
    // SAFETY: the caller's promise.
    unsafe { product.run::<super::vector::x86::Avx512, 12, 2>() }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn avx2(product: &Product) {
    // 12 of the 16 registers hold sums.
    // SAFETY: the caller's promise.
    unsafe { product.run::<super::vector::x86::Avx2, 6, 1>() }
}

struct Product {
    a: *const f32,
    a_stride: usize,
    rows: usize,
    b: *const f32,
    depth: usize,
    columns: usize,
    out: *mut f32,
    out_stride: usize,
}

impl Product {
    /// Panels stay in the cache while all rows go by, `ROWS` at a time, with `PANELS` panels at once.
    ///
    /// # Safety
    /// The pointers reach as far as the sizes say, and the processor has `V`'s instructions.
    #[inline(always)]
    unsafe fn run<V: F32x16, const ROWS: usize, const PANELS: usize>(&self) {
        let mut column = 0;
        // SAFETY: the caller's promise.
        unsafe {
            while column + PANELS * PANEL <= self.columns {
                self.strip::<V, ROWS, PANELS>(column);
                column += PANELS * PANEL;
            }
            while column < self.columns {
                self.strip::<V, ROWS, 1>(column);
                column += PANEL;
            }
        }
    }

    #[inline(always)]
    unsafe fn strip<V: F32x16, const ROWS: usize, const PANELS: usize>(&self, column: usize) {
        let mut row = 0;
        // SAFETY: the caller's promise.
        unsafe {
            while row + ROWS <= self.rows {
                self.tile::<V, ROWS, PANELS>(row, column);
                row += ROWS;
            }
            if ROWS > 8 && row + 8 <= self.rows {
                self.tile::<V, 8, PANELS>(row, column);
                row += 8;
            }
            if ROWS > 4 && row + 4 <= self.rows {
                self.tile::<V, 4, PANELS>(row, column);
                row += 4;
            }
            if ROWS > 2 && row + 2 <= self.rows {
                self.tile::<V, 2, PANELS>(row, column);
                row += 2;
            }
            if row < self.rows {
                self.tile::<V, 1, PANELS>(row, column);
            }
        }
    }

    #[inline(always)]
    unsafe fn tile<V: F32x16, const ROWS: usize, const PANELS: usize>(&self, row: usize, column: usize) {
        // SAFETY: the caller's promise; the last panel's columns beyond the matrix are packed as well, but not written to `out`.
        unsafe {
            let panels = self.b.add(column * self.depth);
            let a = self.a.add(row * self.a_stride);
            let mut sums = [[V::splat(0.0); PANELS]; ROWS];
            for step in 0..self.depth {
                let mut b = [V::splat(0.0); PANELS];
                for (panel, b) in b.iter_mut().enumerate() {
                    *b = V::load(panels.add((panel * self.depth + step) * PANEL));
                }
                for (r, sums) in sums.iter_mut().enumerate() {
                    let value = V::splat(*a.add(r * self.a_stride + step));
                    for (sum, b) in sums.iter_mut().zip(b) {
                        *sum = value.fma(b, *sum);
                    }
                }
            }
            for (r, sums) in sums.iter().enumerate() {
                for (panel, sum) in sums.iter().enumerate() {
                    let at = column + panel * PANEL;
                    let out = self.out.add((row + r) * self.out_stride + at);
                    sum.store_part(out, PANEL.min(self.columns - at));
                }
            }
        }
    }
}
