//! How fast the GPU copies, and how close to that the kernels come.

use std::time::Instant;

use candle_core::{DType, Device, Result, Tensor};
use raglan_kernels::{AttentionBatch, AttentionSequence, SampleRow, paged_attention, sample};

/// Seconds of one call, the least of several after one to warm up; a call is repeated until it takes long enough to be timed.
fn seconds(device: &Device, mut call: impl FnMut() -> Result<()>) -> Result<f64> {
    const CALLS: u32 = 10;
    const ROUNDS: usize = 5;
    call()?;
    device.synchronize()?;
    let mut best = f64::INFINITY;
    for _ in 0..ROUNDS {
        let start = Instant::now();
        for _ in 0..CALLS {
            call()?;
        }
        device.synchronize()?;
        best = best.min(start.elapsed().as_secs_f64() / f64::from(CALLS));
    }
    Ok(best)
}

/// Prints a line of JSON.
pub fn measure(device: &Device) -> Result<()> {
    // What is copied is read and written: twice its bytes go through memory.
    let bytes = 1usize << 30;
    let buffer = Tensor::zeros(bytes / 2, DType::BF16, device)?;
    let copy_s = seconds(device, || buffer.copy().map(|_| ()))?;
    let copy = 2.0 * bytes as f64 / copy_s;
    drop(buffer);
    println!(
        "{{\"copy_gb_s\": {:.1}, \"decode_share\": {:.3}, \"prefill_tflop_s\": {:.1}, \"sample_256_us\": {:.0}, \"sample_1_us\": {:.0}}}",
        copy / 1e9,
        decode(device)? / copy,
        prefill(device)? / 1e12,
        sampling(device, 256)? * 1e6,
        sampling(device, 1)? * 1e6,
    );
    Ok(())
}

const BLOCK_SIZE: usize = 16;
/// Heads of Llama 3.1 8B.
const HEADS: usize = 32;
const KV_HEADS: usize = 8;
const HEAD_DIM: usize = 128;

/// Attention of so many sequences, of as many tokens in the step and in all: seconds.
fn attention(device: &Device, sequences: usize, query_len: usize, context_len: usize) -> Result<f64> {
    let each = context_len.div_ceil(BLOCK_SIZE);
    let batch: Vec<AttentionSequence> = (0..sequences)
        .map(|sequence| AttentionSequence {
            query_start: sequence * query_len,
            query_len,
            context_len,
            blocks: (0..each).map(|block| (block * sequences + sequence) as u32).collect(),
        })
        .collect();
    let scale = 1.0 / (HEAD_DIM as f32).sqrt();
    let batch = AttentionBatch::new(batch, BLOCK_SIZE, scale, None, device)?;
    let cache = || Tensor::zeros((each * sequences, BLOCK_SIZE, KV_HEADS, HEAD_DIM), DType::BF16, device);
    let (k_cache, v_cache) = (cache()?, cache()?);
    let q = Tensor::zeros((sequences * query_len, HEADS, HEAD_DIM), DType::BF16, device)?;
    seconds(device, || paged_attention(&q, &k_cache, &v_cache, &batch).map(|_| ()))
}

/// Bytes of keys and values a second, of 256 sequences of 1,125 tokens.
fn decode(device: &Device) -> Result<f64> {
    let (sequences, context) = (256, 1125);
    let bytes = 2 * 2 * sequences * context * KV_HEADS * HEAD_DIM;
    Ok(bytes as f64 / attention(device, sequences, 1, context)?)
}

/// Operations a second, of 8 prompts of 1,000 tokens; what is hidden does not count.
fn prefill(device: &Device) -> Result<f64> {
    let (sequences, tokens) = (8, 1000);
    let operations = 4 * HEADS * HEAD_DIM * sequences * tokens * tokens / 2;
    Ok(operations as f64 / attention(device, sequences, tokens, tokens)?)
}

/// Seconds of a choice for so many rows, of a vocabulary as Llama's.
fn sampling(device: &Device, rows: usize) -> Result<f64> {
    let logits = Tensor::randn(0f32, 3f32, (rows, 128_256), device)?.to_dtype(DType::BF16)?;
    let settings: Vec<SampleRow<'_>> = (0..rows as u64)
        .map(|row| SampleRow {
            temperature: 0.7,
            top_k: 50,
            top_p: 0.9,
            repetition_penalty: 1.0,
            seen: &[],
            seed: row,
            position: 1000,
        })
        .collect();
    seconds(device, || sample(&logits, &settings).map(|_| ()))
}
