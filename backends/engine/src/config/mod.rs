//! What a model's files say of its shape.

mod gguf;
mod rope;

use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

pub(crate) use self::gguf::of_gguf;
pub use self::rope::{Rope, RopeScaling};
use crate::LoadError;

/// The file that describes a model's architecture.
pub const CONFIG: &str = "config.json";

/// The families whose decoders are run here, and how their configuration names them.
const FAMILIES: [(&str, Family); 4] = [
    ("llama", Family::Llama),
    ("mistral", Family::Mistral),
    ("qwen2", Family::Qwen2),
    ("qwen3", Family::Qwen3),
];

/// A family of decoders.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// Llama 2 and 3, and the many models of their shape.
    Llama,
    /// Mistral 7B and its like: some have a window.
    Mistral,
    /// Qwen 2 and 2.5: queries, keys and values have a bias.
    Qwen2,
    /// Qwen 3 (dense): queries and keys are normed.
    Qwen3,
}

/// The shape of a decoder.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelConfig {
    /// Its family.
    pub family: Family,
    /// Tokens that it knows.
    pub vocabulary: usize,
    /// The length of a token's state.
    pub width: usize,
    /// Layers.
    pub layers: usize,
    /// Heads of queries.
    pub heads: usize,
    /// Heads of keys and values; each serves `heads / kv_heads` heads of queries.
    pub kv_heads: usize,
    /// The length of a head.
    pub head_dim: usize,
    /// The length of a token's state inside the feed-forward part.
    pub inner: usize,
    /// Of the norms.
    pub epsilon: f64,
    /// The most tokens of a sequence.
    pub positions: usize,
    /// How positions are told.
    pub rope: Rope,
    /// Whether the projections to queries, keys and values have a bias.
    pub qkv_bias: bool,
    /// Whether the projection behind attention has one.
    pub output_bias: bool,
    /// Whether the feed-forward part has them.
    pub inner_bias: bool,
    /// Whether each head of queries and keys is normed.
    pub head_norms: bool,
    /// Whether the words' table is the output's too.
    pub tied: bool,
    /// Of each layer, how many tokens a token sees, itself included; all where there is none.
    pub windows: Vec<Option<usize>>,
    /// The tokens that end a text, as far as this file names them.
    pub end_tokens: Vec<u32>,
    /// In which numbers the model was stored, as far as this file names them.
    pub stored: Option<String>,
}

#[derive(Deserialize)]
struct Raw {
    vocab_size: usize,
    hidden_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_key_value_heads: Option<usize>,
    head_dim: Option<usize>,
    intermediate_size: usize,
    hidden_act: Option<String>,
    rms_norm_eps: f64,
    max_position_embeddings: usize,
    rope_theta: Option<f64>,
    rope_scaling: Option<Value>,
    rope_parameters: Option<Value>,
    partial_rotary_factor: Option<f64>,
    attention_bias: Option<bool>,
    mlp_bias: Option<bool>,
    tie_word_embeddings: Option<bool>,
    sliding_window: Option<usize>,
    use_sliding_window: Option<bool>,
    max_window_layers: Option<usize>,
    layer_types: Option<Vec<String>>,
    eos_token_id: Option<Value>,
    torch_dtype: Option<String>,
    dtype: Option<String>,
    quantization_config: Option<Value>,
}

impl ModelConfig {
    /// Reads the `config.json` of a folder.
    ///
    /// # Errors
    /// [`LoadError`] where it is missing, not whole, or of a model that is not run here.
    pub fn read(folder: &Path) -> Result<Self, LoadError> {
        let path = folder.join(CONFIG);
        let bytes = std::fs::read(&path).map_err(|source| LoadError::Read { path: path.clone(), source })?;
        Self::parse(&bytes, &path)
    }

