//! Exponential and logarithm out of additions, multiplications and divisions alone, each rounded by itself, in a fixed order. The kernels for
//! GPUs compute the same steps, so that both come to the same bits, and with them to the same token. Loops over them are vectorised on any
//! processor.

/// Adding it rounds a number of moderate size to an integer, which is then in the sum's lowest bits.
const ROUNDER: f32 = 12_582_912.0;

/// eˣ of a number that is not above 88; 0 where it is below −87. Within two units in the last place. The polynomial is that of Moshier's Cephes.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    let shifted = x * std::f32::consts::LOG2_E + ROUNDER;
    let whole = shifted - ROUNDER;
    // ln 2 in two parts, of which the first times a small integer is exact.
    let rest = x - whole * 0.693_359_4;
    let rest = rest - whole * -2.121_944_4e-4;
    let mut sum = 1.987_569_1e-4;
    sum = sum * rest + 1.398_199_9e-3;
    sum = sum * rest + 8.333_452e-3;
    sum = sum * rest + 4.166_579_6e-2;
    sum = sum * rest + 1.666_666_6e-1;
    sum = sum * rest + 0.5;
    let value = sum * (rest * rest) + rest + 1.0;
    let power = shifted.to_bits().wrapping_sub(ROUNDER.to_bits()).wrapping_add(127) << 23;
    if x < -87.0 { 0.0 } else { value * f32::from_bits(power) }
}

/// A draw from the exponential distribution with mean 1: −ln(1 − (bits + ½) / 2³²), with its full precision near 0, where the smallest of many
/// draws are.
pub(crate) fn exponential(bits: u32) -> f32 {
    /// 2 atanh(s) for a small s.
    fn twice_atanh(s: f32) -> f32 {
        let square = s * s;
        let mut sum = 1.0 / 9.0;
        sum = sum * square + 1.0 / 7.0;
        sum = sum * square + 1.0 / 5.0;
        sum = sum * square + 1.0 / 3.0;
        sum = sum * square + 1.0;
        2.0 * s * sum
    }
    const UNIT: f32 = 1.0 / 4_294_967_296.0;
    if bits < 1 << 30 {
        let v = (bits as f32 + 0.5) * UNIT;
        return twice_atanh(v / (2.0 - v));
    }
    // 1 − v, counted from the other end, is a power of 2 times what is between ¾ and 1½.
    let rest = (!bits) as f32 + 0.5;
    let mantissa_bits = rest.to_bits();
    let above = u32::from(mantissa_bits & 0x007f_ffff >= 0x0040_0000);
    let exponent = (mantissa_bits >> 23) + above;
    let mantissa = f32::from_bits((mantissa_bits & 0x007f_ffff) | ((127 - above) << 23));
    let twos = (32 + 127) as f32 - exponent as f32;
    twos * std::f32::consts::LN_2 - twice_atanh((mantissa - 1.0) / (mantissa + 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exponential_is_right_to_a_few_units() {
        let mut worst = 0f64;
        for step in 0..=870_000 {
            let x = -(step as f32) * 1e-4;
            let exact = f64::from(x).exp();
            worst = worst.max((f64::from(exp(x)) - exact).abs() / exact);
        }
        assert!(worst < 3e-7, "{worst}");
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(exp(-87.1), 0.0);
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
    }

    #[test]
    fn exponential_draws_are_minus_the_logarithm() {
        let near = [0u32, 1, 2, 1000, (1 << 30) - 1, 1 << 30, (1 << 30) + 1, 1 << 31, u32::MAX - 1, u32::MAX];
        let spread = (0..100_000u32).map(|step| step.wrapping_mul(2_654_435_761));
        for bits in near.into_iter().chain(spread) {
            let exact = -(-(f64::from(bits) + 0.5) / 4_294_967_296.0).ln_1p();
            let error = (f64::from(exponential(bits)) - exact).abs() / exact;
            assert!(error < 1e-6, "{bits}: {} is not {exact}", exponential(bits));
        }
    }
}
