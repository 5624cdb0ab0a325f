//! A passage cut into sentences: where its sections are, and which terms of the question stand where.

use std::collections::HashMap;

use raglan_pipeline::{
    domain::Passage,
    generation::sentences::{SentenceKind, sentences},
};
use unicode_segmentation::UnicodeSegmentation;

use super::{
    question::Question,
    terms::{Stems, sameness},
};

/// A heading has at most so many words.
const LONGEST_HEADING: usize = 12;
/// How many sentences before and after one are its surroundings: about a paragraph.
const SURROUNDINGS: usize = 4;

/// Which terms of the question a text holds, by index, and how surely (0 to 1). What is absent is not held.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Held(Vec<(usize, f32)>);

impl Held {
    /// How surely the term is held.
    pub(super) fn of(&self, term: usize) -> f32 {
        self.0.iter().find(|(index, _)| *index == term).map_or(0.0, |(_, sure)| *sure)
    }

    pub(super) fn add(&mut self, other: &Self) {
        for &(term, sure) in &other.0 {
            match self.0.iter_mut().find(|(index, _)| *index == term) {
                Some((_, known)) => *known = known.max(sure),
                None => self.0.push((term, sure)),
            }
        }
    }

    /// The terms that are held.
    pub(super) fn terms(&self) -> impl Iterator<Item = usize> + '_ {
        self.0.iter().map(|(term, _)| *term)
    }
}

/// Finds the terms of a question in texts. Each distinct word is compared with them once.
pub(super) struct Finder<'a> {
    question: &'a Question,
    stems: &'a Stems,
    known: HashMap<String, Held>,
}

impl<'a> Finder<'a> {
    pub(super) fn new(question: &'a Question, stems: &'a Stems) -> Self {
        Self { question, stems, known: HashMap::new() }
    }

    pub(super) fn held(&mut self, text: &str) -> Held {
        let mut held = Held::default();
        for word in text.unicode_words() {
            if let Some(known) = self.known.get(word) {
                held.add(known);
                continue;
            }
            let Some(term) = self.stems.term(word) else { continue };
            let asked = self.question.terms.iter().enumerate();
            let same = asked.map(|(index, asked)| (index, sameness(&asked.text, &term)));
            let found = Held(same.filter(|(_, sure)| *sure > 0.0).collect());
            held.add(&found);
            self.known.insert(word.to_owned(), found);
        }
        held
    }
}

/// A sentence of a passage.
#[derive(Debug, Clone)]
pub(super) struct Part {
    /// Where it stands in the passage's text, in bytes.
    pub(super) range: std::ops::Range<usize>,
    /// What it was found in; a heading also where only its looks say so.
    pub(super) kind: SentenceKind,
    /// The heading above it within the passage, by index.
    pub(super) heading: Option<usize>,
    /// Which terms of the question stand in it.
    pub(super) held: Held,
}

/// The sentences of a passage.
#[derive(Debug)]
pub(super) struct Parts {
    pub(super) all: Vec<Part>,
    /// What its title and the headings above it hold.
    titles: Held,
}

impl Parts {
    pub(super) fn of(passage: &Passage, finder: &mut Finder<'_>) -> Self {
        let record = &passage.record;
        let text = &record.text;
        let cut = sentences(text);
        let mut all: Vec<Part> = Vec::with_capacity(cut.len());
        let mut heading = None;
        for (number, sentence) in cut.iter().enumerate() {
            let words = &text[sentence.range.clone()];
            let named = || record.title == words || record.heading_path.iter().any(|name| name == words);
            let looks = sentence.kind == SentenceKind::Prose
                && cut.get(number + 1).is_some_and(|next| {
                    let before = number.checked_sub(1).map_or(0, |before| cut[before].range.end);
                    stands_alone(text, before..sentence.range.start, sentence.range.end..next.range.start)
                        && (named() || looks_like_heading(words, &text[next.range.clone()]))
                });
            let kind = if looks { SentenceKind::Heading } else { sentence.kind };
            if kind == SentenceKind::Heading {
                heading = Some(number);
            }
            let held = finder.held(words);
            all.push(Part { range: sentence.range.clone(), kind, heading, held });
        }
        let titles = finder.held(&format!("{} {}", record.title, record.heading_path.join(" ")));
        Self { all, titles }
    }

