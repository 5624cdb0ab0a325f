//! AVX-512 VNNI, AVX-VNNI and AVX2.

use std::arch::x86_64::{
    __m128i, __m256i, __m512i, _mm_loadu_si128, _mm256_add_epi32, _mm256_castps_si256, _mm256_castsi256_ps,
    _mm256_cvtepi8_epi16, _mm256_dpbusd_avx_epi32, _mm256_loadu_si256, _mm256_madd_epi16,
    _mm256_permute4x64_epi64, _mm256_set1_epi32, _mm256_setzero_si256, _mm256_shuffle_ps,
    _mm256_storeu_si256, _mm512_dpbusd_epi32, _mm512_loadu_si512, _mm512_set1_epi32, _mm512_setzero_si512,
    _mm512_storeu_si512,
};

use super::{super::PANEL, Product, QUAD};

/// Runs tiles of each of these numbers of rows on one strip of columns as long as so many are left, then of one.
macro_rules! tiles {
    ($product:expr, $tile:ident, [$($tall:literal),+], $rows:expr, $column:expr) => {
        let mut row = 0;
        $(
            while row + $tall <= $rows {
                // SAFETY: the caller's promise; the rows and columns lie within the product.
                unsafe { $tile::<$tall>($product, row, $column) };
                row += $tall;
            }
        )+
        while row < $rows {
            // SAFETY: as above.
            unsafe { $tile::<1>($product, row, $column) };
            row += 1;
        }
    };
}

/// The same for one strip of columns after the other.
macro_rules! strips {
    ($product:expr, $tile:ident, $tall:tt, $width:expr) => {
        for column in (0..$product.columns).step_by($width) {
            tiles!($product, $tile, $tall, $product.rows, column);
        }
    };
}

/// # Safety
/// The product's pointers reach as far as its sizes say; so for all functions here.
#[target_feature(enable = "avx512f,avx512vnni")]
pub(super) unsafe fn avx512_vnni(product: &Product) {
    // 24 of the 32 registers hold sums.
    strips!(product, avx512_vnni_tile, [12, 8, 4, 2], 2 * PANEL);
}

#[inline]
#[target_feature(enable = "avx512f,avx512vnni")]
unsafe fn avx512_vnni_tile<const ROWS: usize>(product: &Product, row: usize, column: usize) {
    // SAFETY: the caller's promise.
    unsafe {
        let a = product.a.add(row * product.depth);
        let b0 = product.b.add(column * product.depth);
        let b1 = b0.add(PANEL * product.depth);
        let mut sums = [[_mm512_setzero_si512(); 2]; ROWS];
        for step in (0..product.depth).step_by(QUAD) {
            let right: [__m512i; 2] = [
                _mm512_loadu_si512(b0.add(step * PANEL).cast()),
                _mm512_loadu_si512(b1.add(step * PANEL).cast()),
            ];
            for (r, sums) in sums.iter_mut().enumerate() {
                let left = _mm512_set1_epi32(a.add(r * product.depth + step).cast::<i32>().read_unaligned());
                sums[0] = _mm512_dpbusd_epi32(sums[0], left, right[0]);
                sums[1] = _mm512_dpbusd_epi32(sums[1], left, right[1]);
            }
        }
        for (r, sums) in sums.iter().enumerate() {
            let out = product.out.add((row + r) * product.columns + column);
            _mm512_storeu_si512(out.cast(), sums[0]);
            _mm512_storeu_si512(out.add(PANEL).cast(), sums[1]);
        }
    }
}

#[target_feature(enable = "avx2,avxvnni")]
pub(super) unsafe fn avx_vnni(product: &Product) {
    strips!(product, avx_vnni_tile, [6, 4, 2], PANEL);
}

#[inline]
#[target_feature(enable = "avx2,avxvnni")]
unsafe fn avx_vnni_tile<const ROWS: usize>(product: &Product, row: usize, column: usize) {
    // SAFETY: the caller's promise.
    unsafe {
        let a = product.a.add(row * product.depth);
        let b = product.b.add(column * product.depth);
        let mut sums = [[_mm256_setzero_si256(); 2]; ROWS];
        for step in (0..product.depth).step_by(QUAD) {
            let block = b.add(step * PANEL).cast::<__m256i>();
            let right = [_mm256_loadu_si256(block), _mm256_loadu_si256(block.add(1))];
            for (r, sums) in sums.iter_mut().enumerate() {
                let left = _mm256_set1_epi32(a.add(r * product.depth + step).cast::<i32>().read_unaligned());
                sums[0] = _mm256_dpbusd_avx_epi32(sums[0], left, right[0]);
                sums[1] = _mm256_dpbusd_avx_epi32(sums[1], left, right[1]);
            }
        }
        for (r, sums) in sums.iter().enumerate() {
            let out = product.out.add((row + r) * product.columns + column).cast::<__m256i>();
            _mm256_storeu_si256(out, sums[0]);
            _mm256_storeu_si256(out.add(1), sums[1]);
        }
    }
}

