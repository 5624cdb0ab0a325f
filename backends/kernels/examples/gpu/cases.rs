//! What a GPU must come to the same numbers in as the CPU. The cases run on a GPU, and in the tests on the emulator.

use candle_core::{DType, Device, Result, Tensor, bail};
use raglan_kernels::{
    AttentionBatch, AttentionSequence, SampleRow, add_rms_norm, paged_attention, rms_norm, rope,
    rope_write_kv, sample, silu_mul, write_kv,
};

/// Something that runs the operations. All tensors are on the CPU before and after.
pub trait Machine {
    /// Its attention.
    fn paged_attention(&self, q: &Tensor, k_cache: &Tensor, v_cache: &Tensor, step: &Step) -> Result<Tensor>;
    /// The caches with what was written.
    fn write_kv(
        &self,
        k: &Tensor,
        v: &Tensor,
        caches: (&Tensor, &Tensor),
        slots: &Tensor,
    ) -> Result<(Tensor, Tensor)>;
    /// The queries and the caches.
    fn rope_write_kv(
        &self,
        qkv: [&Tensor; 3],
        angles: [&Tensor; 3],
        caches: (&Tensor, &Tensor),
        slots: &Tensor,
    ) -> Result<(Tensor, Tensor, Tensor)>;
    /// Its norm.
    fn rms_norm(&self, x: &Tensor, weight: &Tensor, epsilon: f32) -> Result<Tensor>;
    /// Its norm with the residual.
    fn add_rms_norm(
        &self,
        x: &Tensor,
        residual: &Tensor,
        weight: &Tensor,
        epsilon: f32,
    ) -> Result<(Tensor, Tensor)>;
    /// Its rotary embedding.
    fn rope(&self, x: &Tensor, angles: [&Tensor; 3]) -> Result<Tensor>;
    /// Its activation.
    fn silu_mul(&self, gate: &Tensor, up: &Tensor) -> Result<Tensor>;
    /// Its choice of tokens.
    fn sample(&self, logits: &Tensor, rows: &[SampleRow<'_>]) -> Result<Tensor>;
}

/// The sequences of a step.
pub struct Step {
    /// As [`AttentionBatch::new`] takes them.
    pub sequences: Vec<AttentionSequence>,
    /// Tokens of a block of the cache.
    pub block_size: usize,
    /// What scores are multiplied by.
    pub scale: f32,
    /// How far back a token sees.
    pub window: Option<usize>,
}

impl Step {
    /// The batch on a device.
    pub fn batch(&self, device: &Device) -> Result<AttentionBatch> {
        AttentionBatch::new(self.sequences.clone(), self.block_size, self.scale, self.window, device)
    }
}

/// The name of a case, and how far it is from what it must be, as a share of what is allowed.
pub struct Outcome {
    /// What was compared.
    pub name: String,
    /// 1 is as far as it may be.
    pub share: f32,
}

/// The types that are checked.
pub const TYPES: [DType; 3] = [DType::F32, DType::BF16, DType::F16];

/// All cases of a type, in their order.
pub fn all(machine: &impl Machine, dtype: DType) -> Result<Vec<Outcome>> {
    let mut outcomes = Vec::new();
    layers(machine, dtype, &mut outcomes)?;
    caches(machine, dtype, &mut outcomes)?;
    for heads in [[4, 4, 64], [7, 1, 64], [8, 2, 128], [2, 2, 96], [16, 1, 32], [2, 1, 8]] {
        attention(machine, dtype, heads, &mut outcomes)?;
    }
    sampling(machine, dtype, &mut outcomes)?;
    Ok(outcomes)
}

/// Numbers between −1 and 1 that are the same in every run: splitmix64 (Steele, Lea and Flood, 2014).
pub fn random(seed: u64, shape: &[usize], dtype: DType) -> Result<Tensor> {
    let mut state = seed.wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let values: Vec<f32> = (0..shape.iter().product::<usize>())
        .map(|_| {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            ((mixed ^ (mixed >> 31)) >> 40) as f32 / 8_388_608.0 - 1.0
        })
        .collect();
    Tensor::from_vec(values, shape, &Device::Cpu)?.to_dtype(dtype)
}

/// What a projection gives for all heads of a token, `[tokens, heads, head_dim]`, from so many values on in its memory.
fn projection(seed: u64, dims: [usize; 3], from: usize, dtype: DType) -> Result<Tensor> {
    let values = dims.iter().product();
    random(seed, &[values + from], dtype)?.narrow(0, from, values)?.reshape(&dims[..])
}

/// The largest difference, as a share of what is allowed.
fn compare(name: String, got: &Tensor, expected: &Tensor) -> Result<Outcome> {
    if got.dims() != expected.dims() || got.dtype() != expected.dtype() {
        bail!(
            "{name}: {:?} {:?} is not {:?} {:?}",
            got.dtype(),
            got.dims(),
            expected.dtype(),
            expected.dims()
        );
    }
    let allowed = match got.dtype() {
        DType::BF16 => 1.6e-2,
        DType::F16 => 2e-3,
        _ => 2e-5,
    };
    let values = |tensor: &Tensor| tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>();
    let mut share = 0f32;
    for (got, expected) in values(got)?.iter().zip(values(expected)?) {
        let difference = (got - expected).abs() / (allowed * (1.0 + expected.abs()));
        // What is not a number is as far off as can be.
        share = if difference.is_nan() { f32::INFINITY } else { share.max(difference) };
    }
    Ok(Outcome { name, share })
}

fn layers(machine: &impl Machine, dtype: DType, outcomes: &mut Vec<Outcome>) -> Result<()> {
    let name = |what: &str| format!("{what}, {dtype:?}");
    for shape in [&[5, 256][..], &[3, 4, 64], &[2, 1000], &[3, 33], &[1, 6144]] {
        let (x, residual) = (random(1, shape, dtype)?, random(2, shape, dtype)?);
        let weight = random(3, &shape[shape.len() - 1..], dtype)?;
        let got = machine.rms_norm(&x, &weight, 1e-6)?;
        outcomes.push(compare(name(&format!("rms_norm {shape:?}")), &got, &rms_norm(&x, &weight, 1e-6)?)?);
        let got = machine.add_rms_norm(&x, &residual, &weight, 1e-6)?;
        let expected = add_rms_norm(&x, &residual, &weight, 1e-6)?;
        outcomes.push(compare(name(&format!("add_rms_norm {shape:?}")), &got.0, &expected.0)?);
        outcomes.push(compare(name(&format!("add_rms_norm {shape:?}, sum")), &got.1, &expected.1)?);
    }
    // Slices of a fused projection, some of which begin where 16 bytes do not.
    for from in [0, 64, 3] {
        let fused = projection(4, [6, 10, 64], from, dtype)?;
        let heads = fused.narrow(1, 2, 4)?;
        let weight = random(5, &[64], dtype)?;
        let got = machine.rms_norm(&heads, &weight, 1e-6)?;
        let expected = rms_norm(&heads, &weight, 1e-6)?;
        outcomes.push(compare(name(&format!("rms_norm of heads from {from}")), &got, &expected)?);
        let flat = (fused.reshape((6, 640))? * 8.0)?;
        let (gate, up) = (flat.narrow(1, from, 280)?, flat.narrow(1, from + 280, 280)?);
        let got = machine.silu_mul(&gate, &up)?;
        outcomes.push(compare(name(&format!("silu_mul from {from}")), &got, &silu_mul(&gate, &up)?)?);
    }
    let (gate, up) = (random(6, &[3, 5000], dtype)?, random(7, &[3, 5000], dtype)?);
    let got = machine.silu_mul(&gate, &up)?;
    outcomes.push(compare(name("silu_mul"), &got, &silu_mul(&gate, &up)?)?);
    Ok(())
}

/// Cosines, sines and positions.
fn angles(tokens: usize, head_dim: usize) -> Result<[Tensor; 3]> {
    let table = random(8, &[50, head_dim / 2], DType::F32)?;
    let angles = (table * 3.0)?;
    let positions: Vec<u32> = (0..tokens as u32).map(|token| token * 11 % 50).collect();
    Ok([angles.cos()?, angles.sin()?, Tensor::new(positions, &Device::Cpu)?])
}

fn caches(machine: &impl Machine, dtype: DType, outcomes: &mut Vec<Outcome>) -> Result<()> {
    for (head_dim, offset) in [(64, 0), (64, 1), (10, 0)] {
        let name = |what: &str| format!("{what}, heads of {head_dim}, from {offset}, {dtype:?}");
        let (tokens, heads, kv_heads) = (7, 6, 2);
        let fused = projection(9, [tokens, heads + 2 * kv_heads, head_dim], offset, dtype)?;
        let (q, k) = (fused.narrow(1, 0, heads)?, fused.narrow(1, heads, kv_heads)?);
        let v = fused.narrow(1, heads + kv_heads, kv_heads)?;
        let cache = random(10, &[4, 16, kv_heads, head_dim], dtype)?;
        let slots = Tensor::new(&[40u32, 3, 63, 0, 17, 31, 32], &Device::Cpu)?;
        let angles = angles(tokens, head_dim)?;
        let [cos, sin, positions] = &angles;

        outcomes.push(compare(
            name("rope"),
            &machine.rope(&q, [cos, sin, positions])?,
            &rope(&q, cos, sin, positions)?,
        )?);

        let (k_cache, v_cache) = (cache.copy()?, cache.copy()?);
        write_kv(&k, &v, &k_cache, &v_cache, &slots)?;
        let got = machine.write_kv(&k, &v, (&cache, &cache.copy()?), &slots)?;
        outcomes.push(compare(name("write_kv, keys"), &got.0, &k_cache)?);
        outcomes.push(compare(name("write_kv, values"), &got.1, &v_cache)?);

        let (k_cache, v_cache) = (cache.copy()?, cache.copy()?);
        let expected = rope_write_kv([&q, &k, &v], [cos, sin, positions], (&k_cache, &v_cache), &slots)?;
        let got =
            machine.rope_write_kv([&q, &k, &v], [cos, sin, positions], (&cache, &cache.copy()?), &slots)?;
        outcomes.push(compare(name("rope_write_kv, queries"), &got.0, &expected)?);
        outcomes.push(compare(name("rope_write_kv, keys"), &got.1, &k_cache)?);
        outcomes.push(compare(name("rope_write_kv, values"), &got.2, &v_cache)?);
    }
    Ok(())
}

fn attention(
    machine: &impl Machine,
    dtype: DType,
    [heads, kv_heads, head_dim]: [usize; 3],
    outcomes: &mut Vec<Outcome>,
) -> Result<()> {
    const BLOCK_SIZE: usize = 16;
    // Tokens in the step and in all: sequences that go on, prompts, and pieces of prompts.
    let mixed: [(usize, usize); 8] =
        [(1, 1), (1, 300), (5, 5), (70, 70), (1, 77), (40, 150), (1, 16), (130, 131)];
    let decode: [(usize, usize); 2] = [(1, 40), (1, 700)];
    for (what, parts, window) in [
        ("mixed", &mixed[..], None),
        ("mixed, window of 50", &mixed[..], Some(50)),
        ("single tokens", &decode[..], None),
        ("single tokens, window of 33", &decode[..], Some(33)),
    ] {
        let mut next_block = 0u32;
        let mut start = 0;
        let needed: usize = parts.iter().map(|part| part.1.div_ceil(BLOCK_SIZE)).sum();
        let sequences: Vec<AttentionSequence> = parts
            .iter()
            .map(|&(query_len, context_len)| {
                // Blocks in no order: 7 and the number of blocks have no divisor in common.
                let blocks = (0..context_len.div_ceil(BLOCK_SIZE))
                    .map(|_| {
                        next_block += 1;
                        next_block * 7 % needed as u32
                    })
                    .collect();
                start += query_len;
                AttentionSequence { query_start: start - query_len, query_len, context_len, blocks }
            })
            .collect();
        let q = random(11, &[start, heads + 2, head_dim], dtype)?.narrow(1, 1, heads)?;
        let cache = |seed| random(seed, &[needed, BLOCK_SIZE, kv_heads, head_dim], dtype);
        let (k_cache, v_cache) = (cache(12)?, cache(13)?);
        // Sharper than models are, so that a wrong key shows.
        let step = Step { sequences, block_size: BLOCK_SIZE, scale: 3.0 / (head_dim as f32).sqrt(), window };
        let got = machine.paged_attention(&q, &k_cache, &v_cache, &step)?;
        let expected = paged_attention(&q, &k_cache, &v_cache, &step.batch(&Device::Cpu)?)?;
        let name = format!("attention, {what}, {heads}/{kv_heads} heads of {head_dim}, {dtype:?}");
        outcomes.push(compare(name, &got, &expected)?);
    }
    Ok(())
}

fn sampling(machine: &impl Machine, dtype: DType, outcomes: &mut Vec<Outcome>) -> Result<()> {
    let vocabulary = 5003;
    let seen: Vec<u32> = (0..600).map(|at| at * 37 % 6000).collect();
    let plain = SampleRow {
        temperature: 1.0,
        top_k: 0,
        top_p: 1.0,
        repetition_penalty: 1.0,
        seen: &seen,
        seed: 0,
        position: 0,
    };
    let mut rows = Vec::new();
    for (temperature, top_k, top_p) in [
        (0.0, 0, 1.0),
        (1.0, 0, 1.0),
        (0.7, 40, 1.0),
        (1.3, 0, 0.9),
        (0.2, 0, 0.999),
        (1.0, 50, 0.8),
        (1.0, 4000, 0.95),
        (0.01, 5000, 0.5),
        (1e-6, 3000, 1.0),
    ] {
        for repetition_penalty in [1.0, 1.2] {
            let seed = 77 + rows.len() as u64 * 0x1_2345_6789;
            rows.push(SampleRow { temperature, top_k, top_p, repetition_penalty, seed, ..plain });
        }
    }
    for (what, factor) in [("spread", 12.0), ("flat", 0.01), ("all the same", 0.0)] {
        let logits =
            (random(14, &[rows.len(), vocabulary + 1], dtype)? * factor)?.narrow(1, 1, vocabulary)?;
        let got: Vec<u32> = machine.sample(&logits, &rows)?.to_vec1()?;
        let expected: Vec<u32> = sample(&logits, &rows)?.to_vec1()?;
        // Tokens are the same or they are not.
        let wrong = got.iter().zip(&expected).filter(|(got, expected)| got != expected).count();
        outcomes.push(Outcome {
            name: format!("sample, {what}, {dtype:?}"),
            share: if wrong == 0 { 0.0 } else { f32::INFINITY },
        });
    }
    let nothing = Tensor::new(&[f32::NEG_INFINITY, f32::NAN, f32::NEG_INFINITY], &Device::Cpu)?
        .to_dtype(dtype)?
        .broadcast_as((rows.len(), 3))?
        .contiguous()?;
    let got: Vec<u32> = machine.sample(&nothing, &rows)?.to_vec1()?;
    let none = got.iter().all(|token| *token == raglan_kernels::NO_TOKEN);
    outcomes.push(Outcome {
        name: format!("sample, nothing to choose, {dtype:?}"),
        share: if none { 0.0 } else { f32::INFINITY },
    });
    Ok(())
}
