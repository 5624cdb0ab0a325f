//! Tiny models with seeded random weights, written by the tests that run them.

use std::{
    collections::{BTreeMap, HashMap},
    path::Path,
};

use candle_core::{DType, Device, Tensor};
use rand::{Rng, SeedableRng, rngs::StdRng};
use serde_json::json;

use super::{BatchSettings, ModelFolder};

/// The positions of a tiny model.
const POSITIONS: usize = 64;

/// What a tiny model looks like.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape {
    /// `bert` or `xlm-roberta`.
    pub(crate) family: &'static str,
    pub(crate) width: usize,
    pub(crate) heads: usize,
    pub(crate) inner: usize,
    pub(crate) activation: &'static str,
    pub(crate) epsilon: f64,
    /// The type of the numbers in its file.
    pub(crate) stored: DType,
}

impl Default for Shape {
    fn default() -> Self {
        Self {
            family: "bert",
            width: 32,
            heads: 4,
            inner: 48,
            activation: "gelu",
            epsilon: 1e-12,
            stored: DType::F32,
        }
    }
}

impl Shape {
    const LAYERS: usize = 2;

    fn is_bert(&self) -> bool {
        self.family == "bert"
    }
}

/// Several small batches at once, so that tests meet all that batching does.
pub(crate) fn settings() -> BatchSettings {
    BatchSettings { workers: 2, batch_tokens: 160, batch_texts: 4, waiting_texts: 32 }
}

fn vocabulary() -> BTreeMap<String, usize> {
    let special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"].map(str::to_owned);
    let characters = ('a'..='z').chain('0'..='9').chain("=()+;/.,?東京の天気は晴れで".chars());
    let starts = characters.clone().map(String::from);
    let rests = characters.map(|character| format!("##{character}"));
    let words = ["password", "harvest", "account"].map(str::to_owned);
    special.into_iter().chain(starts).chain(rests).chain(words).zip(0..).collect()
}

/// A WordPiece tokeniser whose file carries truncation and padding, as published ones do. With `types`, the second text of a pair has a type
/// of its own.
fn tokenizer(vocabulary: &BTreeMap<String, usize>, types: bool) -> serde_json::Value {
    let second = u32::from(types);
    let special = |token: &str, kind: u32| json!({"SpecialToken": {"id": token, "type_id": kind}});
    let text = |name: &str, kind: u32| json!({"Sequence": {"id": name, "type_id": kind}});
    let added: Vec<_> = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
        .iter()
        .map(|token| {
            json!({"id": vocabulary[*token], "content": token, "single_word": false, "lstrip": false, "rstrip": false,
                   "normalized": false, "special": true})
        })
        .collect();
    json!({
        "version": "1.0",
        "truncation": {"max_length": 8, "strategy": "LongestFirst", "stride": 0, "direction": "Right"},
        "padding": {"strategy": {"Fixed": 16}, "direction": "Right", "pad_to_multiple_of": null, "pad_id": 0, "pad_type_id": 0, "pad_token": "[PAD]"},
        "added_tokens": added,
        "normalizer": {"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true, "strip_accents": null, "lowercase": true},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [special("[CLS]", 0), text("A", 0), special("[SEP]", 0)],
            "pair": [special("[CLS]", 0), text("A", 0), special("[SEP]", 0), text("B", second), special("[SEP]", second)],
            "special_tokens": {
                "[CLS]": {"id": "[CLS]", "ids": [vocabulary["[CLS]"]], "tokens": ["[CLS]"]},
                "[SEP]": {"id": "[SEP]", "ids": [vocabulary["[SEP]"]], "tokens": ["[SEP]"]},
            },
        },
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": true},
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100, "vocab": vocabulary},
    })
}

fn write_json(folder: &Path, name: &str, value: &serde_json::Value) {
    let path = folder.join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, serde_json::to_vec(value).unwrap()).unwrap();
}

/// Random tensors, the same for the same seed.
struct Weights {
    shape: Shape,
    random: StdRng,
    tensors: HashMap<String, Tensor>,
}

impl Weights {
    fn add(&mut self, name: String, shape: &[usize], scale: f32) {
        let count = shape.iter().product();
        let values: Vec<f32> = (0..count).map(|_| self.random.random_range(-scale..scale)).collect();
        self.tensors.insert(name, Tensor::from_vec(values, shape, &Device::Cpu).unwrap());
    }