    /// The sentence before one in the same section; a heading is none.
    pub(super) fn before(&self, number: usize) -> Option<usize> {
        let before = number.checked_sub(1)?;
        let part = self.all.get(before)?;
        (part.kind != SentenceKind::Heading).then_some(before)
    }

    /// The sentence after one in the same section.
    pub(super) fn after(&self, number: usize) -> Option<usize> {
        let part = self.all.get(number + 1)?;
        (part.kind != SentenceKind::Heading).then_some(number + 1)
    }

    /// What the headings above a sentence hold, in the passage and above it.
    pub(super) fn headings(&self, number: usize) -> Held {
        let mut held = self.titles.clone();
        if let Some(heading) = self.all[number].heading {
            held.add(&self.all[heading].held);
        }
        held
    }

    /// What a sentence, its surroundings in the same section and the headings above it hold.
    pub(super) fn surroundings(&self, number: usize) -> Held {
        let mut held = self.headings(number);
        let section = self.all[number].heading;
        let window = number.saturating_sub(SURROUNDINGS)..self.all.len().min(number + SURROUNDINGS + 1);
        for part in self.all[window].iter().filter(|part| part.heading == section) {
            held.add(&part.held);
        }
        held
    }
}

/// Whether white space with a blank line (or the start of the text) lies on both sides.
fn stands_alone(text: &str, before: std::ops::Range<usize>, after: std::ops::Range<usize>) -> bool {
    let blank = |gap: &str| gap.matches('\n').count() >= 2;
    (before.start == 0 && before.is_empty() || blank(&text[before])) && blank(&text[after])
}

/// Whether a paragraph of one line is a heading as far as its looks say: short, without the marks of a sentence or of a labelled value, and before a
/// paragraph that has them.
fn looks_like_heading(line: &str, next: &str) -> bool {
    let closed = |text: &str| text.ends_with(['.', '!', '?', ':', ';', ',', '。', '！', '？', '：']);
    let first = line.chars().next();
    !line.contains('\n')
        && line.unicode_words().take(LONGEST_HEADING + 1).count() <= LONGEST_HEADING
        && first.is_some_and(|c| c.is_uppercase() || c.is_numeric())
        && !closed(line)
        && !line.contains([';', '|', '='])
        && !line.contains(": ")
        && (closed(next) || next.contains(": "))
}

#[cfg(test)]
mod tests {
    use raglan_pipeline::contract::generator as contract;

    use super::*;

    fn parts(text: &str, question: &str) -> (Parts, Question) {
        let stems = Stems::new();
        let question = Question::new(question, &stems);
        let parts = Parts::of(&contract::passage(text), &mut Finder::new(&question, &stems));
        (parts, question)
    }

    const TEXT: &str = "Late readers\n\nA reader may join late. It gets the past first.\n\nSlow readers\n\nIt never holds the job up.";

    #[test]
    fn headings_are_known_by_their_looks_and_begin_sections() {
        let (parts, _) = parts(TEXT, "");
        let kinds: Vec<bool> = parts.all.iter().map(|part| part.kind == SentenceKind::Heading).collect();
        assert_eq!(kinds, [true, false, false, true, false]);
        assert_eq!((parts.before(1), parts.before(2), parts.before(4)), (None, Some(1), None));
        assert_eq!((parts.after(1), parts.after(2)), (Some(2), None));
    }

    #[test]
    fn values_list_items_and_last_lines_are_no_headings() {
        for text in [
            "port: 8080\n\nIt listens.",
            "Apples\n\nPears\n\nPlums",
            "A line\nof a paragraph.\n\nAnother one.",
            "It listens.\n\nPort 8080",
        ] {
            let (parts, _) = parts(text, "");
            assert!(parts.all.iter().all(|part| part.kind != SentenceKind::Heading), "{text}");
        }
    }

    #[test]
    fn surroundings_are_of_the_same_section_with_its_heading() {
        let (parts, question) = parts(TEXT, "Which slow reader gets the past of the job?");
        let of = |held: &Held, word: &str| {
            held.of(question.terms.iter().position(|term| term.text == word).unwrap())
        };
        let first = parts.surroundings(1);
        assert!(of(&first, "past") > 0.0 && of(&first, "reader") > 0.0 && of(&first, "job") == 0.0);
        let second = parts.surroundings(4);
        assert!(of(&second, "slow") > 0.0 && of(&second, "job") > 0.0 && of(&second, "past") == 0.0);
    }
}
