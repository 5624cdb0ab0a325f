//! What a question says: its terms with their weight, the names and numbers in it, and what kind of thing answers it.

use std::collections::HashSet;

use raglan_pipeline::generation::sentences::SentenceKind;
use unicode_segmentation::UnicodeSegmentation;

use super::terms::{Stems, is_frame, is_stop_word};

/// More distinct terms than this are not compared: what is that long is a text and not a question.
const MOST_TERMS: usize = 64;
/// What a word that belongs to the way of asking weighs.
const FRAME_WEIGHT: f32 = 0.3;

/// A question.
#[derive(Debug)]
pub(super) struct Question {
    /// Its terms, each once, in order.
    pub(super) terms: Vec<Term>,
    /// What kind of thing answers it.
    pub(super) wants: Wants,
    /// Whether its words are English. What English cues are missing from says nothing about another language.
    english: bool,
    /// Its words in lower case, and as terms: what holds only these answers nothing.
    words: HashSet<String>,
}

/// A word of the question.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Term {
    /// As it is compared.
    pub(super) text: String,
    /// What it weighs beside its rarity.
    pub(super) weight: f32,
    /// Whether it names something: a proper name or a number.
    pub(super) name: bool,
}

/// What kind of thing answers a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wants {
    Number,
    Date,
    /// A person or a place.
    Name,
    Reason,
    Steps,
    Anything,
}

impl Question {
    pub(super) fn new(text: &str, stems: &Stems) -> Self {
        let words: Vec<&str> = text.unicode_words().collect();
        let lower: Vec<String> = words.iter().map(|word| word.to_lowercase()).collect();
        let (wants, english) = Wants::of(&lower);
        // Where most words have a capital, and in German, one says nothing.
        let upper = words.iter().filter(|word| word.starts_with(char::is_uppercase)).count();
        let capitals_tell = english && upper * 2 <= words.len();
        let mut terms: Vec<Term> = Vec::new();
        let mut known = HashSet::new();
        for (index, word) in words.iter().enumerate() {
            let Some(term) = stems.term(word) else { continue };
            let capital = capitals_tell && index > 0 && word.starts_with(char::is_uppercase);
            let name = capital || word.starts_with(|c: char| c.is_ascii_digit());
            if known.insert(term.clone()) && terms.len() < MOST_TERMS {
                let weight = if is_frame(&term) && !name { FRAME_WEIGHT } else { 1.0 };
                terms.push(Term { text: term, weight, name });
            }
        }
        let words = lower.into_iter().chain(known).collect();
        Self { terms, wants, english, words }
    }

    /// Whether a sentence can hold the kind of thing that is asked for, other than what the question says itself: 1 where it
    /// does, -1 where it surely does not, 0 where that cannot be said.
    pub(super) fn fit(&self, kind: SentenceKind, sentence: &str, stems: &Stems) -> f32 {
        if self.wants == Wants::Anything {
            return 0.0;
        }
        if self.wants == Wants::Steps {
            let steps = matches!(kind, SentenceKind::Item | SentenceKind::Code)
                || sentence.ends_with([':', '：'])
                || sentence.contains('`');
            return if steps { 1.0 } else { 0.0 };
        }
        let said = |word: &str, lower: &str| {
            self.words.contains(lower) || stems.term(word).is_some_and(|term| self.words.contains(&term))
        };
        let holds = sentence.unicode_words().enumerate().any(|(index, word)| {
            let lower = word.to_lowercase();
            let is = match self.wants {
                Wants::Number => is_number(word, &lower),
                Wants::Date => is_date(word, &lower),
                // The first word has a capital in any case.
                Wants::Name => index > 0 && word.starts_with(char::is_uppercase) && !is_stop_word(&lower),
                Wants::Reason => REASONS.binary_search(&lower.as_str()).is_ok(),
                Wants::Steps | Wants::Anything => false,
            };
            is && !said(word, &lower)
        });
        match (holds, self.english) {
            (true, _) => 1.0,
            (false, true) => -1.0,
            (false, false) => 0.0,
        }
    }
}

