//! Tiny models whose weights are made from their names, the same here and in the script that computes what they should give
//! (`tests/golden/golden.py`).

use std::{io, ops::Range, path::Path};

use serde_json::{Map, Value, json};

use crate::{
    chat::{TEMPLATE, TOKENIZER_CONFIG},
    config::{CONFIG, ModelConfig},
    engine::TOKENIZER,
};

/// The numbers in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Stored {
    /// 32 bits.
    #[default]
    F32,
    /// The upper 16 bits of 32.
    Bf16,
}

/// Tokens of [`tokenizer`]: one a byte, and the special ones.
pub const VOCABULARY: usize = 272;

/// The text of the token that ends an answer.
pub const END: &str = "<|end|>";

/// The configuration of a tiny model of a family, with more keys or others.
#[must_use]
pub fn config(family: &str, more: &Value) -> Value {
    let mut config = json!({
        "model_type": family, "vocab_size": VOCABULARY, "hidden_size": 64, "num_hidden_layers": 3,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "intermediate_size": 96,
        "hidden_act": "silu", "rms_norm_eps": 1e-6, "max_position_embeddings": 8192, "rope_theta": 10000.0,
        "tie_word_embeddings": false, "eos_token_id": 256,
    });
    if let (Some(config), Some(more)) = (config.as_object_mut(), more.as_object()) {
        config.extend(more.clone());
    }
    config
}

/// Writes the files of a model: its configuration, its weights in so many files, a tokeniser of bytes and a chat template.
///
/// # Errors
/// What the system said, or what is wrong with the configuration.
pub fn write(folder: &Path, config: &Value, stored: Stored, files: usize) -> io::Result<()> {
    let text = config.to_string();
    let path = folder.join(CONFIG);
    std::fs::write(&path, &text)?;
    let shape = ModelConfig::parse(text.as_bytes(), &path).map_err(io::Error::other)?;
    let tensors = tensors(&shape);
    let share = tensors.len().div_ceil(files.max(1));
    if files <= 1 {
        std::fs::write(folder.join("model.safetensors"), safetensors(&tensors, stored))?;
    } else {
        let mut map = Map::new();
        for (number, part) in (1..).zip(tensors.chunks(share)) {
            let name = format!("model-{number:05}-of-{files:05}.safetensors");
            std::fs::write(folder.join(&name), safetensors(part, stored))?;
            map.extend(part.iter().map(|(tensor, _)| (tensor.clone(), json!(name))));
        }
        let index = json!({"metadata": {}, "weight_map": map});
        std::fs::write(folder.join("model.safetensors.index.json"), index.to_string())?;
    }
    write_texts(folder, shape.vocabulary)
}

/// Writes a tokeniser of bytes for so many tokens and a chat template.
///
/// # Errors
/// What the system said.
pub fn write_texts(folder: &Path, vocabulary: usize) -> io::Result<()> {
    std::fs::write(folder.join(TOKENIZER), tokenizer(vocabulary).to_string())?;
    let tokens = json!({"eos_token": END, "bos_token": null});
    std::fs::write(folder.join(TOKENIZER_CONFIG), tokens.to_string())?;
    let template = "{% for message in messages %}<|{{ message.role }}|>{{ message.content }}<|end|>{% endfor %}\
                    {% if add_generation_prompt %}<|assistant|>{% endif %}";
    std::fs::write(folder.join(TEMPLATE), template)
}

