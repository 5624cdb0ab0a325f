//! The sources of the kernels, and for what they are compiled.

use candle_core::DType;

/// A set of kernels that is compiled together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Program {
    /// The type of the tensors' values.
    pub(crate) dtype: DType,
    /// For attention, what it is compiled for; none for all other kernels.
    pub(crate) attention: Option<AttentionShape>,
}

/// What attention is compiled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct AttentionShape {
    /// Values of a head.
    pub(crate) head_dim: usize,
    /// Heads of queries that share one of the cache.
    pub(crate) group: usize,
    /// Tokens of a block of the cache.
    pub(crate) block_size: usize,
}

const ELEMENT: &str = concat!("#line 1 \"element.cu\"\n", include_str!("kernels/element.cu"));
const LAYERS: &str = concat!("#line 1 \"layers.cu\"\n", include_str!("kernels/layers.cu"));
const SAMPLING: &str = concat!("#line 1 \"sampling.cu\"\n", include_str!("kernels/sampling.cu"));
const DECODE: &str = concat!("#line 1 \"decode.cu\"\n", include_str!("kernels/decode.cu"));
const PREFILL: &str = concat!("#line 1 \"prefill.cu\"\n", include_str!("kernels/prefill.cu"));

impl Program {
    /// All kernels but attention.
    pub(crate) fn layers(dtype: DType) -> Self {
        Self { dtype, attention: None }
    }

    /// Attention.
    pub(crate) fn attention(dtype: DType, shape: AttentionShape) -> Self {
        Self { dtype, attention: Some(shape) }
    }

    /// What is compiled.
    pub(crate) fn source(&self) -> String {
        match self.attention {
            Some(_) => [ELEMENT, DECODE, PREFILL].concat(),
            None => [ELEMENT, LAYERS, SAMPLING].concat(),
        }
    }

    /// The compiler's options that say what it is compiled for.
    pub(crate) fn definitions(&self) -> Vec<String> {
        let element = match self.dtype {
            DType::BF16 => 1,
            DType::F16 => 2,
            _ => 0,
        };
        let mut definitions = vec![format!("-DELEMENT={element}")];
        if let Some(AttentionShape { head_dim, group, block_size }) = self.attention {
            definitions.extend([
                format!("-DHEAD_DIM={head_dim}"),
                format!("-DGROUP={group}"),
                format!("-DBLOCK_SIZE={block_size}"),
            ]);
        }
        definitions
    }
}
