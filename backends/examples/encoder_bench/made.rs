//! The models and texts that are measured.

use std::{fs, io, path::Path};

use raglan_encoder::tiny::{self, Shape};
use rand::{Rng, SeedableRng, rngs::StdRng};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::Result;

/// The folders of the two models.
pub(crate) const EMBEDDER: &str = "embedder";
pub(crate) const RERANKER: &str = "reranker";
/// Tokens of a text, and of a pair, special ones included.
pub(crate) const TOKENS: usize = 128;
/// Words of the question.
const QUESTION: usize = 16;
/// As many tokens as MiniLM knows.
const VOCABULARY: usize = 30_522;
const SPECIAL: [&str; 5] = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"];

/// Writes a model's configuration and weights.
type Make = fn(&Path, &Shape) -> io::Result<()>;

/// What is embedded and scored. A word of theirs is a token.
#[derive(Serialize, Deserialize)]
pub(crate) struct Texts {
    pub(crate) texts: Vec<String>,
    pub(crate) query: String,
    pub(crate) passages: Vec<String>,
}

impl Texts {
    pub(crate) fn read(folder: &Path) -> Result<Self> {
        Ok(serde_json::from_slice(&fs::read(folder.join("texts.json"))?)?)
    }
}

/// Writes both models, of so many layers, and so many texts and passages.
pub(crate) fn write(folder: &Path, layers: usize, texts: usize) -> Result<()> {
    // all-MiniLM-L6-v2's, and ms-marco-MiniLM-L-6-v2's.
    let shape = Shape {
        vocabulary: VOCABULARY,
        positions: 512,
        width: 384,
        layers,
        heads: 12,
        inner: 1_536,
        scale: 0.09,
        ..Shape::default()
    };
    let vocabulary = vocabulary();
    let models: [(&str, Make); 2] = [(EMBEDDER, tiny::encoder), (RERANKER, tiny::cross_encoder)];
    for (part, make) in models {
        let folder = folder.join(part);
        fs::create_dir_all(&folder)?;
        make(&folder, &shape)?;
        write_tokenizer(&folder, &vocabulary)?;
    }
    let mut random = StdRng::seed_from_u64(11);
    let mut words = |count: usize| -> String {
        let word = |_| vocabulary[random.random_range(SPECIAL.len()..VOCABULARY)].as_str();
        (0..count).map(word).collect::<Vec<_>>().join(" ")
    };
    let texts = Texts {
        query: words(QUESTION),
        // The marks at both ends make it a text's tokens; one more is between question and passage.
        passages: (0..texts).map(|_| words(TOKENS - QUESTION - 3)).collect(),
        texts: (0..texts).map(|_| words(TOKENS - 2)).collect(),
    };
    fs::write(folder.join("texts.json"), serde_json::to_vec(&texts)?)?;
    Ok(())
}

/// The special tokens, and words of four letters.
fn vocabulary() -> Vec<String> {
    let word = |number: usize| -> String {
        let letter = |place: u32| char::from(b'a' + (number / 26_usize.pow(place) % 26) as u8);
        (0..4).map(letter).collect()
    };
    let words = (0..VOCABULARY - SPECIAL.len()).map(word);
    SPECIAL.map(str::to_owned).into_iter().chain(words).collect()
}

/// Writes a WordPiece tokeniser as published models have it.
fn write_tokenizer(folder: &Path, vocabulary: &[String]) -> Result<()> {
    let numbers: Map<String, Value> =
        vocabulary.iter().zip(0..).map(|(token, id)| (token.clone(), json!(id))).collect();
    let special = |token: &str, kind: u32| json!({"SpecialToken": {"id": token, "type_id": kind}});
    let text = |name: &str, kind: u32| json!({"Sequence": {"id": name, "type_id": kind}});
    let added: Vec<Value> = SPECIAL
        .iter()
        .zip(0..)
        .map(|(token, id)| {
            json!({"id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": false,
                   "normalized": false, "special": true})
        })
        .collect();
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added,
        "normalizer": {"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true,
                       "strip_accents": null, "lowercase": true},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [special("[CLS]", 0), text("A", 0), special("[SEP]", 0)],
            "pair": [special("[CLS]", 0), text("A", 0), special("[SEP]", 0), text("B", 1), special("[SEP]", 1)],
            "special_tokens": {
                "[CLS]": {"id": "[CLS]", "ids": [numbers["[CLS]"]], "tokens": ["[CLS]"]},
                "[SEP]": {"id": "[SEP]", "ids": [numbers["[SEP]"]], "tokens": ["[SEP]"]},
            },
        },
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": true},
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
                  "max_input_chars_per_word": 100, "vocab": numbers},
    });
    fs::write(folder.join("tokenizer.json"), tokenizer.to_string())?;
    let config = json!({
        "tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": TOKENS,
        "model_input_names": ["input_ids", "token_type_ids", "attention_mask"],
        "pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]",
    });
    fs::write(folder.join("tokenizer_config.json"), config.to_string())?;
    Ok(())
}
