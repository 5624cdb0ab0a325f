//! What `config.json` says of an encoder.

use std::path::Path;

use serde::Deserialize;

use crate::{CONFIG, EncoderError};

/// Families whose layers are BERT's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// BERT itself: positions are counted from 0.
    Bert,
    /// RoBERTa, XLM-RoBERTa and CamemBERT: positions are counted from behind the padding token's id.
    Roberta,
}

/// The function between the two halves of a layer's feed-forward part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// Exact, with the error function.
    Gelu,
    /// Its approximation with a hyperbolic tangent.
    GeluTanh,
    /// What is negative becomes 0.
    Relu,
}

/// The shape of an encoder.
#[derive(Debug, Clone, PartialEq)]
pub struct EncoderConfig {
    /// Whose layers it has.
    pub family: Family,
    /// Tokens that it knows.
    pub vocabulary: usize,
    /// The length of a token's state.
    pub width: usize,
    /// Layers.
    pub layers: usize,
    /// Heads of its attention.
    pub heads: usize,
    /// The length of a token's state between the two halves of the feed-forward part.
    pub inner: usize,
    /// Between the halves of the feed-forward part.
    pub activation: Activation,
    /// Of the layer norms.
    pub epsilon: f32,
    /// Types of tokens that it knows; 0 is as one that adds nothing.
    pub types: usize,
    /// Rows of the table of positions.
    pub position_rows: usize,
    /// The row of a text's first token.
    pub first_position: usize,
}

#[derive(Deserialize)]
struct Raw {
    model_type: Option<String>,
    position_embedding_type: Option<String>,
    is_decoder: Option<bool>,
    vocab_size: usize,
    hidden_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    intermediate_size: usize,
    hidden_act: String,
    layer_norm_eps: Option<f32>,
    type_vocab_size: Option<usize>,
    max_position_embeddings: usize,
    pad_token_id: Option<usize>,
}

impl EncoderConfig {
    /// Reads `config.json` in a model's folder.
    ///
    /// # Errors
    /// [`EncoderError`] where it is missing or wrong, or of a model that is none of these.
    pub fn read(folder: &Path) -> Result<Self, EncoderError> {
        let path = folder.join(CONFIG);
        let bytes =
            std::fs::read(&path).map_err(|source| EncoderError::Read { path: path.clone(), source })?;
        let raw: Raw = serde_json::from_slice(&bytes).map_err(|error| EncoderError::invalid(&path, error))?;
        let unsupported = |reason: String| EncoderError::unsupported(folder, reason);
        let family = match raw.model_type.as_deref() {
            None | Some("bert") => Family::Bert,
            Some("roberta" | "xlm-roberta" | "camembert") => Family::Roberta,
            Some(other) => {
                let known = "only bert, roberta, xlm-roberta and camembert are known";
                return Err(unsupported(format!("its model_type is {other}, and {known}")));
            }
        };
        if let Some(other) = raw.position_embedding_type.filter(|kind| kind != "absolute") {
            return Err(unsupported(format!(
                "its position_embedding_type is {other}, and only absolute is known"
            )));
        }
        if raw.is_decoder == Some(true) {
            return Err(unsupported("it is a decoder, and only encoders are known".to_owned()));
        }
        let activation = match raw.hidden_act.as_str() {
            "gelu" => Activation::Gelu,
            "gelu_new" | "gelu_fast" | "gelu_pytorch_tanh" => Activation::GeluTanh,
            "relu" => Activation::Relu,
            other => {
                let known = "only gelu, gelu_new, gelu_fast, gelu_pytorch_tanh and relu are known";
                return Err(unsupported(format!("its hidden_act is {other}, and {known}")));
            }
        };
        let sizes = [
            ("vocab_size", raw.vocab_size),
            ("hidden_size", raw.hidden_size),
            ("num_attention_heads", raw.num_attention_heads),
            ("intermediate_size", raw.intermediate_size),
        ];
        if let Some((field, _)) = sizes.iter().find(|(_, size)| *size == 0) {
            return Err(unsupported(format!("its {field} is 0")));
        }
        if !raw.hidden_size.is_multiple_of(raw.num_attention_heads) {
            return Err(unsupported("its hidden_size is not a multiple of num_attention_heads".to_owned()));
        }
        let first_position = match family {
            Family::Bert => 0,
            Family::Roberta => raw.pad_token_id.unwrap_or(1) + 1,
        };
        Ok(Self {
            family,
            vocabulary: raw.vocab_size,
            width: raw.hidden_size,
            layers: raw.num_hidden_layers,
            heads: raw.num_attention_heads,
            inner: raw.intermediate_size,
            activation,
            epsilon: raw.layer_norm_eps.unwrap_or(1e-12),
            types: raw.type_vocab_size.unwrap_or(2),
            position_rows: raw.max_position_embeddings,
            first_position,
        })
    }

    /// How many tokens of a text have a position.
    #[must_use]
    pub fn positions(&self) -> usize {
        self.position_rows.saturating_sub(self.first_position)
    }
}
