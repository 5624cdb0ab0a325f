//! Words as they are compared: lower case, stemmed, function words left out; and what kind of answer a question wants.

use std::collections::BTreeSet;

use frostem::{Algorithm, Stemmer};
use raglan_pipeline::generation::sentences::SentenceKind;
use unicode_segmentation::UnicodeSegmentation;

/// English words that say nothing about what a text is about. In other languages a few rare words more are compared.
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

/// Words with which a sentence points back to the one before it.
const BACK_REFERENCES: &[&str] = &[
    "it",
    "its",
    "this",
    "that",
    "these",
    "those",
    "they",
    "their",
    "he",
    "she",
    "his",
    "her",
    "such",
    "then",
    "there",
    "both",
    "otherwise",
    "also",
    "however",
    "therefore",
];

const MONTHS: &[&str] = &[
    "january",
    "february",
    "march",
    "april",
    "june",
    "july",
    "august",
    "september",
    "october",
    "november",
    "december",
    "monday",
    "tuesday",
    "wednesday",
    "thursday",
    "friday",
    "saturday",
    "sunday",
];

const NUMBER_WORDS: &[&str] = &[
    "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "twenty", "thirty", "fifty", "hundred", "thousand", "million", "billion", "half", "twice", "once",
    "none",
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
        text.unicode_words()
            .map(str::to_lowercase)
            .filter(|word| STOP_WORDS.binary_search(&word.as_str()).is_err())
            .map(|word| self.0.stem(&word).to_string())
            .collect()
    }
}

/// Whether a sentence cannot be understood without the one before it.
pub(super) fn points_back(sentence: &str) -> bool {
    sentence
        .unicode_words()
        .next()
        .is_some_and(|word| BACK_REFERENCES.contains(&word.to_lowercase().as_str()))
}

/// What kind of thing answers a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wants {
    Number,
    Date,
    Name,
    Steps,
    Anything,
}

impl Wants {
    /// Reads it from the question words; anything, where they say nothing (or are not English).
    pub(super) fn of(question: &str) -> Self {
        let words: Vec<String> = question.unicode_words().map(str::to_lowercase).collect();
        let pairs = words.windows(2).map(|pair| (pair[0].as_str(), pair[1].as_str()));
        for pair in pairs {
            match pair {
                (
                    "how",
                    "many" | "much" | "long" | "old" | "far" | "often" | "fast" | "big" | "large" | "high"
                    | "deep" | "tall",
                ) => {
                    return Self::Number;
                }
                ("how", "do" | "can" | "could" | "should" | "must" | "to") => return Self::Steps,
                ("what" | "which", "percentage" | "number" | "port") => return Self::Number,
                ("what" | "which", "year" | "date" | "day" | "month" | "time") => return Self::Date,
                _ => {}
            }
        }
        match words.first().map(String::as_str) {
            Some("when") => Self::Date,
            Some("who" | "whom" | "whose" | "where") => Self::Name,
            _ => Self::Anything,
        }
    }

    /// How well a sentence can hold such a thing that the question does not hold already: 1 it does, 0 it need not or may, down to -1 it does not.
    pub(super) fn fit(self, kind: SentenceKind, sentence: &str, question: &str) -> f32 {
        let asked: BTreeSet<String> = question.unicode_words().map(str::to_lowercase).collect();
        let new: Vec<(usize, &str, String)> = sentence
            .unicode_words()
            .enumerate()
            .map(|(index, word)| (index, word, word.to_lowercase()))
            .filter(|(_, _, lower)| !asked.contains(lower))
            .collect();
        let any = |test: &dyn Fn(usize, &str, &str) -> bool| {
            new.iter().any(|(index, word, lower)| test(*index, word, lower))
        };
        let number = |_: usize, word: &str, lower: &str| {
            word.starts_with(|c: char| c.is_numeric()) || NUMBER_WORDS.contains(&lower)
        };
        let date = |_: usize, word: &str, lower: &str| {
            let year = word.len() == 4 && word.parse::<u16>().is_ok_and(|year| (1000..3000).contains(&year));
            year || MONTHS.contains(&lower) || (lower == "may" && word != lower)
        };
        let capital = |word: &str| word.starts_with(char::is_uppercase);
        match self {
            Self::Anything => 0.0,
            // A list of steps, what announces one, or a command.
            Self::Steps => {
                let steps =
                    matches!(kind, SentenceKind::Item | SentenceKind::Code) || sentence.ends_with(':');
                if steps || sentence.contains('`') { 1.0 } else { 0.0 }
            }
            Self::Number => {
                if any(&number) {
                    1.0
                } else {
                    -1.0
                }
            }
            // A time of day or a number of days may be the date.
            Self::Date => {
                if any(&date) {
                    1.0
                } else if any(&number) {
                    0.0
                } else {
                    -1.0
                }
            }
            // The first word has a capital in any case.
            Self::Name if any(&|index, word, _| index > 0 && capital(word)) => 1.0,
            Self::Name
                if any(&|_, word, lower| capital(word) && STOP_WORDS.binary_search(&lower).is_err()) =>
            {
                0.0
            }
            // Things and places have names without capitals too.
            Self::Name => -0.4,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stop_words_are_sorted_for_the_search_in_them() {
        assert!(STOP_WORDS.is_sorted());
    }

    #[test]
    fn terms_are_stemmed_and_without_function_words() {
        let terms = Stems::new().terms("How do I configure the Listening ports?");
        assert_eq!(terms, ["configur", "listen", "port"].map(str::to_owned).into());
    }

    #[test]
    fn question_words_say_what_is_wanted() {
        for (question, wants) in [
            ("How many pumps are there?", Wants::Number),
            ("For how long are jobs kept?", Wants::Number),
            ("When was it built?", Wants::Date),
            ("In which year was it built?", Wants::Date),
            ("Who built it?", Wants::Name),
            ("Where is it?", Wants::Name),
            ("How do I start it?", Wants::Steps),
            ("What is it?", Wants::Anything),
            ("", Wants::Anything),
        ] {
            assert_eq!(Wants::of(question), wants, "{question}");
        }
    }

    #[test]
    fn a_fit_is_something_that_the_question_does_not_say() {
        for (wants, sentence, fit) in [
            (Wants::Number, "It has 40 valves.", 1.0),
            (Wants::Number, "It has seven valves.", 1.0),
            (Wants::Number, "Model 7 has valves.", -1.0),
            (Wants::Date, "It was built in May 2019.", 1.0),
            (Wants::Date, "It may be built.", -1.0),
            (Wants::Name, "It was built by Anna Berg.", 1.0),
            (Wants::Name, "Berg built it.", 0.0),
            (Wants::Name, "The pump was built.", -0.4),
            (Wants::Steps, "To build it:", 1.0),
            (Wants::Steps, "Press `Enter`.", 1.0),
            (Wants::Steps, "It was built.", 0.0),
            (Wants::Anything, "No.", 0.0),
        ] {
            assert!(
                (wants.fit(SentenceKind::Prose, sentence, "What about model 7?") - fit).abs() < f32::EPSILON,
                "{sentence}"
            );
        }
    }
}
