//! Answers with the sentences of the passages themselves: needs no language model, and cannot make anything up.

mod candidates;
mod choose;
mod terms;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use async_trait::async_trait;
use futures::stream::BoxStream;
use raglan_pipeline::{
    domain::{EmbedPurpose, FinishReason, Usage},
    generation::prompt::NOT_FOUND,
    ports::{Embedder, Generated, GenerationRequest, Generator, ModelError},
};
use tokio_util::sync::CancellationToken;

use self::{candidates::Material, choose::Vectors};

/// What counts as an answer, and how long it may be.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ExtractiveSettings {
    /// The most sentences that are chosen (those that they cannot be understood without come on top).
    pub max_sentences: usize,
    /// The most sentences that are embedded for one answer.
    pub max_candidates: usize,
    /// What a sentence needs to count as an answer, from 0 to 1: 0.6 parts relatedness (a cosine of 0.1 is 0, one of 0.7 is 1,
    /// which suits MiniLM and its like), 0.4 parts the share of the question's terms, 0.08 more where it holds the kind of thing asked
    /// for (a number, a date, a name, steps), and up to 0.2 less where it does not.
    pub threshold: f32,
    /// The same without an embedder: the share of the question's terms, by rarity, and as much more or less for the kind of thing.
    pub lexical_threshold: f32,
}

impl Default for ExtractiveSettings {
    fn default() -> Self {
        Self { max_sentences: 3, max_candidates: 16, threshold: 0.4, lexical_threshold: 0.5 }
    }
}

/// Chooses the sentences that answer the question and writes them word for word, each with its source.
pub struct ExtractiveGenerator {
    embedder: Option<Arc<dyn Embedder>>,
    settings: ExtractiveSettings,
}

impl ExtractiveGenerator {
    /// A generator that compares meanings with this embedder, or only words without one.
    #[must_use]
    pub fn new(embedder: Option<Arc<dyn Embedder>>, settings: ExtractiveSettings) -> Self {
        Self { embedder, settings }
    }
}

#[async_trait]
impl Generator for ExtractiveGenerator {
    fn model(&self) -> &str {
        "extractive"
    }

    fn context_tokens(&self) -> Option<usize> {
        None
    }

    async fn generate(
        &self,
        request: GenerationRequest,
        cancel: CancellationToken,
    ) -> Result<BoxStream<'static, Result<Generated, ModelError>>, ModelError> {
        let answer = tokio::select! {
            biased;
            () = cancel.cancelled() => return Err(ModelError::Cancelled),
            answer = answer(self.embedder.clone(), self.settings, request) => answer?,
        };
        let found = answer.is_some();
        let text = answer.unwrap_or_else(|| NOT_FOUND.to_owned());
        let stream = async_stream::stream! {
            for word in text.split_inclusive(char::is_whitespace) {
                if cancel.is_cancelled() {
                    yield Err(ModelError::Cancelled);
                    return;
                }
                yield Ok(Generated::Delta(word.to_owned()));
            }
            if cancel.is_cancelled() {
                yield Err(ModelError::Cancelled);
                return;
            }
            yield Ok(Generated::End { reason: FinishReason::Stop, usage: Usage::default(), found });
        };
        Ok(Box::pin(stream))
    }
}

/// The answer, or none.
async fn answer(
    embedder: Option<Arc<dyn Embedder>>,
    settings: ExtractiveSettings,
    request: GenerationRequest,
) -> Result<Option<String>, ModelError> {
    let GenerationRequest { question, passages, .. } = request;
    let read = Arc::clone(&passages);
    let material = blocking(move || Material::gather(&question, &read, settings.max_candidates)).await?;
    if material.candidates.is_empty() {
        return Ok(None);
    }
    let vectors = match embedder {
        Some(embedder) => vectors(embedder.as_ref(), &material).await?,
        None => None,
    };
    blocking(move || choose::answer(&material, vectors.as_ref(), &passages, &settings)).await
}

/// Embeds the question and all candidates. Without an embedder that works the words alone decide.
async fn vectors(embedder: &dyn Embedder, material: &Material) -> Result<Option<Vectors>, ModelError> {
    let texts = material.candidates.iter().map(|candidate| candidate.context.clone()).collect();
    // Two calls, since some models read questions and passages differently; the texts are one batch.
    let both = futures::try_join!(
        embedder.embed(vec![material.question.clone()], EmbedPurpose::Query),
        embedder.embed(texts, EmbedPurpose::Candidate),
    );
    match both {
        Ok((question, candidates)) => Ok(question.into_iter().next().map(|question| Vectors {
            question: question.vector,
            candidates: candidates.into_iter().map(|candidate| candidate.vector).collect(),
        })),
        Err(ModelError::Cancelled) => Err(ModelError::Cancelled),
        Err(error) => {
            tracing::warn!(%error, "the embedder failed, sentences are chosen by their words alone");
            Ok(None)
        }
    }
}

/// Runs work that takes a while on a thread where it holds nobody up.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, ModelError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| ModelError::Permanent(format!("choosing sentences failed: {error}")))
}
