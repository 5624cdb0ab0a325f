//! Words as they are compared: lower case, stemmed, function words left out.

use std::collections::BTreeSet;

use frostem::{Algorithm, Stemmer};
use unicode_segmentation::UnicodeSegmentation;

/// English words that say nothing about what a text is about. In other languages a few rare words more are compared, which
/// stand in most sentences and so weigh little.
const STOP_WORDS: &[&str] = &[
    "a", "about", "after", "all", "also", "am", "an", "and", "any", "are", "as", "at", "be", "because",
    "been", "before", "being", "between", "both", "but", "by", "can", "could", "did", "do", "does", "doing",
    "done", "during", "each", "explain", "for", "from", "get", "give", "had", "has", "have", "having", "he",
    "her", "here", "him", "his", "how", "i", "if", "in", "into", "is", "it", "its", "just", "let", "many",
    "may", "me", "might", "more", "most", "much", "must", "my", "no", "nor", "not", "of", "on", "once",
    "only", "or", "other", "our", "out", "over", "please", "shall", "she", "should", "so", "some", "such",
    "tell", "than", "that", "the", "their", "them", "then", "there", "these", "they", "this", "those", "to",
    "too", "under", "until", "up", "us", "very", "was", "we", "were", "what", "when", "where", "which",
    "while", "who", "whom", "whose", "why", "will", "with", "within", "without", "would", "you", "your",
];

/// Stems of words that belong to the way of asking more than to what is asked about: an answer seldom repeats them.
const FRAME: &[&str] = &[
    "amount",
    "call",
    "consid",
    "date",
    "day",
    "describ",
    "event",
    "exampl",
    "happen",
    "kind",
    "known",
    "main",
    "name",
    "number",
    "peopl",
    "percent",
    "percentag",
    "person",
    "place",
    "purpos",
    "reason",
    "refer",
    "sort",
    "term",
    "thing",
    "time",
    "type",
    "use",
    "way",
    "word",
    "year",
];

/// Words with which a sentence points back to the one before it.
const BACK_REFERENCES: &[&str] = &[
    "also",
    "both",
    "he",
    "her",
    "his",
    "however",
    "it",
    "its",
    "otherwise",
    "she",
    "such",
    "that",
    "their",
    "then",
    "there",
    "therefore",
    "these",
    "they",
    "this",
    "those",
];

/// Words as they are compared.
pub(super) type Terms = BTreeSet<String>;

/// Makes terms of texts.
pub(super) struct Stems(Stemmer);

impl Stems {
    pub(super) fn new() -> Self {
        Self(Stemmer::new(Algorithm::English))
    }

    /// The terms of a text.
    pub(super) fn terms(&self, text: &str) -> Terms {
        text.unicode_words().filter_map(|word| self.term(word)).collect()
    }

    /// A word as it is compared; none for a function word. A number loses the separators of its thousands.
    pub(super) fn term(&self, word: &str) -> Option<String> {
        let mut lower = word.to_lowercase();
        if lower.starts_with(|c: char| c.is_ascii_digit()) {
            lower.retain(|c| c != ',');
            return Some(lower);
        }
        let bare = lower.strip_suffix("'s").or_else(|| lower.strip_suffix("’s")).unwrap_or(&lower);
        if is_stop_word(bare) { None } else { Some(self.0.stem(bare).to_string()) }
    }
}

/// Whether a lower-case word says nothing about what a text is about.
pub(super) fn is_stop_word(lower: &str) -> bool {
    STOP_WORDS.binary_search(&lower).is_ok()
}

/// Whether a term belongs to the way of asking.
pub(super) fn is_frame(term: &str) -> bool {
    FRAME.binary_search(&term).is_ok()
}

/// What two terms count as one for, where they begin alike: `discoveri` and `discover`. Their stems differ in at most a few last letters.
const ALIKE: f32 = 0.7;

/// How far two terms say the same: 1 where they are equal, less where one is most likely derived from the other, else 0.
pub(super) fn sameness(a: &str, b: &str) -> f32 {
    if a == b {
        return 1.0;
    }
    if a.contains(|c: char| c.is_numeric()) || b.contains(|c: char| c.is_numeric()) {
        return 0.0;
    }
    let common = a.chars().zip(b.chars()).take_while(|(a, b)| a == b).count();
    let (a, b) = (a.chars().count(), b.chars().count());
    let alike = common >= 5 && common * 10 >= a.max(b) * 6 && a.min(b) - common <= 2;
    if alike { ALIKE } else { 0.0 }
}

/// Whether a sentence cannot be understood without the one before it.
pub(super) fn points_back(sentence: &str) -> bool {
    sentence
        .unicode_words()
        .next()
        .is_some_and(|word| BACK_REFERENCES.binary_search(&word.to_lowercase().as_str()).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_sorted_for_the_search_in_them() {
        assert!(STOP_WORDS.is_sorted() && FRAME.is_sorted() && BACK_REFERENCES.is_sorted());
    }

    #[test]
    fn words_of_the_frame_are_stems() {
        let stems = Stems::new();
        for word in ["names", "called", "considered", "percentage", "people", "purpose", "examples"] {
            assert!(is_frame(&stems.term(word).unwrap()), "{word}");
        }
    }

    #[test]
    fn terms_are_stemmed_and_without_function_words() {
        let terms = Stems::new().terms("How do I configure the server's Listening ports for 10,000 users?");
        assert_eq!(
            terms,
            ["10000", "configur", "listen", "port", "server", "user"].map(str::to_owned).into()
        );
    }

    #[test]
    fn derived_words_are_nearly_the_same_and_numbers_never() {
        let stems = Stems::new();
        let same = |a: &str, b: &str| sameness(&stems.term(a).unwrap(), &stems.term(b).unwrap());
        assert!((same("installs", "installing") - 1.0).abs() < f32::EPSILON);
        for (a, b) in [("discovery", "discoverer"), ("weight", "weighs"), ("Erklärung", "erklären")] {
            assert!(same(a, b) > 0.0 && same(a, b) < 1.0, "{a} {b}");
        }
        for (a, b) in [("12345", "12346"), ("port", "portal"), ("international", "interval")] {
            assert!(same(a, b) == 0.0, "{a} {b}");
        }
    }

    #[test]
    fn a_pronoun_at_the_front_points_back() {
        assert!(points_back("It stops.") && points_back("“This is why.") && !points_back("Stop it."));
    }
}