impl Wants {
    /// Reads it from the question words, and whether they are English; anything, where they say nothing.
    fn of(words: &[String]) -> (Self, bool) {
        // Questions in other languages begin with their question word, or with a preposition before it.
        for at in 0..words.len().min(2) {
            let next = words.get(at + 1).map_or("", String::as_str);
            if let Some(wants) = foreign(&words[at], next) {
                return (wants, false);
            }
        }
        for pair in words.windows(2) {
            let wants = match (pair[0].as_str(), pair[1].as_str()) {
                (
                    "how",
                    "big" | "deep" | "far" | "fast" | "heavy" | "high" | "large" | "long" | "many" | "much"
                    | "often" | "old" | "quickly" | "soon" | "tall" | "wide",
                )
                | (
                    "what" | "which",
                    "amount" | "number" | "percent" | "percentage" | "port" | "proportion" | "size",
                ) => Self::Number,
                ("how", "can" | "could" | "do" | "must" | "should" | "to") => Self::Steps,
                ("what" | "which", "century" | "date" | "day" | "decade" | "month" | "time" | "year") => {
                    Self::Date
                }
                _ => continue,
            };
            return (wants, true);
        }
        let asked = words.iter().find_map(|word| match word.as_str() {
            "when" => Some(Self::Date),
            "who" | "whom" | "whose" | "where" => Some(Self::Name),
            "why" => Some(Self::Reason),
            _ => None,
        });
        let english = words.iter().any(|word| is_stop_word(word));
        (asked.unwrap_or(Self::Anything), english)
    }
}

/// The question words of German, French, Spanish, Italian, Portuguese, Dutch, Polish and Swedish, where they mean the same in
/// all of these (and nothing else in English).
fn foreign(word: &str, next: &str) -> Option<Wants> {
    Some(match (word, next) {
        (
            "wie",
            "alt" | "groß" | "hoch" | "lang" | "lange" | "oft" | "schnell" | "viel" | "viele" | "weit",
        )
        | ("hoe", "groot" | "hoog" | "lang" | "oud" | "vaak" | "ver")
        | ("hur", "gammal" | "hög" | "lång" | "länge" | "många" | "mycket" | "ofta" | "stor")
        | (
            "combien" | "cuánta" | "cuántas" | "cuánto" | "cuántos" | "hoeveel" | "ile" | "quanta"
            | "quantas" | "quante" | "quanti" | "quanto" | "quantos" | "wieviel" | "wieviele",
            _,
        ) => Wants::Number,
        ("cuándo" | "kiedy" | "när" | "quand" | "quando" | "wann" | "wanneer", _) => Wants::Date,
        (
            "chi" | "dónde" | "dove" | "gdzie" | "kto" | "onde" | "où" | "quem" | "qui" | "quién" | "quiénes"
            | "vem" | "waar" | "wem" | "wen" | "wer" | "wo" | "woher" | "wohin",
            _,
        ) => Wants::Name,
        ("por", "qué" | "que") => Wants::Reason,
        ("dlaczego" | "perché" | "pourquoi" | "varför" | "waarom" | "warum" | "weshalb" | "wieso", _) => {
            Wants::Reason
        }
        ("wie", "bekomme" | "kann" | "können" | "lässt" | "muss" | "soll")
        | ("hoe" | "hur", "kan" | "moet" | "ska")
        | ("comment" | "cómo" | "jak", _) => Wants::Steps,
        _ => return None,
    })
}

const NUMBER_WORDS: &[&str] = &[
    "billion", "both", "dozen", "eight", "eighty", "eleven", "fifteen", "fifty", "five", "forty", "four",
    "half", "hundred", "million", "nine", "ninety", "none", "one", "once", "quarter", "seven", "seventy",
    "six", "sixty", "ten", "third", "thirteen", "thirty", "thousand", "three", "thrice", "trillion",
    "twelve", "twenty", "twice", "two",
];

const DATE_WORDS: &[&str] = &[
    "april",
    "august",
    "autumn",
    "century",
    "december",
    "february",
    "friday",
    "january",
    "july",
    "june",
    "march",
    "monday",
    "november",
    "october",
    "saturday",
    "september",
    "spring",
    "summer",
    "sunday",
    "thursday",
    "tuesday",
    "wednesday",
    "winter",
];

/// Words that give a reason or a purpose.
const REASONS: &[&str] = &[
    "because",
    "cause",
    "caused",
    "causes",
    "due",
    "lest",
    "otherwise",
    "owing",
    "reason",
    "reasons",
    "result",
    "since",
    "so",
    "thanks",
    "therefore",
    "thus",
    "to",
];