    /// The configuration in these bytes; `path` is where they are from, for errors.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn parse(bytes: &[u8], path: &Path) -> Result<Self, LoadError> {
        // The family first: a model of another kind may lack anything.
        let value: Value = serde_json::from_slice(bytes).map_err(|error| LoadError::invalid(path, error))?;
        let named = value.get("model_type").and_then(Value::as_str).unwrap_or("not named");
        let family = family(named, path)?;
        let raw: Raw = serde_json::from_value(value).map_err(|error| LoadError::invalid(path, error))?;
        let config = raw.into_config(family, path)?;
        config.check(path)?;
        Ok(config)
    }

    /// The shapes that the arithmetic relies on.
    pub(crate) fn check(&self, path: &Path) -> Result<(), LoadError> {
        let counts = [
            ("tokens", self.vocabulary),
            ("hidden_size", self.width),
            ("layers", self.layers),
            ("heads", self.heads),
            ("heads of keys", self.kv_heads),
            ("head_dim", self.head_dim),
            ("intermediate_size", self.inner),
            ("positions", self.positions),
        ];
        for (name, count) in counts {
            if count == 0 {
                return Err(LoadError::invalid(path, format!("it has no {name}")));
            }
        }
        if !self.heads.is_multiple_of(self.kv_heads) {
            let reason = format!("{} heads cannot share {} heads of keys evenly", self.heads, self.kv_heads);
            return Err(LoadError::invalid(path, reason));
        }
        if !self.head_dim.is_multiple_of(2) {
            return Err(LoadError::invalid(path, format!("head_dim {} is odd", self.head_dim)));
        }
        Ok(())
    }

    /// Numbers of the keys and values of one token, in all layers.
    #[must_use]
    pub fn cache_numbers_per_token(&self) -> usize {
        2 * self.layers * self.kv_heads * self.head_dim
    }

    /// Numbers of the weights.
    #[must_use]
    pub fn parameters(&self) -> usize {
        let attention = self.width * self.head_dim * 2 * (self.heads + self.kv_heads);
        let layer = attention + 3 * self.width * self.inner + 2 * self.width;
        let tables = if self.tied { 1 } else { 2 };
        self.layers * layer + tables * self.vocabulary * self.width + self.width
    }
}

/// The family of this `model_type`.
fn family(named: &str, path: &Path) -> Result<Family, LoadError> {
    FAMILIES.iter().find(|(name, _)| *name == named).map(|(_, family)| *family).ok_or_else(|| {
        let known: Vec<&str> = FAMILIES.iter().map(|(name, _)| *name).collect();
        let reason = format!(
            "its model_type is {named}; supported are {}. Serve others with a server that runs them, and name it by a generator of type openai",
            known.join(", ")
        );
        LoadError::unsupported(path.parent().unwrap_or(path), reason)
    })
}

impl Raw {
    fn into_config(self, family: Family, path: &Path) -> Result<ModelConfig, LoadError> {
        let unsupported = |reason: String| LoadError::unsupported(path.parent().unwrap_or(path), reason);
        if let Some(act) = self.hidden_act.as_deref().filter(|act| *act != "silu" && *act != "swish") {
            return Err(unsupported(format!("its activation is {act}, and only silu is known")));
        }
        if let Some(factor) = self.partial_rotary_factor.filter(|factor| *factor != 1.0) {
            return Err(unsupported(rope::partly_rotated(factor)));
        }
        if let Some(method) = &self.quantization_config {
            let named = method.get("quant_method").and_then(Value::as_str).unwrap_or("another way");
            let reason = format!(
                "its weights are quantised by {named}; take the model's bf16 files, and quantize: q8_0"
            );
            return Err(unsupported(reason));
        }
        let rope = Rope::of_config(
            self.rope_theta,
            self.rope_parameters.as_ref().or(self.rope_scaling.as_ref()),
            self.max_position_embeddings,
        )
        .map_err(unsupported)?;
        let windows = self.windows(family).map_err(unsupported)?;
        let bias = self.attention_bias.unwrap_or(false);
        Ok(ModelConfig {
            family,
            vocabulary: self.vocab_size,
            width: self.hidden_size,
            layers: self.num_hidden_layers,
            heads: self.num_attention_heads,
            kv_heads: self.num_key_value_heads.unwrap_or(self.num_attention_heads),
            head_dim: self.head_dim.unwrap_or_else(|| self.hidden_size / self.num_attention_heads.max(1)),
            inner: self.intermediate_size,
            epsilon: self.rms_norm_eps,
            positions: self.max_position_embeddings,
            rope,
            qkv_bias: family == Family::Qwen2 || bias,
            output_bias: family != Family::Qwen2 && bias,
            inner_bias: family == Family::Llama && self.mlp_bias.unwrap_or(false),
            head_norms: family == Family::Qwen3,
            tied: self.tie_word_embeddings.unwrap_or(false),
            windows,
            end_tokens: token_ids(self.eos_token_id.as_ref()),
            stored: self.dtype.or(self.torch_dtype),
        })
    }

