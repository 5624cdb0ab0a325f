//! AVX-512 VNNI, AVX-VNNI and AVX2.

use std::arch::x86_64::{
    __m128i, __m256i, __m512i, _mm_loadu_si128, _mm256_add_epi32, _mm256_cvtepi8_epi16,
    _mm256_dpbusd_avx_epi32, _mm256_hadd_epi32, _mm256_loadu_si256, _mm256_madd_epi16,
    _mm256_permute4x64_epi64, _mm256_set1_epi32, _mm256_set1_epi64x, _mm256_setzero_si256,
    _mm256_storeu_si256, _mm512_dpbusd_epi32, _mm512_loadu_si512, _mm512_set1_epi32, _mm512_setzero_si512,
    _mm512_storeu_si512,
};

use super::{super::PANEL, Product, QUAD};

/// Runs tiles of each of these numbers of rows as long as so many are left, then of one; all for one strip of columns after the other.
macro_rules! strips {
    ($product:expr, $tile:ident, [$($rows:literal),+], $width:expr) => {
        for column in (0..$product.columns).step_by($width) {
            let mut row = 0;
            $(
                while row + $rows <= $product.rows {
                    // SAFETY: the caller's promise; the rows and columns lie within the product.
                    unsafe { $tile::<$rows>($product, row, column) };
                    row += $rows;
                }
            )+
            while row < $product.rows {
                // SAFETY: as above.
                unsafe { $tile::<1>($product, row, column) };
                row += 1;
            }
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

#[target_feature(enable = "avx2")]
pub(super) unsafe fn avx2(product: &Product) {
    strips!(product, avx2_tile, [3, 2], PANEL);
}

/// AVX2's own product of `u8` and `i8` saturates at 16 bits, so both sides are widened to 16 bits first, which never does.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn avx2_tile<const ROWS: usize>(product: &Product, row: usize, column: usize) {
    // SAFETY: the caller's promise.
    unsafe {
        let a = product.a.add(row * product.depth);
        let b = product.b.add(column * product.depth);
        // Each holds two sums for each of four columns.
        let mut sums = [[_mm256_setzero_si256(); 4]; ROWS];
        for step in (0..product.depth).step_by(QUAD) {
            let block = b.add(step * PANEL).cast::<__m128i>();
            let mut left = [_mm256_setzero_si256(); ROWS];
            for (r, left) in left.iter_mut().enumerate() {
                let quad = a.add(r * product.depth + step).cast::<[u8; QUAD]>().read();
                *left = _mm256_set1_epi64x(widened(quad));
            }
            for part in 0..4 {
                let right = _mm256_cvtepi8_epi16(_mm_loadu_si128(block.add(part)));
                for (sums, left) in sums.iter_mut().zip(left) {
                    sums[part] = _mm256_add_epi32(sums[part], _mm256_madd_epi16(left, right));
                }
            }
        }
        for (r, sums) in sums.iter().enumerate() {
            let out = product.out.add((row + r) * product.columns + column).cast::<__m256i>();
            // The horizontal sum interleaves the halves of its arguments.
            let [low, high] = [(sums[0], sums[1]), (sums[2], sums[3])]
                .map(|(one, other)| _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_hadd_epi32(one, other)));
            _mm256_storeu_si256(out, low);
            _mm256_storeu_si256(out.add(1), high);
        }
    }
}

/// Four bytes as four 16-bit numbers.
#[inline(always)]
fn widened(quad: [u8; QUAD]) -> i64 {
    let [a, b, c, d] = quad.map(i64::from);
    a | b << 16 | c << 32 | d << 48
}
