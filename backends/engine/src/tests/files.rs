use std::{fs::File, io::BufWriter, path::PathBuf};

use candle_core::{
    Device, Tensor,
    quantized::{
        GgmlDType, QTensor,
        gguf_file::{self, Value as Entry},
    },
};

use super::*;
use crate::{BLOCK_SIZE, LoadError, ModelConfig, TEMPLATE, TOKENIZER_CONFIG};

fn prompt() -> Vec<u32> {
    (0..45).map(|at| (at * 29 + 7) % 250).collect()
}

fn logits(path: &Path, dtype: NumberType, quantize: Quantization) -> Vec<f32> {
    Hand::open(path, dtype, quantize).last(&prompt(), usize::MAX, &in_order())
}

fn exact(path: &Path) -> Vec<f32> {
    logits(path, NumberType::F32, Quantization::None)
}

fn error(settings: EngineSettings) -> LoadError {
    match Engine::start(settings, Box::new(|_, _| ()), Box::new(|_| ())) {
        Ok(_) => panic!("it loads"),
        Err(error) => error,
    }
}

#[test]
fn a_model_in_several_files_is_the_same_model_and_its_loading_is_told() {
    let config = tiny::config("qwen2", &json!({}));
    let (whole, parts) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    tiny::write(whole.path(), &config, Stored::Bf16, 1).unwrap();
    tiny::write(parts.path(), &config, Stored::Bf16, 3).unwrap();
    assert_eq!(std::fs::read_dir(parts.path()).unwrap().count(), 8);
    assert_eq!(exact(whole.path()), exact(parts.path()));
    let told = Arc::new(Mutex::new(Vec::new()));
    let progress = told.clone();
    let progress = Box::new(move |done, total| progress.lock().unwrap().push((done, total)));
    Engine::start(settings(parts.path()), progress, Box::new(|_| ())).unwrap();
    let told = told.lock().unwrap();
    let (done, total) = *told.last().unwrap();
    assert!(told.is_sorted() && told.len() > 10 && done == total, "{told:?}");
}

#[test]
fn weights_of_8_bits_are_near_those_they_were_made_from() {
    for (family, more) in families() {
        let folder = model(family, &more);
        let exact = exact(folder.path());
        let quantized = logits(folder.path(), NumberType::F32, Quantization::Q8_0);
        let halved = logits(folder.path(), NumberType::Bf16, Quantization::None);
        let (apart, bf16) = (distance(&quantized, &exact), distance(&halved, &exact));
        println!("{family}: logits of q8_0 weights are {apart:.4} from f32, those of bf16 {bf16:.4}");
        assert!(apart > 0.0 && apart < 3e-2, "{family}: {apart}");
    }
    let odd = model("llama", &json!({"intermediate_size": 80}));
    let settings = EngineSettings { quantize: Quantization::Q8_0, ..settings(odd.path()) };
    let error = error(settings).to_string();
    assert!(error.contains("80") && error.contains("quantize: none"), "{error}");
}

/// The same weights as in the safetensors files, in a GGUF file.
fn gguf(folder: &Path, architecture: &str, more: &Value, kind: GgmlDType) -> PathBuf {
    gguf_of(folder, architecture, more, |_| kind)
}

