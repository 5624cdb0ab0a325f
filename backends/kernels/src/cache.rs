//! Keys and values of a step on their way into the cache.

use candle_core::{CpuStorage, DType, InplaceOp3, Layout, Result, Tensor, backend::BackendStorage, bail};

use crate::{
    cpu,
    element::{Element, with_element},
    layers::{check_rope, rope},
    rows::Rows,
};

/// Writes the keys and values of a step's tokens into the cache, in place.
///
/// - `k`, `v`: `[tokens, kv_heads, head_dim]`; slices of a fused projection are read where they are.
/// - `k_cache`, `v_cache`: `[blocks, block_size, kv_heads, head_dim]`, contiguous.
/// - `slots`: `u32 [tokens]`, where each token goes: its block times `block_size`, plus its place in the block. No two are the same.
///
/// A slot beyond the cache is an error on the CPU; on a GPU, where nobody waits to hear of it, its token is not written.
pub fn write_kv(k: &Tensor, v: &Tensor, k_cache: &Tensor, v_cache: &Tensor, slots: &Tensor) -> Result<()> {
    check("write_kv", (k, v), (k_cache, v_cache), slots)?;
    let slots = slots.contiguous()?;
    #[cfg(feature = "cuda")]
    if k_cache.device().is_cuda() {
        return on_cuda::write_kv(k, v, (k_cache, v_cache), &slots);
    }
    for (values, cache) in [(k, k_cache), (v, v_cache)] {
        let (values, rows) = Rows::of(values)?;
        cache.inplace_op3(&values, &slots, &Write { rows })?;
    }
    Ok(())
}

/// [`rope`] of queries and keys and [`write_kv`] of the turned keys and the values, in one: a model that asks for it once a layer launches one
/// kernel where it would launch three.
///
/// - `q`: `[tokens, heads, head_dim]`; `k` and `v` as [`write_kv`] takes them.
/// - `cos`, `sin` and `positions` as [`rope`] takes them; caches and `slots` as [`write_kv`] does.
///
/// Gives the turned queries.
pub fn rope_write_kv(
    [q, k, v]: [&Tensor; 3],
    [cos, sin, positions]: [&Tensor; 3],
    (k_cache, v_cache): (&Tensor, &Tensor),
    slots: &Tensor,
) -> Result<Tensor> {
    check("rope_write_kv", (k, v), (k_cache, v_cache), slots)?;
    check_rope(q, cos, sin, positions)?;
    check_rope(k, cos, sin, positions)?;
    if q.dtype() != k.dtype() {
        bail!("rope_write_kv: queries of {:?} and keys of {:?} must be of one type", q.dtype(), k.dtype());
    }
    #[cfg(feature = "cuda")]
    if q.device().is_cuda() {
        let (positions, slots) = (positions.contiguous()?, slots.contiguous()?);
        return on_cuda::rope_write_kv([q, k, v], [cos, sin, &positions], (k_cache, v_cache), &slots);
    }
    write_kv(&rope(k, cos, sin, positions)?, v, k_cache, v_cache, slots)?;
    rope(q, cos, sin, positions)
}

fn check(
    operation: &str,
    (k, v): (&Tensor, &Tensor),
    (k_cache, v_cache): (&Tensor, &Tensor),
    slots: &Tensor,
) -> Result<()> {
    let (tokens, kv_heads, head_dim) = k.dims3()?;
    let (_, _, cache_heads, cache_dim) = k_cache.dims4()?;
    if v.dims() != k.dims() || v_cache.dims() != k_cache.dims() {
        bail!(
            "{operation}: keys are {:?} and values {:?}, their caches {:?} and {:?}: both must be alike",
            k.dims(),
            v.dims(),
            k_cache.dims(),
            v_cache.dims()
        );
    }
    if (cache_heads, cache_dim) != (kv_heads, head_dim) {
        bail!(
            "{operation}: keys of {kv_heads} heads of {head_dim} do not fit a cache of {cache_heads} of {cache_dim}"
        );
    }
    if slots.dims() != [tokens] || slots.dtype() != DType::U32 {
        bail!("{operation}: slots must be u32 [{tokens}], not {:?} {:?}", slots.dtype(), slots.dims());
    }
    for (values, cache) in [(k, k_cache), (v, v_cache)] {
        if !cache.is_contiguous() {
            bail!("{operation}: a cache must be contiguous");
        }
        if cache.dtype() != values.dtype() {
            bail!("{operation}: values of {:?} do not fit a cache of {:?}", values.dtype(), cache.dtype());
        }
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
        "write_kv"
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
        let start = cache_layout.start_offset();
        let places = start..start + cache_layout.shape().elem_count();
        with_element!(values.dtype(), "write_kv", T => {
            let cache = &mut <T as Element>::values_mut(cache)?[places];
            cpu::cache::write(cache, values.as_slice::<T>()?, &self.rows, slots)
        })
    }
}

