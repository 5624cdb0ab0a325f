//! How fast an engine is, with weights of the true shape of a model that are made up on the spot.
//!
//! ```text
//! engine_bench check [--device cpu|cuda:0]
//! engine_bench make FOLDER llama-3.1-8b|qwen2.5-0.5b|tiny|CONFIG.json
//! engine_bench run FOLDER [--device cpu|cuda:0] [--dtype bf16] [--quantize q8_0] [--concurrent 64] [--prompt 1000] [--answer 250] [--requests N]
//! ```
//!
//! `check` compares whole models on a device with the same on the CPU, small ones of every family that it makes itself, and fails where they differ.
//! `make` writes random bf16 weights, a tokeniser of bytes and a chat template. `run` prints one line of JSON: tokens a second with one sequence, with
//! `--concurrent` of them, the time to the first token, and the bytes of the weights.
#![allow(clippy::print_stdout)] // it is what it is for

mod check;

use std::{
    collections::BTreeMap,
    error::Error,
    fs::File,
    io::{BufWriter, Write},
    path::Path,
    sync::{Arc, Mutex, mpsc},
    time::{Duration, Instant},
};

use raglan_engine::{
    CacheSize, DeviceChoice, Engine, EngineSettings, ModelConfig, NumberType, Output, Prompt, Quantization,
    Request, Snapshot, Ticket, tiny,
};
use serde_json::{Value, json};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["make", folder, shape] => make(Path::new(folder), shape),
        ["check", options @ ..] => check::check(Options::parse(options)?.device),
        ["run", folder, options @ ..] => run(Path::new(folder), &Options::parse(options)?),
        _ => Err("engine_bench check, make FOLDER SHAPE or run FOLDER, with --option VALUE…".into()),
    }
}

/// The configuration of a model of this name, or in this file.
fn config(shape: &str) -> Result<Value> {
    let llama3 = json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                        "original_max_position_embeddings": 8192});
    Ok(match shape {
        "llama-3.1-8b" => json!({
            "model_type": "llama", "vocab_size": 128_256, "hidden_size": 4_096, "num_hidden_layers": 32,
            "num_attention_heads": 32, "num_key_value_heads": 8, "intermediate_size": 14_336,
            "hidden_act": "silu", "rms_norm_eps": 1e-5, "max_position_embeddings": 131_072,
            "rope_theta": 500_000.0, "rope_scaling": llama3, "tie_word_embeddings": false, "torch_dtype": "bfloat16",
        }),
        "qwen2.5-0.5b" => json!({
            "model_type": "qwen2", "vocab_size": 151_936, "hidden_size": 896, "num_hidden_layers": 24,
            "num_attention_heads": 14, "num_key_value_heads": 2, "intermediate_size": 4_864,
            "hidden_act": "silu", "rms_norm_eps": 1e-6, "max_position_embeddings": 32_768,
            "rope_theta": 1_000_000.0, "tie_word_embeddings": true, "torch_dtype": "bfloat16",
        }),
        "tiny" => tiny::config("llama", &json!({"torch_dtype": "bfloat16"})),
        file => serde_json::from_slice(&std::fs::read(file)?)?,
    })
}

/// Writes a model of random weights; one thread for each core makes them.
fn make(folder: &Path, shape: &str) -> Result<()> {
    std::fs::create_dir_all(folder)?;
    let config = config(shape)?;
    let path = folder.join("config.json");
    std::fs::write(&path, config.to_string())?;
    let config = ModelConfig::parse(config.to_string().as_bytes(), &path)?;
    let tensors = tiny::tensors(&config);
    let (mut header, mut end) = (serde_json::Map::new(), 0);
    for (name, shape) in &tensors {
        let start = end;
        end += 2 * shape.iter().product::<usize>();
        let place = json!({"dtype": "BF16", "shape": shape, "data_offsets": [start, end]});
        header.insert(name.clone(), place);
    }
    let mut header = Value::Object(header).to_string().into_bytes();
    header.resize(header.len().next_multiple_of(8), b' ');
    let mut file = BufWriter::with_capacity(1 << 22, File::create(folder.join("model.safetensors"))?);
    file.write_all(&(header.len() as u64).to_le_bytes())?;
    file.write_all(&header)?;
    for (name, shape) in &tensors {
        for part in halves(name, shape) {
            file.write_all(&part)?;
        }
    }
    file.flush()?;
    tiny::write_texts(folder, config.vocabulary)?;
    Ok(())
}

/// A tensor's numbers in bf16, made in pieces by several threads.
fn halves(name: &str, shape: &[usize]) -> Vec<Vec<u8>> {
    let count: usize = shape.iter().product();
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let share = count.div_ceil(threads).max(1);
    std::thread::scope(|scope| {
        let parts: Vec<_> = (0..count)
            .step_by(share)
            .map(|start| {
                scope.spawn(move || {
                    let values = tiny::values_of(name, shape, start..(start + share).min(count));
                    values.flat_map(|value| half::bf16::from_f32(value).to_le_bytes()).collect()
                })
            })
            .collect();
        parts.into_iter().map(|part| part.join().unwrap_or_default()).collect()
    })
}

struct Options {
    device: DeviceChoice,
    dtype: NumberType,
    quantize: Quantization,
    concurrent: usize,
    prompt: usize,
    answer: usize,
    requests: usize,
    batch_tokens: usize,
}

