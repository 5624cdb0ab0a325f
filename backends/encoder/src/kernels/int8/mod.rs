//! Products of 8-bit integers: activations `u8`, weights `i8`, sums `i32`.
//!
//! All kernels give the same sums, bit for bit: none saturates on the way. A row of activations is quantised when it is there, to its own
//! range: `x ≈ offset + step * q`. A column of weights is quantised once, symmetrically: `w ≈ scale * p`. So
//! `Σ x w ≈ scale * (step * Σ q p + offset * Σ p)`.

#[cfg(target_arch = "aarch64")]
mod neon;
mod portable;
#[cfg(target_arch = "x86_64")]
mod x86;

use super::{
    Aligned, Kernels, PANEL, ROW_TILE,
    isa::{Int8Isa, multiversion},
    vector::{F32x16, LANES, ROUND, each_vector},
};

/// Steps of depth that an instruction sums up.
const QUAD: usize = 4;
/// The depth is rounded up to whole tiles.
const DEPTH_TILE: usize = 64;
/// The largest magnitude of a quantised weight.
const WEIGHT_MAX: f32 = 127.0;
/// The largest quantised activation.
const ACTIVATION_MAX: f32 = 255.0;

/// Weights, quantised and packed: panels of sixteen columns, each with groups of four rows interleaved by column.
#[derive(Debug, Clone)]
pub(crate) struct Int8Panels {
    data: Aligned<i8>,
    /// Rounded up to whole tiles; beyond the matrix it is zero.
    depth: usize,
    columns: usize,
    /// For each column, `w = scale * p`.
    scales: Vec<f32>,
    /// For each column, `scale * Σ p`.
    sums: Vec<f32>,
}

impl Int8Panels {
    /// Quantises and packs weights as models keep them: a row for each output, with `depth` inputs each.
    pub(crate) fn pack(weights: &[f32], depth: usize) -> Self {
        let columns = weights.len().checked_div(depth).unwrap_or(0);
        let padded = depth.next_multiple_of(DEPTH_TILE);
        let mut data = Aligned::<i8>::zeroed(padded * columns.next_multiple_of(2 * PANEL));
        let (mut scales, mut sums) = (Vec::with_capacity(columns), Vec::with_capacity(columns));
        for (column, weights) in weights.chunks_exact(depth.max(1)).enumerate() {
            let largest = weights.iter().fold(0.0_f32, |largest, weight| largest.max(weight.abs()));
            let scale = if largest > 0.0 { largest / WEIGHT_MAX } else { 1.0 };
            let start = column / PANEL * PANEL * padded + column % PANEL * QUAD;
            let mut sum = 0_i32;
            for (step, weight) in weights.iter().enumerate() {
                let quantised = (weight / scale).round() as i8;
                sum += i32::from(quantised);
                data[start + step / QUAD * QUAD * PANEL + step % QUAD] = quantised;
            }
            scales.push(scale);
            sums.push(scale * sum as f32);
        }
        Self { data, depth: padded, columns, scales, sums }
    }

    /// Columns in whole tiles: how long a row of sums is.
    pub(crate) fn padded_columns(&self) -> usize {
        self.columns.next_multiple_of(2 * PANEL)
    }

    pub(crate) fn bytes(&self) -> usize {
        self.data.bytes() + (self.scales.len() + self.sums.len()) * size_of::<f32>()
    }
}

/// Rows of activations, each quantised to its own range.
#[derive(Debug, Default)]
pub(crate) struct QuantizedRows {
    values: Aligned<u8>,
    width: usize,
    /// The width in whole tiles.
    stride: usize,
    rows: usize,
    ranges: Vec<Range>,
}

/// `x = offset + step * q`.
#[derive(Debug, Clone, Copy, Default)]
struct Range {
    offset: f32,
    step: f32,
}

