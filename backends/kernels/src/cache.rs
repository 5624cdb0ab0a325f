//! Keys and values of a step on their way into the cache.

use candle_core::{CpuStorage, DType, InplaceOp3, Layout, Result, Tensor, bail};

use crate::{cpu, element::with_element, rows::Rows};

/// The name of the operation in errors.
const NAME: &str = "write_kv";

/// Writes the keys and values of a step's tokens into the cache, in place.
///
/// - `k`, `v`: `[tokens, kv_heads, head_dim]`; slices of a fused projection are read where they are.
/// - `k_cache`, `v_cache`: `[blocks, block_size, kv_heads, head_dim]`, contiguous.
/// - `slots`: `u32 [tokens]`, where each token goes: its block times `block_size`, plus its place in the block. No two are the same.
///
/// A slot beyond the cache is an error on the CPU; on a GPU, where nobody waits to hear of it, its token is not written.
pub fn write_kv(k: &Tensor, v: &Tensor, k_cache: &Tensor, v_cache: &Tensor, slots: &Tensor) -> Result<()> {
    let (tokens, kv_heads, head_dim) = k.dims3()?;
    let (_, _, cache_heads, cache_dim) = k_cache.dims4()?;
    if v.dims() != k.dims() || v_cache.dims() != k_cache.dims() {
        bail!(
            "{NAME}: keys are {:?} and values {:?}, their caches {:?} and {:?}: both must be alike",
            k.dims(),
            v.dims(),
            k_cache.dims(),
            v_cache.dims()
        );
    }
    if (cache_heads, cache_dim) != (kv_heads, head_dim) {
        bail!(
            "{NAME}: keys of {kv_heads} heads of {head_dim} do not fit a cache of {cache_heads} of {cache_dim}"
        );
    }
    if slots.dims() != [tokens] || slots.dtype() != DType::U32 {
        bail!("{NAME}: slots must be u32 [{tokens}], not {:?} {:?}", slots.dtype(), slots.dims());
    }
    if tokens == 0 {
        return Ok(());
    }
    let slots = slots.contiguous()?;
    for (values, cache) in [(k, k_cache), (v, v_cache)] {
        if !cache.is_contiguous() {
            bail!("{NAME}: a cache must be contiguous");
        }
        if cache.dtype() != values.dtype() {
            bail!("{NAME}: values of {:?} do not fit a cache of {:?}", values.dtype(), cache.dtype());
        }
        let (values, rows) = Rows::of(values)?;
        cache.inplace_op3(&values, &slots, &Write { rows })?;
    }
    Ok(())
}

/// One of the two caches.
struct Write {
    /// The tokens' heads.
    rows: Rows,
}

impl InplaceOp3 for Write {
    fn name(&self) -> &'static str {
        NAME
    }

    fn cpu_fwd(
        &self,
        cache: &mut CpuStorage,
        cache_layout: &Layout,
        values: &CpuStorage,
        _: &Layout,
        slots: &CpuStorage,
        slots_layout: &Layout,
    ) -> Result<()> {
        let first = slots_layout.start_offset();
        let slots = &slots.as_slice::<u32>()?[first..first + self.rows.groups];
        let places =
            cache_layout.start_offset()..cache_layout.start_offset() + cache_layout.shape().elem_count();
        with_element!(candle_core::backend::BackendStorage::dtype(values), "write_kv", T => {
            let cache = &mut <T as crate::element::Element>::values_mut(cache)?[places];
            cpu::cache::write(cache, values.as_slice::<T>()?, &self.rows, slots)
        })
    }
}
