//! Attention's products in bf16 with sums in `f32`, and what lies between them, where the processor has instructions for that: rows of 16 × 2
//! products (AMX) and conversions (AVX-512 BF16). Elsewhere attention is computed in `f32`.

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
        let (places, _) = self.data[start..].as_chunks_mut::<2>();
        for (place, pair) in places.iter_mut().step_by(PANEL).zip(pairs) {
            *place = *pair;
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

/// `out = a · b`. `a` has as many columns as `b` has rows, and both it and `out` have whole tiles of rows ([`ROW_TILE`]); `out` has as many
/// columns as `b`. Strides are in values.
///
/// # Panics
/// Where the kernels have no bf16 ([`Kernels::has_bf16`]); so for all functions here.
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

/// Rounds the first `width` values of each row, which begin `stride` values apart, into rows without gaps, until `out` is full. `width` is
/// a multiple of sixteen.
pub(crate) fn round_to_bf16(
    kernels: Kernels,
    (rows, stride): (&[f32], usize),
    width: usize,
    out: &mut [u16],
) {
    assert!(kernels.has_bf16(), "the processor has no conversion to bf16");
    assert!(width.is_multiple_of(PANEL), "rows are no whole vectors");
    for (row, out) in rows.chunks(stride).zip(out.chunks_exact_mut(width)) {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the processor has the instructions.
        unsafe {
            x86::round(&row[..width], out);
        }
    }
}

/// Makes of each row's first `length` values of `stride`, x, 2^(x - greatest), in rows of bf16 of the same stride, which is a multiple of
/// sixteen. What follows a row's values is zero or next to it. Also says what each row sums up to.
pub(crate) fn exp2_rows(
    kernels: Kernels,
    rows: &[f32],
    length: usize,
    stride: usize,
    out: &mut [u16],
    sums: &mut [f32],
) {
    assert!(kernels.has_bf16(), "the processor has no conversion to bf16");
    assert!(stride.is_multiple_of(PANEL) && (1..=stride).contains(&length), "rows are no whole vectors");
    for ((row, out), sum) in rows.chunks_exact(stride).zip(out.chunks_exact_mut(stride)).zip(sums) {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the processor has the instructions.
        unsafe {
            *sum = x86::exp2(row, length, out);
        }
        out[length.next_multiple_of(PANEL)..].fill(0);
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::PANEL;

    #[inline]
    #[target_feature(enable = "avx512f,avx512bf16,avx512vl")]
    fn store(values: __m512, out: &mut [u16]) {
        let rounded: __m256bh = _mm512_cvtneps_pbh(values);
        let out = &mut out[..PANEL];
        // SAFETY: both are 32 bytes, and the slice was checked to be.
        unsafe { out.as_mut_ptr().cast::<__m256bh>().write_unaligned(rounded) };
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bf16,avx512vl")]
    pub(super) fn round(row: &[f32], out: &mut [u16]) {
        for (values, out) in row.chunks_exact(PANEL).zip(out.chunks_exact_mut(PANEL)) {
            // SAFETY: sixteen values.
            store(unsafe { _mm512_loadu_ps(values.as_ptr()) }, out);
        }
    }

    /// The coefficients of 2^f for f from -1/2 to 1/2, the least power first: relative error 8e-5, where bf16 has 4e-3.
    const EXP2: [f32; 4] = [0.999_928_06, 0.693_260_97, 0.242_611_13, 0.055_171_67];

    #[target_feature(enable = "avx512f,avx512bf16,avx512vl,avx512dq")]
    pub(super) fn exp2(row: &[f32], length: usize, out: &mut [u16]) -> f32 {
        let row = &row[..length];
        let least = _mm512_set1_ps(f32::MIN);
        let (vectors, rest) = row.as_chunks::<PANEL>();
        let mask = (1_u32 << rest.len()) as u16 - 1;
        // SAFETY: whole vectors, and of the last one only the values that are there.
        let (load, last) = unsafe {
            let load = |values: &[f32; PANEL]| _mm512_loadu_ps(values.as_ptr());
            (load, _mm512_mask_loadu_ps(least, mask, rest.as_ptr()))
        };
        let mut most = last;
        for values in vectors {
            most = _mm512_max_ps(most, load(values));
        }
        let most = _mm512_set1_ps(_mm512_reduce_max_ps(most));

        let mut sum = _mm512_setzero_ps();
        let mut places = out.chunks_exact_mut(PANEL);
        for (values, place) in vectors.iter().zip(&mut places) {
            let power = power(_mm512_sub_ps(load(values), most));
            sum = _mm512_add_ps(sum, power);
            store(power, place);
        }
        if let (false, Some(place)) = (rest.is_empty(), places.next()) {
            let power = power(_mm512_sub_ps(last, most));
            sum = _mm512_add_ps(sum, power);
            store(power, place);
        }
        _mm512_reduce_add_ps(sum)
    }

    /// 2^x for numbers that are not above zero; what is below -200 counts as that.
    #[inline]
    #[target_feature(enable = "avx512f,avx512dq")]
    fn power(x: __m512) -> __m512 {
        let x = _mm512_max_ps(x, _mm512_set1_ps(-200.0));
        // x less its nearest integer.
        let f = _mm512_reduce_ps::<0>(x);
        let p = _mm512_fmadd_ps(_mm512_set1_ps(EXP2[3]), f, _mm512_set1_ps(EXP2[2]));
        let p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(EXP2[1]));
        let p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(EXP2[0]));
        _mm512_scalef_ps(p, _mm512_sub_ps(x, f))
    }
}
