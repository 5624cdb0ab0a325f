//! Models with seeded random weights, tiny ones for tests and larger ones for measurements.

use std::{collections::BTreeMap, io, path::Path};

use rand::{Rng, SeedableRng, rngs::StdRng};
use serde_json::json;

use crate::{CONFIG, WEIGHTS};

/// The positions of a tiny model.
pub const POSITIONS: usize = 64;

/// What a tiny model looks like.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Shape {
    /// `bert` or `xlm-roberta`.
    pub family: &'static str,
    /// Tokens that it knows.
    pub vocabulary: usize,
    /// The most tokens of a text, those included that the family keeps for padding.
    pub positions: usize,
    /// The length of a token's state.
    pub width: usize,
    /// Its layers.
    pub layers: usize,
    /// Heads of its attention.
    pub heads: usize,
    /// The width of the feed-forward part.
    pub inner: usize,
    /// Numbers of a matrix are between this and its negative. The wider the states, the more there is to sum.
    pub scale: f32,
    /// As `config.json` names it.
    pub activation: &'static str,
    /// Of the layer norm.
    pub epsilon: f64,
    /// The type of the numbers in its file.
    pub stored: Stored,
}

/// A type of numbers in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stored {
    /// 32 bits.
    F32,
    /// 16 bits, IEEE 754.
    F16,
    /// The upper 16 bits of 32.
    Bf16,
}

impl Default for Shape {
    fn default() -> Self {
        Self {
            family: "bert",
            vocabulary: 100,
            positions: POSITIONS,
            width: 32,
            layers: 2,
            heads: 4,
            inner: 48,
            scale: 0.3,
            activation: "gelu",
            epsilon: 1e-12,
            stored: Stored::F32,
        }
    }
}

impl Shape {
    fn types(&self) -> usize {
        if self.family == "bert" { 2 } else { 1 }
    }
}

/// Random tensors, the same for the same seed.
struct Weights {
    shape: Shape,
    random: StdRng,
    tensors: BTreeMap<String, (Vec<usize>, Vec<f32>)>,
}

impl Weights {
    fn add(&mut self, name: String, shape: &[usize], scale: f32) {
        let count = shape.iter().product();
        let values = (0..count).map(|_| self.random.random_range(-scale..scale)).collect();
        self.tensors.insert(name, (shape.to_vec(), values));
    }

    fn linear(&mut self, name: &str, rows: usize, columns: usize) {
        self.add(format!("{name}.weight"), &[rows, columns], self.shape.scale);
        self.add(format!("{name}.bias"), &[rows], 0.1);
    }

    fn norm(&mut self, name: &str) {
        let width = self.shape.width;
        self.tensors.insert(format!("{name}.weight"), (vec![width], vec![1.0; width]));
        self.add(format!("{name}.bias"), &[width], 0.1);
    }

    fn encoder(&mut self, prefix: &str) {
        let Shape { width, inner, vocabulary, positions, .. } = self.shape;
        for (name, rows) in [
            ("word_embeddings", vocabulary),
            ("position_embeddings", positions),
            ("token_type_embeddings", self.shape.types()),
        ] {
            self.add(format!("{prefix}embeddings.{name}.weight"), &[rows, width], 1.0);
        }
        self.norm(&format!("{prefix}embeddings.LayerNorm"));
        for layer in 0..self.shape.layers {
            let layer = format!("{prefix}encoder.layer.{layer}");
            for part in ["query", "key", "value"] {
                self.linear(&format!("{layer}.attention.self.{part}"), width, width);
            }
            self.linear(&format!("{layer}.attention.output.dense"), width, width);
            self.norm(&format!("{layer}.attention.output.LayerNorm"));
            self.linear(&format!("{layer}.intermediate.dense"), inner, width);
            self.linear(&format!("{layer}.output.dense"), width, inner);
            self.norm(&format!("{layer}.output.LayerNorm"));
        }
    }

    /// As a safetensors file.
    fn file(&self) -> Vec<u8> {
        let (mut header, mut data) = (serde_json::Map::new(), Vec::new());
        for (name, (shape, values)) in &self.tensors {
            let start = data.len();
            for value in values {
                match self.shape.stored {
                    Stored::F32 => data.extend(value.to_le_bytes()),
                    Stored::F16 => data.extend(half::f16::from_f32(*value).to_le_bytes()),
                    Stored::Bf16 => data.extend(half::bf16::from_f32(*value).to_le_bytes()),
                }
            }
            let kind = match self.shape.stored {
                Stored::F32 => "F32",
                Stored::F16 => "F16",
                Stored::Bf16 => "BF16",
            };
            let place = json!({"dtype": kind, "shape": shape, "data_offsets": [start, data.len()]});
            header.insert(name.clone(), place);
        }
        let mut header = serde_json::Value::Object(header).to_string().into_bytes();
        header.resize(header.len().next_multiple_of(8), b' ');
        [&(header.len() as u64).to_le_bytes()[..], &header, &data].concat()
    }
}

/// Writes `config.json` and `model.safetensors` of an encoder that reads as many tokens as it has positions.
///
/// # Errors
/// What the system said.
pub fn encoder(folder: &Path, shape: &Shape) -> io::Result<()> {
    write(folder, shape, |weights| weights.encoder(""))
}

/// Writes `config.json` and `model.safetensors` of a cross-encoder of one label.
///
/// # Errors
/// What the system said.
pub fn cross_encoder(folder: &Path, shape: &Shape) -> io::Result<()> {
    let width = shape.width;
    write(folder, shape, |weights| {
        let (prefix, dense, classifier) = match shape.family {
            "bert" => ("bert.", "bert.pooler.dense", "classifier"),
            _ => ("roberta.", "classifier.dense", "classifier.out_proj"),
        };
        weights.encoder(prefix);
        weights.linear(dense, width, width);
        weights.add(format!("{classifier}.weight"), &[1, width], 1.0);
        weights.add(format!("{classifier}.bias"), &[1], 0.1);
    })
}

fn write(folder: &Path, shape: &Shape, fill: impl FnOnce(&mut Weights)) -> io::Result<()> {
    let random = StdRng::seed_from_u64(7);
    let mut weights = Weights { shape: *shape, random, tensors: BTreeMap::new() };
    fill(&mut weights);
    std::fs::write(folder.join(WEIGHTS), weights.file())?;
    let config = json!({
        "model_type": shape.family, "vocab_size": shape.vocabulary, "hidden_size": shape.width,
        "num_hidden_layers": shape.layers, "num_attention_heads": shape.heads, "intermediate_size": shape.inner,
        "hidden_act": shape.activation, "hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1,
        "max_position_embeddings": shape.positions, "type_vocab_size": shape.types(), "initializer_range": 0.02,
        "layer_norm_eps": shape.epsilon, "pad_token_id": 0, "position_embedding_type": "absolute",
    });
    std::fs::write(folder.join(CONFIG), config.to_string())
}
