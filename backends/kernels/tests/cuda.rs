//! The kernels on a real GPU, where there is one: the same cases that the emulator runs.
#![allow(clippy::unwrap_used, clippy::print_stdout)] // tests fail by panicking, and say what they skip
#![cfg(feature = "cuda")]

use std::io::Write;

#[path = "../examples/gpu/cases.rs"]
mod cases;
#[path = "../examples/gpu/cuda.rs"]
mod cuda;

#[test]
fn a_gpu_comes_to_what_the_cpu_comes_to() {
    let device = match candle_core::Device::new_cuda(0) {
        Ok(device) => device,
        Err(error) => return skipped("a_gpu_comes_to_what_the_cpu_comes_to", &error.to_string()),
    };
    let machine = cuda::Gpu(device);
    let wrong: Vec<String> = cases::TYPES
        .into_iter()
        .flat_map(|dtype| cases::all(&machine, dtype).unwrap())
        .filter(|outcome| outcome.share.is_nan() || outcome.share > 1.0)
        .map(|outcome| format!("{}: {}", outcome.name, outcome.share))
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Says that a test was left out and why, on its output and in the file that `RAGLAN_TEST_SKIPPED` names.
fn skipped(test: &str, why: &str) {
    println!("skipped {test}: {why}");
    if let Some(path) = std::env::var_os("RAGLAN_TEST_SKIPPED") {
        let mut file = std::fs::OpenOptions::new().create(true).append(true).open(path).unwrap();
        file.write_all(format!("{test}: {}\n", why.replace('\n', " ")).as_bytes()).unwrap();
    }
}
