//! Norms, rotary embedding and the gated activation.

use candle_core::{DType, Result, Storage, Tensor, bail, op::BackpropOp};

use crate::{cpu, element::with_element, rows::Rows};

/// Each row (the last dimension) divided by the root of the mean of its squares, and multiplied by a weight for each place.
///
/// - `x`: `[…, width]`, of two dimensions or more; a slice of a fused projection is read where it is.
/// - `weight`: `[width]`, of the type of `x`.
/// - `epsilon` is added to the mean of the squares.
///
/// Gives a tensor of the shape of `x`.
pub fn rms_norm(x: &Tensor, weight: &Tensor, epsilon: f32) -> Result<Tensor> {
    check_weight("rms_norm", x, weight)?;
    let (shape, weight) = (x.shape().clone(), weight.contiguous()?);
    let (x, rows) = Rows::of(x)?;
    let (x_values, _) = x.storage_and_layout();
    let (w_values, w_layout) = weight.storage_and_layout();
    let storage = match (&*x_values, &*w_values) {
        (Storage::Cpu(x_values), Storage::Cpu(w_values)) => with_element!(x.dtype(), "rms_norm", T => {
            let weight = &w_values.as_slice::<T>()?[w_layout.start_offset()..][..rows.width];
            let out = cpu::layers::rms_norm(x_values.as_slice::<T>()?, &rows, weight, epsilon);
            Storage::Cpu(<T as candle_core::WithDType>::to_cpu_storage_owned(out))
        }),
        #[cfg(feature = "cuda")]
        (Storage::Cuda(x_values), Storage::Cuda(w_values)) => {
            let weight = (w_values, w_layout.start_offset());
            Storage::Cuda(crate::cuda::layers::rms_norm(x_values, &rows, weight, epsilon)?)
        }
        _ => bail!("rms_norm: x and weight must be on one device, the CPU or a CUDA device"),
    };
    Ok(Tensor::from_storage(storage, shape, BackpropOp::none(), false))
}

/// The residual connection before a norm, and the norm: `x + residual`, and that through [`rms_norm`].
///
/// `x` and `residual` are of one shape and type. Gives the norm first, then the sum, which is what goes on as the residual; it is rounded to its
/// type before the norm sees it, as if the two were computed one after the other.
pub fn add_rms_norm(
    x: &Tensor,
    residual: &Tensor,
    weight: &Tensor,
    epsilon: f32,
) -> Result<(Tensor, Tensor)> {
    check_weight("add_rms_norm", x, weight)?;
    check_alike("add_rms_norm", x, residual)?;
    let (shape, weight) = (x.shape().clone(), weight.contiguous()?);
    let (x, rows) = Rows::of(x)?;
    let (residual, residual_rows) = Rows::of(residual)?;
    let (x_values, _) = x.storage_and_layout();
    let (r_values, _) = residual.storage_and_layout();
    let (w_values, w_layout) = weight.storage_and_layout();
    let (normed, sum) = match (&*x_values, &*r_values, &*w_values) {
        (Storage::Cpu(x_values), Storage::Cpu(r_values), Storage::Cpu(w_values)) => {
            with_element!(x.dtype(), "add_rms_norm", T => {
                let weight = &w_values.as_slice::<T>()?[w_layout.start_offset()..][..rows.width];
                let addends = (x_values.as_slice::<T>()?, r_values.as_slice::<T>()?);
                let (normed, sum) =
                    cpu::layers::add_rms_norm(addends, (&rows, &residual_rows), weight, epsilon);
                (
                    Storage::Cpu(<T as candle_core::WithDType>::to_cpu_storage_owned(normed)),
                    Storage::Cpu(<T as candle_core::WithDType>::to_cpu_storage_owned(sum)),
                )
            })
        }
        #[cfg(feature = "cuda")]
        (Storage::Cuda(x_values), Storage::Cuda(r_values), Storage::Cuda(w_values)) => {
            let weight = (w_values, w_layout.start_offset());
            let (addends, all_rows) = ((x_values, r_values), (&rows, &residual_rows));
            let (normed, sum) = crate::cuda::layers::add_rms_norm(addends, all_rows, weight, epsilon)?;
            (Storage::Cuda(normed), Storage::Cuda(sum))
        }
        _ => bail!("add_rms_norm: all tensors must be on one device, the CPU or a CUDA device"),
    };
    let tensor = |storage| Tensor::from_storage(storage, shape.clone(), BackpropOp::none(), false);
    Ok((tensor(normed), tensor(sum)))
}

