//! Attention of a step's tokens to what is in the cache.

use candle_core::{DType, Result, Storage, Tensor, bail, op::BackpropOp};

use crate::{AttentionBatch, cpu, element::with_element, rows::Rows};

/// Attention over a paged cache, causal, of all sequences of a step at once: of those that go on by one token as of those whose prompt comes in.
/// The step's own keys and values must be in the cache already ([`write_kv`](crate::write_kv)).
///
/// - `q`: `[tokens, heads, head_dim]`, with rotary embedding applied; a slice of a fused projection is read where it is.
/// - `k_cache`, `v_cache`: `[blocks, block_size, kv_heads, head_dim]`, contiguous. `heads` is a multiple of `kv_heads`, and as many heads as
///   that says, one after the other, share a head of the cache.
///
/// Gives `[tokens, heads, head_dim]`. Softmax and sums are in `f32`.
pub fn paged_attention(
    q: &Tensor,
    k_cache: &Tensor,
    v_cache: &Tensor,
    batch: &AttentionBatch,
) -> Result<Tensor> {
    let (tokens, heads, head_dim) = q.dims3()?;
    let (blocks, block_size, kv_heads, cache_dim) = k_cache.dims4()?;
    let plan = batch.plan();
    if tokens != plan.tokens {
        bail!("paged_attention: there are {tokens} queries, but the sequences have {} tokens", plan.tokens);
    }
    if v_cache.dims() != k_cache.dims() || !k_cache.is_contiguous() || !v_cache.is_contiguous() {
        bail!(
            "paged_attention: the caches must be contiguous and alike, not {:?} and {:?}",
            k_cache.dims(),
            v_cache.dims()
        );
    }
    if cache_dim != head_dim || kv_heads == 0 || !heads.is_multiple_of(kv_heads) {
        bail!(
            "paged_attention: {heads} heads of {head_dim} do not fit a cache with {kv_heads} heads of {cache_dim}"
        );
    }
    if block_size != plan.block_size || blocks < plan.blocks_needed {
        bail!(
            "paged_attention: the sequences need {} blocks of {}, the cache has {blocks} of {block_size}",
            plan.blocks_needed,
            plan.block_size
        );
    }
    if k_cache.dtype() != q.dtype() || v_cache.dtype() != q.dtype() {
        bail!(
            "paged_attention: queries of {:?} do not fit caches of {:?} and {:?}",
            q.dtype(),
            k_cache.dtype(),
            v_cache.dtype()
        );
    }
    if tokens == 0 {
        return q.contiguous();
    }
    let (q, queries) = Rows::of(q)?;
    let shape = Shape { kv_heads, group: heads / kv_heads, head_dim };
    let (q_values, _) = q.storage_and_layout();
    let (k_values, k_layout) = k_cache.storage_and_layout();
    let (v_values, v_layout) = v_cache.storage_and_layout();
    let storage = match (&*q_values, &*k_values, &*v_values) {
        (Storage::Cpu(q_values), Storage::Cpu(k_values), Storage::Cpu(v_values)) => {
            with_element!(q.dtype(), "paged_attention", T => {
                let caches = cpu::attention::Caches {
                    keys: &k_values.as_slice::<T>()?[k_layout.start_offset()..],
                    values: &v_values.as_slice::<T>()?[v_layout.start_offset()..],
                };
                let out = cpu::attention::attend(q_values.as_slice::<T>()?, &queries, caches, shape, batch);
                Storage::Cpu(<T as candle_core::WithDType>::to_cpu_storage_owned(out))
            })
        }
        #[cfg(feature = "cuda")]
        (Storage::Cuda(q_values), Storage::Cuda(k_values), Storage::Cuda(v_values)) => {
            let caches = ((k_values, k_layout.start_offset()), (v_values, v_layout.start_offset()));
            let compiled_for =
                crate::gpu::program::AttentionShape { head_dim, group: shape.group, block_size };
            let queries = (q_values, &queries);
            Storage::Cuda(crate::cuda::attention::paged_attention(
                queries,
                caches,
                kv_heads,
                compiled_for,
                batch,
            )?)
        }
        _ => bail!("paged_attention: queries and caches must be on one device, the CPU or a CUDA device"),
    };
    Ok(Tensor::from_storage(storage, (tokens, heads, head_dim), BackpropOp::none(), false))
}

/// Whether a GPU can attend to heads of this width, in any build: for those who want to know before they have loaded a model.
///
/// It is an error that says which heads can be attended to where it cannot.
pub fn check_heads_on_gpu(dtype: DType, head_dim: usize) -> Result<()> {
    let vector = 16 / dtype.size_in_bytes().max(1);
    if !head_dim.is_multiple_of(vector) || head_dim > 256 {
        bail!(
            "paged_attention: on a GPU a head of {dtype:?} must have a multiple of {vector} values, 256 at most, not {head_dim}"
        );
    }
    Ok(())
}

/// How heads are laid out.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape {
    /// Heads of the cache.
    pub(crate) kv_heads: usize,
    /// Heads of the queries that share one of the cache.
    pub(crate) group: usize,
    /// Values of a head.
    pub(crate) head_dim: usize,
}
