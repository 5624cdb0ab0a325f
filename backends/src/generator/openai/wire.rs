//! What is said to and by an OpenAI-compatible server.

use raglan_pipeline::{
    domain::{FinishReason, Usage},
    ports::{GenerationRequest, ModelError},
};
use reqwest::StatusCode;
use serde::{Deserialize, Serialize};

use super::MaxTokensField;

/// A server's message is cut at so many characters.
const LONGEST_MESSAGE: usize = 300;

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

/// The error object of OpenAI (and of all who copied it); others send only a string.
#[derive(Deserialize)]
#[serde(untagged)]
enum ErrorBody {
    Object {
        #[serde(default)]
        message: Option<String>,
        #[serde(default, rename = "type")]
        kind: Option<String>,
        #[serde(default)]
        code: Option<Code>,
    },
    Text(String),
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Code {
    Number(u16),
    Text(String),
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

/// What a server said about an error.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Said {
    message: String,
    codes: Vec<String>,
    status: Option<u16>,
}

impl From<ErrorBody> for Said {
    fn from(body: ErrorBody) -> Self {
        match body {
            ErrorBody::Text(message) => Self { message, ..Self::default() },
            ErrorBody::Object { message, kind, code } => {
                let (code, status) = match code {
                    Some(Code::Number(status)) => (None, Some(status)),
                    Some(Code::Text(code)) => (Some(code), None),
                    None => (None, None),
                };
                Self {
                    message: message.unwrap_or_default(),
                    codes: kind.into_iter().chain(code).collect(),
                    status,
                }
            }
        }
    }
}

impl Said {
    /// Reads the body of an error response: OpenAI's object, the flat ones of other servers, or plain text.
    pub(super) fn read(body: &str) -> Self {
        #[derive(Deserialize)]
        struct Flat {
            error: Option<ErrorBody>,
            message: Option<String>,
            detail: Option<serde_json::Value>,
            error_type: Option<String>,
            code: Option<Code>,
        }
        let Ok(flat) = serde_json::from_str::<Flat>(body) else {
            return Self { message: body.to_owned(), ..Self::default() };
        };
        let mut said = flat.error.map(Self::from).unwrap_or_default();
        if said.message.is_empty() {
            said.message = flat
                .message
                .or_else(|| {
                    flat.detail
                        .map(|detail| detail.as_str().map_or_else(|| detail.to_string(), str::to_owned))
                })
                .unwrap_or_default();
        }
        said.codes.extend(flat.error_type);
        if let Some(Code::Text(code)) = flat.code {
            said.codes.push(code);
        }
        said
    }

    /// The message on one line, of bounded length.
    pub(super) fn words(&self) -> String {
        let words = self.message.split_whitespace().collect::<Vec<_>>().join(" ");
        if words.is_empty() {
            "no reason given".to_owned()
        } else {
            words.chars().take(LONGEST_MESSAGE).collect()
        }
    }

    fn is_too_long(&self) -> bool {
        let message = self.message.to_lowercase();
        self.codes.iter().any(|code| code == "context_length_exceeded" || code == "string_above_max_length")
            || ["context length", "context_length", "context window", "inputs tokens", "prompt is too long"]
                .iter()
                .any(|words| message.contains(words))
    }
}

/// What a caller must do about an error status.
pub(super) fn classify(status: StatusCode, said: &Said) -> ModelError {
    let message = format!("the model server answered {status}: {}", said.words());
    match status.as_u16() {
        413 => ModelError::TooLong(message),
        400 | 422 if said.is_too_long() => ModelError::TooLong(message),
        408 | 409 | 425 | 429 | 500.. => ModelError::try_later(message),
        _ => ModelError::Permanent(message),
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
        let error = piece(r#"{"error":{"message":"no such model","code":404}}"#).unwrap_err();
        assert!(matches!(error, ModelError::Permanent(_)), "{error}");
        assert!(matches!(piece("{"), Err(ModelError::TryLater { .. })));
    }

    #[test]
    fn statuses_say_what_to_do() {
        let long = r#"{"error":{"message":"This model's maximum context length is 4096 tokens","type":"invalid_request_error","code":"context_length_exceeded"}}"#;
        let tgi = r#"{"error":"Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096; inputs tokens: 5000","error_type":"validation"}"#;
        let vllm = r#"{"object":"error","message":"maximum context length is 2048 tokens","type":"BadRequestError","code":400}"#;
        for (status, body, kind) in [
            (400, long, "long"),
            (400, vllm, "long"),
            (422, tgi, "long"),
            (413, "", "long"),
            (400, r#"{"error":{"message":"bad temperature"}}"#, "permanent"),
            (401, r#"{"detail":"no key"}"#, "permanent"),
            (403, "no", "permanent"),
            (404, "<html>", "permanent"),
            (302, "", "permanent"),
            (408, "", "later"),
            (409, "", "later"),
            (425, "", "later"),
            (429, r#"{"error":{"message":"slow down","code":null}}"#, "later"),
            (500, "", "later"),
            (503, "maximum context length", "later"),
        ] {
            let got = match classify(StatusCode::from_u16(status).unwrap(), &Said::read(body)) {
                ModelError::TooLong(_) => "long",
                ModelError::Permanent(_) => "permanent",
                ModelError::TryLater { .. } => "later",
                ModelError::Cancelled => "cancelled",
            };
            assert_eq!(got, kind, "{status} {body}");
        }
        let error = classify(StatusCode::UNAUTHORIZED, &Said::read(r#"{"detail":"no  key"}"#));
        assert_eq!(error.to_string(), "the model server answered 401 Unauthorized: no key");
    }
}
