use rand::{Rng, SeedableRng, rngs::StdRng};

use super::*;

fn random(seed: u64, len: usize, scale: f32) -> Vec<f32> {
    let mut random = StdRng::seed_from_u64(seed);
    (0..len).map(|_| random.random_range(-scale..scale)).collect()
}

/// Rows, depth and columns that end within tiles, at their ends and beyond.
const SIZES: [(usize, usize, usize); 9] = [
    (1, 1, 1),
    (2, 3, 5),
    (3, 16, 16),
    (12, 32, 33),
    (13, 64, 32),
    (23, 65, 47),
    (32, 100, 64),
    (33, 384, 96),
    (64, 70, 31),
];

/// The product of rows and weights in double precision.
fn product(rows: &[f32], weights: &[f32], depth: usize) -> Vec<f64> {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
    rows.chunks_exact(depth)
        .flat_map(|row| weights.chunks_exact(depth).map(move |weights| dot(row, weights)))
        .collect()
}

#[test]
fn the_baseline_is_always_there_and_the_best_comes_first() {
    let available = Kernels::available();
    assert_eq!(available.first(), Some(&Kernels::detect()));
    let names: Vec<&str> = available.iter().map(|kernels| kernels.name()).collect();
    assert!(names.ends_with(&[if cfg!(target_arch = "aarch64") { "NEON" } else { "portable" }]), "{names:?}");
}

#[test]
fn products_of_floats_are_exact_to_rounding() {
    for kernels in Kernels::available() {
        for (rows, depth, columns) in SIZES {
            let (a, weights) = (random(1, rows * depth, 1.0), random(2, columns * depth, 1.0));
            let panels = F32Panels::pack(&weights, depth);
            // Rows of the result are wider than the product, and what lies beyond is left alone.
            let stride = columns + 3;
            let mut out = vec![7.0; rows * stride];
            f32_multiply(kernels, (&a, depth), rows, &panels, (&mut out, stride));
            let expected = product(&a, &weights, depth);
            for (row, expected) in out.chunks_exact(stride).zip(expected.chunks_exact(columns)) {
                for (found, expected) in row.iter().zip(expected) {
                    assert!(
                        (f64::from(*found) - expected).abs() < 1e-4,
                        "{kernels:?} {rows} {depth} {columns}"
                    );
                }
                assert_eq!(row[columns..], [7.0; 3]);
            }
        }
    }
}

#[test]
fn products_of_integers_are_the_same_on_all_kernels() {
    for (rows, depth, columns) in SIZES {
        let (a, weights) = (random(3, rows * depth, 3.0), random(4, columns * depth, 0.5));
        let bias = random(5, columns, 1.0);
        let panels = Int8Panels::pack(&weights, depth);
        let width = panels.padded_columns();
        let expected = product(&a, &weights, depth);
        let mut sums: Option<Vec<u32>> = None;
        for kernels in Kernels::available() {
            let mut quantized = QuantizedRows::default();
            quantized.reset(rows, depth);
            quantized.set(kernels, 0, (&a, depth));
            let mut out = Aligned::<f32>::zeroed(rows.next_multiple_of(ROW_TILE) * width);
            int8_multiply(kernels, &quantized, &panels, &mut out);
            // Integers: not one bit may differ.
            let bits: Vec<u32> = out[..rows * width].iter().map(|sum| sum.to_bits()).collect();
            assert_eq!(
                sums.get_or_insert_with(|| bits.clone()),
                &bits,
                "{kernels:?} {rows} {depth} {columns}"
            );

            dequantise(kernels, &mut out[..rows * width], (&quantized, 0), &panels, &bias);
            // Rounding errs by half a step on either side of each of `depth` products.
            let tolerance = 0.05 * (depth as f64).sqrt();
            for (row, expected) in out.chunks_exact(width).zip(expected.chunks_exact(columns)) {
                for ((found, expected), bias) in row.iter().zip(expected).zip(&bias) {
                    let error = (f64::from(*found) - expected - f64::from(*bias)).abs();
                    assert!(error < tolerance, "{kernels:?} {rows} {depth} {columns}: off by {error}");
                }
            }
        }
    }
}

