//! For any processor; on 64-bit Arm the compiler makes NEON of it.

use super::{super::PANEL, Product, QUAD};

/// # Safety
/// The product's pointers reach as far as its sizes say.
pub(super) unsafe fn run(product: &Product) {
    for column in (0..product.columns).step_by(PANEL) {
        for row in 0..product.rows {
            // SAFETY: the caller's promise.
            let (a, b, out) = unsafe {
                (
                    std::slice::from_raw_parts(product.a.add(row * product.depth), product.depth),
                    std::slice::from_raw_parts(product.b.add(column * product.depth), product.depth * PANEL),
                    std::slice::from_raw_parts_mut(product.out.add(row * product.columns + column), PANEL),
                )
            };
            let mut sums = [0_i32; PANEL];
            let (quads, _) = a.as_chunks::<QUAD>();
            let (blocks, _) = b.as_chunks::<{ QUAD * PANEL }>();
            for (quad, block) in quads.iter().zip(blocks) {
                for (column, sum) in sums.iter_mut().enumerate() {
                    for i in 0..QUAD {
                        *sum += i32::from(quad[i]) * i32::from(block[column * QUAD + i]);
                    }
                }
            }
            out.copy_from_slice(&sums);
        }
    }
}
