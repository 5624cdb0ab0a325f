//! A decoder's shape from the metadata of a GGUF file.

use super::{Family, ModelConfig, Rope, RopeScaling};
use crate::{LoadError, weights::GgufFile};

/// The shape of the model in a GGUF file.
pub(crate) fn of_gguf(file: &GgufFile) -> Result<ModelConfig, LoadError> {
    let path = file.path();
    // Mistral's models are stored as Llama's: their layers are the same.
    let architecture = file.text("general.architecture").unwrap_or("not named").to_owned();
    let family = super::family(&architecture, path)?;
    let get = |key: &str| file.number(&format!("{architecture}.{key}"));
    let needed = |key: &str| {
        get(key).ok_or_else(|| LoadError::invalid(path, format!("its metadata lacks {architecture}.{key}")))
    };
    let heads = needed("attention.head_count")? as usize;
    let width = needed("embedding_length")? as usize;
    let layers = needed("block_count")? as usize;
    let head_dim = get("attention.key_length").map_or(width / heads.max(1), |length| length as usize);
    if let Some(rotated) = get("rope.dimension_count").filter(|rotated| *rotated as usize != head_dim) {
        let reason = format!("only {rotated} of {head_dim} values of each head are rotated");
        return Err(LoadError::unsupported(path, reason));
    }
    let positions = needed("context_length")? as usize;
    let factor = get("rope.scaling.factor").unwrap_or(1.0);
    let scaling = match file.text(&format!("{architecture}.rope.scaling.type")) {
        None | Some("none") => RopeScaling::None,
        Some("linear") => RopeScaling::Linear { factor },
        Some("yarn") => RopeScaling::Yarn {
            factor,
            original: get("rope.scaling.original_context_length").unwrap_or(positions as f64),
            fast: 32.0,
            slow: 1.0,
            attention: 0.1 * factor.max(1.0).ln() + 1.0,
            truncate: true,
        },
        Some(other) => {
            let reason = format!("its rotary embedding is stretched by {other}, which is not known");
            return Err(LoadError::unsupported(path, reason));
        }
    };
    let vocabulary =
        file.shape("model.embed_tokens.weight").and_then(|shape| shape.first()).copied().unwrap_or(0);
    let config = ModelConfig {
        family,
        vocabulary,
        width,
        layers,
        heads,
        kv_heads: get("attention.head_count_kv").map_or(heads, |heads| heads as usize),
        head_dim,
        inner: needed("feed_forward_length")? as usize,
        epsilon: needed("attention.layer_norm_rms_epsilon")?,
        positions,
        rope: Rope { theta: get("rope.freq_base").unwrap_or(10_000.0), scaling },
        qkv_bias: file.shape("model.layers.0.self_attn.q_proj.bias").is_some(),
        output_bias: file.shape("model.layers.0.self_attn.o_proj.bias").is_some(),
        inner_bias: false,
        head_norms: family == Family::Qwen3,
        tied: file.shape("lm_head.weight").is_none(),
        windows: vec![super::window(get("attention.sliding_window").map(|window| window as usize)); layers],
        // That of a text, and that of a turn, where they are two.
        end_tokens: ["eos", "eot"].into_iter().filter_map(|name| file.token(name)).collect(),
        stored: None,
    };
    config.check(path)?;
    Ok(config)
}
