//! Tokens back to text, one by one.

use tokenizers::Tokenizer;

/// The most tokens that one unfinished character is waited for: none has more than four bytes, and some tokeniser may write one before them.
const LONGEST_CHARACTER: usize = 6;

/// Makes text of tokens as they come. A token may be a part of a character, and how a token is written may depend on the one before it; so each
/// piece is the difference between two texts, of the tokens before and of these with the new ones. An unfinished character at the end, which
/// decoders write as U+FFFD, once or for each of its bytes, is held back until it is whole. Special tokens are no text.
#[derive(Debug, Clone, Default)]
pub(crate) struct Detokenizer {
    /// The tokens that have become text last, and those that have not in full.
    tokens: Vec<u32>,
    /// How many of them have.
    read: usize,
    /// Bytes of the text of the others that were passed on.
    shown: usize,
    /// Tokens since something was.
    waited: usize,
}

impl Detokenizer {
    /// Takes the next token; answers with the text that it completes, which may be none.
    pub(crate) fn push(&mut self, tokenizer: &Tokenizer, token: u32) -> Result<String, String> {
        // It must not stand for the text before the next token either: that would be written as the first of a text is, without its space.
        let special = |text: String| tokenizer.get_added_vocabulary().is_special_token(&text);
        if tokenizer.id_to_token(token).is_some_and(special) {
            return Ok(String::new());
        }
        self.tokens.push(token);
        self.waited += 1;
        self.text(tokenizer, self.waited < LONGEST_CHARACTER)
    }

    /// The text of the tokens that are still held back.
    pub(crate) fn finish(&mut self, tokenizer: &Tokenizer) -> Result<String, String> {
        if self.read == self.tokens.len() {
            return Ok(String::new());
        }
        self.text(tokenizer, false)
    }

    fn text(&mut self, tokenizer: &Tokenizer, may_wait: bool) -> Result<String, String> {
        let decode = |tokens: &[u32]| tokenizer.decode(tokens, true).map_err(|error| error.to_string());
        let before = decode(&self.tokens[..self.read])?;
        let after = decode(&self.tokens)?;
        // Where a token changed how those before it are written, what is shown already stays.
        let fresh = &after[after.floor_char_boundary(before.len())..];
        let ready = if may_wait { self.whole(tokenizer, fresh) } else { fresh };
        let is_unfinished = ready.len() < fresh.len();
        let piece = ready[ready.floor_char_boundary(self.shown)..].to_owned();
        if is_unfinished {
            self.shown = self.shown.max(ready.len());
        } else {
            self.tokens.drain(..self.read);
            self.read = self.tokens.len();
            self.shown = 0;
        }
        if !is_unfinished || !piece.is_empty() {
            self.waited = 0;
        }
        Ok(piece)
    }

