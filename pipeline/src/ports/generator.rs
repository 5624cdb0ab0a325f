use std::{any::Any, sync::Arc};

use async_trait::async_trait;
use futures::stream::BoxStream;
use tokio_util::sync::CancellationToken;

use super::{ModelError, Tokenize};
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

/// A place for one more text, kept until it is dropped.
#[derive(Default)]
pub struct Place(Vec<Box<dyn Any + Send + Sync>>);

impl Place {
    /// A place that is given back when `kept` is dropped.
    #[must_use]
    pub fn keeping(kept: impl Any + Send + Sync) -> Self {
        Self(vec![Box::new(kept)])
    }

    /// Both places as one.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        self.0.extend(other.0);
        self
    }
}

/// Writes answers.
///
/// **Contract**
/// - A stream ends with exactly one `End` or one error; the text is all deltas joined.
/// - Cancelling the token stops the work within one token, closes any upstream request, and ends the stream with `Cancelled`.
/// - Dropping the stream does the same.
/// - What it had to do without is named once in `degraded`, and the text is whole all the same.
/// - Errors say what to do: too long, permanent, try later.
/// - One that has nothing to do has a place.
#[async_trait]
pub trait Generator: Send + Sync {
    /// The name that results carry as `model`.
    fn model(&self) -> &str;

    /// How many tokens the prompt may have; none where there is no limit.
    fn context_tokens(&self) -> Option<usize>;

    /// What counts the prompt's tokens as this generator does; none where nobody here can.
    fn tokenizer(&self) -> Option<Arc<dyn Tokenize>> {
        None
    }

    /// Waits until one more text could be begun soon. Workers ask before they take a job, so that what cannot be begun here stays on the queue
    /// for others; the place counts as taken until it is dropped. Who has none may ask all the same, and is told to try later at worst.
    async fn place(&self) -> Place {
        Place::default()
    }

    /// Begins to write.
    async fn generate(
        &self,
        request: GenerationRequest,
        cancel: CancellationToken,
    ) -> Result<BoxStream<'static, Result<Generated, ModelError>>, ModelError>;
}