/// So many rows of activations are widened at once: at the depth of a feed-forward layer they take half of a core's second cache.
const WIDE_ROWS: usize = 96;
/// Steps of depth that AVX2's product of 16-bit numbers sums up.
const PAIR: usize = 2;

/// AVX2's own product of `u8` and `i8` saturates at 16 bits, so both sides are widened to 16 bits first, whose product never does: the rows a block at a time,
/// and for each block one panel of columns after the other.
#[target_feature(enable = "avx2")]
pub(super) unsafe fn avx2(product: &Product) {
    let Product { depth, columns, .. } = *product;
    let mut rows = vec![0_u16; product.rows.min(WIDE_ROWS) * depth];
    let mut panel = vec![0_i16; PANEL * depth];
    for first in (0..product.rows).step_by(WIDE_ROWS) {
        let count = WIDE_ROWS.min(product.rows - first);
        // SAFETY: the caller's promise; the rows lie within the product.
        let narrow = unsafe { std::slice::from_raw_parts(product.a.add(first * depth), count * depth) };
        for (wide, narrow) in rows.iter_mut().zip(narrow) {
            *wide = u16::from(*narrow);
        }
        // SAFETY: as above.
        let block = Wide {
            a: rows.as_ptr(),
            b: panel.as_mut_ptr(),
            depth,
            out: unsafe { product.out.add(first * columns) },
            columns,
        };
        for column in (0..columns).step_by(PANEL) {
            // SAFETY: as above; the panel has room for one of this depth.
            unsafe { widen_panel(product.b.add(column * depth), depth, block.b) };
            tiles!(&block, avx2_tile, [6, 2], count, column);
        }
    }
}

/// Rows and one panel of columns, in 16 bits.
struct Wide {
    a: *const u16,
    /// For each two steps of depth, both weights of each column.
    b: *mut i16,
    depth: usize,
    /// Rows of `columns` sums.
    out: *mut i32,
    columns: usize,
}

/// Widens a panel and brings it from groups of four steps into groups of two.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn widen_panel(panel: *const i8, depth: usize, to: *mut i16) {
    for step in (0..depth).step_by(QUAD) {
        // SAFETY: the caller's promise.
        unsafe {
            let block = panel.add(step * PANEL).cast::<__m128i>();
            let to = to.add(step * PANEL).cast::<__m256i>();
            // Each half of a block has eight columns.
            for half in 0..2 {
                let [low, high] = [0, 1].map(|part| {
                    _mm256_castsi256_ps(_mm256_cvtepi8_epi16(_mm_loadu_si128(block.add(2 * half + part))))
                });
                // A column's four steps are two pairs of 32 bits: the first of each go here, the second there. The shuffle works within halves of a
                // register; the permutation brings the columns back into their order.
                let first = _mm256_castps_si256(_mm256_shuffle_ps::<0b10_00_10_00>(low, high));
                let second = _mm256_castps_si256(_mm256_shuffle_ps::<0b11_01_11_01>(low, high));
                _mm256_storeu_si256(to.add(half), _mm256_permute4x64_epi64::<0b11_01_10_00>(first));
                _mm256_storeu_si256(to.add(2 + half), _mm256_permute4x64_epi64::<0b11_01_10_00>(second));
            }
        }
    }
}

#[inline]
#[target_feature(enable = "avx2")]
unsafe fn avx2_tile<const ROWS: usize>(product: &Wide, row: usize, column: usize) {
    // SAFETY: the caller's promise.
    unsafe {
        let a = product.a.add(row * product.depth);
        let mut sums = [[_mm256_setzero_si256(); 2]; ROWS];
        for step in (0..product.depth).step_by(PAIR) {
            let pair = product.b.add(step * PANEL).cast::<__m256i>();
            let right = [_mm256_loadu_si256(pair), _mm256_loadu_si256(pair.add(1))];
            for (r, sums) in sums.iter_mut().enumerate() {
                let left = _mm256_set1_epi32(a.add(r * product.depth + step).cast::<i32>().read_unaligned());
                sums[0] = _mm256_add_epi32(sums[0], _mm256_madd_epi16(left, right[0]));
                sums[1] = _mm256_add_epi32(sums[1], _mm256_madd_epi16(left, right[1]));
            }
        }
        for (r, sums) in sums.iter().enumerate() {
            let out = product.out.add((row + r) * product.columns + column).cast::<__m256i>();
            _mm256_storeu_si256(out, sums[0]);
            _mm256_storeu_si256(out.add(1), sums[1]);
        }
    }
}