/// The same on a GPU, where both caches are written at once.
#[cfg(feature = "cuda")]
mod on_cuda {
    use candle_core::{Result, Storage, Tensor, bail, op::BackpropOp};

    use crate::{
        cuda::layers::{self, AngleTensors, SlotTensors},
        rows::Rows,
    };

    pub(super) fn write_kv(
        k: &Tensor,
        v: &Tensor,
        (k_cache, v_cache): (&Tensor, &Tensor),
        slots: &Tensor,
    ) -> Result<()> {
        let ((k, k_rows), (v, v_rows)) = (Rows::of(k)?, Rows::of(v)?);
        let ((k, _), (v, _)) = (k.storage_and_layout(), v.storage_and_layout());
        let (k_cache_values, k_cache_layout) = k_cache.storage_and_layout();
        let (v_cache_values, v_cache_layout) = v_cache.storage_and_layout();
        let (slot_values, slot_layout) = slots.storage_and_layout();
        let (
            Storage::Cuda(k),
            Storage::Cuda(v),
            Storage::Cuda(k_cache_values),
            Storage::Cuda(v_cache_values),
            Storage::Cuda(slot_values),
        ) = (&*k, &*v, &*k_cache_values, &*v_cache_values, &*slot_values)
        else {
            bail!("write_kv: all tensors must be on one device");
        };
        let to = SlotTensors {
            k_cache: (k_cache_values, k_cache_layout.start_offset()),
            v_cache: (v_cache_values, v_cache_layout.start_offset()),
            slots: (slot_values, slot_layout.start_offset()),
            slot_count: k_cache.dim(0)? * k_cache.dim(1)?,
        };
        layers::write_kv((k, &k_rows), (v, &v_rows), &to)
    }

    pub(super) fn rope_write_kv(
        [q, k, v]: [&Tensor; 3],
        [cos, sin, positions]: [&Tensor; 3],
        (k_cache, v_cache): (&Tensor, &Tensor),
        slots: &Tensor,
    ) -> Result<Tensor> {
        let shape = q.shape().clone();
        let ((q, q_rows), (k, k_rows), (v, v_rows)) = (Rows::of(q)?, Rows::of(k)?, Rows::of(v)?);
        let ((q, _), (k, _), (v, _)) =
            (q.storage_and_layout(), k.storage_and_layout(), v.storage_and_layout());
        let (cos_values, cos_layout) = cos.storage_and_layout();
        let (sin_values, sin_layout) = sin.storage_and_layout();
        let (position_values, position_layout) = positions.storage_and_layout();
        let (k_cache_values, k_cache_layout) = k_cache.storage_and_layout();
        let (v_cache_values, v_cache_layout) = v_cache.storage_and_layout();
        let (slot_values, slot_layout) = slots.storage_and_layout();
        let (
            (Storage::Cuda(q), Storage::Cuda(k), Storage::Cuda(v)),
            (Storage::Cuda(cos_values), Storage::Cuda(sin_values), Storage::Cuda(position_values)),
            (Storage::Cuda(k_cache_values), Storage::Cuda(v_cache_values), Storage::Cuda(slot_values)),
        ) = (
            (&*q, &*k, &*v),
            (&*cos_values, &*sin_values, &*position_values),
            (&*k_cache_values, &*v_cache_values, &*slot_values),
        )
        else {
            bail!("rope_write_kv: all tensors must be on one device");
        };
        let angles = AngleTensors {
            cos: (cos_values, cos_layout.start_offset()),
            sin: (sin_values, sin_layout.start_offset()),
            table: cos.dim(0)?,
            positions: (position_values, position_layout.start_offset()),
        };
        let to = SlotTensors {
            k_cache: (k_cache_values, k_cache_layout.start_offset()),
            v_cache: (v_cache_values, v_cache_layout.start_offset()),
            slots: (slot_values, slot_layout.start_offset()),
            slot_count: k_cache.dim(0)? * k_cache.dim(1)?,
        };
        let out = layers::rope_write_kv([(q, &q_rows), (k, &k_rows), (v, &v_rows)], &angles, &to)?;
        Ok(Tensor::from_storage(Storage::Cuda(out), shape, BackpropOp::none(), false))
    }
}
