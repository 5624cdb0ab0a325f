use std::ops::Range;

use async_trait::async_trait;

use super::ModelError;
use crate::domain::{EmbedPurpose, Embedding};

/// What is known of an embedding model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EmbedderInfo {
    /// Names the model and everything that changes its vectors (weights, pooling, normalisation, prefixes). Vectors are compared only where this is equal.
    pub model: String,
    /// Length of a vector.
    pub dimension: usize,
    /// The most tokens of a text that the model reads, special ones included.
    pub max_tokens: usize,
}

/// Cuts text into the tokens of a model. Cheap to share; runs on the calling thread.
pub trait Tokenize: Send + Sync {
    /// The byte range of each token in `text`, in order, special tokens left out.
    fn tokens(&self, text: &str) -> Vec<Range<usize>>;
}

/// Makes vectors of texts.
///
/// **Contract**
/// - One embedding a text, in order, unit length, of the model's dimension.
/// - A text in a batch gets the vector it gets alone (cosine at least 0.999).
/// - A text longer than the model reads is cut, and its embedding says `truncated`.
/// - Any text has an embedding, the empty one too.
/// - A caller that stops waiting costs no more than the batch that is running.
#[async_trait]
pub trait Embedder: Send + Sync {
    /// The model.
    fn info(&self) -> &EmbedderInfo;

    /// The model's own tokeniser, for chunking.
    fn tokenizer(&self) -> std::sync::Arc<dyn Tokenize>;

    /// Embeds texts.
    async fn embed(&self, texts: Vec<String>, purpose: EmbedPurpose) -> Result<Vec<Embedding>, ModelError>;
}
