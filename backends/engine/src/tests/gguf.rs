//! What is particular to GGUF files.

use std::path::PathBuf;

use candle_core::{DType, Device, quantized::GgmlDType};

use super::{files::gguf_of, *};
use crate::{
    Quantization,
    cache::KvCache,
    config,
    model::{Batch, BatchPart, Model},
    weights::{GgufFile, ModelFiles, Weights},
};

#[test]
fn a_gguf_file_takes_the_memory_of_what_it_has_quantised() {
    let more = json!({"tie_word_embeddings": true});
    let folder = tempfile::tempdir().unwrap();
    gguf_of(folder.path(), "qwen3", &more, |_| GgmlDType::Q8_0);
    let start = |quantize| {
        let settings = EngineSettings { quantize, ..settings(folder.path()) };
        Engine::start(settings, Box::new(|_, _| ()), Box::new(|_| ())).unwrap()
    };
    let engine = start(Quantization::None);
    let config = &engine.info().config;
    let table = tiny::VOCABULARY * config.width;
    let norms = 3 * (2 * 64 + 2 * 16) + 64;
    let matrices = config.parameters() - table - (3 * 2 * 64 + 64);
    // The table is looked up in as numbers of 32 bits; 32 others take 34 bytes.
    let expected = (table + norms) * 4 + matrices / 32 * 34;
    assert_eq!(engine.info().weight_bytes, expected as u64);
    // The output, which is the table again, is what is quantised on the way.
    let copied = start(Quantization::Q8_0).info().weight_bytes;
    assert_eq!(copied, (expected + table / 32 * 34) as u64);
}

/// The logits behind some tokens.
fn logits(file: PathBuf, quantize: Option<GgmlDType>) -> Vec<f32> {
    let config = config::of_gguf(&GgufFile::open(&file).unwrap()).unwrap();
    let files = ModelFiles::find(&file).unwrap();
    let mut weights = Weights::open(&files, &Device::Cpu, DType::F32, quantize, &|_, _| ()).unwrap();
    let model = Model::load(&config, &mut weights, 64).unwrap();
    let cache = KvCache::new(&config, 4, 16, DType::F32, &Device::Cpu).unwrap();
    let tokens: Vec<u32> = (0..45).map(|at| (at * 29 + 7) % 250).collect();
    let part = BatchPart { tokens: &tokens, start: 0, blocks: &[0, 1, 2], completes: true };
    let batch = Batch::new(&[part], 16, config.head_dim, &Device::Cpu).unwrap();
    model.forward(&batch, &cache).unwrap().unwrap().to_vec2().unwrap().swap_remove(0)
}

#[test]
fn matrices_beside_each_other_may_be_quantised_in_part() {
    let file = |kind: fn(&str) -> GgmlDType| {
        let folder = tempfile::tempdir().unwrap();
        let file = gguf_of(folder.path(), "llama", &json!({}), kind);
        (folder, file)
    };
    let (_plain, plain) = file(|_| GgmlDType::F32);
    let exact = logits(plain, None);
    for quantize in [None, Some(GgmlDType::Q8_0)] {
        let (_mixed, mixed) = file(|name| {
            if name.contains("k_proj") || name.contains("gate") { GgmlDType::F16 } else { GgmlDType::Q8_0 }
        });
        let apart = distance(&logits(mixed, quantize), &exact);
        assert!(apart < 3e-2, "{quantize:?}: {apart}");
    }
}
