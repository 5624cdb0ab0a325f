//! Models against the reference, and engines against themselves.

mod engine;
mod files;
mod gguf;
mod golden;

use std::{
    path::Path,
    sync::{Arc, Mutex, mpsc},
    time::{Duration, Instant},
};

use candle_core::{DType, Device, Tensor, quantized::GgmlDType};
use serde_json::{Value, json};

use crate::{
    CacheSize, DeviceChoice, Engine, EngineSettings, Output, Request, Snapshot, Ticket,
    cache::KvCache,
    config::ModelConfig,
    model::{Batch, BatchPart, Model},
    tiny::{self, Stored},
    weights::{ModelFiles, Weights},
};

const BLOCK: usize = 16;
const BLOCKS: usize = 64;

/// Far longer than anything here takes.
const HANG: Duration = Duration::from_secs(120);

/// A model with a cache, driven by hand.
struct Hand {
    model: Model,
    cache: KvCache,
}

impl Hand {
    fn open(folder: &Path, dtype: DType, quantize: Option<GgmlDType>) -> Self {
        let files = ModelFiles::find(folder).unwrap();
        let config = match &files {
            ModelFiles::Safetensors { folder, .. } => ModelConfig::read(folder).unwrap(),
            ModelFiles::Gguf { file, .. } => {
                crate::config::of_gguf(&crate::weights::GgufFile::open(file).unwrap()).unwrap()
            }
        };
        let mut weights = Weights::open(&files, &Device::Cpu, dtype, quantize, &|_, _| ()).unwrap();
        let model = Model::load(&config, &mut weights, BLOCK * BLOCKS).unwrap();
        let cache = KvCache::new(&config, BLOCKS, BLOCK, dtype, &Device::Cpu).unwrap();
        Self { model, cache }
    }

    /// One step: the logits of the parts that complete.
    fn step(&self, parts: &[BatchPart<'_>]) -> Vec<Vec<f32>> {
        let head_dim = self.model.config().head_dim;
        let batch = Batch::new(parts, BLOCK, head_dim, &Device::Cpu).unwrap();
        let logits = self.model.forward(&batch, &self.cache).unwrap();
        logits.map_or(Vec::new(), |logits: Tensor| logits.to_vec2().unwrap())
    }

    /// The logits behind the last token, computed in pieces of this length.
    fn last(&self, tokens: &[u32], piece: usize, blocks: &[u32]) -> Vec<f32> {
        let mut last = Vec::new();
        for (number, piece_tokens) in tokens.chunks(piece).enumerate() {
            let start = number * piece;
            let completes = start + piece_tokens.len() == tokens.len();
            last = self.step(&[BatchPart { tokens: piece_tokens, start, blocks, completes }]);
        }
        last.swap_remove(0)
    }
}

/// All blocks in their order.
fn in_order() -> Vec<u32> {
    (0..BLOCKS as u32).collect()
}

/// How far `got` is from `expected`, as a part of the length of `expected`.
fn distance(got: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(got.len(), expected.len());
    let square = |value: f32| f64::from(value).powi(2);
    let apart: f64 = got.iter().zip(expected).map(|(a, b)| square(a - b)).sum();
    let length: f64 = expected.iter().map(|value| square(*value)).sum();
    (apart / length).sqrt()
}

fn model(family: &str, more: &Value) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    tiny::write(folder.path(), &tiny::config(family, more), Stored::F32, 1).unwrap();
    folder
}

/// A family each, with all that sets it apart.
fn families() -> Vec<(&'static str, Value)> {
    let llama3 = json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                        "original_max_position_embeddings": 32});
    vec![
        ("llama", json!({"rope_scaling": llama3, "rope_theta": 500.0})),
        ("mistral", json!({"sliding_window": 9})),
        ("qwen2", json!({"tie_word_embeddings": true, "num_key_value_heads": 1})),
        ("qwen3", json!({"head_dim": 32})),
    ]
}

fn settings(folder: &Path) -> EngineSettings {
    EngineSettings {
        device: DeviceChoice::Cpu,
        batch_tokens: 64,
        sequences: 16,
        cache: CacheSize::Blocks(200),
        context_tokens: Some(1_024),
        ..EngineSettings::new(folder)
    }
}

/// An engine with what it last told of itself.
struct Rig {
    engine: Engine,
    snapshot: Arc<Mutex<Snapshot>>,
}

impl Rig {
    fn start(settings: EngineSettings) -> Self {
        Self::start_with(settings, None)
    }

    fn start_with(settings: EngineSettings, overlap: Option<bool>) -> Self {
        let snapshot = Arc::new(Mutex::new(Snapshot::default()));
        let told = snapshot.clone();
        let observer = Box::new(move |snapshot: &Snapshot| *told.lock().unwrap() = *snapshot);
        let engine = Engine::start_with(settings, Box::new(|_, _| ()), observer, overlap).unwrap();
        Self { engine, snapshot }
    }

    fn submit(&self, request: Request) -> (Ticket, mpsc::Receiver<Output>) {
        let (sender, receiver) = mpsc::channel();
        let sink = Box::new(move |output| drop(sender.send(output)));
        (self.engine.submit(request, sink).unwrap(), receiver)
    }

    /// What it told once nothing was left to do: a text's end is passed on before the step that it came from is told.
    fn rest(&self) -> Snapshot {
        let begun = Instant::now();
        loop {
            let told = *self.snapshot.lock().unwrap();
            if told.counts.running + told.counts.waiting == 0 && told.steps > 0 {
                return told;
            }
            assert!(begun.elapsed() < HANG, "it never rests: {told:?}");
            std::thread::yield_now();
        }
    }
}

/// The text of a request and how it ended.
fn finish(receiver: &mpsc::Receiver<Output>) -> (String, Output) {
    let mut text = String::new();
    loop {
        match receiver.recv_timeout(HANG).expect("it hangs, or ended without a word") {
            Output::Text(piece) => {
                assert!(!piece.is_empty(), "an empty piece is no piece");
                text.push_str(&piece);
            }
            end => {
                assert!(receiver.recv_timeout(HANG).is_err(), "nothing follows the end");
                return (text, end);
            }
        }
    }
}
