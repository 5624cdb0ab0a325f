//! The numbers that tensors hold.

use candle_core::{CpuStorage, DType, Error, Result, WithDType};
use half::{bf16, f16, slice::HalfFloatSliceExt};

/// `f32`, `bf16` or `f16`: what is computed with is always `f32`.
pub(crate) trait Element: WithDType {
    /// Converts as many values as both slices have.
    fn widen(from: &[Self], to: &mut [f32]);
    /// Rounds as many values as both slices have to the nearest.
    fn narrow(from: &[f32], to: &mut [Self]);
    /// The values of a tensor on the CPU, to be written.
    fn values_mut(storage: &mut CpuStorage) -> Result<&mut [Self]>;
}

fn unexpected(expected: DType, got: DType) -> Error {
    Error::UnexpectedDType { msg: "the tensors of a call must be of one type", expected, got }
}

impl Element for f32 {
    fn widen(from: &[Self], to: &mut [f32]) {
        to.copy_from_slice(from);
    }

    fn narrow(from: &[f32], to: &mut [Self]) {
        to.copy_from_slice(from);
    }

    fn values_mut(storage: &mut CpuStorage) -> Result<&mut [Self]> {
        match storage {
            CpuStorage::F32(values) => Ok(values),
            other => Err(unexpected(DType::F32, candle_core::backend::BackendStorage::dtype(other))),
        }
    }
}

/// The two types of 16 bits differ in name alone.
macro_rules! half_element {
    ($type:ty, $name:ident) => {
        impl Element for $type {
            fn widen(from: &[Self], to: &mut [f32]) {
                from.convert_to_f32_slice(to);
            }

            fn narrow(from: &[f32], to: &mut [Self]) {
                half::slice::HalfFloatSliceExt::convert_from_f32_slice(to, from);
            }

            fn values_mut(storage: &mut CpuStorage) -> Result<&mut [Self]> {
                match storage {
                    CpuStorage::$name(values) => Ok(values),
                    other => {
                        Err(unexpected(DType::$name, candle_core::backend::BackendStorage::dtype(other)))
                    }
                }
            }
        }
    };
}

half_element!(bf16, BF16);
half_element!(f16, F16);

/// Calls a generic function with the Rust type of a tensor's values.
macro_rules! with_element {
    ($dtype:expr, $operation:literal, $type:ident => $call:expr) => {
        match $dtype {
            candle_core::DType::F32 => {
                type $type = f32;
                $call
            }
            candle_core::DType::BF16 => {
                type $type = half::bf16;
                $call
            }
            candle_core::DType::F16 => {
                type $type = half::f16;
                $call
            }
            other => candle_core::bail!("{} takes f32, bf16 or f16, not {other:?}", $operation),
        }
    };
}
pub(crate) use with_element;
