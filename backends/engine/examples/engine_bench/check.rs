//! Whole models on a device against the same models on the CPU.

use std::{path::Path, sync::mpsc};

use raglan_engine::{
    BLOCK_SIZE, ByHand, CacheSize, DeviceChoice, Engine, EngineSettings, NumberType, Output, Prompt,
    Quantization, Request, distance,
    tiny::{self, Stored},
};
use serde_json::{Value, json};

use crate::Result;

/// How far logits may be from those of the CPU, as a part of their length.
const BOUNDS: [(&str, NumberType, f64); 2] =
    [("f32", NumberType::F32, 1e-3), ("bf16", NumberType::Bf16, 2e-2)];
/// Tokens of the prompts: one, a part of a block, several blocks, several pieces.
const PROMPTS: [u32; 4] = [1, 11, 150, 300];
/// A prompt is computed in pieces of so many tokens, the later ones over what the earlier ones left in the cache.
const PIECE: usize = 128;
/// Tokens written after each prompt.
const WRITTEN: usize = 32;
/// Blocks of the cache of the models that are driven by hand.
const BLOCKS: usize = 32;

/// A family each, with all that sets it apart, and one with the heads of the models that are measured.
fn models() -> [(&'static str, &'static str, Value); 5] {
    let llama3 = json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                        "original_max_position_embeddings": 32});
    let wide = json!({"hidden_size": 1024, "num_hidden_layers": 4, "num_attention_heads": 8, "num_key_value_heads": 2,
                      "head_dim": 128, "intermediate_size": 2816, "vocab_size": 4096});
    [
        ("llama", "llama", json!({"rope_scaling": llama3, "rope_theta": 500.0})),
        ("mistral", "mistral", json!({"sliding_window": 9})),
        ("qwen2", "qwen2", json!({"tie_word_embeddings": true, "num_key_value_heads": 1})),
        ("qwen3", "qwen3", json!({"head_dim": 32})),
        ("llama, heads of 128", "llama", wide),
    ]
}

/// What a comparison came to.
#[derive(Default)]
struct Tally {
    /// The greatest distance of logits.
    apart: f64,
    tokens: usize,
    /// Tokens that both would write next.
    same: usize,
    /// What is not as it must be.
    wrong: Vec<String>,
}

/// Compares all models; a line for each, and one of JSON at the end.
pub(crate) fn check(device: DeviceChoice) -> Result<()> {
    let (mut report, mut wrong) = (json!({}), Vec::new());
    let (mut texts, mut same_texts) = (0, 0);
    for (name, family, more) in models() {
        let folder = tempfile::tempdir()?;
        tiny::write(folder.path(), &tiny::config(family, &more), Stored::F32, 1)?;
        for (numbers, dtype, bound) in BOUNDS {
            let tally = logits(folder.path(), device, dtype, bound)?;
            let Tally { apart, tokens, same, .. } = tally;
            println!(
                "{name}, {numbers}: logits {apart:.2e} apart, {bound:.0e} allowed; {same} of {tokens} tokens the same"
            );
            wrong.extend(tally.wrong.into_iter().map(|what| format!("{name}, {numbers}: {what}")));
            let worst = report[numbers]["apart"].as_f64().map_or(apart, |before| before.max(apart));
            let sum = |key: &str, more: usize| report[numbers][key].as_u64().unwrap_or(0) + more as u64;
            let (tokens, same) = (sum("tokens", tokens), sum("same", same));
            report[numbers] = json!({"apart": worst, "allowed": bound, "tokens": tokens, "same": same});
        }
        let expected = write(folder.path(), DeviceChoice::Cpu)?;
        let got = write(folder.path(), device)?;
        let same = expected.iter().zip(&got).filter(|(a, b)| a == b).count();
        println!("{name}: {same} of {} texts that the engine writes at once are the same", expected.len());
        if same < expected.len() {
            wrong.push(format!("{name}: the engine writes other texts"));
        }
        texts += expected.len();
        same_texts += same;
    }
    report["models"] = json!(models().len());
    report["texts"] = json!({"all": texts, "same": same_texts});
    println!("{report}");
    match wrong.as_slice() {
        [] => Ok(()),
        [first, ..] => {
            Err(format!("the device differs from the CPU in {} places; {first}", wrong.len()).into())
        }
    }
}

