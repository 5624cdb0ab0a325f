//! What happens to rows of `f32` between the products.

use super::{
    isa::multiversion,
    vector::{F32x16, LANES, ROUND, each_vector},
};

/// Replaces each value.
macro_rules! map {
    ($values:expr, |$x:ident| $with:expr) => {
        // SAFETY: the caller has the vector's instructions, and `each_vector` stays within the slice.
        unsafe {
            each_vector!($values.len(), |at, count| {
                let place = $values.as_mut_ptr().add(at);
                let $x = V::load_part(place, count, 0.0);
                $with.store_part(place, count);
            });
        }
    };
}

/// The greatest of the values.
///
/// # Safety
/// The processor has `V`'s instructions; so for all functions here.
#[inline(always)]
unsafe fn greatest<V: F32x16>(values: &[f32]) -> f32 {
    // SAFETY: the caller's promise, and `each_vector` stays within the slice.
    unsafe {
        let mut most = V::splat(f32::MIN);
        each_vector!(values.len(), |at, count| {
            most = V::load_part(values.as_ptr().add(at), count, f32::MIN).max(most);
        });
        most.greatest()
    }
}

/// e^x with a relative error below 2e-7, for x from -87 to 88, and the nearest of these outside. The method and the coefficients are those of
/// Cephes (`expf`): x = n ln 2 + r, with a polynomial for e^r.
#[inline(always)]
unsafe fn exp<V: F32x16>(x: V) -> V {
    // SAFETY: the caller's promise.
    unsafe {
        let x = x.min(V::splat(88.0)).max(V::splat(-87.0));
        let shifted = x.fma(V::splat(std::f32::consts::LOG2_E), V::splat(ROUND));
        let n = shifted.sub(V::splat(ROUND));
        // ln 2 in two parts, the first of which has few bits.
        let r = n.fma(V::splat(-0.693_359_4), x);
        let r = n.fma(V::splat(2.121_944_4e-4), r);
        let p = V::splat(1.987_569_1e-4);
        let p = p.fma(r, V::splat(1.398_199_9e-3));
        let p = p.fma(r, V::splat(8.333_452e-3));
        let p = p.fma(r, V::splat(4.166_579_6e-2));
        let p = p.fma(r, V::splat(0.166_666_65));
        let p = p.fma(r, V::splat(0.5));
        let p = p.mul(r).fma(r, r.add(V::splat(1.0)));
        p.mul(shifted.exp2_of_rounded())
    }
}

multiversion! {
    /// Adds `bias` to each row.
    pub(crate) unsafe fn add_bias<V: F32x16>(rows: &mut [f32], bias: &[f32]) {
        for row in rows.chunks_exact_mut(bias.len()) {
            each_vector!(bias.len(), |at, count| {
                // SAFETY: within both slices.
                unsafe {
                    let place = row.as_mut_ptr().add(at);
                    let bias = V::load_part(bias.as_ptr().add(at), count, 0.0);
                    V::load_part(place, count, 0.0).add(bias).store_part(place, count);
                }
            });
        }
    }
}

multiversion! {
    /// Adds rows and `bias` to rows; all are as wide as `bias`.
    pub(crate) unsafe fn add_rows<V: F32x16>(rows: &[f32], bias: &[f32], to: &mut [f32]) {
        let width = bias.len();
        for (row, to) in rows.chunks_exact(width).zip(to.chunks_exact_mut(width)) {
            each_vector!(width, |at, count| {
                // SAFETY: within all slices.
                unsafe {
                    let place = to.as_mut_ptr().add(at);
                    let row = V::load_part(row.as_ptr().add(at), count, 0.0);
                    let bias = V::load_part(bias.as_ptr().add(at), count, 0.0);
                    V::load_part(place, count, 0.0).add(row.add(bias)).store_part(place, count);
                }
            });
        }
    }
}

/// Beyond this, Φ(x) is 0 or 1 to within 3e-7.
const GELU_END: f32 = 5.0;
/// (Φ(x) - 1/2) / x as a polynomial in 2 (x / [`GELU_END`])² - 1, the least power first. The greatest error of `x Φ(x)` between these ends is 1e-6. Fitted by weighted
/// least squares on Chebyshev nodes with reweighting (Lawson's method), which comes close to the minimax polynomial.
const GELU: [f32; 13] = [
    0.14136378,
    -0.0702966,
    0.051521458,
    -0.04043444,
    0.031426627,
    -0.023325156,
    0.01649095,
    -0.011008572,
    0.0061910893,
    -0.00286986,
    0.0019648368,
    -0.0015352267,
    0.00051107426,
];