#[test]
fn integers_at_their_limits_do_not_saturate() {
    // The greatest activations by the greatest weights, where sums of two products leave 16 bits.
    let depth = 1024;
    let mut rows = vec![1.0; depth];
    rows[0] = 0.0;
    for kernels in Kernels::available() {
        for sign in [1.0, -1.0] {
            let panels = Int8Panels::pack(&vec![sign; depth], depth);
            let mut quantized = QuantizedRows::default();
            quantized.reset(1, depth);
            quantized.set(kernels, 0, (&rows, depth));
            let mut out = Aligned::<f32>::zeroed(ROW_TILE * panels.padded_columns());
            int8_multiply(kernels, &quantized, &panels, &mut out);
            assert_eq!(out[0].to_bits() as i32, 255 * 127 * (depth as i32 - 1) * sign as i32, "{kernels:?}");
        }
    }
}

#[test]
fn rows_that_are_constant_or_zero_survive_quantisation() {
    let depth = 20;
    for kernels in Kernels::available() {
        for value in [0.0, -2.5, 1e-30] {
            let panels = Int8Panels::pack(&[vec![0.25; depth], vec![0.0; depth]].concat(), depth);
            let mut quantized = QuantizedRows::default();
            quantized.reset(1, depth);
            quantized.set(kernels, 0, (&vec![value; depth], depth));
            let mut out = Aligned::<f32>::zeroed(ROW_TILE * panels.padded_columns());
            int8_multiply(kernels, &quantized, &panels, &mut out);
            dequantise(kernels, &mut out[..panels.padded_columns()], (&quantized, 0), &panels, &[0.0, 1.0]);
            assert!((out[0] - value * 5.0).abs() < 1e-5 && out[1] == 1.0, "{kernels:?}: {:?}", &out[..2]);
        }
    }
}

#[test]
fn products_of_bf16_round_their_factors_only() {
    for kernels in Kernels::available().into_iter().filter(|kernels| kernels.has_bf16()) {
        for (rows, depth, columns) in SIZES {
            let (a, weights) = (random(6, rows * depth, 1.0), random(7, columns * depth, 1.0));
            let rounded = |values: &[f32]| -> Vec<f32> {
                values.iter().map(|value| half::bf16::from_f32(*value).to_f32()).collect()
            };
            let bits = |values: &[f32]| -> Vec<u16> {
                values.iter().map(|value| half::bf16::from_f32(*value).to_bits()).collect()
            };
            let stride = depth.next_multiple_of(32);
            let mut left = Aligned::<u16>::zeroed(rows.next_multiple_of(ROW_TILE) * stride);
            for (to, from) in left.chunks_exact_mut(stride).zip(a.chunks_exact(depth)) {
                to[..depth].copy_from_slice(&bits(from));
            }
            let mut panels = Bf16Panels::default();
            panels.reset(depth, columns);
            for (column, weights) in weights.chunks_exact(depth).enumerate() {
                let mut whole = bits(weights);
                whole.resize(stride, 0);
                panels.set_column(column, &whole);
            }
            let mut out = Aligned::<f32>::zeroed(rows.next_multiple_of(ROW_TILE) * panels.columns());
            bf16_multiply(kernels, (&left, stride), rows, &panels, &mut out);
            let expected = product(&rounded(&a), &rounded(&weights), depth);
            for (row, expected) in out.chunks_exact(panels.columns()).zip(expected.chunks_exact(columns)) {
                for (found, expected) in row.iter().zip(expected) {
                    assert!((f64::from(*found) - expected).abs() < 1e-3, "{rows} {depth} {columns}");
                }
            }
        }
    }
}

#[test]
fn activations_are_close_to_their_definitions() {
    let values: Vec<f32> = (-4000..=4000).map(|step| step as f32 * 0.0025).collect();
    let tanh_gelu =
        |x: f64| 0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x.powi(3))).tanh());
    for kernels in Kernels::available() {
        let run = |act: &dyn Fn(&mut [f32])| {
            let mut values = values.clone();
            act(&mut values);
            values
        };
        let worst = |found: &[f32], expected: &dyn Fn(f64) -> f64| {
            let errors =
                values.iter().zip(found).map(|(x, y)| (expected(f64::from(*x)) - f64::from(*y)).abs());
            errors.fold(0.0, f64::max)
        };
        assert!(worst(&run(&|values| rows::gelu(kernels, values)), &gelu) < 3e-6, "{kernels:?}");
        assert!(worst(&run(&|values| rows::gelu_tanh(kernels, values)), &tanh_gelu) < 3e-6, "{kernels:?}");
        assert_eq!(worst(&run(&|values| rows::relu(kernels, values)), &|x| x.max(0.0)), 0.0, "{kernels:?}");
    }
}

