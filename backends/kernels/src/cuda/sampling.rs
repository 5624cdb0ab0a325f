use candle_core::{
    CudaStorage, DType, Result,
    backend::BackendStorage,
    cuda_backend::cudarc::driver::{CudaSlice, DevicePtr, DevicePtrMut},
};

use super::{allocate, hold, hold_mut, launch};
use crate::{
    SampleRow,
    gpu::{program::Program, sampling},
    rows::Rows,
};

pub(crate) fn sample(logits: &CudaStorage, layout: &Rows, rows: &[SampleRow<'_>]) -> Result<CudaStorage> {
    let (device, dtype) = (logits.device(), logits.dtype());
    let stream = device.cuda_stream();
    let settings = device.clone_htod(&sampling::settings(rows))?;
    let mut out = allocate(device, DType::U32, rows.len())?;
    // Safety: the kernel writes each score before it reads it.
    let mut scratch: CudaSlice<f32> = unsafe { device.alloc(layout.count() * layout.width) }?;
    {
        let logits = hold(logits, layout.start, &stream)?;
        let (settings, _settings) = settings.device_ptr(&stream);
        let (scratch, _scratch) = scratch.device_ptr_mut(&stream);
        let to = hold_mut(&mut out, &stream)?;
        let kernel = sampling::sample(logits.view(layout), settings, scratch, to.address);
        launch(device, Program::layers(dtype), &kernel)?;
    }
    Ok(out)
}