multiversion! {
    /// `x * Φ(x)`.
    pub(crate) unsafe fn gelu<V: F32x16>(values: &mut [f32]) {
        map!(values, |x| {{
                let inside = x.min(V::splat(GELU_END)).max(V::splat(-GELU_END));
                let u = inside.mul(inside).fma(V::splat(2.0 / (GELU_END * GELU_END)), V::splat(-1.0));
                let mut p = V::splat(GELU[GELU.len() - 1]);
                for coefficient in GELU[..GELU.len() - 1].iter().rev() {
                    p = p.fma(u, V::splat(*coefficient));
                }
                x.mul(p.fma(inside, V::splat(0.5)))
        }});
    }
}

multiversion! {
    /// The approximation of [`gelu`] by a hyperbolic tangent (Hendrycks and Gimpel, 2016).
    pub(crate) unsafe fn gelu_tanh<V: F32x16>(values: &mut [f32]) {
        // -2 sqrt(2 / π)
        const SCALE: f32 = -1.595_769_2;
        map!(values, |x| {{
                let cube = x.mul(x).mul(x);
                let inner = cube.fma(V::splat(0.044_715), x).mul(V::splat(SCALE));
                // (1 + tanh(u)) / 2 = 1 / (1 + e^(-2u))
                x.div(exp(inner).add(V::splat(1.0)))
        }});
    }
}

multiversion! {
    /// The greater of the value and zero.
    pub(crate) unsafe fn relu<V: F32x16>(values: &mut [f32]) {
        map!(values, |x| x.max(V::splat(0.0)));
    }
}

multiversion! {
    /// Replaces each row of `length` values by e^(x - greatest), and says what they sum up to.
    pub(crate) unsafe fn exp_rows<V: F32x16>(rows: &mut [f32], length: usize, sums: &mut [f32]) {
        for (row, total) in rows.chunks_exact_mut(length).zip(sums) {
            // SAFETY: the caller's promise, and `each_vector` stays within the row.
            unsafe {
                let most = V::splat(greatest::<V>(row));
                let mut sum = V::splat(0.0);
                each_vector!(length, |at, count| {
                    let place = row.as_mut_ptr().add(at);
                    // Lanes beyond the row become e^-87, which is nothing.
                    let power = exp(V::load_part(place, count, f32::MIN).sub(most));
                    sum = sum.add(power);
                    power.store_part(place, count);
                });
                *total = sum.total();
            }
        }
    }
}

multiversion! {
    /// Divides each row of `width` values by a number, into rows that begin `stride` values apart.
    pub(crate) unsafe fn divide_rows<V: F32x16>(
        rows: &[f32],
        width: usize,
        by: &[f32],
        out: &mut [f32],
        stride: usize,
    ) {
        // The last row of `out` may end before its stride does.
        for ((row, by), out) in rows.chunks_exact(width).zip(by).zip(out.chunks_mut(stride)) {
            let out = &mut out[..width];
            // SAFETY: the caller's promise, and `each_vector` stays within both rows.
            unsafe {
                let factor = V::splat(1.0 / by);
                each_vector!(width, |at, count| {
                    let value = V::load_part(row.as_ptr().add(at), count, 0.0);
                    value.mul(factor).store_part(out.as_mut_ptr().add(at), count);
                });
            }
        }
    }
}

multiversion! {
    /// Adds `rows` (as wide as `weight`, in `stride` values each) to `states`, and normalises these: each row to mean 0 and variance 1,
    /// then weight and bias.
    pub(crate) unsafe fn add_and_norm<V: F32x16>(
        states: &mut [f32],
        rows: &[f32],
        stride: usize,
        weight: &[f32],
        bias: &[f32],
        epsilon: f32,
    ) {
        let width = weight.len();
        assert!(bias.len() == width && stride >= width);
        for (state, row) in states.chunks_exact_mut(width).zip(rows.chunks_exact(stride)) {
            // SAFETY: the caller's promise, and `each_vector` stays within the rows.
            unsafe {
                let mut total = V::splat(0.0);
                each_vector!(width, |at, count| {
                    let place = state.as_mut_ptr().add(at);
                    let row = V::load_part(row.as_ptr().add(at), count, 0.0);
                    let value = V::load_part(place, count, 0.0).add(row);
                    total = total.add(value);
                    value.store_part(place, count);
                });
                let mean = total.total() / width as f32;
                let means = V::splat(mean);
                let mut squares = V::splat(0.0);
                each_vector!(width, |at, count| {
                    let distance = V::load_part(state.as_ptr().add(at), count, mean).sub(means);
                    squares = distance.fma(distance, squares);
                });
                let variance = squares.total() / width as f32;
                let scale = V::splat(1.0 / (variance + epsilon).sqrt());
                each_vector!(width, |at, count| {
                    let place = state.as_mut_ptr().add(at);
                    let weight = V::load_part(weight.as_ptr().add(at), count, 0.0);
                    let bias = V::load_part(bias.as_ptr().add(at), count, 0.0);
                    let value = V::load_part(place, count, 0.0).sub(means).mul(scale);
                    value.fma(weight, bias).store_part(place, count);
                });
            }
        }
    }
}
