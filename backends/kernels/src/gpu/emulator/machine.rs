//! The operations on the emulator, and all cases that a GPU is checked with.

use candle_core::{DType, Device, Result, Storage, Tensor};

use super::{super::*, compiler, run};
use crate::{
    SampleRow,
    gpu::{
        attention::{Attention, Tensors, Work, check},
        layers::{Angles, Slots},
        program::{AttentionShape, Program},
    },
    rows::Rows,
};
use cases::{Machine, Step};

#[path = "../../../examples/gpu/cases.rs"]
mod cases;

/// A machine with as many processors as emulated GPUs have: few, so that contexts are split into various numbers of parts.
struct Emulator;

const PROCESSORS: usize = 5;

/// Where the first value of a tensor's storage is.
fn storage_address(tensor: &Tensor) -> Result<u64> {
    let (storage, _) = tensor.storage_and_layout();
    let Storage::Cpu(storage) = &*storage else {
        candle_core::bail!("the emulator has the memory of the CPU")
    };
    Ok(match tensor.dtype() {
        DType::U32 => storage.as_slice::<u32>()?.as_ptr() as u64,
        DType::BF16 => storage.as_slice::<half::bf16>()?.as_ptr() as u64,
        DType::F16 => storage.as_slice::<half::f16>()?.as_ptr() as u64,
        _ => storage.as_slice::<f32>()?.as_ptr() as u64,
    })
}

/// Where a contiguous tensor begins.
fn address(tensor: &Tensor) -> Result<u64> {
    let start = tensor.layout().start_offset() * tensor.dtype().size_in_bytes();
    Ok(storage_address(tensor)? + start as u64)
}

/// A tensor as kernels see it. The tensor that is returned must live as long.
fn view(tensor: &Tensor) -> Result<(Tensor, View)> {
    let (tensor, rows) = Rows::of(tensor)?;
    let start = rows.start * tensor.dtype().size_in_bytes();
    let view = View { address: storage_address(&tensor)? + start as u64, rows };
    Ok((tensor, view))
}

/// A tensor for a result, full of what must be overwritten.
fn blank(shape: &[usize], dtype: DType) -> Result<Tensor> {
    if dtype == DType::U32 {
        return Tensor::full(12_345u32, shape, &Device::Cpu)?.contiguous();
    }
    Tensor::full(f32::NAN, shape, &Device::Cpu)?.to_dtype(dtype)?.contiguous()
}

impl Emulator {
    fn layers(&self, dtype: DType, launch: Launch) {
        run(Program::layers(dtype), &launch);
    }
}

fn angles_at([cos, sin, positions]: [&Tensor; 3]) -> Result<Angles> {
    Ok(Angles { cos: address(cos)?, sin: address(sin)?, table: cos.dim(0)?, positions: address(positions)? })
}

fn slots_at(k_cache: &Tensor, v_cache: &Tensor, slots: &Tensor) -> Result<Slots> {
    Ok(Slots {
        k_cache: address(k_cache)?,
        v_cache: address(v_cache)?,
        slots: address(slots)?,
        slot_count: k_cache.dim(0)? * k_cache.dim(1)?,
    })
}

impl Machine for Emulator {
    fn paged_attention(&self, q: &Tensor, k_cache: &Tensor, v_cache: &Tensor, step: &Step) -> Result<Tensor> {
        let (_, heads, head_dim) = q.dims3()?;
        let (_, block_size, kv_heads, _) = k_cache.dims4()?;
        let dtype = q.dtype();
        check(dtype, head_dim)?;
        let shape = AttentionShape { head_dim, group: heads / kv_heads, block_size };
        let work = Work::new(&step.sequences, block_size);
        let attention = Attention {
            dtype,
            shape,
            kv_heads,
            scale: step.scale,
            window: step.window,
            processors: PROCESSORS,
            work: &work,
        };
        let out = blank(q.dims(), dtype)?;
        let scratch = vec![f32::NAN; attention.scratch()];
        let (_q, q) = view(q)?;
        let tensors = Tensors {
            q,
            k_cache: address(k_cache)?,
            v_cache: address(v_cache)?,
            words: work.words.as_ptr() as u64,
            out: address(&out)?,
            scratch: scratch.as_ptr() as u64,
        };
        for launch in attention.launches(tensors) {
            run(Program::attention(dtype, shape), &launch);
        }
        Ok(out)
    }

    fn write_kv(
        &self,
        k: &Tensor,
        v: &Tensor,
        (k_cache, v_cache): (&Tensor, &Tensor),
        slots: &Tensor,
    ) -> Result<(Tensor, Tensor)> {
        let (k_cache, v_cache) = (k_cache.copy()?, v_cache.copy()?);
        let ((_k, k_view), (_v, v_view)) = (view(k)?, view(v)?);
        let to = slots_at(&k_cache, &v_cache, slots)?;
        self.layers(k.dtype(), layers::write_kv(k_view, v_view, to, k.dtype().size_in_bytes()));
        Ok((k_cache, v_cache))
    }

