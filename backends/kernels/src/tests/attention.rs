use candle_core::{DType, Device, Result, Tensor};
use rand::{SeedableRng, rngs::StdRng, seq::SliceRandom};

use super::{TYPES, assert_close, random, values};
use crate::{AttentionBatch, AttentionSequence, check_heads_on_gpu, paged_attention, write_kv};

const BLOCK_SIZE: usize = 16;

/// A model's heads.
#[derive(Debug, Clone, Copy)]
struct Heads {
    query: usize,
    kv: usize,
    dim: usize,
}

/// All tokens of a sequence.
struct Whole {
    q: Tensor,
    k: Tensor,
    v: Tensor,
    blocks: Vec<u32>,
}

/// Sequences of so many tokens, with blocks of one cache that are given out in no order, and the cache.
struct World {
    sequences: Vec<Whole>,
    k_cache: Tensor,
    v_cache: Tensor,
    scale: f32,
}

impl World {
    fn new(lengths: &[usize], heads: Heads, dtype: DType) -> Result<Self> {
        let needed: usize = lengths.iter().map(|tokens| tokens.div_ceil(BLOCK_SIZE)).sum();
        let mut blocks: Vec<u32> = (0..needed as u32 + 3).collect();
        blocks.shuffle(&mut StdRng::seed_from_u64(7));
        let mut blocks = blocks.into_iter();
        let cache = [needed + 3, BLOCK_SIZE, heads.kv, heads.dim];
        let sequences = lengths
            .iter()
            .enumerate()
            .map(|(index, &tokens)| {
                let seed = 10 * index as u64;
                Ok(Whole {
                    q: random(seed + 1, &[tokens, heads.query, heads.dim], dtype)?,
                    k: random(seed + 2, &[tokens, heads.kv, heads.dim], dtype)?,
                    v: random(seed + 3, &[tokens, heads.kv, heads.dim], dtype)?,
                    blocks: blocks.by_ref().take(tokens.div_ceil(BLOCK_SIZE)).collect(),
                })
            })
            .collect::<Result<_>>()?;
        Ok(Self {
            sequences,
            // Whatever is read that was never written would show.
            k_cache: (random(1, &cache, dtype)? * 100.0)?,
            v_cache: (random(2, &cache, dtype)? * 100.0)?,
            scale: 1.0 / (heads.dim as f32).sqrt(),
        })
    }

    /// Attention of a step that takes, of some sequences, the tokens of a range.
    fn step(&self, parts: &[(usize, std::ops::Range<usize>)], window: Option<usize>) -> Result<Tensor> {
        let mut sequences = Vec::new();
        let (mut q, mut k, mut v, mut slots) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let mut start = 0;
        for (index, range) in parts {
            let Whole { q: all_q, k: all_k, v: all_v, blocks } = &self.sequences[*index];
            q.push(all_q.narrow(0, range.start, range.len())?);
            k.push(all_k.narrow(0, range.start, range.len())?);
            v.push(all_v.narrow(0, range.start, range.len())?);
            slots.extend(
                range.clone().map(|place| {
                    blocks[place / BLOCK_SIZE] * BLOCK_SIZE as u32 + (place % BLOCK_SIZE) as u32
                }),
            );
            sequences.push(AttentionSequence {
                query_start: start,
                query_len: range.len(),
                context_len: range.end,
                blocks: blocks.clone(),
            });
            start += range.len();
        }
        let slots = Tensor::new(slots, &Device::Cpu)?;
        write_kv(&Tensor::cat(&k, 0)?, &Tensor::cat(&v, 0)?, &self.k_cache, &self.v_cache, &slots)?;
        let batch = AttentionBatch::new(sequences, BLOCK_SIZE, self.scale, window, &Device::Cpu)?;
        paged_attention(&Tensor::cat(&q, 0)?, &self.k_cache, &self.v_cache, &batch)
    }