/// Rotary embedding of the kind in which value `i` of a head turns with value `i + head_dim / 2` ("neox").
///
/// - `x`: `[tokens, heads, head_dim]`, `head_dim` even; a slice of a fused projection is read where it is.
/// - `cos`, `sin`: `f32 [positions, head_dim / 2]`, contiguous; whatever scales the model's frequencies is in these tables.
/// - `positions`: `u32 [tokens]`, the row of the tables for each token.
///
/// Gives a tensor of the shape of `x`. A position beyond the tables is an error on the CPU; on a GPU, where nobody waits to hear of it, the
/// tables' last row is taken.
pub fn rope(x: &Tensor, cos: &Tensor, sin: &Tensor, positions: &Tensor) -> Result<Tensor> {
    let (table, half) = check_rope(x, cos, sin, positions)?;
    let tokens = x.dim(0)?;
    let (shape, positions) = (x.shape().clone(), positions.contiguous()?);
    let (x, rows) = Rows::of(x)?;
    let (x_values, _) = x.storage_and_layout();
    let (c_values, c_layout) = cos.storage_and_layout();
    let (s_values, s_layout) = sin.storage_and_layout();
    let (p_values, p_layout) = positions.storage_and_layout();
    let storage = match (&*x_values, &*c_values, &*s_values, &*p_values) {
        (Storage::Cpu(x_values), Storage::Cpu(c_values), Storage::Cpu(s_values), Storage::Cpu(p_values)) => {
            with_element!(x.dtype(), "rope", T => {
                let tables = (
                    &c_values.as_slice::<f32>()?[c_layout.start_offset()..][..table * half],
                    &s_values.as_slice::<f32>()?[s_layout.start_offset()..][..table * half],
                );
                let positions = &p_values.as_slice::<u32>()?[p_layout.start_offset()..][..tokens];
                let out = cpu::layers::rope(x_values.as_slice::<T>()?, &rows, tables, positions)?;
                Storage::Cpu(<T as candle_core::WithDType>::to_cpu_storage_owned(out))
            })
        }
        #[cfg(feature = "cuda")]
        (
            Storage::Cuda(x_values),
            Storage::Cuda(c_values),
            Storage::Cuda(s_values),
            Storage::Cuda(p_values),
        ) => {
            let angles = crate::cuda::layers::AngleTensors {
                cos: (c_values, c_layout.start_offset()),
                sin: (s_values, s_layout.start_offset()),
                table,
                positions: (p_values, p_layout.start_offset()),
            };
            Storage::Cuda(crate::cuda::layers::rope(x_values, &rows, &angles)?)
        }
        _ => bail!("rope: all tensors must be on one device, the CPU or a CUDA device"),
    };
    Ok(Tensor::from_storage(storage, shape, BackpropOp::none(), false))
}

/// The gated activation of a feed-forward layer: `gate · sigmoid(gate) · up`.
///
/// `gate` and `up` are of one shape, `[…, width]`, of two dimensions or more, and one type; both may be slices of one fused projection, and are
/// read where they are. Gives a tensor of their shape.
pub fn silu_mul(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    check_alike("silu_mul", gate, up)?;
    let shape = gate.shape().clone();
    let (gate, gate_rows) = Rows::of(gate)?;
    let (up, up_rows) = Rows::of(up)?;
    let (g_values, _) = gate.storage_and_layout();
    let (u_values, _) = up.storage_and_layout();
    let storage = match (&*g_values, &*u_values) {
        (Storage::Cpu(g_values), Storage::Cpu(u_values)) => with_element!(gate.dtype(), "silu_mul", T => {
            let factors = (g_values.as_slice::<T>()?, u_values.as_slice::<T>()?);
            let out = cpu::layers::silu_mul(factors, (&gate_rows, &up_rows));
            Storage::Cpu(<T as candle_core::WithDType>::to_cpu_storage_owned(out))
        }),
        #[cfg(feature = "cuda")]
        (Storage::Cuda(g_values), Storage::Cuda(u_values)) => {
            let (factors, rows) = ((g_values, u_values), (&gate_rows, &up_rows));
            Storage::Cuda(crate::cuda::layers::silu_mul(factors, rows)?)
        }
        _ => bail!("silu_mul: gate and up must be on one device, the CPU or a CUDA device"),
    };
    Ok(Tensor::from_storage(storage, shape, BackpropOp::none(), false))
}

/// Checks the arguments of [`rope`]; gives the rows of the tables and how long they are.
pub(crate) fn check_rope(
    x: &Tensor,
    cos: &Tensor,
    sin: &Tensor,
    positions: &Tensor,
) -> Result<(usize, usize)> {
    let (tokens, _, head_dim) = x.dims3()?;
    let (table, half) = cos.dims2()?;
    if !head_dim.is_multiple_of(2) || half != head_dim / 2 || table == 0 {
        bail!("rope: heads of {head_dim} need tables of {} values a row, not {:?}", head_dim / 2, cos.dims());
    }
    for (name, values) in [("cos", cos), ("sin", sin)] {
        if values.dims() != cos.dims() || values.dtype() != DType::F32 || !values.is_contiguous() {
            bail!("rope: {name} must be f32 {:?} and contiguous", cos.dims());
        }
    }
    if positions.dims() != [tokens] || positions.dtype() != DType::U32 {
        bail!("rope: positions must be u32 [{tokens}], not {:?} {:?}", positions.dtype(), positions.dims());
    }
    Ok((table, half))
}

fn check_weight(operation: &str, x: &Tensor, weight: &Tensor) -> Result<()> {
    let width = x.dims().last().copied().unwrap_or(0);
    if weight.dims() != [width] || weight.dtype() != x.dtype() {
        bail!(
            "{operation}: rows of {width} {:?} need as many weights of that type, not {:?} {:?}",
            x.dtype(),
            weight.dims(),
            weight.dtype()
        );
    }
    Ok(())
}

fn check_alike(operation: &str, one: &Tensor, other: &Tensor) -> Result<()> {
    if one.dims() != other.dims() || one.dtype() != other.dtype() {
        bail!(
            "{operation}: both tensors must be alike, not {:?} {:?} and {:?} {:?}",
            one.dims(),
            one.dtype(),
            other.dims(),
            other.dtype()
        );
    }
    Ok(())
}