impl QuantizedRows {
    /// Makes room for so many rows of `width` values. All are to be set.
    pub(crate) fn reset(&mut self, rows: usize, width: usize) {
        self.width = width;
        self.stride = width.next_multiple_of(DEPTH_TILE);
        self.rows = rows;
        self.values.grow(rows.next_multiple_of(ROW_TILE) * self.stride);
        self.ranges.clear();
        self.ranges.resize(rows, Range::default());
    }

    /// Quantises rows, which begin `stride` values apart, and sets them from the row `first` on.
    pub(crate) fn set(&mut self, kernels: Kernels, first: usize, (rows, stride): (&[f32], usize)) {
        let values = &mut self.values[first * self.stride..];
        quantise(kernels, rows, stride, self.width, values, self.stride, &mut self.ranges[first..]);
    }
}

multiversion! {
    unsafe fn quantise<V: F32x16>(
        rows: &[f32],
        row_stride: usize,
        width: usize,
        values: &mut [u8],
        stride: usize,
        ranges: &mut [Range],
    ) {
        assert!(stride.is_multiple_of(LANES) && width <= stride);
        for ((row, out), range) in rows.chunks(row_stride).zip(values.chunks_exact_mut(stride)).zip(ranges) {
            let row = &row[..width];
            // SAFETY: the caller's promise; `each_vector` stays within the row, and whole vectors fit into `out`, where what lies beyond
            // the row is multiplied by zero.
            unsafe {
                let first = row.first().copied().unwrap_or_default();
                let (mut low, mut high) = (V::splat(first), V::splat(first));
                each_vector!(width, |at, count| {
                    let value = V::load_part(row.as_ptr().add(at), count, first);
                    low = value.min(low);
                    high = value.max(high);
                });
                let (low, high) = (low.least(), high.greatest());
                let step = (high - low) / ACTIVATION_MAX;
                *range = Range { offset: low, step };
                let scale = V::splat(if step > 0.0 { 1.0 / step } else { 0.0 });
                let low = V::splat(low);
                each_vector!(width, |at, count| {
                    let value = V::load_part(row.as_ptr().add(at), count, first);
                    value.sub(low).fma(scale, V::splat(ROUND)).store_low_bytes(out.as_mut_ptr().add(at));
                });
            }
        }
    }
}

/// `out = a · b` as sums whose bits lie in `out`: one row of [`Int8Panels::padded_columns`] for each row of `a`. `out` has whole tiles of
/// rows ([`ROW_TILE`]). [`dequantise`] makes numbers of them.
pub(crate) fn int8_multiply(kernels: Kernels, a: &QuantizedRows, b: &Int8Panels, out: &mut [f32]) {
    let width = b.padded_columns();
    let rows = a.rows.next_multiple_of(ROW_TILE);
    if rows == 0 || width == 0 {
        return;
    }
    assert_eq!(a.stride, b.depth, "the matrices do not fit each other");
    assert!(a.values.len() >= rows * a.stride, "the left matrix has no whole tiles");
    assert!(out.len() >= rows * width, "the result does not fit");
    let product = Product {
        a: a.values.as_ptr(),
        rows: a.rows,
        b: b.data.as_ptr(),
        depth: b.depth,
        columns: width,
        out: out.as_mut_ptr().cast(),
    };
    // SAFETY: sizes were checked above and are whole tiles, the sums are written over `f32` of the same size, and `Kernels` names
    // only what the processor has.
    unsafe {
        match kernels.int8 {
            #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
            Int8Isa::Amx => super::amx::multiply(
                super::amx::Tile::Int8,
                (product.a, product.depth),
                rows,
                (product.b.cast(), product.depth / DEPTH_TILE),
                width / PANEL,
                (product.out.cast(), width * 4),
            ),
            #[cfg(target_arch = "x86_64")]
            Int8Isa::Avx512Vnni => x86::avx512_vnni(&product),
            #[cfg(target_arch = "x86_64")]
            Int8Isa::AvxVnni => x86::avx_vnni(&product),
            #[cfg(target_arch = "x86_64")]
            Int8Isa::Avx2 => x86::avx2(&product),
            #[cfg(target_arch = "aarch64")]
            Int8Isa::NeonDot => neon::dot(&product),
            Int8Isa::Baseline => portable::run(&product),
        }
    }
}

