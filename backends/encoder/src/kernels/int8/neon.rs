//! 64-bit Arm with dot products.

use std::arch::{
    aarch64::{
        int8x16_t, int32x4_t, vaddq_s32, vdupq_n_s8, vdupq_n_s32, vld1q_s8, vreinterpretq_s8_s32,
        vshlq_n_s32, vst1q_s32,
    },
    asm,
};

use super::{super::PANEL, Product, QUAD};

/// Registers of a panel's row of sums.
const PARTS: usize = PANEL / 4;

/// # Safety
/// The product's pointers reach as far as its sizes say; so for all functions here.
#[target_feature(enable = "neon,dotprod")]
pub(super) unsafe fn dot(product: &Product) {
    for column in (0..product.columns).step_by(PANEL) {
        let mut row = 0;
        // SAFETY: the caller's promise; the rows and columns lie within the product.
        unsafe {
            while row + 4 <= product.rows {
                tile::<4>(product, row, column);
                row += 4;
            }
            while row < product.rows {
                tile::<1>(product, row, column);
                row += 1;
            }
        }
    }
}

/// The instruction wants both sides signed, so 128 is taken from the activations and its share added in the end.
#[inline]
#[target_feature(enable = "neon,dotprod")]
unsafe fn tile<const ROWS: usize>(product: &Product, row: usize, column: usize) {
    // SAFETY: the caller's promise.
    unsafe {
        let a = product.a.add(row * product.depth);
        let b = product.b.add(column * product.depth);
        let mut sums = [[vdupq_n_s32(0); PARTS]; ROWS];
        let mut shares = [vdupq_n_s32(0); PARTS];
        for step in (0..product.depth).step_by(QUAD) {
            let mut right: [int8x16_t; PARTS] = [vdupq_n_s8(0); PARTS];
            for (part, right) in right.iter_mut().enumerate() {
                *right = vld1q_s8(b.add(step * PANEL + part * 16));
            }
            for (share, right) in shares.iter_mut().zip(right) {
                *share = dot_product(*share, right, vdupq_n_s8(1));
            }
            for (r, sums) in sums.iter_mut().enumerate() {
                let quad = a.add(r * product.depth + step).cast::<u32>().read_unaligned() ^ 0x8080_8080;
                let left = vreinterpretq_s8_s32(vdupq_n_s32(quad as i32));
                for (sum, right) in sums.iter_mut().zip(right) {
                    *sum = dot_product(*sum, right, left);
                }
            }
        }
        let shares: [int32x4_t; PARTS] = shares.map(|share| vshlq_n_s32::<7>(share));
        for (r, sums) in sums.iter().enumerate() {
            let out = product.out.add((row + r) * product.columns + column);
            for (part, (sum, share)) in sums.iter().zip(shares).enumerate() {
                vst1q_s32(out.add(part * 4), vaddq_s32(*sum, share));
            }
        }
    }
}

/// Adds to each sum the product of four values by four. The intrinsic is not stable yet.
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn dot_product(mut sum: int32x4_t, a: int8x16_t, b: int8x16_t) -> int32x4_t {
    // SAFETY: an instruction on registers, which the function's features have.
    unsafe {
        asm!(
            "sdot {sum:v}.4s, {a:v}.16b, {b:v}.16b",
            sum = inout(vreg) sum,
            a = in(vreg) a,
            b = in(vreg) b,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    sum
}
