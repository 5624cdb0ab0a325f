//! Text to words, before anything is known of its language.

use tantivy::tokenizer::{Token, TokenStream, Tokenizer};
use unicode_normalization::char::is_combining_mark;

/// Splits at what is neither letter nor digit, and cuts scripts that are written without spaces into overlapping pairs of characters.
///
/// Pairs are what search engines use where there is no dictionary: they find every word of two characters or more, in whatever it is
/// compounded with, and need no segmentation that documents and questions would have to agree on. A run of one character is a word of its own.
#[derive(Debug, Clone, Default)]
pub(super) struct Segmenter {
    token: Token,
}

/// The words of a text.
pub(super) struct Segments<'a> {
    text: &'a str,
    /// Where to go on.
    at: usize,
    /// Where the run of characters ends that is being cut into pairs; no further than `at` outside of one.
    run_end: usize,
    token: &'a mut Token,
}

impl Tokenizer for Segmenter {
    type TokenStream<'a> = Segments<'a>;

    fn token_stream<'a>(&'a mut self, text: &'a str) -> Segments<'a> {
        self.token.reset();
        Segments { text, at: 0, run_end: 0, token: &mut self.token }
    }
}

impl Segments<'_> {
    /// The end of the characters from here on that are like this.
    fn end_of(&self, from: usize, like: impl Fn(char) -> bool) -> usize {
        let rest = &self.text[from..];
        from + rest.find(|c: char| !like(c)).unwrap_or(rest.len())
    }

    fn next_char(&self, at: usize) -> Option<(char, usize)> {
        self.text[at..].chars().next().map(|c| (c, at + c.len_utf8()))
    }

    /// The next pair of a run, or its only character.
    fn pair(&mut self) -> Option<(usize, usize)> {
        let (_, second) = self.next_char(self.at)?;
        let from = self.at;
        if second >= self.run_end {
            // The run is one character long.
            self.at = self.run_end;
            return Some((from, self.run_end));
        }
        let (_, end) = self.next_char(second)?;
        // The last character has been in a pair already.
        self.at = if end >= self.run_end { self.run_end } else { second };
        Some((from, end))
    }

    fn next(&mut self) -> Option<(usize, usize)> {
        if self.at < self.run_end {
            return self.pair();
        }
        loop {
            let (c, after) = self.next_char(self.at)?;
            if is_unspaced(c) {
                self.run_end = self.end_of(self.at, is_unspaced);
                return self.pair();
            }
            if c.is_alphanumeric() {
                let from = self.at;
                self.at = self.end_of(after, |c| {
                    (c.is_alphanumeric() && !is_unspaced(c))
                        || (is_combining_mark(c) && !is_variation_selector(c))
                });
                return Some((from, self.at));
            }
            self.at = after;
        }
    }
}

impl TokenStream for Segments<'_> {
    fn advance(&mut self) -> bool {
        let Some((from, to)) = self.next() else { return false };
        self.token.text.clear();
        self.token.text.push_str(&self.text[from..to]);
        self.token.offset_from = from;
        self.token.offset_to = to;
        self.token.position = self.token.position.wrapping_add(1);
        true
    }

    fn token(&self) -> &Token {
        self.token
    }

    fn token_mut(&mut self) -> &mut Token {
        self.token
    }
}

/// Characters of scripts that are written without spaces between words, and of Korean, whose words carry their particles.
fn is_unspaced(c: char) -> bool {
    if c < '\u{e00}' {
        return false;
    }
    let letter = c.is_alphanumeric() || is_combining_mark(c);
    letter
        && matches!(c,
            '\u{e00}'..='\u{eff}'        // Thai, Lao
            | '\u{1000}'..='\u{109f}'    // Burmese
            | '\u{1100}'..='\u{11ff}'    // Hangul, in parts
            | '\u{1780}'..='\u{17ff}'    // Khmer
            | '\u{3005}'..='\u{3007}'    // ideographs that repeat and close
            | '\u{3040}'..='\u{30ff}'    // Hiragana, Katakana
            | '\u{3130}'..='\u{318f}'    // Hangul, compatible
            | '\u{31f0}'..='\u{31ff}'    // Katakana, small
            | '\u{3400}'..='\u{4dbf}'    // ideographs
            | '\u{4e00}'..='\u{9fff}'
            | '\u{ac00}'..='\u{d7ff}'    // Hangul
            | '\u{f900}'..='\u{faff}'    // ideographs, compatible
            | '\u{1b000}'..='\u{1b16f}'  // Kana, further
            | '\u{20000}'..='\u{3ffff}'  // ideographs, further
        )
}

/// What says how the sign before it is drawn.
fn is_variation_selector(c: char) -> bool {
    matches!(c, '\u{fe00}'..='\u{fe0f}' | '\u{20d0}'..='\u{20ff}')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tantivy::tokenizer::SimpleTokenizer;

    use super::*;

    fn words<T: Tokenizer>(mut tokenizer: T, text: &str) -> Vec<String> {
        let mut words = Vec::new();
        let mut stream = tokenizer.token_stream(text);
        while stream.advance() {
            let token = stream.token();
            assert_eq!(token.text, text[token.offset_from..token.offset_to]);
            assert_eq!(token.position, words.len());
            words.push(token.text.clone());
        }
        words
    }

    fn segments(text: &str) -> Vec<String> {
        words(Segmenter::default(), text)
    }

    #[test]
    fn words_end_where_letters_end() {
        assert_eq!(
            segments("The Café's C++, foo_bar; 3.14!"),
            ["The", "Café", "s", "C", "foo", "bar", "3", "14"]
        );
        assert_eq!(segments("हिन्दी भाषा।"), ["हिन्दी", "भाषा"]);
        assert_eq!(segments("cafe\u{301} 5\u{fe0f}\u{20e3}"), ["cafe\u{301}", "5"]);
        assert_eq!(segments(" \u{301}…"), Vec::<String>::new());
    }

    #[test]
    fn scripts_without_spaces_become_pairs() {
        assert_eq!(segments("東京都庁"), ["東京", "京都", "都庁"]);
        assert_eq!(segments("京"), ["京"]);
        assert_eq!(segments("私はiPhone手机です。"), ["私は", "iPhone", "手机", "机で", "です"]);
        assert_eq!(segments("한국어 문서"), ["한국", "국어", "문서"]);
        assert_eq!(segments("ภาษา"), ["ภา", "าษ", "ษา"]);
    }

    proptest! {
        #[test]
        fn spaced_text_is_cut_as_tantivy_does(text in "[a-zA-Z0-9äöüßéñčž _.,'()\\-\u{a0}\n]{0,60}") {
            prop_assert_eq!(segments(&text), words(SimpleTokenizer::default(), &text));
        }

        #[test]
        fn any_text_is_cut_and_nothing_is_lost(text in "\\PC{0,40}") {
            let words = segments(&text);
            for c in text.chars().filter(|c| c.is_alphanumeric()) {
                prop_assert!(words.iter().any(|word| word.contains(c)), "{c:?} of {text:?}");
            }
        }
    }
}