    fn linear(&mut self, name: &str, rows: usize, columns: usize) {
        self.add(format!("{name}.weight"), &[rows, columns], 0.3);
        self.add(format!("{name}.bias"), &[rows], 0.1);
    }

    fn norm(&mut self, name: &str) {
        let width = self.shape.width;
        let ones = Tensor::ones(width, DType::F32, &Device::Cpu).unwrap();
        self.tensors.insert(format!("{name}.weight"), ones);
        self.add(format!("{name}.bias"), &[width], 0.1);
    }

    fn bert(&mut self, prefix: &str, words: usize) {
        let Shape { width, inner, .. } = self.shape;
        let types = if self.shape.is_bert() { 2 } else { 1 };
        for (name, rows) in
            [("word_embeddings", words), ("position_embeddings", POSITIONS), ("token_type_embeddings", types)]
        {
            self.add(format!("{prefix}embeddings.{name}.weight"), &[rows, width], 1.0);
        }
        self.norm(&format!("{prefix}embeddings.LayerNorm"));
        for layer in 0..Shape::LAYERS {
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
}

fn write(folder: &Path, shape: Shape, head: bool) {
    let vocabulary = vocabulary();
    let mut weights = Weights { shape, random: StdRng::seed_from_u64(7), tensors: HashMap::new() };
    let width = shape.width;
    match (head, shape.is_bert()) {
        (false, _) => weights.bert("", vocabulary.len()),
        (true, true) => {
            weights.bert("bert.", vocabulary.len());
            weights.linear("bert.pooler.dense", width, width);
            weights.add("classifier.weight".to_owned(), &[1, width], 1.0);
            weights.add("classifier.bias".to_owned(), &[1], 0.1);
        }
        (true, false) => {
            weights.bert("roberta.", vocabulary.len());
            weights.linear("classifier.dense", width, width);
            weights.add("classifier.out_proj.weight".to_owned(), &[1, width], 1.0);
            weights.add("classifier.out_proj.bias".to_owned(), &[1], 0.1);
        }
    }
    let stored = |tensor: &Tensor| tensor.to_dtype(shape.stored).unwrap();
    let tensors: HashMap<_, _> =
        weights.tensors.iter().map(|(name, tensor)| (name.clone(), stored(tensor))).collect();
    candle_core::safetensors::save(&tensors, folder.join(super::WEIGHTS)).unwrap();
    write_json(folder, super::TOKENIZER, &tokenizer(&vocabulary, shape.is_bert()));
    write_json(
        folder,
        super::CONFIG,
        &json!({
            "model_type": shape.family, "vocab_size": vocabulary.len(), "hidden_size": width,
            "num_hidden_layers": Shape::LAYERS, "num_attention_heads": shape.heads, "intermediate_size": shape.inner,
            "hidden_act": shape.activation, "hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1,
            "max_position_embeddings": POSITIONS, "type_vocab_size": if shape.is_bert() { 2 } else { 1 },
            "initializer_range": 0.02, "layer_norm_eps": shape.epsilon, "pad_token_id": 0,
            "position_embedding_type": "absolute",
        }),
    );
}

/// Writes an embedding model of this shape that reads as many tokens as it has positions.
pub(crate) fn shaped(folder: &Path, shape: Shape) -> ModelFolder {
    write(folder, shape, false);
    ModelFolder::open(folder).unwrap()
}

/// Writes a sentence-embedding model that reads 48 tokens, with these further files.
pub(crate) fn embedder(folder: &Path, files: &[(&str, serde_json::Value)]) -> ModelFolder {
    write(folder, Shape::default(), false);
    write_json(folder, "sentence_bert_config.json", &json!({"max_seq_length": 48}));
    for (name, value) in files {
        write_json(folder, name, value);
    }
    ModelFolder::open(folder).unwrap()
}

/// Writes a cross-encoder of one label that reads as many tokens as it has positions.
pub(crate) fn reranker(folder: &Path, family: &'static str) -> ModelFolder {
    write(folder, Shape { family, ..Shape::default() }, true);
    ModelFolder::open(folder).unwrap()
}
