//! Sentence embeddings by a server: OpenAI's `/v1/embeddings` and all who copied it, or Text Embeddings Inference's own call.

use std::{fmt, sync::Arc, time::Instant};

use async_trait::async_trait;
use futures::future::{BoxFuture, try_join_all};
use raglan_pipeline::{
    domain::{EmbedPurpose, Embedding},
    ports::{Embedder, EmbedderInfo, ModelError, Tokenize},
};
use serde::{Deserialize, Serialize};

use super::{prefixes::Prefixes, unit::normalise};
use crate::model_server::{BLANK, Call, ServerSettings, half};

/// How a server wants to be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EmbedDialect {
    /// `POST embeddings` behind an address with a version, as OpenAI has it; so do vLLM, Text Embeddings Inference, Ollama and others.
    OpenAi,
    /// `POST embed`, of Text Embeddings Inference alone. Such a server cuts long texts itself where asked to.
    Tei,
}

/// Which model of which server, and what is known of it.
#[derive(Debug, Clone)]
pub struct RemoteEmbedderSettings {
    /// The server.
    pub server: ServerSettings,
    /// How it is asked.
    pub dialect: EmbedDialect,
    /// The model's name: what the server is asked for (`OpenAi`), and what the vectors are kept under.
    pub model: String,
    /// The length of its vectors. None: the server is asked, and must answer.
    pub dimension: Option<usize>,
    /// The most tokens of a text that the model reads, special ones included.
    pub max_tokens: usize,
    /// The text put before a question.
    pub query_prefix: String,
    /// The text put before a passage.
    pub passage_prefix: String,
    /// The most texts of one request.
    pub batch_texts: usize,
    /// The most tokens of one request; a longer text goes by itself.
    pub batch_tokens: usize,
}

impl RemoteEmbedderSettings {
    /// A model of a server, with the usual sizes: 512 tokens a text, and requests of 32 texts or 8,192 tokens.
    #[must_use]
    pub fn new(server: ServerSettings, dialect: EmbedDialect, model: impl Into<String>) -> Self {
        Self {
            server,
            dialect,
            model: model.into(),
            dimension: None,
            max_tokens: 512,
            query_prefix: String::new(),
            passage_prefix: String::new(),
            batch_texts: 32,
            batch_tokens: 8_192,
        }
    }
}

/// Tokens that models add to a text: one before and one behind it.
const SPECIAL_TOKENS: usize = 2;
/// So many bytes for each token that the model reads are looked at; no text has fewer tokens than that.
const BYTES_PER_TOKEN: usize = 64;

/// An [`Embedder`] that asks a server.
///
/// Texts are cut here, by the tokeniser that it is given, and where that counts fewer tokens than the server does and the server refuses, in
/// halves until it accepts; both are told as `truncated`. Vectors are brought to unit length here. Questions have requests of their own, so that
/// they do not wait for passages.
pub struct RemoteEmbedder {
    info: EmbedderInfo,
    settings: RemoteEmbedderSettings,
    prefixes: Prefixes,
    tokenizer: Arc<dyn Tokenize>,
    urgent: Call,
    patient: Call,
}