/// Compares the logits behind prompts, and behind each token that the CPU writes after them: both are given the CPU's.
fn logits(folder: &Path, device: DeviceChoice, dtype: NumberType, bound: f64) -> Result<Tally> {
    let open = |device| ByHand::open(folder, device, dtype, Quantization::None, BLOCKS);
    let (cpu, other) = (open(DeviceChoice::Cpu)?, open(device)?);
    // Blocks in another order than that of the text.
    let blocks: Vec<u32> = (0..BLOCKS as u32).map(|block| block * 13 % BLOCKS as u32).collect();
    let mut tally = Tally::default();
    for length in PROMPTS {
        let mut tokens: Vec<u32> = (0..length).map(|at| (at * 31 + length) % 250).collect();
        let mut done = 0;
        while tokens.len() < length as usize + WRITTEN {
            // The prompt piece by piece, then each token by itself.
            let piece = &tokens[done..tokens.len().min(done + PIECE)];
            let expected = cpu.logits(piece, done, &blocks)?;
            let got = other.logits(piece, done, &blocks)?;
            done += piece.len();
            let at = format!("after {done} tokens of a prompt of {length}");
            let apart = distance(&got, &expected);
            // Also where it is not a number.
            if apart.is_nan() || apart > bound {
                tally.wrong.push(format!("logits {apart:.2e} apart {at}"));
            }
            tally.apart = tally.apart.max(apart);
            let (best, others) = (best(&expected), best(&got));
            tally.tokens += 1;
            if best == others {
                tally.same += 1;
            } else if !nearly_alike(&expected, best, others, bound) {
                tally.wrong.push(format!("token {others} and not {best} {at}"));
            }
            if done == tokens.len() {
                tokens.push(best as u32);
            }
        }
    }
    Ok(tally)
}

/// The place of the greatest number.
fn best(logits: &[f32]) -> usize {
    (0..logits.len()).max_by(|a, b| logits[*a].total_cmp(&logits[*b])).unwrap_or(0)
}

/// Whether two logits are so near each other that logits within the bound may turn them round.
fn nearly_alike(logits: &[f32], one: usize, other: usize, bound: f64) -> bool {
    let squares: f64 = logits.iter().map(|logit| f64::from(*logit).powi(2)).sum();
    let usual = (squares / logits.len().max(1) as f64).sqrt();
    f64::from(logits[one] - logits[other]) <= 4.0 * bound * usual
}

/// Texts of a few prompts that an engine writes at once, in f32.
fn write(folder: &Path, device: DeviceChoice) -> Result<Vec<String>> {
    let settings = EngineSettings {
        device,
        dtype: NumberType::F32,
        batch_tokens: 64,
        sequences: 8,
        cache: CacheSize::Blocks(3_200 / BLOCK_SIZE),
        context_tokens: Some(400),
        ..EngineSettings::new(folder)
    };
    let engine = Engine::start(settings, Box::new(|_, _| ()), Box::new(|_| ()))?;
    // Longer ones come in pieces, beside those that write already.
    let running = [5, 40, 150, 300].map(|length| {
        let tokens = (0..length).map(|at| (at * 31 + length) % 250).collect();
        let request = Request { ignore_end: true, ..Request::new(Prompt::Tokens(tokens), 60) };
        let (sender, receiver) = mpsc::channel();
        let ticket = engine.submit(request, Box::new(move |output| drop(sender.send(output))));
        (ticket, receiver)
    });
    let mut texts = Vec::new();
    for (ticket, receiver) in running {
        let _ticket = ticket?;
        let mut text = String::new();
        loop {
            match receiver.recv()? {
                Output::Text(piece) => text.push_str(&piece),
                Output::End { .. } => break,
                other => return Err(format!("{other:?}").into()),
            }
        }
        texts.push(text);
    }
    Ok(texts)
}