/// Turns rows of sums into what they stand for, in place, with `bias` added. `first` is the number of the first of these rows in `a`.
pub(crate) fn dequantise(
    kernels: Kernels,
    sums: &mut [f32],
    (a, first): (&QuantizedRows, usize),
    b: &Int8Panels,
    bias: &[f32],
) {
    dequantise_rows(kernels, sums, b.padded_columns(), &a.ranges[first..], &b.scales, &b.sums, bias);
}

multiversion! {
    unsafe fn dequantise_rows<V: F32x16>(
        rows: &mut [f32],
        stride: usize,
        ranges: &[Range],
        scales: &[f32],
        sums: &[f32],
        bias: &[f32],
    ) {
        let width = scales.len();
        assert!(sums.len() == width && bias.len() == width && width <= stride);
        for (row, range) in rows.chunks_exact_mut(stride).zip(ranges) {
            // SAFETY: the caller's promise, and `each_vector` stays within the rows.
            unsafe {
                let (offset, step) = (V::splat(range.offset), V::splat(range.step));
                each_vector!(width, |at, count| {
                    let place = row.as_mut_ptr().add(at);
                    let scale = V::load_part(scales.as_ptr().add(at), count, 0.0).mul(step);
                    let sum = V::load_part(sums.as_ptr().add(at), count, 0.0);
                    let base = offset.fma(sum, V::load_part(bias.as_ptr().add(at), count, 0.0));
                    V::load_part(place, count, 0.0).integer_bits_to_float().fma(scale, base).store_part(place, count);
                });
            }
        }
    }
}

/// As [`dequantise`], adding to rows without gaps what the sums stand for.
pub(crate) fn dequantise_into(
    kernels: Kernels,
    sums: &[f32],
    a: &QuantizedRows,
    b: &Int8Panels,
    bias: &[f32],
    to: &mut [f32],
) {
    dequantise_rows_into(kernels, sums, b.padded_columns(), &a.ranges, &b.scales, &b.sums, bias, to);
}

multiversion! {
    #[allow(clippy::too_many_arguments)] // it has what `dequantise_rows` has, and where to
    unsafe fn dequantise_rows_into<V: F32x16>(
        rows: &[f32],
        stride: usize,
        ranges: &[Range],
        scales: &[f32],
        sums: &[f32],
        bias: &[f32],
        to: &mut [f32],
    ) {
        let width = scales.len();
        assert!(sums.len() == width && bias.len() == width && width <= stride);
        for ((row, range), to) in rows.chunks_exact(stride).zip(ranges).zip(to.chunks_exact_mut(width)) {
            // SAFETY: the caller's promise, and `each_vector` stays within the rows.
            unsafe {
                let (offset, step) = (V::splat(range.offset), V::splat(range.step));
                each_vector!(width, |at, count| {
                    let place = to.as_mut_ptr().add(at);
                    let scale = V::load_part(scales.as_ptr().add(at), count, 0.0).mul(step);
                    let sum = V::load_part(sums.as_ptr().add(at), count, 0.0);
                    let base = offset.fma(sum, V::load_part(bias.as_ptr().add(at), count, 0.0));
                    let value = V::load_part(row.as_ptr().add(at), count, 0.0).integer_bits_to_float();
                    let value = value.fma(scale, base);
                    V::load_part(place, count, 0.0).add(value).store_part(place, count);
                });
            }
        }
    }
}

/// A product whose sizes were checked.
struct Product {
    /// `rows` rows of `depth` values.
    a: *const u8,
    rows: usize,
    /// `columns / 16` panels of `depth * 16` values.
    b: *const i8,
    /// A multiple of 64.
    depth: usize,
    /// A multiple of 32.
    columns: usize,
    /// `rows` rows of `columns` sums.
    out: *mut i32,
}
