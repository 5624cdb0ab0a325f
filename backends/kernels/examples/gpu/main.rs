//! Checks the kernels on the GPU of this machine against the CPU, and measures it and them.
//!
//! ```sh
//! gpu check        # every operation against the CPU; ends with 1 where one differs
//! gpu bandwidth    # what a copy on the GPU reaches, and the kernels beside it, as JSON
//! ```
#![allow(clippy::print_stdout)] // what it prints is what it is for

mod bandwidth;
mod cases;
mod cuda;

use candle_core::{Device, Result, bail};

fn main() -> Result<()> {
    let device = Device::new_cuda(0)?;
    match std::env::args().nth(1).as_deref() {
        Some("check") => check(&device),
        Some("bandwidth") => bandwidth::measure(&device),
        _ => bail!("say what to do: check or bandwidth"),
    }
}

fn check(device: &Device) -> Result<()> {
    let machine = cuda::Gpu(device.clone());
    let (mut all, mut wrong) = (0, 0);
    for dtype in cases::TYPES {
        for cases::Outcome { name, share } in cases::all(&machine, dtype)? {
            let is_right = share <= 1.0;
            all += 1;
            wrong += usize::from(!is_right);
            println!("{} {share:>9.4} of what is allowed: {name}", if is_right { "ok   " } else { "WRONG" });
        }
    }
    println!("{} of {all} cases are right", all - wrong);
    if wrong > 0 {
        std::process::exit(1);
    }
    Ok(())
}