impl Options {
    fn parse(words: &[&str]) -> Result<Self> {
        let mut given: BTreeMap<&str, &str> = BTreeMap::new();
        for pair in words.chunks(2) {
            let [name, value] = pair else { return Err("every option has a value".into()) };
            given.insert(name.trim_start_matches("--"), value);
        }
        let mut take = |name: &str, usual: &'static str| given.remove(name).unwrap_or(usual).to_owned();
        let device = match take("device", "auto").as_str() {
            "auto" => DeviceChoice::Auto,
            "cpu" => DeviceChoice::Cpu,
            other => DeviceChoice::Cuda(
                other.trim_start_matches("cuda").trim_start_matches(':').parse().unwrap_or(0),
            ),
        };
        let dtype = match take("dtype", "auto").as_str() {
            "f32" => NumberType::F32,
            "bf16" => NumberType::Bf16,
            "f16" => NumberType::F16,
            _ => NumberType::Auto,
        };
        let quantize =
            if take("quantize", "none") == "q8_0" { Quantization::Q8_0 } else { Quantization::None };
        let concurrent = take("concurrent", "64").parse()?;
        let options = Self {
            device,
            dtype,
            quantize,
            concurrent,
            prompt: take("prompt", "1000").parse()?,
            answer: take("answer", "250").parse()?,
            requests: take("requests", "0").parse()?,
            batch_tokens: take("batch-tokens", "4096").parse()?,
        };
        match given.keys().next() {
            Some(unknown) => Err(format!("there is no option --{unknown}").into()),
            None => Ok(options),
        }
    }
}

/// When the pieces of a request came.
struct Timed {
    begun: Instant,
    first: Option<Duration>,
    tokens: usize,
}

fn run(folder: &Path, options: &Options) -> Result<()> {
    let snapshot = Arc::new(Mutex::new(Snapshot::default()));
    let told = snapshot.clone();
    let observer = Box::new(move |snapshot: &Snapshot| {
        if let Ok(mut told) = told.lock() {
            *told = *snapshot;
        }
    });
    let settings = EngineSettings {
        device: options.device,
        dtype: options.dtype,
        quantize: options.quantize,
        batch_tokens: options.batch_tokens.max(options.concurrent),
        sequences: options.concurrent,
        waiting: usize::MAX,
        cache: CacheSize::Fraction(0.9),
        context_tokens: Some((options.prompt + options.answer).next_multiple_of(16)),
        ..EngineSettings::new(folder)
    };
    let begun = Instant::now();
    let engine = Engine::start(settings, Box::new(|_, _| ()), observer)?;
    let load_s = begun.elapsed().as_secs_f64();
    // The first steps compile kernels and fill pools.
    burst(&engine, 2, options.prompt.min(64), 8)?;
    let (alone, alone_s) = burst(&engine, 1, options.prompt, options.answer)?;
    let first_s = alone[0].first.unwrap_or_default().as_secs_f64();
    let decode_s = (alone_s - first_s).max(1e-9);
    let requests = options.requests.max(options.concurrent);
    let before = snapshot.lock().map(|told| *told).unwrap_or_default();
    let (many, many_s) = burst(&engine, requests, options.prompt, options.answer)?;
    let after = snapshot.lock().map(|told| *told).unwrap_or_default();
    let mut firsts: Vec<f64> =
        many.iter().filter_map(|timed| timed.first).map(|first| first.as_secs_f64() * 1e3).collect();
    firsts.sort_by(f64::total_cmp);
    let rank = |part: f64| firsts.get((firsts.len() as f64 * part) as usize).or(firsts.last());
    let written: usize = many.iter().map(|timed| timed.tokens).sum();
    let info = engine.info();
    let report = json!({
        "device": info.device, "dtype": info.dtype, "weight_bytes": info.weight_bytes,
        "cache_tokens": info.limits.blocks * info.limits.block_size, "load_s": load_s,
        "prompt_tokens": options.prompt, "answer_tokens": options.answer,
        "one": {"decode_tokens_per_s": (alone[0].tokens.saturating_sub(1)) as f64 / decode_s, "first_token_ms": first_s * 1e3},
        "many": {
            "concurrent": options.concurrent, "requests": requests, "output_tokens_per_s": written as f64 / many_s,
            "first_token_ms_p50": rank(0.5), "first_token_ms_p99": rank(0.99), "seconds": many_s,
            "preempted": after.counts.preempted - before.counts.preempted,
        },
    });
    println!("{report}");
    Ok(())
}

/// Sends so many requests at once and waits for all.
fn burst(engine: &Engine, requests: usize, prompt: usize, answer: usize) -> Result<(Vec<Timed>, f64)> {
    let begun = Instant::now();
    let mut running: Vec<(Ticket, mpsc::Receiver<std::result::Result<Timed, String>>)> = Vec::new();
    for number in 0..requests {
        // No two begin alike, so that nothing is found in the cache.
        let tokens = (0..prompt).map(|at| ((at * 31 + number * 97 + at * at * number) % 250) as u32);
        let request = Request { ignore_end: true, ..Request::new(Prompt::Tokens(tokens.collect()), answer) };
        let (sender, receiver) = mpsc::channel();
        let mut timed = Some(Timed { begun: Instant::now(), first: None, tokens: 0 });
        let sink = Box::new(move |output: Output| {
            let Some(mut now) = timed.take() else { return };
            let ended = match output {
                Output::Text(_) => {
                    now.first = now.first.or_else(|| Some(now.begun.elapsed()));
                    timed = Some(now);
                    return;
                }
                Output::End { answer_tokens, .. } => {
                    now.tokens = answer_tokens;
                    Ok(now)
                }
                other => Err(format!("{other:?}")),
            };
            let _ = sender.send(ended);
        });
        running.push((engine.submit(request, sink)?, receiver));
    }
    let timed = running.into_iter().map(|(_ticket, receiver)| Ok(receiver.recv()??));
    let timed = timed.collect::<Result<Vec<_>>>()?;
    Ok((timed, begun.elapsed().as_secs_f64()))
}
