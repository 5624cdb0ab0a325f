use std::sync::Arc;

use async_trait::async_trait;
use futures::stream::BoxStream;
use tokio_util::sync::CancellationToken;

use super::ModelError;
use crate::domain::{Degraded, FinishReason, GenerationOptions, Passage, Usage};

/// What a generator is asked. A language model uses the prompt; the extractive one the question and passages.
#[derive(Debug, Clone)]
pub struct GenerationRequest {
    /// The question as it was asked.
    pub question: String,
    /// The passages, in the order of their source numbers: the first is `[1]`.
    pub passages: Arc<[Passage]>,
    /// The instructions.
    pub system: String,
    /// The sources and the question, within the token budget.
    pub user: String,
    /// How to write.
    pub options: GenerationOptions,
}

/// A piece of what a generator writes.
#[derive(Debug, Clone, PartialEq)]
pub enum Generated {
    /// The next piece of text.
    Delta(String),
    /// The end; nothing follows.
    End {
        /// Why.
        reason: FinishReason,
        /// Tokens used, where known.
        usage: Usage,
        /// Whether the passages held an answer, as far as the generator can tell.
        found: bool,
        /// What the generator should have worked with and could not; empty where nothing was missing. Results list it.
        degraded: Vec<Degraded>,
    },
}

/// Writes answers.
///
/// **Contract**
/// - A stream ends with exactly one `End` or one error; the text is all deltas joined.
/// - Cancelling the token stops the work within one token, closes any upstream request, and ends the stream with `Cancelled`.
/// - Dropping the stream does the same.
/// - What it had to do without is named once in `degraded`, and the text is whole all the same.
/// - Errors say what to do: too long, permanent, try later.
#[async_trait]
pub trait Generator: Send + Sync {
    /// The name that results carry as `model`.
    fn model(&self) -> &str;

    /// How many tokens the prompt may have; none where there is no limit.
    fn context_tokens(&self) -> Option<usize>;

    /// Begins to write.
    async fn generate(
        &self,
        request: GenerationRequest,
        cancel: CancellationToken,
    ) -> Result<BoxStream<'static, Result<Generated, ModelError>>, ModelError>;
}