    /// What a step must come to, out of the tokens themselves.
    fn expected(&self, parts: &[(usize, std::ops::Range<usize>)], window: Option<usize>) -> Result<Vec<f32>> {
        let mut out = Vec::new();
        for (index, range) in parts {
            let whole = &self.sequences[*index];
            let (_, query_heads, dim) = whole.q.dims3()?;
            let kv_heads = whole.k.dims3()?.1;
            let (q, k, v) = (values(&whole.q)?, values(&whole.k)?, values(&whole.v)?);
            for place in range.clone() {
                let from = window.map_or(0, |window| (place + 1).saturating_sub(window));
                for head in 0..query_heads {
                    let query = &q[(place * query_heads + head) * dim..][..dim];
                    let kv_head = head / (query_heads / kv_heads);
                    let at = |key: usize| (key * kv_heads + kv_head) * dim;
                    let scores: Vec<f64> = (from..=place)
                        .map(|key| {
                            let products = query.iter().zip(&k[at(key)..]).map(|(a, b)| f64::from(a * b));
                            (products.sum::<f64>() * f64::from(self.scale)).exp()
                        })
                        .collect();
                    let sum: f64 = scores.iter().sum();
                    out.extend((0..dim).map(|value| {
                        let keys = (from..=place).zip(&scores);
                        (keys.map(|(key, score)| score * f64::from(v[at(key) + value])).sum::<f64>() / sum)
                            as f32
                    }));
                }
            }
        }
        Ok(out)
    }

    fn check(&self, parts: &[(usize, std::ops::Range<usize>)], window: Option<usize>) -> Result<()> {
        let got = self.step(parts, window)?;
        assert_close(&values(&got)?, &self.expected(parts, window)?, got.dtype());
        Ok(())
    }
}

const HEADS: Heads = Heads { query: 8, kv: 2, dim: 64 };

#[test]
fn a_prompt_attends_to_itself() -> Result<()> {
    for dtype in TYPES {
        for dim in [8, 64, 96, 128] {
            for (query, kv) in [(4, 4), (8, 2), (7, 1)] {
                World::new(&[53], Heads { query, kv, dim }, dtype)?.check(&[(0, 0..53)], None)?;
            }
        }
    }
    Ok(())
}

#[test]
fn a_step_mixes_prompts_pieces_and_single_tokens() -> Result<()> {
    for dtype in TYPES {
        let world = World::new(&[70, 1, 200, 33, 150], HEADS, dtype)?;
        let before = [(0, 0..69), (2, 0..64), (4, 0..100), (4, 100..149)];
        for (sequence, range) in before {
            world.step(&[(sequence, range)], None)?;
        }
        world.check(&[(0, 69..70), (1, 0..1), (2, 64..200), (3, 0..33), (4, 149..150)], None)?;
    }
    Ok(())
}

#[test]
fn pieces_of_a_prompt_come_to_the_same_as_the_whole_and_as_single_tokens() -> Result<()> {
    let whole = World::new(&[131], HEADS, DType::F32)?;
    let at_once = values(&whole.step(&[(0, 0..131)], None)?)?;
    for size in [1, 16, 50] {
        let world = World::new(&[131], HEADS, DType::F32)?;
        let mut parts = Vec::new();
        for first in (0..131).step_by(size) {
            parts.extend(values(&world.step(&[(0, first..(first + size).min(131))], None)?)?);
        }
        assert_close(&parts, &at_once, DType::F32);
    }
    Ok(())
}

#[test]
fn a_sequence_comes_to_the_same_bits_whatever_the_batch() -> Result<()> {
    let world = World::new(&[70, 40, 90], HEADS, DType::BF16)?;
    let together = world.step(&[(0, 0..70), (1, 0..40), (2, 0..90)], Some(33))?;
    let alone = world.step(&[(1, 0..40)], Some(33))?;
    assert_eq!(values(&together.narrow(0, 70, 40)?)?, values(&alone)?);
    Ok(())
}

#[test]
fn a_window_hides_what_is_further_back() -> Result<()> {
    for window in [1, 5, 32, 40, 1000] {
        let world = World::new(&[150, 90], HEADS, DType::F32)?;
        world.step(&[(1, 0..89)], Some(window))?;
        world.check(&[(0, 0..150), (1, 89..90)], Some(window))?;
    }
    Ok(())
}