    fn rope_write_kv(
        &self,
        [q, k, v]: [&Tensor; 3],
        angles: [&Tensor; 3],
        (k_cache, v_cache): (&Tensor, &Tensor),
        slots: &Tensor,
    ) -> Result<(Tensor, Tensor, Tensor)> {
        let (k_cache, v_cache) = (k_cache.copy()?, v_cache.copy()?);
        let out = blank(q.dims(), q.dtype())?;
        let ((_q, q_view), (_k, k_view), (_v, v_view)) = (view(q)?, view(k)?, view(v)?);
        let to = slots_at(&k_cache, &v_cache, slots)?;
        let bytes = q.dtype().size_in_bytes();
        let launch =
            layers::rope_write_kv([q_view, k_view, v_view], angles_at(angles)?, to, address(&out)?, bytes);
        self.layers(q.dtype(), launch);
        Ok((out, k_cache, v_cache))
    }

    fn rms_norm(&self, x: &Tensor, weight: &Tensor, epsilon: f32) -> Result<Tensor> {
        let out = blank(x.dims(), x.dtype())?;
        let (_x, x_view) = view(x)?;
        let bytes = x.dtype().size_in_bytes();
        self.layers(x.dtype(), layers::rms_norm(x_view, address(weight)?, address(&out)?, epsilon, bytes));
        Ok(out)
    }

    fn add_rms_norm(
        &self,
        x: &Tensor,
        residual: &Tensor,
        weight: &Tensor,
        epsilon: f32,
    ) -> Result<(Tensor, Tensor)> {
        let (out, sum) = (blank(x.dims(), x.dtype())?, blank(x.dims(), x.dtype())?);
        let ((_x, x_view), (_residual, residual_view)) = (view(x)?, view(residual)?);
        let to = (address(&out)?, address(&sum)?);
        let bytes = x.dtype().size_in_bytes();
        let launch = layers::add_rms_norm(x_view, residual_view, address(weight)?, to, epsilon, bytes);
        self.layers(x.dtype(), launch);
        Ok((out, sum))
    }

    fn rope(&self, x: &Tensor, angles: [&Tensor; 3]) -> Result<Tensor> {
        let out = blank(x.dims(), x.dtype())?;
        let (_x, x_view) = view(x)?;
        self.layers(x.dtype(), layers::rope(x_view, angles_at(angles)?, address(&out)?));
        Ok(out)
    }

    fn silu_mul(&self, gate: &Tensor, up: &Tensor) -> Result<Tensor> {
        let out = blank(gate.dims(), gate.dtype())?;
        let ((_gate, gate_view), (_up, up_view)) = (view(gate)?, view(up)?);
        let bytes = gate.dtype().size_in_bytes();
        self.layers(gate.dtype(), layers::silu_mul(gate_view, up_view, address(&out)?, bytes));
        Ok(out)
    }

    fn sample(&self, logits: &Tensor, rows: &[SampleRow<'_>]) -> Result<Tensor> {
        let out = blank(&[rows.len()], DType::U32)?;
        let settings = sampling::settings(rows);
        let scratch = vec![f32::NAN; logits.elem_count()];
        let (_logits, logits_view) = view(logits)?;
        let launch =
            sampling::sample(logits_view, settings.as_ptr() as u64, scratch.as_ptr() as u64, address(&out)?);
        self.layers(logits.dtype(), launch);
        Ok(out)
    }
}

/// Runs all cases of a type.
fn check_all(test: &str, dtype: DType) -> Result<()> {
    if compiler().is_none() {
        crate::tests::skipped(test, "there is no C++ compiler");
        return Ok(());
    }
    assert!(cases::TYPES.contains(&dtype));
    let outcomes = cases::all(&Emulator, dtype)?;
    let wrong: Vec<String> = outcomes
        .iter()
        .filter(|outcome| outcome.share.is_nan() || outcome.share > 1.0)
        .map(|outcome| format!("{}: {}", outcome.name, outcome.share))
        .collect();
    assert!(wrong.is_empty(), "{} of {} are wrong:\n{}", wrong.len(), outcomes.len(), wrong.join("\n"));
    Ok(())
}

#[test]
fn kernels_for_gpus_come_to_what_the_cpu_comes_to_in_f32() -> Result<()> {
    check_all("kernels_for_gpus_come_to_what_the_cpu_comes_to_in_f32", DType::F32)
}

#[test]
fn kernels_for_gpus_come_to_what_the_cpu_comes_to_in_bf16() -> Result<()> {
    check_all("kernels_for_gpus_come_to_what_the_cpu_comes_to_in_bf16", DType::BF16)
}

#[test]
fn kernels_for_gpus_come_to_what_the_cpu_comes_to_in_f16() -> Result<()> {
    check_all("kernels_for_gpus_come_to_what_the_cpu_comes_to_in_f16", DType::F16)
}