    /// A text without what may be the beginning of a character at its end: a U+FFFD, or, where tokens stand for single bytes (`<0xE6>`), as many as
    /// there are such tokens.
    fn whole<'a>(&self, tokenizer: &Tokenizer, text: &'a str) -> &'a str {
        let Some(mut whole) = text.strip_suffix(char::REPLACEMENT_CHARACTER) else { return text };
        let is_byte = |text: String| text.len() == 6 && text.starts_with("<0x") && text.ends_with('>');
        let bytes =
            self.tokens.iter().rev().take_while(|token| tokenizer.id_to_token(**token).is_some_and(is_byte));
        for _ in bytes.skip(1) {
            whole = whole.strip_suffix(char::REPLACEMENT_CHARACTER).unwrap_or(whole);
        }
        whole
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;
    use tokenizers::{
        AddedToken, Tokenizer, decoders::byte_level::ByteLevel, models::bpe::BPE,
        pre_tokenizers::byte_level::ByteLevel as ByteLevelSplit,
    };

    use super::*;

    /// A token for each byte, and two that join the bytes of a character in part.
    fn bytes() -> Tokenizer {
        let mut alphabet: Vec<char> = ByteLevelSplit::alphabet().into_iter().collect();
        alphabet.sort_unstable();
        let mut vocabulary: Vec<(String, u32)> =
            (0..).zip(alphabet).map(|(id, one)| (one.to_string(), id)).collect();
        // "ð" and "Ł" are how the bytes F0 and 9F are written: most emoji begin with them.
        vocabulary.push(("ðŁ".to_owned(), 256));
        let model = BPE::builder()
            .vocab_and_merges(
                vocabulary
                    .into_iter()
                    .collect::<HashMap<_, _>>()
                    .into_iter()
                    .collect::<tokenizers::models::bpe::Vocab>(),
                vec![("ð".to_owned(), "Ł".to_owned())],
            )
            .build()
            .unwrap();
        let mut tokenizer = Tokenizer::new(model);
        tokenizer.with_pre_tokenizer(Some(ByteLevelSplit::new(false, true, true)));
        tokenizer.with_decoder(Some(ByteLevel::default()));
        tokenizer.add_special_tokens([AddedToken::from("<|end|>", true)]).unwrap();
        tokenizer
    }

    fn pieces(tokenizer: &Tokenizer, text: &str) -> Vec<String> {
        let tokens = tokenizer.encode(text, false).unwrap();
        let mut detokenizer = Detokenizer::default();
        let mut pieces: Vec<String> =
            tokens.get_ids().iter().map(|id| detokenizer.push(tokenizer, *id).unwrap()).collect();
        pieces.push(detokenizer.finish(tokenizer).unwrap());
        pieces
    }

    #[test]
    fn characters_come_whole() {
        let tokenizer = bytes();
        let pieces = pieces(&tokenizer, "né 日本 🦀!");
        assert_eq!(pieces.concat(), "né 日本 🦀!");
        assert!(pieces.iter().all(|piece| !piece.contains(char::REPLACEMENT_CHARACTER)), "{pieces:?}");
        assert!(pieces.contains(&"🦀".to_owned()), "{pieces:?}");
    }

    #[test]
    fn special_tokens_are_no_text_and_a_broken_character_is_not_held_forever() {
        let tokenizer = bytes();
        let end = tokenizer.token_to_id("<|end|>").unwrap();
        let mut detokenizer = Detokenizer::default();
        assert_eq!(detokenizer.push(&tokenizer, end).unwrap(), "");
        // The first half of an emoji, and then nothing of it.
        assert_eq!(detokenizer.push(&tokenizer, 256).unwrap(), "");
        let rest = detokenizer.finish(&tokenizer).unwrap();
        assert!(!rest.is_empty() && rest.chars().all(|one| one == char::REPLACEMENT_CHARACTER), "{rest:?}");
        let shown: Vec<String> = (0..12).map(|_| detokenizer.push(&tokenizer, 256).unwrap()).collect();
        assert!(shown.iter().any(|piece| !piece.is_empty()), "{shown:?}");
    }

    /// As Llama 2 and Mistral 7B write texts: a space before each word as a part of it, none before the first one, and a token for each byte of what
    /// has no other.
    fn words_and_bytes() -> Tokenizer {
        let words = ["<unk>", "</s>", "▁red", "▁crab", "!"].map(str::to_owned);
        let bytes = (0..=255).map(|byte| format!("<0x{byte:02X}>"));
        let vocabulary: serde_json::Map<String, serde_json::Value> =
            words.into_iter().chain(bytes).zip(0..).map(|(text, id)| (text, serde_json::json!(id))).collect();
        let file = serde_json::json!({
            "version": "1.0", "truncation": null, "padding": null, "normalizer": null, "pre_tokenizer": null,
            "added_tokens": [{"id": 1, "content": "</s>", "single_word": false, "lstrip": false, "rstrip": false,
                              "normalized": false, "special": true}],
            "post_processor": null,
            "decoder": {"type": "Sequence", "decoders": [
                {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"},
                {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0},
            ]},
            "model": {"type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": null,
                      "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true,
                      "vocab": vocabulary, "merges": []},
        });
        Tokenizer::from_bytes(file.to_string()).unwrap()
    }

    fn written(tokenizer: &Tokenizer, tokens: &[u32]) -> Vec<String> {
        let mut detokenizer = Detokenizer::default();
        let mut pieces: Vec<String> =
            tokens.iter().map(|token| detokenizer.push(tokenizer, *token).unwrap()).collect();
        pieces.push(detokenizer.finish(tokenizer).unwrap());
        pieces
    }

    #[test]
    fn characters_of_single_bytes_come_whole() {
        let tokenizer = words_and_bytes();
        let bytes = |text: &str| text.bytes().map(|byte| u32::from(byte) + 5).collect::<Vec<_>>();
        let tokens = [vec![2], bytes(" 日本🦀é"), vec![4, 3]].concat();
        let pieces = written(&tokenizer, &tokens);
        assert_eq!(pieces.concat(), "red 日本🦀é! crab");
        assert!(pieces.contains(&"🦀".to_owned()), "{pieces:?}");
        // What never becomes a character is shown in the end.
        let broken = written(&tokenizer, &bytes("🦀")[..3]).concat();
        assert_eq!(broken, "\u{fffd}".repeat(3));
    }

    #[test]
    fn a_special_token_takes_no_space_away() {
        assert_eq!(written(&words_and_bytes(), &[2, 1, 3]).concat(), "red crab");
    }

    proptest! {
        #[test]
        fn any_text_comes_back(text in "\\PC{0,40}") {
            let tokenizer = bytes();
            let pieces = pieces(&tokenizer, &text);
            prop_assert_eq!(pieces.concat(), text);
        }
    }
}