impl fmt::Debug for RemoteEmbedder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RemoteEmbedder").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl RemoteEmbedder {
    /// Asks the server for a vector, and checks its length against the settings. Where these have it, a server that cannot answer now is no
    /// error: every later answer is checked too. `tokenizer` should be the model's own.
    ///
    /// # Errors
    /// [`ModelError::Permanent`] where the settings are wrong, the server refuses, or its vectors have another length;
    /// [`ModelError::TryLater`] where it does not answer and the settings have no length.
    pub async fn open(
        settings: RemoteEmbedderSettings,
        tokenizer: Arc<dyn Tokenize>,
    ) -> Result<Self, ModelError> {
        let name = match settings.dialect {
            EmbedDialect::OpenAi => "embeddings",
            EmbedDialect::Tei => "embed",
        };
        let call = || Call::new(settings.server.clone(), name);
        let (urgent, patient) = (call()?, call()?);
        let found = ask(&urgent, &settings, &["dimension"]).await;
        let dimension = match (found.map(|vectors| vectors.first().map_or(0, Vec::len)), settings.dimension) {
            (Ok(0), _) => {
                return Err(ModelError::Permanent(
                    "the model server answered with an empty vector".to_owned(),
                ));
            }
            (Ok(found), Some(wanted)) if found != wanted => return Err(other_dimension(found, wanted)),
            (Ok(found), _) => found,
            (Err(error @ ModelError::TryLater { .. }), Some(wanted)) => {
                tracing::warn!(%error, "embedding server does not answer; going on without it");
                wanted
            }
            (Err(error), _) => return Err(error),
        };
        let prefixes =
            Prefixes { query: settings.query_prefix.clone(), passage: settings.passage_prefix.clone() };
        let (model, max_tokens) = (&settings.model, settings.max_tokens);
        let model = format!("{model}-{dimension}-{max_tokens}{}", prefixes.mark());
        let info = EmbedderInfo { model, dimension, max_tokens };
        Ok(Self { info, settings, prefixes, tokenizer, urgent, patient })
    }

    /// Counts and cuts texts, off the runtime: a long one takes its time.
    async fn pieces(&self, texts: Vec<String>) -> Result<Vec<Piece>, ModelError> {
        let (tokenizer, max_tokens) = (Arc::clone(&self.tokenizer), self.settings.max_tokens);
        let cut = move || texts.into_iter().map(|text| Piece::cut(text, &*tokenizer, max_tokens)).collect();
        tokio::task::spawn_blocking(cut)
            .await
            .map_err(|error| ModelError::Permanent(format!("the tokeniser failed: {error}")))
    }

    /// Pieces in requests, in order.
    fn batches(&self, pieces: Vec<Piece>) -> Vec<Vec<Piece>> {
        let mut batches: Vec<Vec<Piece>> = Vec::new();
        let mut left = 0;
        for piece in pieces {
            match batches.last_mut() {
                Some(batch) if batch.len() < self.settings.batch_texts && piece.tokens <= left => {
                    left -= piece.tokens;
                    batch.push(piece);
                }
                _ => {
                    left = self.settings.batch_tokens.saturating_sub(piece.tokens);
                    batches.push(vec![piece]);
                }
            }
        }
        batches
    }

    /// The embeddings of pieces. Where the server finds them too many or too long, each half by itself, and of a single one its first half.
    fn embeddings<'a>(
        &'a self,
        call: &'a Call,
        mut pieces: Vec<Piece>,
    ) -> BoxFuture<'a, Result<Vec<Embedding>, ModelError>> {
        Box::pin(async move {
            let texts: Vec<&str> = pieces.iter().map(|piece| piece.text.as_str()).collect();
            let words = match ask(call, &self.settings, &texts).await {
                Ok(vectors) => {
                    let embeddings = vectors.into_iter().zip(pieces);
                    return embeddings.map(|(vector, piece)| self.embedding(vector, &piece)).collect();
                }
                Err(ModelError::TooLong(words)) => words,
                Err(error) => return Err(error),
            };
            if let [piece] = &mut pieces[..] {
                let Some(kept) = half(&piece.text) else { return Err(ModelError::TooLong(words)) };
                tracing::debug!(bytes = piece.text.len(), "text too long for the embedding server; halved");
                *piece = Piece { text: kept.to_owned(), tokens: piece.tokens.div_ceil(2), truncated: true };
                return self.embeddings(call, pieces).await;
            }
            let rest = pieces.split_off(pieces.len() / 2);
            let mut embeddings = self.embeddings(call, pieces).await?;
            embeddings.extend(self.embeddings(call, rest).await?);
            Ok(embeddings)
        })
    }

    fn embedding(&self, mut vector: Vec<f32>, piece: &Piece) -> Result<Embedding, ModelError> {
        if vector.len() != self.info.dimension {
            return Err(other_dimension(vector.len(), self.info.dimension));
        }
        if !vector.iter().all(|value| value.is_finite()) {
            let words = "the model server answered with something that is not a number";
            return Err(ModelError::Permanent(words.to_owned()));
        }
        normalise(&mut vector);
        Ok(Embedding { vector, tokens: piece.tokens, truncated: piece.truncated })
    }
}

