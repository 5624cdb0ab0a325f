//! Which tokens belong to which sequence, and where a sequence's keys and values are.

use std::sync::Arc;

use candle_core::{Device, Result, bail};

/// One sequence's part of a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttentionSequence {
    /// The sequence's first token among the packed tokens of the step.
    pub query_start: usize,
    /// Its tokens in the step, at least one: one where it goes on, more where a prompt or a piece of it comes in.
    pub query_len: usize,
    /// All its tokens so far, those of the step included. Their last `query_len` are the step's.
    pub context_len: usize,
    /// The blocks of the cache that hold its keys and values, in the order of its tokens. There may be more than `context_len` needs.
    pub blocks: Vec<u32>,
}

/// The sequences of a step. It is made once a step, which is when it is brought to the device, and serves all layers; a clone costs nothing.
#[derive(Debug, Clone)]
pub struct AttentionBatch {
    plan: Arc<Plan>,
    scale: f32,
    window: Option<usize>,
}

/// What all layers share.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) sequences: Vec<AttentionSequence>,
    pub(crate) tokens: usize,
    pub(crate) block_size: usize,
    /// One above the highest block that is read.
    pub(crate) blocks_needed: usize,
    /// The same for the kernels, where the batch is for a GPU.
    #[cfg(feature = "cuda")]
    pub(crate) uploaded: Option<crate::cuda::attention::Uploaded>,
}

impl AttentionBatch {
    /// A batch of sequences whose tokens are packed in the order of the list.
    ///
    /// `block_size` is how many tokens a block of the cache holds; `scale` is what products of queries and keys are multiplied by, usually
    /// 1/√head_dim; a token sees itself and the `window - 1` before it, or all before it where there is no window.
    ///
    /// It is an error where the sequences leave tokens out or share them, have no tokens, have more in the step than in all, or have too few
    /// blocks.
    pub fn new(
        sequences: Vec<AttentionSequence>,
        block_size: usize,
        scale: f32,
        window: Option<usize>,
        device: &Device,
    ) -> Result<Self> {
        if block_size == 0 {
            bail!("a block of the cache must hold at least one token");
        }
        check_window(window)?;
        let mut tokens = 0;
        let mut blocks_needed = 0;
        for (index, sequence) in sequences.iter().enumerate() {
            let AttentionSequence { query_start, query_len, context_len, ref blocks } = *sequence;
            if query_start != tokens {
                bail!(
                    "sequence {index} begins at token {query_start} of the step, but the ones before it end at {tokens}"
                );
            }
            if query_len == 0 || query_len > context_len {
                bail!("sequence {index} has {query_len} tokens in the step and {context_len} in all");
            }
            let wanted = context_len.div_ceil(block_size);
            if blocks.len() < wanted {
                bail!(
                    "sequence {index} has {} blocks of {block_size}, but needs {wanted} for {context_len} tokens",
                    blocks.len()
                );
            }
            let highest = blocks[..wanted].iter().max().map_or(0, |block| *block as usize + 1);
            blocks_needed = blocks_needed.max(highest);
            tokens += query_len;
        }
        if tokens > u32::MAX as usize {
            bail!("a step has {tokens} tokens, which is more than are counted in 32 bits");
        }
        #[cfg(feature = "cuda")]
        let uploaded = match device {
            Device::Cuda(device) => {
                Some(crate::cuda::attention::Uploaded::new(&sequences, block_size, device)?)
            }
            _ => None,
        };
        if !(device.is_cpu() || cfg!(feature = "cuda") && device.is_cuda()) {
            bail!("attention runs on the CPU or, in builds with the feature cuda, on a CUDA device");
        }
        let plan = Plan {
            sequences,
            tokens,
            block_size,
            blocks_needed,
            #[cfg(feature = "cuda")]
            uploaded,
        };
        Ok(Self { plan: Arc::new(plan), scale, window })
    }

    /// The same sequences with another window: for models of which only some layers have one.
    ///
    /// It is an error where the window is of no token.
    pub fn with_window(&self, window: Option<usize>) -> Result<Self> {
        check_window(window)?;
        Ok(Self { window, ..self.clone() })
    }

    /// The sequences.
    pub fn sequences(&self) -> &[AttentionSequence] {
        &self.plan.sequences
    }

    /// Tokens of the step, of all sequences.
    pub fn tokens(&self) -> usize {
        self.plan.tokens
    }

    /// What products of queries and keys are multiplied by.
    pub fn scale(&self) -> f32 {
        self.scale
    }

    /// How many tokens a token sees, itself included; all before it where this is none.
    pub fn window(&self) -> Option<usize> {
        self.window
    }

    pub(crate) fn plan(&self) -> &Plan {
        &self.plan
    }
}

fn check_window(window: Option<usize>) -> Result<()> {
    if window == Some(0) {
        bail!("a window must be of at least one token");
    }
    Ok(())
}
