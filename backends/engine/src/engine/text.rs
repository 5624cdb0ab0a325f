//! Texts to tokens: the model's tokeniser, its chat template and the tokens that end its answers.

use std::path::Path;

use serde_json::Value;
use tokenizers::Tokenizer;

use super::request::Prompt;
use crate::{
    LoadError, RequestError,
    chat::{self, ChatTemplate},
    config::token_ids,
};

/// The file that holds a model's tokeniser.
pub const TOKENIZER: &str = "tokenizer.json";
/// The file with the settings that a model's makers write answers with.
const GENERATION_CONFIG: &str = "generation_config.json";

/// What turns prompts into tokens.
pub(super) struct Texts {
    pub(super) tokenizer: Tokenizer,
    template: ChatTemplate,
    /// The tokens that end an answer.
    pub(super) end_tokens: Vec<u32>,
    /// The texts of special tokens: in a question or a source they are plain text.
    special: Vec<String>,
    vocabulary: usize,
}

impl Texts {
    /// Reads the tokeniser's files of a folder. `end_tokens` and `template` are what the weights' files say.
    pub(super) fn read(
        folder: &Path,
        mut end_tokens: Vec<u32>,
        template: Option<&str>,
        vocabulary: usize,
    ) -> Result<Self, LoadError> {
        let path = folder.join(TOKENIZER);
        let bytes = std::fs::read(&path).map_err(|source| LoadError::Read { path: path.clone(), source })?;
        let mut tokenizer = Tokenizer::from_bytes(bytes).map_err(|error| LoadError::invalid(&path, error))?;
        // The file may carry cutting and padding of the day on which it was saved.
        tokenizer.with_padding(None);
        tokenizer.with_truncation(None).map_err(|error| LoadError::invalid(&path, error))?;
        let template = ChatTemplate::read(folder, template)?;
        let generation = folder.join(GENERATION_CONFIG);
        if generation.is_file() {
            let bytes = std::fs::read(&generation)
                .map_err(|source| LoadError::Read { path: generation.clone(), source })?;
            let value: Value =
                serde_json::from_slice(&bytes).map_err(|error| LoadError::invalid(&generation, error))?;
            end_tokens.extend(token_ids(value.get("eos_token_id")));
        }
        let named = chat::end_token_text(folder)?.and_then(|text| tokenizer.token_to_id(&text));
        end_tokens.extend(named);
        end_tokens.sort_unstable();
        end_tokens.dedup();
        let added = tokenizer.get_added_tokens_decoder();
        let special = added.into_values().filter(|token| token.special && token.content.chars().count() > 1);
        let mut special: Vec<String> = special.map(|token| token.content).collect();
        // The longest first: one may begin another.
        special.sort_unstable_by_key(|text| std::cmp::Reverse(text.len()));
        Ok(Self { tokenizer, template, end_tokens, special, vocabulary })
    }

    /// The tokens of a prompt.
    pub(super) fn tokens(&self, prompt: &Prompt) -> Result<Vec<u32>, RequestError> {
        let encode = |text: &str, special: bool| {
            let encoding = self.tokenizer.encode_fast(text, special);
            encoding
                .map(|encoding| encoding.get_ids().to_vec())
                .map_err(|error| RequestError::Invalid(format!("the prompt cannot be tokenised: {error}")))
        };
        let tokens = match prompt {
            Prompt::Tokens(tokens) => tokens.clone(),
            Prompt::Text(text) => encode(text, true)?,
            Prompt::Chat { system, user } => {
                let rendered = self.template.render(&self.defused(system), &self.defused(user));
                let text = rendered.map_err(|error| {
                    RequestError::Invalid(format!("the chat template refuses it: {}", chat::reason(&error)))
                })?;
                // The template has written the special tokens already.
                encode(&text, false)?
            }
        };
        if let Some(token) = tokens.iter().find(|token| **token as usize >= self.vocabulary) {
            let message = format!("token {token} is beyond the model's {} tokens", self.vocabulary);
            return Err(RequestError::Invalid(message));
        }
        Ok(tokens)
    }

    /// A text in which nothing is taken for a special token: a source that quotes one must not end the conversation or speak in another role.
    fn defused(&self, text: &str) -> String {
        let mut defused = text.to_owned();
        for special in &self.special {
            if defused.contains(special.as_str()) {
                let first = special.chars().next().map_or(0, char::len_utf8);
                let (head, tail) = special.split_at(first);
                // A space of no width: it reads the same, and is no token.
                defused = defused.replace(special.as_str(), &format!("{head}\u{200b}{tail}"));
            }
        }
        defused
    }
}