#[async_trait]
impl Embedder for RemoteEmbedder {
    fn info(&self) -> &EmbedderInfo {
        &self.info
    }

    fn tokenizer(&self) -> Arc<dyn Tokenize> {
        Arc::clone(&self.tokenizer)
    }

    async fn embed(&self, texts: Vec<String>, purpose: EmbedPurpose) -> Result<Vec<Embedding>, ModelError> {
        let call = match purpose {
            EmbedPurpose::Query | EmbedPurpose::Candidate => &self.urgent,
            EmbedPurpose::Passage => &self.patient,
        };
        let pieces = self.pieces(self.prefixes.before(texts, purpose)).await?;
        let batches = self.batches(pieces).into_iter().map(|batch| self.embeddings(call, batch));
        let embeddings: Vec<Embedding> = try_join_all(batches).await?.into_iter().flatten().collect();
        let tokens = embeddings.iter().map(|embedding| embedding.tokens as u64).sum();
        metrics::counter!("raglan_model_tokens_total", "model" => "embedder").increment(tokens);
        Ok(embeddings)
    }
}

fn other_dimension(found: usize, wanted: usize) -> ModelError {
    ModelError::Permanent(format!(
        "the model server's vectors have {found} numbers, not {wanted}: it runs another model"
    ))
}

/// A text as it is sent.
struct Piece {
    text: String,
    /// With the special ones.
    tokens: usize,
    truncated: bool,
}

impl Piece {
    fn cut(mut text: String, tokenizer: &dyn Tokenize, max_tokens: usize) -> Self {
        let room = max_tokens.saturating_sub(SPECIAL_TOKENS).max(1);
        let most = room.saturating_mul(BYTES_PER_TOKEN);
        let mut truncated = text.len() > most;
        if truncated {
            text.truncate(text.floor_char_boundary(most));
        }
        let mut tokens = tokenizer.tokens(&text);
        if tokens.len() > room {
            truncated = true;
            tokens.truncate(room);
            let end = tokens.last().map_or(0, |token| token.end);
            text.truncate(text.floor_char_boundary(end));
        }
        if text.trim().is_empty() {
            BLANK.clone_into(&mut text);
        }
        Self { text, tokens: tokens.len() + SPECIAL_TOKENS, truncated }
    }
}

#[derive(Serialize)]
struct OpenAiRequest<'a> {
    model: &'a str,
    input: &'a [&'a str],
    encoding_format: &'static str,
}

#[derive(Deserialize)]
struct OpenAiAnswer {
    data: Vec<OpenAiVector>,
}

#[derive(Deserialize)]
struct OpenAiVector {
    index: usize,
    embedding: Vec<f32>,
}

#[derive(Serialize)]
struct TeiRequest<'a> {
    inputs: &'a [&'a str],
    normalize: bool,
    truncate: bool,
}

/// One vector a text, in order, as the server gives them.
async fn ask(
    call: &Call,
    settings: &RemoteEmbedderSettings,
    texts: &[&str],
) -> Result<Vec<Vec<f32>>, ModelError> {
    let started = Instant::now();
    let vectors = match settings.dialect {
        EmbedDialect::OpenAi => {
            let request = OpenAiRequest { model: &settings.model, input: texts, encoding_format: "float" };
            let mut answer: OpenAiAnswer = call.ask(&request).await?;
            answer.data.sort_by_key(|vector| vector.index);
            if !(0..).zip(&answer.data).all(|(index, vector): (usize, _)| index == vector.index) {
                let words = "the model server's vectors are not numbered as the texts are";
                return Err(ModelError::Permanent(words.to_owned()));
            }
            answer.data.into_iter().map(|vector| vector.embedding).collect()
        }
        EmbedDialect::Tei => {
            let request = TeiRequest { inputs: texts, normalize: true, truncate: true };
            call.ask::<Vec<Vec<f32>>>(&request).await?
        }
    };
    metrics::histogram!("raglan_model_batch_seconds", "model" => "embedder").record(started.elapsed());
    if vectors.len() == texts.len() {
        return Ok(vectors);
    }
    Err(ModelError::Permanent(format!(
        "the model server answered with {} vectors for {} texts",
        vectors.len(),
        texts.len()
    )))
}

#[cfg(test)]
mod tests;
