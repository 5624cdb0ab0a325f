//! Re-ranking by a server: Text Embeddings Inference's `/rerank`, or Cohere's, which Jina, vLLM and others copied.

use std::{fmt, time::Instant};

use async_trait::async_trait;
use futures::future::{BoxFuture, try_join_all};
use raglan_pipeline::ports::{ModelError, Reranker};
use serde::{Deserialize, Serialize};

use crate::model_server::{BLANK, Call, ServerSettings, half};

/// How a server wants to be asked. Both call it `POST rerank`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RerankDialect {
    /// Text Embeddings Inference: `{query, texts}` to `[{index, score}]`, the scores raw.
    Tei,
    /// Cohere, Jina, vLLM: `{model, query, documents, top_n}` to `{results: [{index, relevance_score}]}`.
    Cohere,
}

/// Which model of which server.
#[derive(Debug, Clone)]
pub struct RemoteRerankerSettings {
    /// The server.
    pub server: ServerSettings,
    /// How it is asked.
    pub dialect: RerankDialect,
    /// The model's name: what the server is asked for (`Cohere`), and what logs call it.
    pub model: String,
    /// The most texts of one request.
    pub batch_texts: usize,
}

impl RemoteRerankerSettings {
    /// A model of a server, with requests of 32 texts.
    #[must_use]
    pub fn new(server: ServerSettings, dialect: RerankDialect, model: impl Into<String>) -> Self {
        Self { server, dialect, model: model.into(), batch_texts: 32 }
    }
}

/// No re-ranker reads so many bytes of a question, or of a text: what is behind is not sent.
const LONGEST_QUERY: usize = 8 * 1024;
const LONGEST_TEXT: usize = 32 * 1024;

/// A [`Reranker`] that asks a server. Its scores are the server's: a model's raw logits (`Tei`), or from 0 to 1 (`Cohere`).
///
/// Texts that the server finds too many are sent in halves, and a pair that it finds too long is halved until it accepts. A caller that stops waiting
/// closes its requests.
pub struct RemoteReranker {
    settings: RemoteRerankerSettings,
    call: Call,
}

impl fmt::Debug for RemoteReranker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RemoteReranker").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl RemoteReranker {
    /// Checks the settings. Nothing is sent.
    ///
    /// # Errors
    /// [`ModelError::Permanent`] with what is wrong with the settings.
    pub fn new(settings: RemoteRerankerSettings) -> Result<Self, ModelError> {
        let call = Call::new(settings.server.clone(), "rerank")?;
        Ok(Self { settings, call })
    }

    /// The scores of texts, in order.
    fn scores<'a>(
        &'a self,
        query: &'a str,
        texts: Vec<&'a str>,
    ) -> BoxFuture<'a, Result<Vec<f32>, ModelError>> {
        Box::pin(async move {
            let words = match self.ask(query, &texts).await {
                Err(ModelError::TooLong(words)) => words,
                answer => return answer,
            };
            if let [text] = texts[..] {
                // The longer of the two is what is too long.
                let shorter = match (text.len() >= query.len()).then(|| half(text)).flatten() {
                    Some(text) => Some((query, text)),
                    None => half(query).map(|query| (query, text)),
                };
                let Some((query, text)) = shorter else { return Err(ModelError::TooLong(words)) };
                return self.scores(query, vec![text]).await;
            }
            let (first, rest) = texts.split_at(texts.len() / 2);
            let mut scores = self.scores(query, first.to_vec()).await?;
            scores.extend(self.scores(query, rest.to_vec()).await?);
            Ok(scores)
        })
    }

    async fn ask(&self, query: &str, texts: &[&str]) -> Result<Vec<f32>, ModelError> {
        let started = Instant::now();
        let scored: Vec<Scored> = match self.settings.dialect {
            RerankDialect::Tei => {
                self.call.ask(&TeiRequest { query, texts, raw_scores: true, truncate: true }).await?
            }
            RerankDialect::Cohere => {
                let model = &self.settings.model;
                let request = CohereRequest { model, query, documents: texts, top_n: texts.len() };
                self.call.ask::<CohereAnswer>(&request).await?.results
            }
        };
        metrics::histogram!("raglan_model_batch_seconds", "model" => "reranker").record(started.elapsed());
        in_order(scored, texts.len())
    }
}

#[async_trait]
impl Reranker for RemoteReranker {
    fn model(&self) -> &str {
        &self.settings.model
    }

    async fn score(&self, query: &str, texts: Vec<String>) -> Result<Vec<f32>, ModelError> {
        let query = readable(query, LONGEST_QUERY);
        let texts: Vec<&str> = texts.iter().map(|text| readable(text, LONGEST_TEXT)).collect();
        let batches = texts.chunks(self.settings.batch_texts.max(1));
        let scores = try_join_all(batches.map(|batch| self.scores(query, batch.to_vec()))).await?;
        Ok(scores.into_iter().flatten().collect())
    }
}

/// A text as it is sent: at most so many bytes of it.
fn readable(text: &str, most: usize) -> &str {
    let text = &text[..text.floor_char_boundary(most)];
    if text.trim().is_empty() { BLANK } else { text }
}

#[derive(Serialize)]
struct TeiRequest<'a> {
    query: &'a str,
    texts: &'a [&'a str],
    raw_scores: bool,
    truncate: bool,
}

#[derive(Serialize)]
struct CohereRequest<'a> {
    model: &'a str,
    query: &'a str,
    documents: &'a [&'a str],
    top_n: usize,
}

#[derive(Deserialize)]
struct CohereAnswer {
    results: Vec<Scored>,
}

/// The score of the text with this number.
#[derive(Deserialize)]
struct Scored {
    index: usize,
    #[serde(alias = "relevance_score")]
    score: f32,
}

/// Servers answer with the best first; here each score goes back to its text.
fn in_order(scored: Vec<Scored>, texts: usize) -> Result<Vec<f32>, ModelError> {
    let wrong = |what: String| ModelError::Permanent(format!("the model server answered with {what}"));
    let mut scores = vec![None; texts];
    for Scored { index, score } in scored {
        let Some(place) = scores.get_mut(index) else {
            return Err(wrong(format!("a score for text {index} of {texts}")));
        };
        if !score.is_finite() {
            return Err(wrong("something that is not a number".to_owned()));
        }
        *place = Some(score);
    }
    let scores: Vec<f32> = scores.into_iter().flatten().collect();
    if scores.len() == texts {
        return Ok(scores);
    }
    Err(wrong(format!("{} scores for {texts} texts", scores.len())))
}

#[cfg(test)]
mod tests;
