//! Tiny models with seeded random weights, written by the tests that run them.

use std::{collections::BTreeMap, path::Path};

use raglan_encoder::tiny::{self, Shape};
use serde_json::json;

use super::{BatchSettings, ModelFolder};

/// Several small batches at once, so that tests meet all that batching does.
pub(crate) fn settings() -> BatchSettings {
    BatchSettings { workers: 2, batch_tokens: 60, waiting_texts: 32, tokenizers: 1 }
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

/// The shape of a model of this family that knows the vocabulary.
fn shape(family: &'static str) -> Shape {
    Shape { family, vocabulary: vocabulary().len(), ..Shape::default() }
}

/// Writes a sentence-embedding model that reads 48 tokens, with these further files.
pub(crate) fn embedder(folder: &Path, files: &[(&str, serde_json::Value)]) -> ModelFolder {
    tiny::encoder(folder, &shape("bert")).unwrap();
    write_json(folder, super::TOKENIZER, &tokenizer(&vocabulary(), true));
    write_json(folder, "sentence_bert_config.json", &json!({"max_seq_length": 48}));
    for (name, value) in files {
        write_json(folder, name, value);
    }
    ModelFolder::open(folder).unwrap()
}

/// Writes a cross-encoder of one label that reads as many tokens as it has positions.
pub(crate) fn reranker(folder: &Path, family: &'static str) -> ModelFolder {
    tiny::cross_encoder(folder, &shape(family)).unwrap();
    write_json(folder, super::TOKENIZER, &tokenizer(&vocabulary(), family == "bert"));
    ModelFolder::open(folder).unwrap()
}