/// The names and shapes of a model's tensors.
#[must_use]
pub fn tensors(config: &ModelConfig) -> Vec<(String, Vec<usize>)> {
    let ModelConfig { vocabulary, width, heads, kv_heads, head_dim, inner, .. } = *config;
    let mut tensors = vec![
        ("model.embed_tokens.weight".to_owned(), vec![vocabulary, width]),
        ("model.norm.weight".to_owned(), vec![width]),
    ];
    if !config.tied {
        tensors.push(("lm_head.weight".to_owned(), vec![vocabulary, width]));
    }
    let matrices = [
        ("self_attn.q_proj", heads * head_dim, width, config.qkv_bias),
        ("self_attn.k_proj", kv_heads * head_dim, width, config.qkv_bias),
        ("self_attn.v_proj", kv_heads * head_dim, width, config.qkv_bias),
        ("self_attn.o_proj", width, heads * head_dim, config.output_bias),
        ("mlp.gate_proj", inner, width, config.inner_bias),
        ("mlp.up_proj", inner, width, config.inner_bias),
        ("mlp.down_proj", width, inner, config.inner_bias),
    ];
    for layer in 0..config.layers {
        let name = |part: &str| format!("model.layers.{layer}.{part}");
        for (part, rows, columns, biased) in matrices {
            tensors.push((name(&format!("{part}.weight")), vec![rows, columns]));
            if biased {
                tensors.push((name(&format!("{part}.bias")), vec![rows]));
            }
        }
        let norms = ["input_layernorm", "post_attention_layernorm"];
        tensors.extend(norms.map(|part| (name(&format!("{part}.weight")), vec![width])));
        if config.head_norms {
            let norms = ["self_attn.q_norm", "self_attn.k_norm"];
            tensors.extend(norms.map(|part| (name(&format!("{part}.weight")), vec![head_dim])));
        }
    }
    tensors
}

/// The numbers of a tensor. They are drawn evenly by SplitMix64 (Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators"),
/// seeded by the FNV-1a hash of the tensor's name; matrices keep the size of what they multiply, norms are near 1.
#[must_use]
pub fn values(name: &str, shape: &[usize]) -> Vec<f32> {
    values_of(name, shape, 0..shape.iter().product()).collect()
}

/// Some of the numbers of a tensor, so that several threads can make a large one.
pub fn values_of(name: &str, shape: &[usize], range: Range<usize>) -> impl Iterator<Item = f32> {
    let seed = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let scale = match shape {
        _ if name == "model.embed_tokens.weight" => 1.0,
        [_, columns] => (3.0 / *columns as f64).sqrt(),
        _ => 0.1,
    };
    let middle = if name.ends_with("norm.weight") { 1.0 } else { 0.0 };
    range.map(move |index| {
        let mut z = seed.wrapping_add((index as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        // 24 bits, from -1 up to 1.
        let even = (z >> 40) as f64 / f64::from(1 << 23) - 1.0;
        (middle + scale * even) as f32
    })
}

/// Tensors as a safetensors file.
fn safetensors(tensors: &[(String, Vec<usize>)], stored: Stored) -> Vec<u8> {
    let (mut header, mut data) = (Map::new(), Vec::new());
    for (name, shape) in tensors {
        let start = data.len();
        for value in values(name, shape) {
            match stored {
                Stored::F32 => data.extend(value.to_le_bytes()),
                Stored::Bf16 => data.extend(half::bf16::from_f32(value).to_le_bytes()),
            }
        }
        let kind = match stored {
            Stored::F32 => "F32",
            Stored::Bf16 => "BF16",
        };
        let place = json!({"dtype": kind, "shape": shape, "data_offsets": [start, data.len()]});
        header.insert(name.clone(), place);
    }
    let mut header = Value::Object(header).to_string().into_bytes();
    header.resize(header.len().next_multiple_of(8), b' ');
    [&(header.len() as u64).to_le_bytes()[..], &header, &data].concat()
}

/// A tokeniser with a token for each byte and special ones for the roles of a conversation. Further tokens up to `size` are never made of a text, but have one.
#[must_use]
pub fn tokenizer(size: usize) -> Value {
    // As GPT-2 writes bytes: printable ones as themselves, the others from U+0100 on.
    let printable = |byte: u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    let mut others = 0x100_u32..;
    let mut vocabulary = Map::new();
    for byte in 0..=255_u8 {
        let written = if printable(byte) { u32::from(byte) } else { others.next().unwrap_or(0x100) };
        let written = char::from_u32(written).unwrap_or_default();
        vocabulary.insert(written.to_string(), json!(byte));
    }
    for further in VOCABULARY..size {
        vocabulary.insert(format!("t{further}"), json!(further));
    }
    let special = |(id, text): (u32, &str)| {
        json!({"id": id, "content": text, "single_word": false, "lstrip": false, "rstrip": false,
               "normalized": false, "special": true})
    };
    let special: Vec<Value> =
        [(256, END), (257, "<|system|>"), (258, "<|user|>"), (259, "<|assistant|>")].map(special).into();
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": special, "normalizer": null,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "post_processor": null,
        "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                  "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
                  "vocab": vocabulary, "merges": []},
    })
}
