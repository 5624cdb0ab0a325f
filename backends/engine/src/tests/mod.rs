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

use serde_json::{Value, json};

use crate::{
    ByHand, CacheSize, DeviceChoice, Engine, EngineSettings, NumberType, Output, Quantization, Request,
    Snapshot, Ticket, distance,
    model::BatchPart,
    tiny::{self, Stored},
};

const BLOCKS: usize = 64;

/// Far longer than anything here takes.
const HANG: Duration = Duration::from_secs(120);

/// A model with a cache, driven by hand on the processor.
struct Hand(ByHand);

impl Hand {
    fn open(folder: &Path, dtype: NumberType, quantize: Quantization) -> Self {
        Self(ByHand::open(folder, DeviceChoice::Cpu, dtype, quantize, BLOCKS).unwrap())
    }

    /// In f32, as its files say.
    fn exact(folder: &Path) -> Self {
        Self::open(folder, NumberType::F32, Quantization::None)
    }

    /// One step: the logits of the parts that complete.
    fn step(&self, parts: &[BatchPart<'_>]) -> Vec<Vec<f32>> {
        self.0.step(parts).unwrap()
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
