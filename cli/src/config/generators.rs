//! The generators of the configuration.

use std::{path::Path, str::FromStr};

use raglan_backends::generator::candle::{CacheSize, CandleSettings, DeviceChoice, NumberType, Quantization};
use serde::Deserialize;

/// A language model that this process runs itself. What is not given is as the engine usually has it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Candle {
    pub name: String,
    pub model: String,
    #[serde(default)]
    pub device: Device,
    #[serde(default)]
    pub dtype: Dtype,
    #[serde(default)]
    pub quantize: Quantize,
    #[serde(default)]
    pub max_batch_tokens: Option<usize>,
    #[serde(default)]
    pub max_sequences: Option<usize>,
    #[serde(default)]
    pub max_context_tokens: Option<usize>,
    #[serde(default)]
    pub cache_fraction: Option<f64>,
    #[serde(default)]
    pub cache_blocks: Option<usize>,
    #[serde(default)]
    pub top_k: Option<u32>,
    #[serde(default)]
    pub top_p: Option<f32>,
    #[serde(default)]
    pub repetition_penalty: Option<f32>,
    #[serde(default)]
    pub seed: Option<u64>,
    #[serde(default)]
    pub stop: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(try_from = "String")]
pub struct Device(pub DeviceChoice);

impl TryFrom<String> for Device {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let choice = match text.as_str() {
            "auto" => Some(DeviceChoice::Auto),
            "cpu" => Some(DeviceChoice::Cpu),
            "cuda" => Some(DeviceChoice::Cuda(0)),
            other => other
                .strip_prefix("cuda:")
                .and_then(|number| usize::from_str(number).ok())
                .map(DeviceChoice::Cuda),
        };
        choice.map(Self).ok_or_else(|| format!("must be auto, cpu, cuda or cuda:N, not {text:?}"))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Dtype {
    #[default]
    Auto,
    F32,
    Bf16,
    F16,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Quantize {
    #[default]
    None,
    Q8_0,
}

impl Candle {
    /// The engine's settings; `files` is where the model's files are. Results name a repository as it is, and a path by its last part.
    pub fn settings(&self, files: &Path) -> CandleSettings {
        let last = files.file_name().filter(|_| files == Path::new(&self.model));
        let name = last.map_or_else(|| self.model.clone(), |last| last.to_string_lossy().into_owned());
        let usual = CandleSettings::new(name, files);
        CandleSettings {
            device: self.device.0,
            dtype: match self.dtype {
                Dtype::Auto => NumberType::Auto,
                Dtype::F32 => NumberType::F32,
                Dtype::Bf16 => NumberType::Bf16,
                Dtype::F16 => NumberType::F16,
            },
            quantize: match self.quantize {
                Quantize::None => Quantization::None,
                Quantize::Q8_0 => Quantization::Q8_0,
            },
            max_batch_tokens: self.max_batch_tokens.unwrap_or(usual.max_batch_tokens),
            max_sequences: self.max_sequences.unwrap_or(usual.max_sequences),
            cache: match (self.cache_blocks, self.cache_fraction) {
                (Some(blocks), _) => CacheSize::Blocks(blocks),
                (None, Some(fraction)) => CacheSize::Fraction(fraction),
                (None, None) => usual.cache,
            },
            max_context_tokens: self.max_context_tokens,
            top_k: self.top_k.unwrap_or(usual.top_k),
            top_p: self.top_p.unwrap_or(usual.top_p),
            repetition_penalty: self.repetition_penalty.unwrap_or(usual.repetition_penalty),
            seed: self.seed,
            stop: self.stop.clone(),
            ..usual
        }
    }

    /// What types cannot tell is wrong with it.
    pub fn check(&self, problems: &mut Vec<String>) {
        let at = format!("generators.{}", self.name);
        let mut wrong = |key: &str, what: &str| problems.push(format!("{at}.{key}: {what}"));
        if self.model.trim().is_empty() {
            wrong("model", "names no model");
        }
        for (key, value) in [
            ("max_batch_tokens", self.max_batch_tokens),
            ("max_sequences", self.max_sequences),
            ("max_context_tokens", self.max_context_tokens),
            ("cache_blocks", self.cache_blocks),
        ] {
            if value == Some(0) {
                wrong(key, "must be at least 1");
            }
        }
        if let (Some(tokens), Some(sequences)) = (self.max_batch_tokens, self.max_sequences)
            && sequences > tokens
        {
            wrong(
                "max_sequences",
                "must not be above max_batch_tokens: each that writes needs a token of a step",
            );
        }
        if self.cache_blocks.is_some() && self.cache_fraction.is_some() {
            wrong("cache_blocks", "give either cache_blocks or cache_fraction");
        }
        if self.cache_fraction.is_some_and(|fraction| !(fraction > 0.0 && fraction <= 1.0)) {
            wrong("cache_fraction", "must be above 0 and not above 1");
        }
        if self.top_p.is_some_and(|part| !(part > 0.0 && part <= 1.0)) {
            wrong("top_p", "must be above 0 and not above 1");
        }
        if self.repetition_penalty.is_some_and(|penalty| !(penalty > 0.0 && penalty.is_finite())) {
            wrong("repetition_penalty", "must be above 0");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::config::{self, Generator};

    /// The generator of a file that names one, or what is wrong with the file.
    fn read(generator: &str) -> Result<Candle, Vec<String>> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("raglan.yaml");
        let yaml = format!(
            "generators: [{{name: extractive, type: extractive}}, {{name: m, type: candle, {generator}}}]"
        );
        std::fs::write(&path, yaml).unwrap();
        let config = config::load(Some(&path), &BTreeMap::new()).map_err(|error| error.problems)?;
        let found = config.generators.into_iter().find_map(|generator| match generator {
            Generator::Candle(candle) => Some(candle),
            _ => None,
        });
        Ok(found.unwrap())
    }

    #[test]
    fn what_is_given_reaches_the_engine_and_the_rest_is_as_usual() {
        let usual = read("model: owner/model").unwrap().settings(Path::new("/cache/owner--model"));
        assert_eq!(usual, CandleSettings::new("owner/model", "/cache/owner--model"));
        let given = read(
            "model: /models/tiny, device: 'cuda:1', dtype: bf16, quantize: q8_0, max_batch_tokens: 512, max_sequences: 9, \
             max_context_tokens: 4096, cache_blocks: 77, top_k: 5, top_p: 0.5, repetition_penalty: 1.1, seed: 3, stop: [END]",
        );
        let given = given.unwrap().settings(Path::new("/models/tiny"));
        let expected = CandleSettings {
            device: DeviceChoice::Cuda(1),
            dtype: NumberType::Bf16,
            quantize: Quantization::Q8_0,
            max_batch_tokens: 512,
            max_sequences: 9,
            cache: CacheSize::Blocks(77),
            max_context_tokens: Some(4_096),
            top_k: 5,
            top_p: 0.5,
            repetition_penalty: 1.1,
            seed: Some(3),
            stop: vec!["END".to_owned()],
            ..CandleSettings::new("tiny", "/models/tiny")
        };
        assert_eq!(given, expected);
        let part = read("model: m, cache_fraction: 0.5").unwrap().settings(Path::new("m"));
        assert_eq!(part.cache, CacheSize::Fraction(0.5));
    }

    #[test]
    fn what_is_wrong_is_told_with_its_key() {
        for (generator, part) in [
            ("model: m, device: tpu", "must be auto, cpu, cuda or cuda:N, not \"tpu\""),
            ("model: m, dtype: f64", "f64"),
            ("model: m, quantise: q8_0", "quantise"),
            ("model: ' '", "generators.m.model: names no model"),
            ("model: m, max_sequences: 0", "generators.m.max_sequences: must be at least 1"),
            (
                "model: m, max_sequences: 9, max_batch_tokens: 8",
                "generators.m.max_sequences: must not be above",
            ),
            ("model: m, cache_blocks: 5, cache_fraction: 0.5", "generators.m.cache_blocks: give either"),
            ("model: m, cache_fraction: 2", "generators.m.cache_fraction"),
            ("model: m, top_p: 0", "generators.m.top_p"),
            ("model: m, repetition_penalty: 0", "generators.m.repetition_penalty"),
        ] {
            let problems = read(generator).unwrap_err();
            assert!(problems.len() == 1 && problems[0].contains(part), "{generator}: {problems:?}");
        }
    }
}
