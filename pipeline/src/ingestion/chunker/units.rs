//! The tokens of a whole document, cut once, so that any part of it can be counted without cutting it again.

use std::ops::Range;

use crate::ports::Tokenize;

/// A token longer than this is not trusted to stay one token when the text is cut: models put a single
/// "unknown" token for a word without end.
const LONGEST_TOKEN: usize = 64;
/// Characters of a unit that an over-long token is cut into.
const PIECE_CHARS: usize = 8;

#[derive(Debug)]
struct Unit {
    range: Range<usize>,
    /// Tokens before it in the document.
    before: usize,
    weight: usize,
}

/// A document's tokens by their places.
#[derive(Debug)]
pub(super) struct Units {
    units: Vec<Unit>,
    total: usize,
}

impl Units {
    /// Cuts `text` into tokens.
    pub(super) fn new(text: &str, tokenizer: &dyn Tokenize) -> Self {
        let mut this = Self { units: Vec::new(), total: 0 };
        let mut done = 0;
        let mut waiting = 0;
        for token in tokenizer.tokens(text) {
            let start = text.floor_char_boundary(token.start).max(done);
            let end = text.ceil_char_boundary(token.end).max(start);
            let range = trimmed(text, start..end);
            if range.is_empty() {
                // Whitespace, or another byte of a character that is counted already.
                match this.units.last_mut() {
                    Some(last) => {
                        last.weight += 1;
                        this.total += 1;
                    }
                    None => waiting += 1,
                }
                continue;
            }
            this.fill(text, done..range.start);
            if range.len() > LONGEST_TOKEN {
                this.split(text, range.clone());
            } else {
                this.push(range.clone(), 1 + std::mem::take(&mut waiting));
            }
            done = range.end;
        }
        this.fill(text, done..text.len());
        this
    }

    /// Tokens that begin in `range`.
    pub(super) fn count(&self, range: &Range<usize>) -> usize {
        self.before(range.end) - self.before(range.start)
    }

    /// Whether no token goes on over this place, so that a cut there changes no count.
    pub(super) fn is_between(&self, at: usize) -> bool {
        let index = self.units.partition_point(|unit| unit.range.start < at);
        index == 0 || self.units[index - 1].range.end <= at
    }

    /// Cuts `range` into parts of at most `limit` tokens, at whitespace where there is some, else between tokens.
    pub(super) fn split_long(&self, text: &str, range: &Range<usize>, limit: usize) -> Vec<Range<usize>> {
        let first = self.units.partition_point(|unit| unit.range.start < range.start);
        let mut parts = Vec::new();
        let mut start = range.start;
        let mut weight = 0;
        let mut at_space: Option<(usize, usize)> = None;
        for unit in self.units[first..].iter().take_while(|unit| unit.range.start < range.end) {
            if unit.range.start > start && text[..unit.range.start].ends_with(char::is_whitespace) {
                at_space = Some((unit.range.start, weight));
            }
            if weight > 0 && weight + unit.weight > limit {
                let (cut, spent) = at_space.take().unwrap_or((unit.range.start, weight));
                parts.push(trimmed(text, start..cut));
                start = cut;
                weight -= spent;
            }
            weight += unit.weight;
        }
        parts.push(trimmed(text, start..range.end));
        parts.retain(|part| !part.is_empty());
        parts
    }

    fn before(&self, at: usize) -> usize {
        let index = self.units.partition_point(|unit| unit.range.start < at);
        self.units.get(index).map_or(self.total, |unit| unit.before)
    }

    fn push(&mut self, range: Range<usize>, weight: usize) {
        self.units.push(Unit { range, before: self.total, weight });
        self.total += weight;
    }

    /// Counts text that no token covers: a model may drop characters, a chunk's size still must be bounded.
    fn fill(&mut self, text: &str, range: Range<usize>) {
        let range = trimmed(text, range);
        if range.len() > LONGEST_TOKEN {
            self.split(text, range);
        }
    }

    /// A token for each character, the most that any part of it can have.
    fn split(&mut self, text: &str, range: Range<usize>) {
        let mut start = range.start;
        let mut chars = 0;
        for (offset, c) in text[range.clone()].char_indices() {
            chars += 1;
            let end = range.start + offset + c.len_utf8();
            if chars == PIECE_CHARS || end == range.end {
                self.push(start..end, chars);
                start = end;
                chars = 0;
            }
        }
    }
}

/// `range` without the whitespace at its ends.
pub(super) fn trimmed(text: &str, range: Range<usize>) -> Range<usize> {
    let part = &text[range.clone()];
    let start = range.start + (part.len() - part.trim_start().len());
    let end = range.start + part.trim_end().len();
    start..end.max(start)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ingestion::word_tokenizer::WordTokenizer;

    #[test]
    fn parts_are_counted_and_cut() {
        let text = "one two three four five";
        let units = Units::new(text, &WordTokenizer);
        assert_eq!(units.count(&(0..text.len())), 5);
        assert_eq!(units.count(&(4..13)), 2);
        let parts: Vec<&str> =
            units.split_long(text, &(0..text.len()), 2).into_iter().map(|r| &text[r]).collect();
        assert_eq!(parts, ["one two", "three four", "five"]);
    }

    /// One token for the whole of a word, as models do with words that they do not know.
    struct Unknown;
    impl Tokenize for Unknown {
        fn tokens(&self, text: &str) -> Vec<Range<usize>> {
            std::iter::once(0..text.len()).collect()
        }
    }

    #[test]
    fn a_word_without_end_is_counted_by_characters() {
        let text = "é".repeat(1000);
        let units = Units::new(&text, &Unknown);
        assert_eq!(units.count(&(0..text.len())), 1000);
        let parts = units.split_long(&text, &(0..text.len()), 100);
        assert!(parts.iter().all(|part| units.count(part) <= 100 && text.get(part.clone()).is_some()));
        assert_eq!(parts.iter().map(|part| part.len()).sum::<usize>(), text.len());
    }

    /// Tokens that overlap, are empty and cut characters, as byte-level vocabularies give.
    struct Bytes;
    impl Tokenize for Bytes {
        fn tokens(&self, text: &str) -> Vec<Range<usize>> {
            (0..text.len()).map(|i| i..i + 1).collect()
        }
    }

    #[test]
    fn tokens_inside_a_character_are_counted_with_it() {
        let text = "é x 東";
        let units = Units::new(text, &Bytes);
        assert_eq!(units.count(&(0..text.len())), text.len());
        assert!(units.units.iter().all(|unit| text.get(unit.range.clone()).is_some()));
    }
}
