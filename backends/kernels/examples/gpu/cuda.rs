//! The operations on a GPU.

use candle_core::{Device, Result, Tensor};
use raglan_kernels::{
    SampleRow, add_rms_norm, paged_attention, rms_norm, rope, rope_write_kv, sample, silu_mul, write_kv,
};

use super::cases::{Machine, Step};

/// A GPU: tensors are brought there and back.
pub struct Gpu(pub Device);

impl Gpu {
    /// A tensor there. Its storage comes whole, so that a slice of a wider one still is one.
    fn there(&self, tensor: &Tensor) -> Result<Tensor> {
        tensor.to_device(&self.0)
    }
}

/// Brings a result back.
fn back(tensor: Tensor) -> Result<Tensor> {
    tensor.to_device(&Device::Cpu)
}

impl Machine for Gpu {
    fn paged_attention(&self, q: &Tensor, k_cache: &Tensor, v_cache: &Tensor, step: &Step) -> Result<Tensor> {
        let (k_cache, v_cache) = (self.there(k_cache)?, self.there(v_cache)?);
        back(paged_attention(&self.there(q)?, &k_cache, &v_cache, &step.batch(&self.0)?)?)
    }

    fn write_kv(
        &self,
        k: &Tensor,
        v: &Tensor,
        (k_cache, v_cache): (&Tensor, &Tensor),
        slots: &Tensor,
    ) -> Result<(Tensor, Tensor)> {
        let (k_cache, v_cache) = (self.there(k_cache)?, self.there(v_cache)?);
        write_kv(&self.there(k)?, &self.there(v)?, &k_cache, &v_cache, &self.there(slots)?)?;
        Ok((back(k_cache)?, back(v_cache)?))
    }

    fn rope_write_kv(
        &self,
        [q, k, v]: [&Tensor; 3],
        [cos, sin, positions]: [&Tensor; 3],
        (k_cache, v_cache): (&Tensor, &Tensor),
        slots: &Tensor,
    ) -> Result<(Tensor, Tensor, Tensor)> {
        let (k_cache, v_cache) = (self.there(k_cache)?, self.there(v_cache)?);
        let out = rope_write_kv(
            [&self.there(q)?, &self.there(k)?, &self.there(v)?],
            [&self.there(cos)?, &self.there(sin)?, &self.there(positions)?],
            (&k_cache, &v_cache),
            &self.there(slots)?,
        )?;
        Ok((back(out)?, back(k_cache)?, back(v_cache)?))
    }

    fn rms_norm(&self, x: &Tensor, weight: &Tensor, epsilon: f32) -> Result<Tensor> {
        back(rms_norm(&self.there(x)?, &self.there(weight)?, epsilon)?)
    }

    fn add_rms_norm(
        &self,
        x: &Tensor,
        residual: &Tensor,
        weight: &Tensor,
        epsilon: f32,
    ) -> Result<(Tensor, Tensor)> {
        let (normed, sum) =
            add_rms_norm(&self.there(x)?, &self.there(residual)?, &self.there(weight)?, epsilon)?;
        Ok((back(normed)?, back(sum)?))
    }

    fn rope(&self, x: &Tensor, [cos, sin, positions]: [&Tensor; 3]) -> Result<Tensor> {
        back(rope(&self.there(x)?, &self.there(cos)?, &self.there(sin)?, &self.there(positions)?)?)
    }

    fn silu_mul(&self, gate: &Tensor, up: &Tensor) -> Result<Tensor> {
        back(silu_mul(&self.there(gate)?, &self.there(up)?)?)
    }

    fn sample(&self, logits: &Tensor, rows: &[SampleRow<'_>]) -> Result<Tensor> {
        back(sample(&self.there(logits)?, rows)?)
    }
}
