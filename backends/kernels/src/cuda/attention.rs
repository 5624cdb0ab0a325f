use candle_core::{
    CudaDevice, CudaStorage, DeviceLocation, Result,
    backend::{BackendDevice, BackendStorage},
    bail,
    cuda_backend::{
        WrapErr,
        cudarc::driver::{CudaSlice, DevicePtr, DevicePtrMut, sys::CUdevice_attribute},
    },
};

use super::{allocate, hold, hold_mut, launch, layers::Placed};
use crate::{
    AttentionBatch,
    batch::AttentionSequence,
    gpu::{
        attention::{Attention, Tensors, Work, check},
        program::{AttentionShape, Program},
    },
    rows::Rows,
};

/// A step's sequences on a GPU.
#[derive(Debug)]
pub(crate) struct Uploaded {
    work: Work,
    words: CudaSlice<u32>,
    location: DeviceLocation,
    processors: usize,
}

impl Uploaded {
    pub(crate) fn new(
        sequences: &[AttentionSequence],
        block_size: usize,
        device: &CudaDevice,
    ) -> Result<Self> {
        let mut work = Work::new(sequences, block_size);
        let mut words = std::mem::take(&mut work.words);
        // Nothing cannot be copied.
        words.resize(words.len().max(1), 0);
        let words = device.clone_htod(&words)?;
        let count = CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT;
        let processors = device.cuda_stream().context().attribute(count).w()?;
        Ok(Self { work, words, location: device.location(), processors: processors.max(1) as usize })
    }
}

pub(crate) fn paged_attention(
    (q, rows): (&CudaStorage, &Rows),
    (k_cache, v_cache): (Placed<'_>, Placed<'_>),
    kv_heads: usize,
    shape: AttentionShape,
    batch: &AttentionBatch,
) -> Result<CudaStorage> {
    let (device, dtype) = (q.device(), q.dtype());
    check(dtype, shape.head_dim)?;
    let Some(uploaded) = &batch.plan().uploaded else {
        bail!("paged_attention: the tensors are on a GPU, but the batch was made for the CPU");
    };
    if uploaded.location != device.location() {
        bail!("paged_attention: the batch was made for {:?}, not {:?}", uploaded.location, device.location());
    }
    let attention = Attention {
        dtype,
        shape,
        kv_heads,
        scale: batch.scale(),
        window: batch.window(),
        processors: uploaded.processors,
        work: &uploaded.work,
    };
    let stream = device.cuda_stream();
    let mut out = allocate(device, dtype, rows.count() * rows.width)?;
    // Safety: what is read of it has been written.
    let mut scratch: CudaSlice<f32> = unsafe { device.alloc(attention.scratch().max(1)) }?;
    {
        let q = hold(q, rows.start, &stream)?;
        let (k, v) = (hold(k_cache.0, k_cache.1, &stream)?, hold(v_cache.0, v_cache.1, &stream)?);
        if !k.address.is_multiple_of(16) || !v.address.is_multiple_of(16) {
            bail!("paged_attention: a cache must begin at a multiple of 16 bytes");
        }
        let (words, _words) = uploaded.words.device_ptr(&stream);
        let (scratch, _scratch) = scratch.device_ptr_mut(&stream);
        let to = hold_mut(&mut out, &stream)?;
        let tensors = Tensors {
            q: q.view(rows),
            k_cache: k.address,
            v_cache: v.address,
            words,
            out: to.address,
            scratch,
        };
        for kernel in attention.launches(tensors) {
            launch(device, Program::attention(dtype, shape), &kernel)?;
        }
    }
    Ok(out)
}
