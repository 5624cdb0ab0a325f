//! Texts to tokens: the model's tokeniser, its chat template and the tokens that end its answers.

use std::{ops::Range, path::Path};

use serde_json::Value;
use tokenizers::Tokenizer;

use super::request::Prompt;
use crate::{
    LoadError, RequestError,
    chat::{self, ChatTemplate},
    config::{ModelConfig, token_ids},
    weights::GgufFile,
};

/// The file that holds a model's tokeniser.
pub const TOKENIZER: &str = "tokenizer.json";
/// The file with the settings that a model's makers write answers with.
const GENERATION_CONFIG: &str = "generation_config.json";

/// What the file of the weights says of texts itself.
#[derive(Debug, Default)]
pub(super) struct BuiltIn {
    template: Option<String>,
    /// Special tokens by the names that templates use.
    tokens: Vec<(&'static str, u32)>,
}

impl BuiltIn {
    pub(super) fn of_gguf(file: &GgufFile) -> Self {
        let tokens = [("bos_token", file.token("bos")), ("eos_token", file.token("eos"))];
        Self {
            template: file.text("tokenizer.chat_template").map(str::to_owned),
            tokens: tokens.into_iter().filter_map(|(name, id)| Some((name, id?))).collect(),
        }
    }
}

/// What turns prompts into tokens.
pub(super) struct Texts {
    pub(super) tokenizer: Tokenizer,
    template: ChatTemplate,
    /// The tokens that end an answer.
    pub(super) end_tokens: Vec<u32>,
    /// The longest first: one may begin another.
    special: Vec<Special>,
    vocabulary: usize,
}

/// A special token, whose text in a question or a source is plain text.
struct Special {
    id: u32,
    text: String,
    /// The same for a reader, and no token.
    plain: String,
    plain_tokens: usize,
}

impl Special {
    fn new(id: u32, text: String, tokenizer: &Tokenizer) -> Self {
        let (head, tail) = text.split_at(text.chars().next().map_or(0, char::len_utf8));
        // A space of no width stands between.
        let plain = format!("{head}\u{200b}{tail}");
        // Where it cannot be tokenised, neither can a prompt that it stands in, which is told then.
        let plain_tokens = tokenizer.encode_fast(plain.as_str(), false).map_or(1, |encoding| encoding.len());
        Self { id, text, plain, plain_tokens }
    }
}

impl Texts {
    /// Reads the tokeniser's files of a folder.
    pub(super) fn read(folder: &Path, config: &ModelConfig, built_in: &BuiltIn) -> Result<Self, LoadError> {
        let path = folder.join(TOKENIZER);
        let bytes = std::fs::read(&path).map_err(|source| LoadError::Read { path: path.clone(), source })?;
        let mut tokenizer = Tokenizer::from_bytes(bytes).map_err(|error| LoadError::invalid(&path, error))?;
        // The file may carry cutting and padding of the day on which it was saved.
        tokenizer.with_padding(None);
        tokenizer.with_truncation(None).map_err(|error| LoadError::invalid(&path, error))?;
        let mut template = ChatTemplate::read(folder, built_in.template.as_deref())?;
        template.set_tokens(
            built_in
                .tokens
                .iter()
                .filter_map(|(name, id)| Some(((*name).to_owned(), tokenizer.id_to_token(*id)?))),
        );
        let mut end_tokens = config.end_tokens.clone();
        let generation = folder.join(GENERATION_CONFIG);
        if generation.is_file() {
            let bytes = std::fs::read(&generation)
                .map_err(|source| LoadError::Read { path: generation.clone(), source })?;
            let value: Value =
                serde_json::from_slice(&bytes).map_err(|error| LoadError::invalid(&generation, error))?;
            end_tokens.extend(token_ids(value.get("eos_token_id")));
        }
        end_tokens.extend(template.token("eos_token").and_then(|text| tokenizer.token_to_id(text)));
        end_tokens.sort_unstable();
        end_tokens.dedup();
        let added = tokenizer.get_added_tokens_decoder();
        let special =
            added.into_iter().filter(|(_, token)| token.special && token.content.chars().count() > 1);
        let mut special: Vec<Special> =
            special.map(|(id, token)| Special::new(id, token.content, &tokenizer)).collect();
        special.sort_unstable_by_key(|special| std::cmp::Reverse(special.text.len()));
        Ok(Self { tokenizer, template, end_tokens, special, vocabulary: config.vocabulary })
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
            if defused.contains(&special.text) {
                defused = defused.replace(&special.text, &special.plain);
            }
        }
        defused
    }

    /// The byte range of each token that a text has in a prompt. A special token's is there as often as what stands for it has tokens.
    pub(super) fn ranges(&self, text: &str) -> Result<Vec<Range<usize>>, RequestError> {
        let encoding = self.tokenizer.encode(text, false);
        let encoding = encoding.map_err(|error| RequestError::Invalid(error.to_string()))?;
        let times = |id: u32| {
            let special = self.special.iter().find(|special| special.id == id);
            special.map_or(1, |special| special.plain_tokens)
        };
        let tokens = encoding.get_ids().iter().zip(encoding.get_offsets());
        Ok(tokens.flat_map(|(id, &(start, end))| std::iter::repeat_n(start..end, times(*id))).collect())
    }
}
