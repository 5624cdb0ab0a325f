//! What is said to and by an OpenAI-compatible server.

use raglan_pipeline::{
    domain::{FinishReason, Usage},
    ports::{GenerationRequest, ModelError},
};
use reqwest::StatusCode;
use serde::{Deserialize, Serialize};

use super::MaxTokensField;
use crate::model_server::{ErrorBody, Said, classify};

/// The body of a chat completion request.
#[derive(Debug, Serialize)]
pub(super) struct ChatRequest<'a> {
    model: &'a str,
    messages: [Message<'a>; 2],
    #[serde(skip_serializing_if = "Option::is_none")]
    max_tokens: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_completion_tokens: Option<u32>,
    temperature: f32,
    stream: bool,
    stream_options: StreamOptions,
}

#[derive(Debug, Serialize)]
struct Message<'a> {
    role: &'static str,
    content: &'a str,
}

#[derive(Debug, Serialize)]
struct StreamOptions {
    include_usage: bool,
}

impl<'a> ChatRequest<'a> {
    pub(super) fn new(model: &'a str, request: &'a GenerationRequest, field: MaxTokensField) -> Self {
        let max = Some(request.options.max_tokens);
        let (max_tokens, max_completion_tokens) = match field {
            MaxTokensField::MaxTokens => (max, None),
            MaxTokensField::MaxCompletionTokens => (None, max),
        };
        Self {
            model,
            messages: [
                Message { role: "system", content: &request.system },
                Message { role: "user", content: &request.user },
            ],
            max_tokens,
            max_completion_tokens,
            temperature: request.options.temperature,
            stream: true,
            stream_options: StreamOptions { include_usage: true },
        }
    }
}

/// What one event of the stream brings. Servers differ in what they put together.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Piece {
    pub(super) text: Option<String>,
    pub(super) finish: Option<FinishReason>,
    pub(super) usage: Option<Usage>,
}

#[derive(Deserialize)]
struct Chunk {
    #[serde(default)]
    choices: Option<Vec<Choice>>,
    #[serde(default)]
    usage: Option<ChunkUsage>,
    #[serde(default)]
    error: Option<ErrorBody>,
}

#[derive(Deserialize)]
struct Choice {
    #[serde(default)]
    delta: Option<Delta>,
    #[serde(default)]
    finish_reason: Option<String>,
}

#[derive(Deserialize)]
struct Delta {
    #[serde(default)]
    content: Option<String>,
}

#[derive(Deserialize)]
struct ChunkUsage {
    #[serde(default)]
    prompt_tokens: Option<u64>,
    #[serde(default)]
    completion_tokens: Option<u64>,
}

/// Reads one event's data.
pub(super) fn piece(data: &str) -> Result<Piece, ModelError> {
    let chunk: Chunk = serde_json::from_str(data)
        .map_err(|error| ModelError::try_later(format!("the model server sent a broken event: {error}")))?;
    if let Some(error) = chunk.error {
        let said = Said::from(error);
        // An error within a stream has no status unless its code is one; the request was accepted, so it may pass the next time.
        let status = said.status.and_then(|status| StatusCode::from_u16(status).ok());
        return Err(classify(status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR), &said));
    }
    let choice = chunk.choices.unwrap_or_default().into_iter().next();
    let (text, finish) = choice.map_or((None, None), |choice| {
        (choice.delta.and_then(|delta| delta.content), choice.finish_reason.as_deref().map(finish_reason))
    });
    let usage = chunk.usage.map(|usage| Usage {
        prompt_tokens: usage.prompt_tokens.unwrap_or(0),
        completion_tokens: usage.completion_tokens.unwrap_or(0),
    });
    Ok(Piece { text: text.filter(|text| !text.is_empty()), finish, usage })
}

/// Names of servers differ (`eos_token`, `stop_sequence`, `tool_calls`); what is neither cut nor withheld is complete.
fn finish_reason(name: &str) -> FinishReason {
    match name {
        "length" | "max_tokens" => FinishReason::Length,
        "content_filter" => FinishReason::ContentFilter,
        _ => FinishReason::Stop,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_of_different_servers_are_read() {
        let text = |text: &str| Piece { text: Some(text.to_owned()), ..Piece::default() };
        let usage = Some(Usage { prompt_tokens: 7, completion_tokens: 2 });
        for (data, expected) in [
            (
                r#"{"choices":[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}]}"#,
                Piece::default(),
            ),
            (r#"{"choices":[{"delta":{"content":"Hi"},"finish_reason":null}],"usage":null}"#, text("Hi")),
            (
                r#"{"choices":[{"delta":{},"finish_reason":"length"}]}"#,
                Piece { finish: Some(FinishReason::Length), ..Piece::default() },
            ),
            (
                r#"{"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":2}}"#,
                Piece { usage, ..Piece::default() },
            ),
            (
                r#"{"choices":[{"delta":{"content":"!"},"finish_reason":"eos_token"}],"usage":{"prompt_tokens":7,"completion_tokens":2}}"#,
                Piece { text: Some("!".to_owned()), finish: Some(FinishReason::Stop), usage },
            ),
            (
                r#"{"choices":[{"delta":{"content":null},"finish_reason":"content_filter"}]}"#,
                Piece { finish: Some(FinishReason::ContentFilter), ..Piece::default() },
            ),
        ] {
            assert_eq!(piece(data).unwrap(), expected, "{data}");
        }
    }

    #[test]
    fn errors_within_a_stream_are_errors() {
        let error = piece(r#"{"error":{"message":"out of memory","code":500}}"#).unwrap_err();
        assert!(
            matches!(&error, ModelError::TryLater { message, .. } if message.contains("out of memory")),
            "{error}"
        );
        let error = piece(r#"{"error":{"message":"out of luck","code":-100000}}"#).unwrap_err();
        assert!(error.to_string().contains("500 Internal Server Error: out of luck"), "{error}");
        let error = piece(r#"{"error":{"message":"no such model","code":404}}"#).unwrap_err();
        assert!(matches!(error, ModelError::Permanent(_)), "{error}");
        assert!(matches!(piece("{"), Err(ModelError::TryLater { .. })));
    }
}
