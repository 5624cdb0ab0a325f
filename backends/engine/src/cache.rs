//! The keys and values of all sequences, in blocks.

use candle_core::{DType, Device, Result, Tensor};

use crate::config::ModelConfig;

/// The cache of one layer: `[blocks, block_size, kv_heads, head_dim]` each.
pub(crate) struct LayerCache {
    pub(crate) keys: Tensor,
    pub(crate) values: Tensor,
}

/// The cache of all layers. A block has the same number in each of them.
pub(crate) struct KvCache {
    layers: Vec<LayerCache>,
}

impl KvCache {
    pub(crate) fn new(
        config: &ModelConfig,
        blocks: usize,
        block_size: usize,
        dtype: DType,
        device: &Device,
    ) -> Result<Self> {
        let shape = (blocks, block_size, config.kv_heads, config.head_dim);
        let zeros = || Tensor::zeros(shape, dtype, device);
        let layers = (0..config.layers).map(|_| Ok(LayerCache { keys: zeros()?, values: zeros()? }));
        Ok(Self { layers: layers.collect::<Result<_>>()? })
    }

    pub(crate) fn layer(&self, index: usize) -> &LayerCache {
        &self.layers[index]
    }
}
