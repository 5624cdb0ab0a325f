use candle_core::{CudaStorage, Result, backend::BackendStorage};

use super::{allocate, hold, hold_mut, launch};
use crate::{
    gpu::{
        layers::{self, Angles, Slots},
        program::Program,
    },
    rows::Rows,
};

/// A storage, and where in it the tensor's first value is.
pub(crate) type Placed<'a> = (&'a CudaStorage, usize);

pub(crate) fn rms_norm(
    x: &CudaStorage,
    rows: &Rows,
    weight: Placed<'_>,
    epsilon: f32,
) -> Result<CudaStorage> {
    let (device, dtype) = (x.device(), x.dtype());
    let stream = device.cuda_stream();
    let mut out = allocate(device, dtype, rows.count() * rows.width)?;
    {
        let (x, weight) = (hold(x, rows.start, &stream)?, hold(weight.0, weight.1, &stream)?);
        let to = hold_mut(&mut out, &stream)?;
        let bytes = dtype.size_in_bytes();
        let kernel = layers::rms_norm(x.view(rows), weight.address, to.address, epsilon, bytes);
        launch(device, Program::layers(dtype), &kernel)?;
    }
    Ok(out)
}

/// The norm, and the sum.
pub(crate) fn add_rms_norm(
    (x, residual): (&CudaStorage, &CudaStorage),
    (rows, residual_rows): (&Rows, &Rows),
    weight: Placed<'_>,
    epsilon: f32,
) -> Result<(CudaStorage, CudaStorage)> {
    let (device, dtype) = (x.device(), x.dtype());
    let stream = device.cuda_stream();
    let mut normed = allocate(device, dtype, rows.count() * rows.width)?;
    let mut sum = allocate(device, dtype, rows.count() * rows.width)?;
    {
        let (x, residual) = (hold(x, rows.start, &stream)?, hold(residual, residual_rows.start, &stream)?);
        let weight = hold(weight.0, weight.1, &stream)?;
        let (to, sum_to) = (hold_mut(&mut normed, &stream)?, hold_mut(&mut sum, &stream)?);
        let kernel = layers::add_rms_norm(
            x.view(rows),
            residual.view(residual_rows),
            weight.address,
            (to.address, sum_to.address),
            epsilon,
            dtype.size_in_bytes(),
        );
        launch(device, Program::layers(dtype), &kernel)?;
    }
    Ok((normed, sum))
}

/// The tables of rotary embedding and the positions; rows of a table.
pub(crate) struct AngleTensors<'a> {
    pub(crate) cos: Placed<'a>,
    pub(crate) sin: Placed<'a>,
    pub(crate) table: usize,
    pub(crate) positions: Placed<'a>,
}

pub(crate) fn rope(x: &CudaStorage, rows: &Rows, angles: &AngleTensors<'_>) -> Result<CudaStorage> {
    let (device, dtype) = (x.device(), x.dtype());
    let stream = device.cuda_stream();
    let mut out = allocate(device, dtype, rows.count() * rows.width)?;
    {
        let x = hold(x, rows.start, &stream)?;
        let (cos, sin) =
            (hold(angles.cos.0, angles.cos.1, &stream)?, hold(angles.sin.0, angles.sin.1, &stream)?);
        let positions = hold(angles.positions.0, angles.positions.1, &stream)?;
        let angles =
            Angles { cos: cos.address, sin: sin.address, table: angles.table, positions: positions.address };
        let to = hold_mut(&mut out, &stream)?;
        launch(device, Program::layers(dtype), &layers::rope(x.view(rows), angles, to.address))?;
    }
    Ok(out)
}

/// The two caches and the tokens' slots; slots of the cache.
pub(crate) struct SlotTensors<'a> {
    pub(crate) k_cache: Placed<'a>,
    pub(crate) v_cache: Placed<'a>,
    pub(crate) slots: Placed<'a>,
    pub(crate) slot_count: usize,
}

pub(crate) fn write_kv(
    (k, k_rows): (&CudaStorage, &Rows),
    (v, v_rows): (&CudaStorage, &Rows),
    to: &SlotTensors<'_>,
) -> Result<()> {
    let (device, dtype) = (k.device(), k.dtype());
    let stream = device.cuda_stream();
    let (k, v) = (hold(k, k_rows.start, &stream)?, hold(v, v_rows.start, &stream)?);
    let (k_cache, v_cache) =
        (hold(to.k_cache.0, to.k_cache.1, &stream)?, hold(to.v_cache.0, to.v_cache.1, &stream)?);
    let slots = hold(to.slots.0, to.slots.1, &stream)?;
    let to = Slots {
        k_cache: k_cache.address,
        v_cache: v_cache.address,
        slots: slots.address,
        slot_count: to.slot_count,
    };
    let kernel = layers::write_kv(k.view(k_rows), v.view(v_rows), to, dtype.size_in_bytes());
    launch(device, Program::layers(dtype), &kernel)
}

/// The queries.
pub(crate) fn rope_write_kv(
    [q, k, v]: [(&CudaStorage, &Rows); 3],
    angles: &AngleTensors<'_>,
    to: &SlotTensors<'_>,
) -> Result<CudaStorage> {
    let (device, dtype) = (q.0.device(), q.0.dtype());
    let stream = device.cuda_stream();
    let mut out = allocate(device, dtype, q.1.count() * q.1.width)?;
    {
        let held = |(storage, rows): (_, &Rows)| hold(storage, rows.start, &stream);
        let (q_held, k_held, v_held) = (held(q)?, held(k)?, held(v)?);
        let (cos, sin) =
            (hold(angles.cos.0, angles.cos.1, &stream)?, hold(angles.sin.0, angles.sin.1, &stream)?);
        let positions = hold(angles.positions.0, angles.positions.1, &stream)?;
        let (k_cache, v_cache) =
            (hold(to.k_cache.0, to.k_cache.1, &stream)?, hold(to.v_cache.0, to.v_cache.1, &stream)?);
        let slots = hold(to.slots.0, to.slots.1, &stream)?;
        let angles =
            Angles { cos: cos.address, sin: sin.address, table: angles.table, positions: positions.address };
        let to = Slots {
            k_cache: k_cache.address,
            v_cache: v_cache.address,
            slots: slots.address,
            slot_count: to.slot_count,
        };
        let result = hold_mut(&mut out, &stream)?;
        let kernel = layers::rope_write_kv(
            [q_held.view(q.1), k_held.view(k.1), v_held.view(v.1)],
            angles,
            to,
            result.address,
            dtype.size_in_bytes(),
        );
        launch(device, Program::layers(dtype), &kernel)?;
    }
    Ok(out)
}

pub(crate) fn silu_mul(
    (gate, up): (&CudaStorage, &CudaStorage),
    (gate_rows, up_rows): (&Rows, &Rows),
) -> Result<CudaStorage> {
    let (device, dtype) = (gate.device(), gate.dtype());
    let stream = device.cuda_stream();
    let mut out = allocate(device, dtype, gate_rows.count() * gate_rows.width)?;
    {
        let (gate, up) = (hold(gate, gate_rows.start, &stream)?, hold(up, up_rows.start, &stream)?);
        let to = hold_mut(&mut out, &stream)?;
        let kernel =
            layers::silu_mul(gate.view(gate_rows), up.view(up_rows), to.address, dtype.size_in_bytes());
        launch(device, Program::layers(dtype), &kernel)?;
    }
    Ok(out)
}