#[test]
fn slices_of_a_fused_projection_are_read_where_they_are() -> Result<()> {
    let (tokens, heads) = (20, HEADS);
    let fused = random(5, &[tokens, heads.query + 2 * heads.kv, heads.dim], DType::F32)?;
    let (q, k) = (fused.narrow(1, 0, heads.query)?, fused.narrow(1, heads.query, heads.kv)?);
    let v = fused.narrow(1, heads.query + heads.kv, heads.kv)?;
    assert!(!q.is_contiguous() && !k.is_contiguous());
    let attend = |q: &Tensor, k: &Tensor, v: &Tensor| -> Result<Vec<f32>> {
        let cache = || Tensor::zeros((2, BLOCK_SIZE, heads.kv, heads.dim), DType::F32, &Device::Cpu);
        let (k_cache, v_cache) = (cache()?, cache()?);
        write_kv(k, v, &k_cache, &v_cache, &Tensor::arange(0u32, tokens as u32, &Device::Cpu)?)?;
        let sequence =
            AttentionSequence { query_start: 0, query_len: tokens, context_len: tokens, blocks: vec![0, 1] };
        let batch = AttentionBatch::new(vec![sequence], BLOCK_SIZE, 0.1, None, &Device::Cpu)?;
        values(&paged_attention(q, &k_cache, &v_cache, &batch)?)
    };
    let copied = attend(&q.contiguous()?, &k.contiguous()?, &v.contiguous()?)?;
    assert_eq!(attend(&q, &k, &v)?, copied);
    Ok(())
}

#[test]
fn what_does_not_fit_is_refused() -> Result<()> {
    let sequence = |query_start, query_len, context_len, blocks: &[u32]| AttentionSequence {
        query_start,
        query_len,
        context_len,
        blocks: blocks.to_vec(),
    };
    let batch = |sequences| AttentionBatch::new(sequences, BLOCK_SIZE, 1.0, None, &Device::Cpu);
    for (sequences, expected) in [
        (vec![sequence(1, 1, 1, &[0])], "begins at token 1"),
        (vec![sequence(0, 2, 1, &[0])], "2 tokens in the step and 1 in all"),
        (vec![sequence(0, 0, 1, &[0])], "0 tokens in the step"),
        (vec![sequence(0, 1, 17, &[0])], "has 1 blocks of 16, but needs 2"),
    ] {
        let error = batch(sequences).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
    assert!(AttentionBatch::new(Vec::new(), BLOCK_SIZE, 1.0, Some(0), &Device::Cpu).is_err());

    let cache = Tensor::zeros((2, BLOCK_SIZE, 1, 8), DType::F32, &Device::Cpu)?;
    let q = Tensor::zeros((1, 2, 8), DType::F32, &Device::Cpu)?;
    let beyond = batch(vec![sequence(0, 1, 1, &[2])])?;
    let error = paged_attention(&q, &cache, &cache.copy()?, &beyond).unwrap_err().to_string();
    assert!(error.contains("need 3 blocks"), "{error}");
    let kv = Tensor::zeros((1, 1, 8), DType::F32, &Device::Cpu)?;
    let slot = Tensor::new(&[2 * BLOCK_SIZE as u32], &Device::Cpu)?;
    let error = write_kv(&kv, &kv, &cache, &cache.copy()?, &slot).unwrap_err().to_string();
    assert!(error.contains("beyond the cache"), "{error}");
    Ok(())
}

#[test]
fn heads_that_no_gpu_attends_to_are_known_before() {
    for (dtype, head_dim, fits) in [
        (DType::BF16, 128, true),
        (DType::BF16, 100, false),
        (DType::F32, 100, true),
        (DType::F16, 256, true),
        (DType::F16, 264, false),
    ] {
        assert_eq!(check_heads_on_gpu(dtype, head_dim).is_ok(), fits, "{dtype:?}, {head_dim}");
    }
}
