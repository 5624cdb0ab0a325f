//! The section `models`: what embeds and what re-ranks.

use std::{fmt, path::PathBuf, str::FromStr};

use raglan_pipeline::secret::Secret;
use serde::Deserialize;
use url::Url;

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Models {
    pub cache_dir: Option<PathBuf>,
    pub offline: bool,
    pub embedding: EmbeddingModel,
    pub reranker: RerankerModel,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EmbeddingModel {
    #[serde(rename = "type")]
    pub kind: EmbedderType,
    pub name: String,
    pub path: Option<PathBuf>,
    pub device: ModelDevice,
    pub precision: Option<Precision>,
    pub query_prefix: Option<String>,
    pub passage_prefix: Option<String>,
    pub threads: usize,
    pub batch_tokens: Option<usize>,
    pub base_url: Option<Url>,
    pub model: Option<String>,
    pub api_key: Option<Secret>,
    pub dimension: Option<usize>,
    pub max_tokens: usize,
    pub tokenizer: Option<PathBuf>,
    pub batch_texts: usize,
    pub requests: usize,
    pub timeout_s: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EmbedderType {
    Local,
    Openai,
    Tei,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RerankerModel {
    #[serde(rename = "type")]
    pub kind: RerankerType,
    pub path: Option<PathBuf>,
    pub device: ModelDevice,
    pub precision: Option<Precision>,
    pub base_url: Option<Url>,
    pub model: Option<String>,
    pub api_key: Option<Secret>,
    pub batch_texts: usize,
    pub requests: usize,
    pub timeout_ms: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RerankerType {
    Local,
    Tei,
    Cohere,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Precision {
    Int8,
    F32,
    F16,
}

/// Where a local model runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum ModelDevice {
    Cpu,
    /// The GPU of this number.
    Cuda(usize),
}

impl FromStr for ModelDevice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            None if text == "cpu" => Some(Self::Cpu),
            None if text == "cuda" => Some(Self::Cuda(0)),
            Some(("cuda", number)) => number.parse().map(Self::Cuda).ok(),
            _ => None,
        }
        .ok_or_else(|| format!("{text:?} is no device; there are: cpu, cuda, cuda:1 and so on"))
    }
}

impl TryFrom<String> for ModelDevice {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl fmt::Display for ModelDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(number) => write!(f, "cuda:{number}"),
        }
    }
}

impl RerankerModel {
    /// Whether there is one.
    pub fn is_there(&self) -> bool {
        self.kind != RerankerType::Local || self.path.is_some()
    }
}

impl Models {
    /// What types cannot tell.
    pub(super) fn check(&self, problems: &mut Vec<String>) {
        let Self { embedding, reranker, .. } = self;
        let local = embedding.kind == EmbedderType::Local;
        let keys = [
            ("base_url", embedding.base_url.is_some()),
            ("model", embedding.model.is_some()),
            ("api_key", embedding.api_key.is_some()),
            ("dimension", embedding.dimension.is_some()),
            ("tokenizer", embedding.tokenizer.is_some()),
        ];
        belongs("models.embedding", "openai and tei", local, &keys, problems);
        local_only("models.embedding", local, embedding.path.is_some(), embedding.device, problems);
        fits("models.embedding", embedding.device, embedding.precision, problems);
        let local = reranker.kind == RerankerType::Local;
        let keys = [
            ("base_url", reranker.base_url.is_some()),
            ("model", reranker.model.is_some()),
            ("api_key", reranker.api_key.is_some()),
        ];
        belongs("models.reranker", "tei and cohere", local, &keys, problems);
        local_only("models.reranker", local, reranker.path.is_some(), reranker.device, problems);
        fits("models.reranker", reranker.device, reranker.precision, problems);
        for (name, value, least, most) in [
            ("embedding.batch_tokens", embedding.batch_tokens.unwrap_or(1), 1, 1 << 20),
            ("embedding.dimension", embedding.dimension.unwrap_or(1), 1, 65_536),
            ("embedding.max_tokens", embedding.max_tokens, 8, 1 << 20),
            ("embedding.batch_texts", embedding.batch_texts, 1, 4_096),
            ("embedding.requests", embedding.requests, 1, 1_024),
            ("embedding.timeout_s", usize::try_from(embedding.timeout_s).unwrap_or(usize::MAX), 1, 3_600),
            ("reranker.batch_texts", reranker.batch_texts, 1, 4_096),
            ("reranker.requests", reranker.requests, 1, 1_024),
            ("reranker.timeout_ms", usize::try_from(reranker.timeout_ms).unwrap_or(usize::MAX), 1, 600_000),
        ] {
            if !(least..=most).contains(&value) {
                problems.push(format!("models.{name}: must be from {least} to {most}"));
            }
        }
    }
}

/// The keys of servers are there for a server, the first two always, and for nothing else.
fn belongs(at: &str, types: &str, local: bool, keys: &[(&str, bool)], problems: &mut Vec<String>) {
    for (index, (key, given)) in keys.iter().enumerate() {
        if local && *given {
            problems.push(format!("{at}.{key}: is for the types {types} alone"));
        } else if !local && !given && index < 2 {
            problems.push(format!("{at}.{key}: must be set for the types {types}"));
        }
    }
}

fn local_only(at: &str, local: bool, has_path: bool, device: ModelDevice, problems: &mut Vec<String>) {
    if !local && has_path {
        problems.push(format!("{at}.path: is for the type local alone"));
    }
    if !local && device != ModelDevice::Cpu {
        problems.push(format!("{at}.device: is for the type local alone; a server has its own"));
    }
}

fn fits(at: &str, device: ModelDevice, precision: Option<Precision>, problems: &mut Vec<String>) {
    match (device, precision) {
        (ModelDevice::Cuda(_), Some(Precision::Int8)) => {
            problems.push(format!("{at}.precision: int8 is for the CPU; on CUDA there are f32 and f16"));
        }
        (ModelDevice::Cpu, Some(Precision::F16)) => {
            problems.push(format!("{at}.precision: f16 is for CUDA; on the CPU there are int8 and f32"));
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_read_and_written() {
        for (text, device, written) in [
            ("cpu", ModelDevice::Cpu, "cpu"),
            ("cuda", ModelDevice::Cuda(0), "cuda:0"),
            ("cuda:3", ModelDevice::Cuda(3), "cuda:3"),
        ] {
            let read: ModelDevice = text.parse().unwrap();
            assert_eq!((read, read.to_string().as_str()), (device, written));
        }
        for text in ["gpu", "cuda:", "cuda:x", "cpu:0", ""] {
            assert!(text.parse::<ModelDevice>().unwrap_err().contains("there are: cpu"), "{text:?}");
        }
    }
}
