//! Types of the text models: options, ends and pieces of an answer.

use serde::{Deserialize, Serialize};

/// How an answer is written.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GenerationOptions {
    /// The most tokens the answer may have.
    pub max_tokens: u32,
    /// 0 is always the likeliest word.
    pub temperature: f32,
}

impl Default for GenerationOptions {
    fn default() -> Self {
        Self { max_tokens: 512, temperature: 0.0 }
    }
}

/// Why a text ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FinishReason {
    /// It was complete.
    Stop,
    /// `max_tokens` was reached.
    Length,
    /// The server withheld the rest.
    ContentFilter,
}

/// What a text is embedded for: some models want a different prefix for each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EmbedPurpose {
    /// A question.
    Query,
    /// A passage of a document.
    Passage,
    /// A piece of a passage that is compared with a question right now: read as a passage is, and as urgent as a question.
    Candidate,
}

/// A text as a vector.
#[derive(Debug, Clone, PartialEq)]
pub struct Embedding {
    /// Unit length, of the model's dimension.
    pub vector: Vec<f32>,
    /// How many tokens the model read.
    pub tokens: usize,
    /// Whether the text was longer than the model reads, so that its end does not count.
    pub truncated: bool,
}
