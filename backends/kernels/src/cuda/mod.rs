//! Launches kernels on NVIDIA's GPUs. They are compiled by NVRTC for the GPU that is there, each set of them when it is first used.

pub(crate) mod attention;
pub(crate) mod layers;
pub(crate) mod sampling;

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use candle_core::{
    CudaDevice, CudaStorage, DType, Error, Result,
    backend::BackendStorage,
    bail,
    cuda_backend::{
        CudaStorageSlice, DeviceId, WrapErr,
        cudarc::{
            driver::{
                CudaFunction, CudaStream, DevicePtr, DevicePtrMut, LaunchConfig, PushKernelArg, SyncOnDrop,
            },
            nvrtc::{CompileError, CompileOptions, compile_ptx_with_opts},
        },
    },
};

use crate::{
    gpu::{Argument, Launch, View, program::Program},
    rows::Rows,
};

/// Functions that have been loaded, for each device. A device that is no longer used leaves its few here.
static FUNCTIONS: Mutex<Option<Functions>> = Mutex::new(None);

type Functions = HashMap<(DeviceId, Program, &'static str), CudaFunction>;

/// All kernels of a program.
fn kernel_names(program: Program) -> &'static [&'static str] {
    match program.attention {
        None => &["rms_norm", "add_rms_norm", "rope", "write_kv", "rope_write_kv", "silu_mul", "sample"],
        Some(shape) if program.dtype != DType::F32 && shape.head_dim.is_multiple_of(16) => {
            &["decode", "combine", "prefill"]
        }
        Some(_) => &["decode", "combine"],
    }
}

/// A kernel, after its program has been compiled and loaded.
fn function(device: &CudaDevice, program: Program, kernel: &'static str) -> Result<CudaFunction> {
    let mut functions = FUNCTIONS.lock().unwrap_or_else(PoisonError::into_inner);
    let functions = functions.get_or_insert_default();
    if let Some(function) = functions.get(&(device.id(), program, kernel)) {
        return Ok(function.clone());
    }
    let context = device.cuda_stream().context().clone();
    let (major, minor) = context.compute_capability().w()?;
    let mut options = program.definitions();
    options.extend(["--std=c++17".into(), format!("--gpu-architecture=compute_{major}{minor}")]);
    let compiled = compile_ptx_with_opts(program.source(), CompileOptions { options, ..Default::default() });
    let module = context.load_module(compiled.map_err(explain)?).w()?;
    for name in kernel_names(program) {
        functions.insert((device.id(), program, name), module.load_function(name).w()?);
    }
    match functions.get(&(device.id(), program, kernel)) {
        Some(function) => Ok(function.clone()),
        None => bail!("there is no kernel {kernel} for {program:?}"),
    }
}

/// Says what must be there to compile kernels.
fn explain(error: CompileError) -> Error {
    let what = match &error {
        CompileError::CompileError { log, .. } => log.to_string_lossy().into_owned(),
        other => format!(
            "{other}. NVRTC is part of the CUDA toolkit: install libnvrtc of CUDA 12 or 13, no newer than the driver, \
             where the system's linker finds it, or name its folder in LD_LIBRARY_PATH"
        ),
    };
    Error::Msg(format!("the kernels for this GPU cannot be compiled: {what}"))
}

/// Puts a kernel into the device's stream.
fn launch(device: &CudaDevice, program: Program, launch: &Launch) -> Result<()> {
    if !matches!(program.dtype, DType::F32 | DType::BF16 | DType::F16) {
        bail!("{} takes f32, bf16 or f16, not {:?}", launch.kernel, program.dtype);
    }
    if launch.grid.contains(&0) {
        return Ok(());
    }
    let function = function(device, program, launch.kernel)?;
    let stream = device.cuda_stream();
    let mut builder = stream.launch_builder(&function);
    for argument in &launch.arguments {
        match argument {
            Argument::Address(value) => builder.arg(value),
            Argument::Count(value) => builder.arg(value),
            Argument::Stride(value) => builder.arg(value),
            Argument::Number(value) => builder.arg(value),
        };
    }
    let [x, y, z] = launch.grid;
    let config = LaunchConfig { grid_dim: (x, y, z), block_dim: (launch.threads, 1, 1), shared_mem_bytes: 0 };
    // Safety: the arguments are those of the kernel, as the tests' emulator has it too, and of memory that is held until this is in the stream.
    unsafe { builder.launch(config) }.w()?;
    Ok(())
}

/// Memory of the GPU that is in use until this is dropped.
struct Held<'a> {
    address: u64,
    _until: SyncOnDrop<'a>,
}

/// Calls a function with the slice of a storage, whatever its type.
macro_rules! with_slice {
    ($slice:expr, $name:ident => $call:expr) => {
        match $slice {
            CudaStorageSlice::F32($name) => $call,
            CudaStorageSlice::BF16($name) => $call,
            CudaStorageSlice::F16($name) => $call,
            CudaStorageSlice::U32($name) => $call,
            _ => bail!("kernels take f32, bf16, f16 and u32"),
        }
    };
}

/// Where a tensor's storage is, from its value `start` on, to be read. Caches are held in this way too, although they are written: all of a model
/// runs in one stream.
fn hold<'a>(storage: &'a CudaStorage, start: usize, stream: &'a CudaStream) -> Result<Held<'a>> {
    let bytes = (start * storage.dtype().size_in_bytes()) as u64;
    let (address, until) = with_slice!(&storage.slice, slice => slice.device_ptr(stream));
    Ok(Held { address: address + bytes, _until: until })
}

/// Where a result's storage is, to be written.
fn hold_mut<'a>(storage: &'a mut CudaStorage, stream: &'a CudaStream) -> Result<Held<'a>> {
    let (address, until) = with_slice!(&mut storage.slice, slice => slice.device_ptr_mut(stream));
    Ok(Held { address, _until: until })
}

impl Held<'_> {
    /// The tensor with these rows.
    fn view(&self, rows: &Rows) -> View {
        View { address: self.address, rows: *rows }
    }
}

/// Memory for a result, of so many values, with whatever is in it.
fn allocate(device: &CudaDevice, dtype: DType, len: usize) -> Result<CudaStorage> {
    let len = len.max(1);
    // Safety: kernels write every value of their results before anybody reads them.
    let slice = unsafe {
        match dtype {
            DType::F32 => CudaStorageSlice::F32(device.alloc(len)?),
            DType::BF16 => CudaStorageSlice::BF16(device.alloc(len)?),
            DType::F16 => CudaStorageSlice::F16(device.alloc(len)?),
            DType::U32 => CudaStorageSlice::U32(device.alloc(len)?),
            other => bail!("kernels have no results of {other:?}"),
        }
    };
    Ok(CudaStorage { slice, device: device.clone() })
}
