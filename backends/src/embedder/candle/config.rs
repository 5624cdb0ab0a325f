//! What a sentence-transformers folder says of how its vectors are made.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::models::{LoadError, ModelFolder, max_tokens};

/// How a text's token states become one vector.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pooling {
    /// Their mean.
    Mean,
    /// The first one's (`[CLS]`).
    First,
}

/// Everything besides the weights that changes a model's vectors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct EmbeddingConfig {
    pub(super) pooling: Pooling,
    pub(super) max_tokens: usize,
    pub(super) query_prefix: String,
    pub(super) passage_prefix: String,
}

#[derive(Default, Deserialize)]
struct SentenceTransformers {
    #[serde(default)]
    prompts: BTreeMap<String, String>,
}

impl EmbeddingConfig {
    pub(super) fn read(folder: &ModelFolder, positions: usize) -> Result<Self, LoadError> {
        let sentence: SentenceTransformers =
            folder.read_json_if_there("config_sentence_transformers.json")?.unwrap_or_default();
        let prompt = |names: &[&str]| {
            names.iter().find_map(|name| sentence.prompts.get(*name)).cloned().unwrap_or_default()
        };
        Ok(Self {
            pooling: pooling(folder)?,
            max_tokens: max_tokens(folder, positions)?,
            query_prefix: prompt(&["query"]),
            passage_prefix: prompt(&["passage", "document"]),
        })
    }

    /// Names the model and all that changes its vectors: `all-MiniLM-L6-v2@53aa51172d14-mean-256`.
    pub(super) fn model_id(&self, folder: &ModelFolder) -> String {
        let pooling = match self.pooling {
            Pooling::Mean => "mean",
            Pooling::First => "cls",
        };
        let mut id = format!("{}-{pooling}-{}", folder.id(), self.max_tokens);
        if !self.query_prefix.is_empty() || !self.passage_prefix.is_empty() {
            let hash = Sha256::new()
                .chain_update(&self.query_prefix)
                .chain_update([0])
                .chain_update(&self.passage_prefix)
                .finalize();
            id.push_str(&format!("-{:02x}{:02x}{:02x}{:02x}", hash[0], hash[1], hash[2], hash[3]));
        }
        id
    }
}

fn pooling(folder: &ModelFolder) -> Result<Pooling, LoadError> {
    let Some(config) = folder.read_json_if_there::<BTreeMap<String, Value>>("1_Pooling/config.json")? else {
        return Ok(Pooling::Mean);
    };
    let modes: Vec<&str> = config
        .iter()
        .filter(|(_, on)| **on == Value::Bool(true))
        .filter_map(|(name, _)| name.strip_prefix("pooling_mode_"))
        .collect();
    match modes[..] {
        ["mean_tokens"] => Ok(Pooling::Mean),
        ["cls_token"] => Ok(Pooling::First),
        _ => Err(LoadError::unsupported(
            folder.path(),
            format!("its pooling is {}, and only mean_tokens or cls_token is known", modes.join(" with ")),
        )),
    }
}
