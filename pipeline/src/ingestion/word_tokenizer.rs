//! A tokeniser for when there is no model to ask.

use std::ops::Range;

use crate::ports::Tokenize;

/// Letters of a word that make one token; a longer word counts as several, as it does with a model's vocabulary.
const LETTERS: usize = 8;

/// Counts words and punctuation marks: close enough to a model's count to size chunks by.
///
/// A run of letters and digits is a token for every eight characters begun; ideographs, kana and every other visible
/// character are a token each.
#[derive(Debug, Clone, Copy, Default)]
pub struct WordTokenizer;

impl Tokenize for WordTokenizer {
    fn tokens(&self, text: &str) -> Vec<Range<usize>> {
        let mut tokens: Vec<Range<usize>> = Vec::with_capacity(text.len() / 5);
        let mut letters = 0;
        for (at, c) in text.char_indices() {
            let end = at + c.len_utf8();
            if is_word(c) {
                if letters % LETTERS == 0 {
                    tokens.push(at..end);
                } else if let Some(last) = tokens.last_mut() {
                    last.end = end;
                }
                letters += 1;
            } else {
                letters = 0;
                if !c.is_whitespace() {
                    tokens.push(at..end);
                }
            }
        }
        tokens
    }
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric()
        && !matches!(c, '\u{2E80}'..='\u{9FFF}' | '\u{F900}'..='\u{FAFF}' | '\u{20000}'..='\u{3FFFF}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_marks_and_long_words() {
        let text = "Don't re-embed internationalisation, 東京!";
        let tokens: Vec<&str> = WordTokenizer.tokens(text).into_iter().map(|r| &text[r]).collect();
        assert_eq!(
            tokens,
            ["Don", "'", "t", "re", "-", "embed", "internat", "ionalisa", "tion", ",", "東", "京", "!"]
        );
        assert!(WordTokenizer.tokens(" \n\t").is_empty());
    }
}