/// `x Φ(x)`, by summing up the normal distribution's density with Simpson's rule.
fn gelu(x: f64) -> f64 {
    let density = |t: f64| (-t * t / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt();
    let steps = 200;
    let width = x / f64::from(steps);
    let inner: f64 =
        (1..steps).map(|step| if step % 2 == 1 { 4.0 } else { 2.0 } * density(f64::from(step) * width)).sum();
    x * (0.5 + width / 3.0 * (density(0.0) + inner + density(x)))
}

#[test]
fn softmax_sums_to_one_and_bears_great_numbers() {
    for kernels in Kernels::available() {
        for length in [1, 7, 16, 33, 64] {
            let stride = length + (32 - length % 32) % 32;
            let mut scores = random(8, 3 * length, 20.0);
            scores[0] = 1e6;
            let mut padded = vec![f32::NAN; 3 * stride];
            for (to, from) in padded.chunks_exact_mut(stride).zip(scores.chunks_exact(length)) {
                to[..length].copy_from_slice(from);
            }
            let expected: Vec<f64> = scores
                .chunks_exact(length)
                .flat_map(|row| {
                    let most = row.iter().copied().fold(f32::MIN, f32::max);
                    let powers: Vec<f64> = row.iter().map(|x| f64::from(x - most).exp()).collect();
                    let sum: f64 = powers.iter().sum();
                    powers.into_iter().map(move |power| power / sum).collect::<Vec<_>>()
                })
                .collect();
            let mut sums = vec![0.0; 3];
            if kernels.has_bf16() {
                let powers_of_two: Vec<f32> = padded.iter().map(|x| x * std::f32::consts::LOG2_E).collect();
                let mut bf16 = vec![u16::MAX; 3 * stride];
                exp2_rows(kernels, &powers_of_two, length, stride, &mut bf16, &mut sums);
                for (row, (bf16, sum)) in bf16.chunks_exact(stride).zip(&sums).enumerate() {
                    for (column, bits) in bf16.iter().enumerate() {
                        let found = f64::from(half::bf16::from_bits(*bits).to_f32() / sum);
                        let expected = if column < length { expected[row * length + column] } else { 0.0 };
                        assert!((found - expected).abs() < 0.005, "{length}: {found} for {expected}");
                    }
                }
            }
            rows::exp_rows(kernels, &mut scores, length, &mut sums);
            for ((found, expected), sum) in
                scores.iter().zip(&expected).zip(sums.iter().flat_map(|sum| std::iter::repeat_n(sum, length)))
            {
                assert!((f64::from(found / sum) - expected).abs() < 1e-6, "{kernels:?} {length}");
            }
        }
    }
}

#[test]
fn layer_norm_adds_and_normalises() {
    for kernels in Kernels::available() {
        for width in [1, 15, 32, 60] {
            let stride = width + 4;
            let (states, added) = (random(9, 2 * width, 3.0), random(10, 2 * stride, 2.0));
            let (weight, bias) = (random(11, width, 1.0), random(12, width, 1.0));
            let mut found = states.clone();
            rows::add_and_norm(kernels, &mut found, &added, stride, &weight, &bias, 1e-5);
            for row in 0..2 {
                let sum = |i: usize| f64::from(states[row * width + i]) + f64::from(added[row * stride + i]);
                let mean = (0..width).map(sum).sum::<f64>() / width as f64;
                let variance = (0..width).map(|i| (sum(i) - mean).powi(2)).sum::<f64>() / width as f64;
                for i in 0..width {
                    let normal = (sum(i) - mean) / (variance + 1e-5).sqrt();
                    let expected = normal * f64::from(weight[i]) + f64::from(bias[i]);
                    let found = f64::from(found[row * width + i]);
                    assert!((found - expected).abs() < 1e-4, "{kernels:?} {width}: {found} for {expected}");
                }
            }
        }
    }
}
