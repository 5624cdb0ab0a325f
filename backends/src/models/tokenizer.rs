//! A model's tokeniser, with what its file says about cutting and padding undone.

use std::{ops::Range, path::Path};

use raglan_pipeline::ports::Tokenize;
use serde::Deserialize;
use tokenizers::{Encoding, PostProcessor, Tokenizer, TruncationDirection};

use super::{LoadError, ModelFolder, Sequence, TOKENIZER};

/// A text this many times longer, in bytes, than the tokens that are read of it is first tried by its beginning.
const BYTES_PER_TOKEN: usize = 64;
/// So many tokens more than are read must be found in the beginning, so that its end cannot change those that are.
const MARGIN: usize = 16;

/// A tokeniser that neither cuts nor pads by itself.
pub struct ModelTokenizer {
    inner: Tokenizer,
}

/// A text's tokens, cut to what a model reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Tokenized {
    pub(crate) sequence: Sequence,
    pub(crate) truncated: bool,
}

/// What says how many tokens a model reads, in the order in which it is believed.
#[derive(Deserialize)]
struct SentenceConfig {
    max_seq_length: Option<f64>,
}

#[derive(Deserialize)]
struct TokenizerConfig {
    model_max_length: Option<f64>,
}

impl ModelTokenizer {
    /// Loads `tokenizer.json`. The file may carry truncation and padding of the day it was saved; both are reset.
    ///
    /// # Errors
    /// [`LoadError`] where the file is missing or not a tokeniser.
    pub fn load(folder: &ModelFolder) -> Result<Self, LoadError> {
        Self::open(&folder.file(TOKENIZER))
    }

    /// Loads the tokeniser in this file, in the same way.
    ///
    /// # Errors
    /// [`LoadError`] where the file is missing or not a tokeniser.
    pub fn open(path: &Path) -> Result<Self, LoadError> {
        let bytes =
            std::fs::read(path).map_err(|source| LoadError::Read { path: path.to_owned(), source })?;
        let mut inner = Tokenizer::from_bytes(bytes).map_err(|error| LoadError::invalid(path, error))?;
        inner.with_padding(None);
        inner.with_truncation(None).map_err(|error| LoadError::invalid(path, error))?;
        Ok(Self { inner })
    }

    /// The tokens of one text, special ones included, at most `max`.
    pub(crate) fn encode(&self, text: &str, max: usize) -> Result<Tokenized, String> {
        let room = max.saturating_sub(self.added(false)).max(1);
        let (mut encoding, truncated) = self.encode_beginning(text, room)?;
        encoding.truncate(room, 0, TruncationDirection::Right);
        let encoding = self.inner.post_process(encoding, None, true).map_err(|error| error.to_string())?;
        Ok(Tokenized { sequence: sequence(&encoding), truncated })
    }

    /// The first tokens of a text, before the model's special ones: enough to cut to.
    pub(crate) fn encode_first(&self, text: &str, max: usize) -> Result<Encoding, String> {
        self.encode_beginning(text, max.max(1)).map(|(encoding, _)| encoding)
    }

    /// A pair of texts as one sequence of at most `max` tokens. Where both do not fit, the longer one is cut first.
    pub(crate) fn pair(&self, first: &Encoding, second: Encoding, max: usize) -> Result<Sequence, String> {
        let room = max.saturating_sub(self.added(true)).max(2);
        let (keep_first, keep_second) = longest_first(first.len(), second.len(), room);
        let (mut first, mut second) = (first.clone(), second);
        first.truncate(keep_first, 0, TruncationDirection::Right);
        second.truncate(keep_second, 0, TruncationDirection::Right);
        let encoding =
            self.inner.post_process(first, Some(second), true).map_err(|error| error.to_string())?;
        Ok(sequence(&encoding))
    }

    /// Encodes a text, or, where it is far longer than `room` tokens, its beginning, with at least `room` tokens of it.
    /// Also answers whether it has more than `room`.
    fn encode_beginning(&self, text: &str, room: usize) -> Result<(Encoding, bool), String> {
        let encode = |text| self.inner.encode_fast(text, false).map_err(|error| error.to_string());
        let most = room.saturating_mul(BYTES_PER_TOKEN);
        if text.len() > most {
            let beginning = encode(&text[..text.floor_char_boundary(most)])?;
            if beginning.len() > room + MARGIN {
                return Ok((beginning, true));
            }
        }
        let whole = encode(text)?;
        let truncated = whole.len() > room;
        Ok((whole, truncated))
    }

    fn added(&self, pair: bool) -> usize {
        self.inner.get_post_processor().map_or(0, |processor| processor.added_tokens(pair))
    }
}

impl Tokenize for ModelTokenizer {
    fn tokens(&self, text: &str) -> Vec<Range<usize>> {
        match self.inner.encode(text, false) {
            Ok(encoding) => encoding.get_offsets().iter().map(|&(start, end)| start..end).collect(),
            // A tokeniser fails only where it has no token for what it does not know. Then words are the best guess.
            Err(error) => {
                tracing::warn!(%error, "tokeniser failed; words are counted instead");
                words(text)
            }
        }
    }
}

/// The words of a text, where nobody knows its tokens.
pub(crate) fn words(text: &str) -> Vec<Range<usize>> {
    use unicode_segmentation::UnicodeSegmentation;
    text.unicode_word_indices().map(|(start, word)| start..start + word.len()).collect()
}

fn sequence(encoding: &Encoding) -> Sequence {
    if encoding.is_empty() {
        // A tokeniser without special tokens makes nothing of an empty text; a model needs something to read.
        return Sequence { ids: vec![0], types: vec![0] };
    }
    Sequence { ids: encoding.get_ids().to_vec(), types: encoding.get_type_ids().to_vec() }
}

/// How many tokens of each text stay when one is dropped from the longer again and again until `room` are left.
fn longest_first(first: usize, second: usize, room: usize) -> (usize, usize) {
    if first + second <= room {
        return (first, second);
    }
    let half = room / 2;
    if first <= room - half {
        (first, room - first)
    } else if second <= half {
        (room - second, second)
    } else {
        (room - half, half)
    }
}

/// The most tokens that a model reads, special ones included: what its folder says, but never more than it has positions for.
pub(crate) fn max_tokens(folder: &ModelFolder, positions: usize) -> Result<usize, LoadError> {
    let sentence: Option<SentenceConfig> = folder.read_json_if_there("sentence_bert_config.json")?;
    let tokenizer: Option<TokenizerConfig> = folder.read_json_if_there("tokenizer_config.json")?;
    let said = sentence
        .and_then(|config| config.max_seq_length)
        .or_else(|| tokenizer.and_then(|config| config.model_max_length))
        // "No limit" is written as 1e30; the conversion of a float saturates.
        .map_or(positions, |tokens| tokens as usize)
        .min(positions);
    if said < 4 {
        return Err(LoadError::unsupported(folder.path(), format!("it reads only {said} tokens")));
    }
    Ok(said)
}

#[cfg(test)]
mod unit {
    use super::*;

    #[test]
    fn longest_first_drops_one_by_one_from_the_longer() {
        for room in 2..14 {
            for first in 0..12 {
                for second in 0..12 {
                    let (mut a, mut b) = (first, second);
                    while a + b > room {
                        if a > b { a -= 1 } else { b -= 1 }
                    }
                    assert_eq!(longest_first(first, second, room), (a, b), "{first} and {second} in {room}");
                }
            }
        }
    }
}