/// The same; `kind` says in what numbers a matrix is, by its name.
pub(super) fn gguf_of(
    folder: &Path,
    architecture: &str,
    more: &Value,
    kind: impl Fn(&str) -> GgmlDType,
) -> PathBuf {
    let config = tiny::config(architecture, more);
    let shape = ModelConfig::parse(config.to_string().as_bytes(), Path::new("config.json")).unwrap();
    let tensors: Vec<(String, QTensor)> = tiny::tensors(&shape)
        .into_iter()
        .map(|(name, dims)| {
            let mut values = tiny::values(&name, &dims);
            let heads = match () {
                () if architecture != "llama" => None,
                () if name.contains("q_proj") => Some(shape.heads),
                () if name.contains("k_proj") => Some(shape.kv_heads),
                () => None,
            };
            if let Some(heads) = heads {
                values = side_by_side(&values, dims[0], heads);
            }
            let tensor = Tensor::from_vec(values, dims.as_slice(), &Device::Cpu).unwrap();
            let kind = if dims.len() == 2 { kind(&name) } else { GgmlDType::F32 };
            (theirs(&name), QTensor::quantize(&tensor, kind).unwrap())
        })
        .collect();
    let number = |value: usize| Entry::U32(value as u32);
    let metadata: Vec<(String, Entry)> = [
        ("attention.head_count", number(shape.heads)),
        ("attention.head_count_kv", number(shape.kv_heads)),
        ("attention.key_length", number(shape.head_dim)),
        ("embedding_length", number(shape.width)),
        ("block_count", number(shape.layers)),
        ("context_length", number(shape.positions)),
        ("feed_forward_length", number(shape.inner)),
        ("attention.layer_norm_rms_epsilon", Entry::F32(shape.epsilon as f32)),
        ("rope.freq_base", Entry::F32(shape.rope.theta as f32)),
    ]
    .map(|(key, value)| (format!("{architecture}.{key}"), value))
    .into_iter()
    .chain([
        ("general.architecture".to_owned(), Entry::String(architecture.to_owned())),
        ("tokenizer.ggml.bos_token_id".to_owned(), number(257)),
        ("tokenizer.ggml.eos_token_id".to_owned(), number(256)),
        ("tokenizer.ggml.eot_token_id".to_owned(), number(259)),
        (
            "tokenizer.chat_template".to_owned(),
            Entry::String("{{ bos_token }}{{ messages[0].content }}".to_owned()),
        ),
    ])
    .collect();
    let path = folder.join("model.gguf");
    let metadata: Vec<(&str, &Entry)> = metadata.iter().map(|(key, value)| (key.as_str(), value)).collect();
    let tensors: Vec<(&str, &QTensor)> = tensors.iter().map(|(name, one)| (name.as_str(), one)).collect();
    gguf_file::write(&mut BufWriter::new(File::create(&path).unwrap()), &metadata, &tensors).unwrap();
    std::fs::write(folder.join("tokenizer.json"), tiny::tokenizer(tiny::VOCABULARY).to_string()).unwrap();
    path
}

/// The rows of each head as that file's architecture has them: the two that turn together beside each other.
fn side_by_side(values: &[f32], rows: usize, heads: usize) -> Vec<f32> {
    let (width, head_dim) = (values.len() / rows, rows / heads);
    let order = (0..rows).map(|row| {
        let (head, at) = (row / head_dim, row % head_dim);
        head * head_dim + at % 2 * (head_dim / 2) + at / 2
    });
    order.flat_map(|row| values[row * width..(row + 1) * width].to_vec()).collect()
}

fn theirs(name: &str) -> String {
    let mut name = name.replace("model.layers.", "blk.").replace("self_attn.", "").replace("mlp.", "");
    for (ours, theirs) in [
        ("model.embed_tokens", "token_embd"),
        ("model.norm", "output_norm"),
        ("lm_head", "output"),
        ("input_layernorm", "attn_norm"),
        ("post_attention_layernorm", "ffn_norm"),
        ("q_proj", "attn_q"),
        ("k_proj", "attn_k"),
        ("v_proj", "attn_v"),
        ("o_proj", "attn_output"),
        ("q_norm", "attn_q_norm"),
        ("k_norm", "attn_k_norm"),
        ("gate_proj", "ffn_gate"),
        ("up_proj", "ffn_up"),
        ("down_proj", "ffn_down"),
    ] {
        name = name.replace(ours, theirs);
    }
    name
}

#[test]
fn a_gguf_file_is_the_same_model() {
    for (family, more) in
        [("llama", json!({})), ("qwen2", json!({})), ("qwen3", json!({"tie_word_embeddings": true}))]
    {
        let plain = model(family, &more);
        let folder = tempfile::tempdir().unwrap();
        let file = gguf(folder.path(), family, &more, GgmlDType::F32);
        let (ours, theirs) = (exact(plain.path()), exact(&file));
        let apart = distance(&theirs, &ours);
        assert!(apart < 1e-6, "{family}: {apart}");
        let folder = tempfile::tempdir().unwrap();
        gguf(folder.path(), family, &more, GgmlDType::Q8_0);
        let apart = distance(&exact(folder.path()), &ours);
        assert!(apart < 3e-2, "{family}, q8_0: {apart}");
        let rig = Rig::start(settings(folder.path()));
        let prompt = crate::Prompt::Chat { system: String::new(), user: "hello".to_owned() };
        let tokens = rig.engine.count_tokens(&prompt).unwrap();
        assert_eq!(
            tokens,
            1 + 5,
            "the file's template is used, and the token with which it says that texts begin"
        );
        let (_ticket, receiver) = rig.submit(Request::new(prompt, 4));
        assert!(matches!(finish(&receiver).1, Output::End { .. }));
        assert_eq!(rig.engine.info().config.end_tokens, [256, 259], "of a text and of a turn");
    }
}

