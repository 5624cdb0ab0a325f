//! Every operation against the plainest way to compute it, on the CPU.

mod attention;
mod layers;
mod sampling;

use std::io::Write;

use candle_core::{DType, Device, Result, Tensor};
use rand::{Rng, SeedableRng, rngs::StdRng};

/// Says that a test was left out and why, on its output and in the file that `RAGLAN_TEST_SKIPPED` names.
pub(super) fn skipped(test: &str, why: &str) {
    println!("skipped {test}: {why}");
    if let Some(path) = std::env::var_os("RAGLAN_TEST_SKIPPED") {
        let mut file = std::fs::OpenOptions::new().create(true).append(true).open(path).unwrap();
        // One write, so that tests that run at once do not mix their lines.
        file.write_all(format!("{test}: {}\n", why.replace('\n', " ")).as_bytes()).unwrap();
    }
}

/// Numbers between −1 and 1 that are the same in every run.
pub(super) fn random(seed: u64, shape: &[usize], dtype: DType) -> Result<Tensor> {
    let mut numbers = StdRng::seed_from_u64(seed);
    let values: Vec<f32> =
        (0..shape.iter().product::<usize>()).map(|_| numbers.random_range(-1.0..1.0)).collect();
    Tensor::from_vec(values, shape, &Device::Cpu)?.to_dtype(dtype)
}

/// All values, as they are.
pub(super) fn values(tensor: &Tensor) -> Result<Vec<f32>> {
    tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1()
}

/// How far results may be from what is right: once for a result's own rounding, as inputs are the same.
pub(super) fn tolerance(dtype: DType) -> f32 {
    match dtype {
        DType::BF16 => 5e-3,
        DType::F16 => 6e-4,
        _ => 3e-6,
    }
}

/// Fails where two lists of values are not the same within what their type allows.
#[track_caller]
pub(super) fn assert_close(got: &[f32], expected: &[f32], dtype: DType) {
    assert_eq!(got.len(), expected.len());
    let allowed = tolerance(dtype);
    for (index, (got, expected)) in got.iter().zip(expected).enumerate() {
        let difference = (got - expected).abs();
        assert!(difference <= allowed * (1.0 + expected.abs()), "{dtype:?} {index}: {got} is not {expected}");
    }
}

/// The types that all operations take.
pub(super) const TYPES: [DType; 3] = [DType::F32, DType::BF16, DType::F16];
