//! What model servers say about errors, and what a caller must do about it.

use raglan_pipeline::ports::ModelError;
use reqwest::StatusCode;
use serde::Deserialize;

/// A server's message is cut at so many characters.
const LONGEST_MESSAGE: usize = 300;

/// What messages about too long or too many texts say, in lower case.
const TOO_LONG: [&str; 8] = [
    "context length",
    "context_length",
    "context window",
    "inputs tokens",
    "prompt is too long",
    // Text Embeddings Inference, of a text and of a request.
    "must have less than",
    "maximum allowed batch size",
    "too many tokens",
];

/// The error object of OpenAI (and of all who copied it); others send only a string.
#[derive(Deserialize)]
#[serde(untagged)]
pub(crate) enum ErrorBody {
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
pub(crate) enum Code {
    Number(serde_json::Number),
    Text(String),
}

/// What a server said about an error.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Said {
    message: String,
    codes: Vec<String>,
    pub(crate) status: Option<u16>,
}

impl From<ErrorBody> for Said {
    fn from(body: ErrorBody) -> Self {
        match body {
            ErrorBody::Text(message) => Self { message, ..Self::default() },
            ErrorBody::Object { message, kind, code } => {
                let (code, status) = match code {
                    Some(Code::Number(code)) => {
                        (None, code.as_u64().and_then(|status| u16::try_from(status).ok()))
                    }
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
    pub(crate) fn read(body: &str) -> Self {
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
    pub(crate) fn words(&self) -> String {
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
            || TOO_LONG.iter().any(|words| message.contains(words))
    }
}

/// What a caller must do about an error status.
pub(crate) fn classify(status: StatusCode, said: &Said) -> ModelError {
    let message = format!("the model server answered {status}: {}", said.words());
    match status.as_u16() {
        413 => ModelError::TooLong(message),
        400 | 422 if said.is_too_long() => ModelError::TooLong(message),
        // 424 is Text Embeddings Inference's "the model failed".
        408 | 409 | 424 | 425 | 429 | 500.. => ModelError::try_later(message),
        _ => ModelError::Permanent(message),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
            (
                422,
                r#"{"error":"batch size 64 > maximum allowed batch size 32","error_type":"Validation"}"#,
                "long",
            ),
            (400, r#"{"error":{"message":"bad temperature"}}"#, "permanent"),
            (401, r#"{"detail":"no key"}"#, "permanent"),
            (403, "no", "permanent"),
            (404, "<html>", "permanent"),
            (302, "", "permanent"),
            (408, "", "later"),
            (409, "", "later"),
            (424, r#"{"error":"inference failed","error_type":"Backend"}"#, "later"),
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
