//! Where a model runs, and in which numbers.

use std::fmt;

use raglan_encoder::Precision;

use super::LoadError;

/// Where a model runs, and in which numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placement {
    /// On the processor, by Raglan's own encoder.
    Cpu(Precision),
    /// On the GPU of this number, through CUDA.
    Cuda(usize, GpuPrecision),
}

/// In which numbers a GPU computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GpuPrecision {
    /// 32 bits: the vectors of the same precision on the processor, and comparable with them.
    F32,
    /// 16 bits, sums in 32: half the memory, and faster.
    F16,
}

impl Default for Placement {
    fn default() -> Self {
        Self::Cpu(Precision::default())
    }
}

impl Placement {
    /// Looks whether this program can run a model there, on this machine. It blocks: a GPU takes a moment to open.
    ///
    /// # Errors
    /// [`LoadError::Device`] with what is missing.
    pub fn check(self) -> Result<(), LoadError> {
        match self {
            Self::Cpu(_) => Ok(()),
            #[cfg(feature = "candle")]
            Self::Cuda(number, _) => super::candle::cuda(number).map(drop),
            #[cfg(not(feature = "candle"))]
            Self::Cuda(number, _) => Err(LoadError::no_cuda(format!("cuda:{number}"))),
        }
    }

    /// The numbers, for a model's name.
    pub(crate) fn numbers(self) -> &'static str {
        match self {
            Self::Cpu(Precision::Int8) => "int8",
            Self::Cpu(Precision::F32) | Self::Cuda(_, GpuPrecision::F32) => "f32",
            Self::Cuda(_, GpuPrecision::F16) => "f16",
        }
    }
}

impl fmt::Display for Placement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu(_) => f.write_str("cpu")?,
            Self::Cuda(number, _) => write!(f, "cuda:{number}")?,
        }
        write!(f, ", {}", self.numbers())
    }
}