#[test]
fn what_is_wrong_with_a_folder_is_told() {
    let empty = tempfile::tempdir().unwrap();
    let told = |folder: &Path| error(settings(folder)).to_string();
    assert!(told(empty.path()).contains("neither model.safetensors"));
    assert!(told(&empty.path().join("not-there")).contains("cannot be read"));
    let unsupported = model("llama", &json!({}));
    std::fs::write(unsupported.path().join("config.json"), json!({"model_type": "mamba"}).to_string())
        .unwrap();
    assert!(told(unsupported.path()).contains("supported are llama, mistral, qwen2, qwen3"));
    let other_shape = model("llama", &json!({}));
    let config = tiny::config("llama", &json!({"intermediate_size": 64}));
    std::fs::write(other_shape.path().join("config.json"), config.to_string()).unwrap();
    let text = told(other_shape.path());
    assert!(text.contains("gate_proj") && text.contains("[96, 64]"), "{text}");
    let lacking = model("llama", &json!({}));
    let config = tiny::config("qwen2", &json!({}));
    std::fs::write(lacking.path().join("config.json"), config.to_string()).unwrap();
    assert!(told(lacking.path()).contains("it has no tensor model.layers.0.self_attn.q_proj.bias"));
    let silent = model("llama", &json!({}));
    std::fs::remove_file(silent.path().join(TEMPLATE)).unwrap();
    std::fs::write(silent.path().join(TOKENIZER_CONFIG), "{}").unwrap();
    assert!(told(silent.path()).contains("no chat template"));
    let torn = model("llama", &json!({}));
    let weights = torn.path().join("model.safetensors");
    let bytes = std::fs::read(&weights).unwrap();
    std::fs::write(&weights, &bytes[..bytes.len() / 2]).unwrap();
    assert!(matches!(error(settings(torn.path())), LoadError::Invalid { .. }));
    let astray = model("llama", &json!({}));
    std::fs::rename(astray.path().join("model.safetensors"), astray.path().join("other.safetensors"))
        .unwrap();
    let index = json!({"weight_map": {"a": "../other.safetensors"}});
    std::fs::write(astray.path().join("model.safetensors.index.json"), index.to_string()).unwrap();
    assert!(told(astray.path()).contains("no name of a file beside it"));
}

#[test]
fn settings_that_cannot_be_are_told() {
    let folder = model("llama", &json!({}));
    let base = settings(folder.path());
    for (settings, part) in [
        (EngineSettings { sequences: 0, ..base.clone() }, "max_sequences"),
        (EngineSettings { batch_tokens: 0, ..base.clone() }, "max_batch_tokens"),
        (EngineSettings { cache: CacheSize::Fraction(1.5), ..base.clone() }, "cache_fraction"),
        (EngineSettings { cache: CacheSize::Blocks(0), ..base.clone() }, "cache_blocks"),
        (EngineSettings { cache: CacheSize::Blocks(1 << 40), ..base.clone() }, "MB of cache"),
        (EngineSettings { cache: CacheSize::Blocks(usize::MAX), ..base.clone() }, "MB of cache"),
        (EngineSettings { batch_tokens: usize::MAX, ..base.clone() }, "MB for a step"),
    ] {
        let error = error(settings).to_string();
        assert!(error.contains(part), "{error}");
    }
    let half = EngineSettings { dtype: NumberType::F16, context_tokens: None, ..base };
    let engine = Engine::start(half, Box::new(|_, _| ()), Box::new(|_| ())).unwrap();
    let info = engine.info();
    assert_eq!((info.device.as_str(), info.dtype, engine.longest()), ("cpu", "f16", 200 * BLOCK_SIZE));
    // Keys and values of two heads of 16 in three layers, in 2 bytes, for 3,200 tokens.
    assert_eq!(info.cache_bytes, 2 * 3 * 2 * 16 * 2 * 3_200);
}

#[cfg(not(feature = "cuda"))]
#[test]
fn a_program_without_cuda_says_how_to_get_one_with_it() {
    let folder = model("llama", &json!({}));
    let settings = EngineSettings { device: DeviceChoice::Cuda(0), ..settings(folder.path()) };
    let error = error(settings).to_string();
    assert!(error.contains("built without CUDA") && error.contains("scripts/cuda-build"), "{error}");
    assert_eq!(error.lines().count(), 1);
}
