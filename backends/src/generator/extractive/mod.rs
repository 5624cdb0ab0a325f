//! Answers with the sentences of the passages themselves: needs no language model, and cannot make anything up.

mod candidates;
mod choose;
mod evidence;
mod passage;
mod question;
mod terms;
mod write;

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use async_trait::async_trait;
use futures::stream::BoxStream;
use raglan_pipeline::{
    domain::{Degraded, EmbedPurpose, FinishReason, Usage},
    generation::prompt::NOT_FOUND,
    ports::{Embedder, Generated, GenerationRequest, Generator, ModelError},
    retrieval::EmbedderSlot,
};
use tokio::sync::OnceCell;
use tokio_util::sync::CancellationToken;

use self::{
    candidates::Material,
    choose::{Vectors, cosine},
};

/// What counts as an answer, and how long it may be.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ExtractiveSettings {
    /// The most sentences that are chosen (those that they cannot be understood without come on top).
    pub max_sentences: usize,
    /// The most sentences that are embedded for one answer.
    pub max_candidates: usize,
    /// How probable it must be that the passages hold an answer, from 0 to 1; below that, the answer is that nothing was found.
    pub threshold: f32,
    /// The same where sentences are judged by their words alone.
    pub lexical_threshold: f32,
}

impl Default for ExtractiveSettings {
    fn default() -> Self {
        Self { max_sentences: 3, max_candidates: 32, threshold: 0.45, lexical_threshold: 0.45 }
    }
}

/// Chooses the sentences that answer the question and writes them word for word, each with its source.
pub struct ExtractiveGenerator {
    embedder: EmbedderSlot,
    settings: ExtractiveSettings,
    /// See [`unrelated`].
    unrelated: Arc<OnceCell<f32>>,
}

impl ExtractiveGenerator {
    /// A generator that compares meanings with this embedder, or only words without one (which results call `degraded` where there
    /// should be one).
    #[must_use]
    pub fn new(embedder: EmbedderSlot, settings: ExtractiveSettings) -> Self {
        Self { embedder, settings, unrelated: Arc::default() }
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
            answer = self.answer(request) => answer?,
        };
        let found = answer.text.is_some();
        let text = answer.text.unwrap_or_else(|| NOT_FOUND.to_owned());
        let degraded = answer.degraded.into_iter().collect::<Vec<_>>();
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
            yield Ok(Generated::End { reason: FinishReason::Stop, usage: Usage::default(), found, degraded });
        };
        Ok(Box::pin(stream))
    }
}

/// What was found, and what could not take part.
struct Answer {
    text: Option<String>,
    degraded: Option<Degraded>,
}

impl ExtractiveGenerator {
    async fn answer(&self, request: GenerationRequest) -> Result<Answer, ModelError> {
        let GenerationRequest { question, passages, .. } = request;
        let (asked, read, limit) = (question.clone(), Arc::clone(&passages), self.settings.max_candidates);
        let material = blocking(move || Material::gather(&asked, &read, limit)).await?;
        if material.candidates.is_empty() {
            return Ok(Answer { text: None, degraded: None });
        }
        let (vectors, degraded) = match &self.embedder {
            EmbedderSlot::Off => (None, None),
            EmbedderSlot::Missing => (None, Some(Degraded::Embedder)),
            EmbedderSlot::Ready(embedder) => {
                match vectors(embedder.as_ref(), &self.unrelated, question, &material).await {
                    Ok(vectors) => (Some(vectors), None),
                    Err(ModelError::Cancelled) => return Err(ModelError::Cancelled),
                    Err(error) => {
                        tracing::warn!(%error, "the embedder failed, sentences are chosen by their words alone");
                        (None, Some(Degraded::Embedder))
                    }
                }
            }
        };
        let settings = self.settings;
        let text = blocking(move || {
            let chosen = choose::choose(&material, vectors.as_ref(), &settings);
            let text = write::write(&chosen, &material, &passages);
            (!text.is_empty()).then_some(text)
        });
        Ok(Answer { text: text.await?, degraded })
    }
}

/// Embeds the question and all candidates.
async fn vectors(
    embedder: &dyn Embedder,
    unrelated: &OnceCell<f32>,
    question: String,
    material: &Material,
) -> Result<Vectors, ModelError> {
    let least = *unrelated.get_or_try_init(|| self::unrelated(embedder)).await?;
    let texts = material.candidates.iter().map(|candidate| candidate.context.clone()).collect();
    // Two calls, since some models read questions and passages differently; the texts are one batch.
    let (question, candidates) = futures::try_join!(
        embedder.embed(vec![question], EmbedPurpose::Query),
        embedder.embed(texts, EmbedPurpose::Candidate),
    )?;
    let (Some(question), true) = (question.first(), candidates.len() == material.candidates.len()) else {
        return Err(ModelError::try_later("the embedder answered with the wrong number of vectors"));
    };
    let related = candidates
        .iter()
        .map(|candidate| (cosine(&question.vector, &candidate.vector) - least) / (1.0 - least))
        .collect();
    Ok(Vectors { candidates: candidates.into_iter().map(|candidate| candidate.vector).collect(), related })
}

/// Sentences that have nothing to do with each other.
const UNRELATED: [&str; 8] = [
    "The river freezes over in most winters.",
    "Save the file before you close the editor.",
    "She was elected mayor by a narrow majority.",
    "Boil the potatoes for twenty minutes.",
    "The enzyme breaks down starch into sugar.",
    "Invoices are due within thirty days.",
    "The orchestra played two encores.",
    "Tighten the four bolts crosswise.",
];

/// What cosine the model gives texts that have nothing to do with each other. For many models that is far from 0 (about 0.7 for those of the E5 family), and
/// what lies between it and 1 is what their cosines tell.
async fn unrelated(embedder: &dyn Embedder) -> Result<f32, ModelError> {
    let texts = UNRELATED.iter().map(|text| (*text).to_owned()).collect();
    let vectors = embedder.embed(texts, EmbedPurpose::Candidate).await?;
    let pairs = vectors.iter().enumerate().flat_map(|(at, a)| vectors[..at].iter().map(move |b| (a, b)));
    let cosines: Vec<f32> = pairs.map(|(a, b)| cosine(&a.vector, &b.vector)).collect();
    let mean = cosines.iter().sum::<f32>() / cosines.len().max(1) as f32;
    Ok(mean.clamp(0.0, 0.95))
}

/// Runs work that takes a while on a thread where it holds nobody up.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, ModelError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| ModelError::Permanent(format!("choosing sentences failed: {error}")))
}