fn is_number(word: &str, lower: &str) -> bool {
    word.starts_with(char::is_numeric) || NUMBER_WORDS.contains(&lower)
}

/// A year, a decade, a day of a month, a time of day, or the name of a month or the like.
fn is_date(word: &str, lower: &str) -> bool {
    let digits = lower.bytes().take_while(u8::is_ascii_digit).count();
    match (digits, &lower[digits..]) {
        (4, "" | "s") => (1000..3000).contains(&lower[..4].parse::<u16>().unwrap_or(0)),
        (1 | 2, "st" | "nd" | "rd" | "th" | "am" | "pm") => true,
        (0, _) => DATE_WORDS.contains(&lower) || (lower == "may" && word != lower),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn question(text: &str) -> Question {
        Question::new(text, &Stems::new())
    }

    #[test]
    fn reasons_are_sorted_for_the_search_in_them() {
        assert!(REASONS.is_sorted());
    }

    #[test]
    fn question_words_say_what_is_wanted() {
        for (text, wants) in [
            ("How many pumps are there?", Wants::Number),
            ("For how long are jobs kept?", Wants::Number),
            ("When was it built?", Wants::Date),
            ("In which year was it built?", Wants::Date),
            ("Who built it?", Wants::Name),
            ("Where is it?", Wants::Name),
            ("Why does it drip?", Wants::Reason),
            ("How do I start it?", Wants::Steps),
            ("What is it?", Wants::Anything),
            ("", Wants::Anything),
            ("Wie viele Pumpen gibt es?", Wants::Number),
            ("Seit wann läuft sie?", Wants::Date),
            ("Où est la pompe ?", Wants::Name),
            ("¿Por qué gotea?", Wants::Reason),
            ("¿Cómo se arranca?", Wants::Steps),
            ("ポンプはどこですか", Wants::Anything),
        ] {
            assert_eq!(question(text).wants, wants, "{text}");
        }
    }

    #[test]
    fn a_fit_is_something_that_the_question_does_not_say() {
        for (text, sentence, fit) in [
            ("How many valves has model 7?", "It has 40 valves.", 1.0),
            ("How many valves has model 7?", "It has seven valves.", 1.0),
            ("How many valves has model 7?", "Model 7 has valves.", -1.0),
            ("When was model 7 built?", "It was built in May 2019.", 1.0),
            ("When was model 7 built?", "It may be built.", -1.0),
            ("When was model 7 built?", "The 3rd of them was.", 1.0),
            ("Who built the Alster pump?", "It was built by Anna Berg.", 1.0),
            ("Who built the Alster pump?", "The Alster pump was built.", -1.0),
            ("Why is it red?", "It is red so that it is seen.", 1.0),
            ("Why is it red?", "It is red.", -1.0),
            ("How do I build it?", "To build it:", 1.0),
            ("How do I build it?", "Press `Enter`.", 1.0),
            ("How do I build it?", "It was built.", 0.0),
            ("What is it?", "No.", 0.0),
            ("Wann wurde sie gebaut?", "Sie wurde 2019 gebaut.", 1.0),
            ("Wann wurde sie gebaut?", "Sie wurde im Mai gebaut.", 0.0),
        ] {
            let found = question(text).fit(SentenceKind::Prose, sentence, &Stems::new());
            assert!((found - fit).abs() < f32::EPSILON, "{text} {sentence} {found}");
        }
    }

    #[test]
    fn names_and_numbers_are_known_where_capitals_tell() {
        let names = |text: &str| -> Vec<String> {
            question(text).terms.into_iter().filter(|term| term.name).map(|term| term.text).collect()
        };
        assert_eq!(names("Which pump did Anna Berg buy in 2019?"), ["anna", "berg", "2019"]);
        assert_eq!(names("WHICH PUMP HAS 40 VALVES?"), ["40"]);
        assert_eq!(names("Wann wurde die Pumpe 7 in Kiel gebaut?"), ["7"]);
    }

    #[test]
    fn the_way_of_asking_weighs_little() {
        let terms = question("What is the name of the pump?").terms;
        assert!(terms[0].text == "name" && terms[0].weight < terms[1].weight, "{terms:?}");
    }

    #[test]
    fn a_question_of_any_length_has_few_terms() {
        let long: String = (0..5_000).map(|n| format!("word{n} ")).collect();
        assert_eq!(question(&long).terms.len(), MOST_TERMS);
    }
}
