//! What a sentence-transformers folder says of how its vectors are made.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use super::{super::prefixes::Prefixes, EmbedderSettings, pooling::Pooling};
use crate::models::{LoadError, ModelFolder, Placement, max_tokens};

/// Everything besides weights and precision that changes a model's vectors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct EmbeddingConfig {
    pub(super) pooling: Pooling,
    pub(super) max_tokens: usize,
    pub(super) prefixes: Prefixes,
}

#[derive(Default, Deserialize)]
struct SentenceTransformers {
    #[serde(default)]
    prompts: BTreeMap<String, String>,
    #[serde(default)]
    default_prompt_name: Option<String>,
}

/// A step of a sentence-transformers model.
#[derive(Deserialize)]
struct Module {
    path: String,
    #[serde(rename = "type")]
    kind: String,
}

impl EmbeddingConfig {
    pub(super) fn read(
        folder: &ModelFolder,
        settings: &EmbedderSettings,
        positions: usize,
    ) -> Result<Self, LoadError> {
        let sentence: SentenceTransformers =
            folder.read_json_if_there("config_sentence_transformers.json")?.unwrap_or_default();
        let prompt = |configured: &Option<String>, names: &[&str]| {
            let of_names = || names.iter().find_map(|name| sentence.prompts.get(*name));
            let default = || sentence.prompts.get(sentence.default_prompt_name.as_ref()?);
            configured.clone().unwrap_or_else(|| of_names().or_else(default).cloned().unwrap_or_default())
        };
        Ok(Self {
            pooling: pooling(folder)?,
            max_tokens: max_tokens(folder, positions)?,
            prefixes: Prefixes {
                query: prompt(&settings.query_prefix, &["query"]),
                passage: prompt(&settings.passage_prefix, &["document", "passage", "corpus"]),
            },
        })
    }

    /// Names the model and all that changes its vectors: `all-MiniLM-L6-v2@53aa51172d14-mean-256-int8`.
    pub(super) fn model_id(&self, folder: &ModelFolder, placement: Placement) -> String {
        let (pooling, prefixes, numbers) = (self.pooling.name(), self.prefixes.mark(), placement.numbers());
        format!("{}-{pooling}-{}{prefixes}-{numbers}", folder.id(), self.max_tokens)
    }
}

/// How the model pools: what `modules.json` names, else `1_Pooling`, else the mean.
fn pooling(folder: &ModelFolder) -> Result<Pooling, LoadError> {
    let modules: Option<Vec<Module>> = folder.read_json_if_there("modules.json")?;
    let mut path = "1_Pooling".to_owned();
    for module in modules.unwrap_or_default() {
        match module.kind.rsplit('.').next().unwrap_or_default() {
            "Transformer" | "Normalize" => {}
            "Pooling" => path = module.path,
            other => {
                let known = "only a transformer, pooling and normalising are known";
                let reason = format!("its modules.json has a step {other}, and {known}");
                return Err(LoadError::unsupported(folder.path(), reason));
            }
        }
    }
    let file = format!("{path}/config.json");
    let Some(config) = folder.read_json_if_there::<BTreeMap<String, Value>>(&file)? else {
        return Ok(Pooling::Mean);
    };
    let named = config.get("pooling_mode").and_then(Value::as_str);
    let switched = config
        .iter()
        .filter(|(_, on)| **on == Value::Bool(true))
        .filter_map(|(name, _)| name.strip_prefix("pooling_mode_"));
    let modes: Vec<&str> = named.into_iter().chain(switched).collect();
    let known = match modes[..] {
        [mode] => Pooling::named(mode),
        _ => None,
    };
    known.ok_or_else(|| {
        let modes = modes.join(" with ");
        let known =
            "only mean_tokens, cls_token, max_tokens and mean_sqrt_len_tokens are known, one at a time";
        LoadError::unsupported(folder.path(), format!("its pooling is {modes}, and {known}"))
    })
}