    /// Which layers have a window: listed by the newer files, told by rules of the families in the older ones.
    fn windows(&self, family: Family) -> Result<Vec<Option<usize>>, String> {
        let layers = self.num_hidden_layers;
        let window = window(self.sliding_window);
        if let Some(types) = &self.layer_types {
            if types.len() != layers {
                return Err(format!("it lists {} layer_types for {layers} layers", types.len()));
            }
            return types
                .iter()
                .map(|kind| match kind.as_str() {
                    "full_attention" => Ok(None),
                    "sliding_attention" => {
                        window.map(Some).ok_or_else(|| "its window has no length".to_owned())
                    }
                    other => Err(format!("it has layers of type {other}")),
                })
                .collect();
        }
        Ok(match family {
            Family::Llama => vec![None; layers],
            Family::Mistral => vec![window; layers],
            Family::Qwen2 | Family::Qwen3 if self.use_sliding_window == Some(true) => {
                let full = self.max_window_layers.unwrap_or(layers);
                (0..layers).map(|layer| window.filter(|_| layer >= full)).collect()
            }
            Family::Qwen2 | Family::Qwen3 => vec![None; layers],
        })
    }
}

/// A window as files have it, of which some write 0 for none.
fn window(tokens: Option<usize>) -> Option<usize> {
    tokens.filter(|tokens| *tokens > 0)
}

/// One token's id, or a list of them.
pub(crate) fn token_ids(value: Option<&Value>) -> Vec<u32> {
    let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
    match value {
        Some(Value::Array(ids)) => ids.iter().filter_map(id).collect(),
        Some(value) => id(value).into_iter().collect(),
        None => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parse(value: &Value) -> Result<ModelConfig, LoadError> {
        ModelConfig::parse(value.to_string().as_bytes(), Path::new("/models/m/config.json"))
    }

    fn base(family: &str) -> Value {
        json!({
            "model_type": family, "vocab_size": 100, "hidden_size": 32, "num_hidden_layers": 4,
            "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 64, "hidden_act": "silu",
            "rms_norm_eps": 1e-6, "max_position_embeddings": 128, "eos_token_id": [1, 2],
        })
    }

    fn with(family: &str, more: Value) -> Value {
        let mut value = base(family);
        let Value::Object(more) = more else { panic!("an object") };
        value.as_object_mut().unwrap().extend(more);
        value
    }

    #[test]
    fn families_differ_in_biases_norms_and_windows() {
        let llama = parse(&base("llama")).unwrap();
        assert_eq!((llama.head_dim, llama.qkv_bias, llama.head_norms), (8, false, false));
        assert_eq!(llama.windows, vec![None; 4]);
        assert_eq!(llama.end_tokens, [1, 2]);
        let mistral = parse(&with("mistral", json!({"sliding_window": 16}))).unwrap();
        assert_eq!(mistral.windows, vec![Some(16); 4]);
        let mistral = parse(&with("mistral", json!({"sliding_window": null}))).unwrap();
        assert_eq!(mistral.windows, vec![None; 4]);
        let mistral = parse(&with("mistral", json!({"sliding_window": 0}))).unwrap();
        assert_eq!(mistral.windows, vec![None; 4], "a window of no token is none");
        let window = json!({"use_sliding_window": true, "sliding_window": 16, "max_window_layers": 3});
        let qwen2 = parse(&with("qwen2", window)).unwrap();
        assert_eq!(qwen2.windows, [None, None, None, Some(16)]);
        assert!(qwen2.qkv_bias && !qwen2.output_bias);
        let listed = json!({"sliding_window": 16, "layer_types":
            ["full_attention", "sliding_attention", "full_attention", "full_attention"]});
        let qwen3 = parse(&with("qwen3", listed)).unwrap();
        assert_eq!(qwen3.windows, [None, Some(16), None, None]);
        assert!(qwen3.head_norms && !qwen3.qkv_bias);
    }

    #[test]
    fn what_is_not_run_here_is_told_with_what_is() {
        let error = parse(&json!({"model_type": "gemma3"})).unwrap_err().to_string();
        for part in ["/models/m", "gemma3", "llama, mistral, qwen2, qwen3", "openai"] {
            assert!(error.contains(part), "{error}");
        }
        for (more, part) in [
            (json!({"hidden_act": "gelu"}), "gelu"),
            (json!({"rope_scaling": {"rope_type": "longrope", "factor": 2.0}}), "longrope"),
            (json!({"quantization_config": {"quant_method": "awq"}}), "awq"),
            (json!({"partial_rotary_factor": 0.5}), "rotated"),
            (json!({"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}}), "rotated"),
            (json!({"num_key_value_heads": 3}), "evenly"),
            (json!({"layer_types": ["full_attention"]}), "layer_types"),
        ] {
            let error = parse(&with("llama", more)).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }
}
