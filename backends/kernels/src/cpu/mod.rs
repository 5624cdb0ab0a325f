//! The operations in plain Rust. They are also what the kernels for GPUs are compared with.

pub(crate) mod attention;
pub(crate) mod cache;
pub(crate) mod layers;
pub(crate) mod math;
pub(crate) mod philox;
pub(crate) mod sampling;
mod tile;
