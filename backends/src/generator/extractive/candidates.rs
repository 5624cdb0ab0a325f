//! The sentences of the passages, and how well each could answer the question as far as words tell.

use std::collections::{HashMap, HashSet};

use raglan_pipeline::{
    domain::Passage,
    generation::sentences::{Sentence, SentenceKind, sentences},
};

use super::terms::{Stems, Terms, Wants, points_back};

/// A longer sentence (in bytes) is no answer but a document.
const LONGEST_BYTES: usize = 1_200;
/// A shorter one (in words) says too little by itself to be compared with a question.
const SHORT_WORDS: usize = 6;

/// What a term of the question is worth to a sentence that does not hold it, where it stands beside it.
const TITLE_CREDIT: f32 = 0.5;
const BEFORE_CREDIT: f32 = 0.5;
const AFTER_CREDIT: f32 = 0.3;
/// A question right before a sentence is what that sentence answers.
const ASKED_CREDIT: f32 = 0.8;

/// All that is known before anything is embedded.
#[derive(Debug)]
pub(super) struct Material {
    /// The question.
    pub(super) question: String,
    /// How much each of its terms is worth.
    pub(super) weights: HashMap<String, f32>,
    /// The sentences of each passage.
    pub(super) sentences: Vec<Vec<Sentence>>,
    /// The best candidates by their words, the best first.
    pub(super) candidates: Vec<Candidate>,
}

/// A sentence that may be the answer.
#[derive(Debug, Clone)]
pub(super) struct Candidate {
    /// Its passage, by index.
    pub(super) passage: usize,
    /// Its number in the passage.
    pub(super) sentence: usize,
    /// What is embedded for it: itself, and what it points back to.
    pub(super) context: String,
    /// Its terms.
    pub(super) terms: Terms,
    /// The share of the question's terms, by worth, that it or what is around it holds: 0 to 1.
    pub(super) lexical: f32,
    /// Whether it holds the kind of thing that is asked for: -1 to 1.
    pub(super) fit: f32,
    /// How early its passage was found: 1 for the first, falling to 0.
    pub(super) rank: f32,
}

impl Material {
    /// Cuts the passages into sentences and keeps the `limit` candidates that look best.
    pub(super) fn gather(question: &str, passages: &[Passage], limit: usize) -> Self {
        let stems = Stems::new();
        let asked = stems.terms(question);
        let wants = Wants::of(question);
        let parts: Vec<Vec<Sentence>> =
            passages.iter().map(|passage| sentences(&passage.record.text)).collect();
        let terms: Vec<Vec<Terms>> = passages
            .iter()
            .zip(&parts)
            .map(|(passage, parts)| {
                parts.iter().map(|part| stems.terms(&passage.record.text[part.range.clone()])).collect()
            })
            .collect();
        let weights = weights(&asked, &terms);

        let mut candidates = Vec::new();
        let mut seen = HashSet::new();
        for (index, passage) in passages.iter().enumerate() {
            let titles =
                stems.terms(&format!("{} {}", passage.record.title, passage.record.heading_path.join(" ")));
            let around = Around { passage, parts: &parts[index], terms: &terms[index], titles: &titles };
            for (number, part) in parts[index].iter().enumerate() {
                let text = &passage.record.text[part.range.clone()];
                // Passages overlap: a sentence counts where it was found first.
                let flat = text.split_whitespace().collect::<Vec<_>>().join(" ");
                if !may_answer(part.kind, text) || is_table_head(&parts[index], number) || !seen.insert(flat)
                {
                    continue;
                }
                candidates.push(Candidate {
                    passage: index,
                    sentence: number,
                    context: around.context(number),
                    terms: terms[index][number].clone(),
                    lexical: around.lexical(number, &weights),
                    fit: wants.fit(part.kind, text, question),
                    rank: 1.0 / (1.0 + index as f32),
                });
            }
        }
        candidates.sort_by(|a, b| b.promise().total_cmp(&a.promise()));
        candidates.truncate(limit);
        Self { question: question.to_owned(), weights, sentences: parts, candidates }
    }
}

impl Candidate {
    /// How much it promises before it is embedded. The best passages keep their sentences even where no word is the same.
    fn promise(&self) -> f32 {
        self.lexical + 0.3 * self.rank + 0.1 * self.fit
    }
}

/// Questions, headings, broken code and whole pages answer nothing.
fn may_answer(kind: SentenceKind, text: &str) -> bool {
    match kind {
        SentenceKind::Heading => false,
        SentenceKind::Code => {
            text.len() <= LONGEST_BYTES && text.starts_with("```") && text.len() > 6 && text.ends_with("```")
        }
        _ => {
            text.len() <= LONGEST_BYTES
                && !text.ends_with(['?', '？'])
                && text.chars().any(char::is_alphanumeric)
        }
    }
}

/// Whether a row is the first of its table, and so names the columns.
fn is_table_head(parts: &[Sentence], number: usize) -> bool {
    let row = |number: Option<usize>| {
        number.and_then(|n| parts.get(n)).is_some_and(|part| part.kind == SentenceKind::Row)
    };
    row(Some(number)) && !row(number.checked_sub(1)) && row(Some(number + 1))
}

/// What each term of the question is worth: the rarer among the sentences, the more. A term that stands nowhere is worth what one
/// that stands once is: it may be there in other words.
fn weights(asked: &Terms, sentences: &[Vec<Terms>]) -> HashMap<String, f32> {
    let all = sentences.iter().flatten().count() as f32;
    let weight = |term: &String| {
        let holding = sentences.iter().flatten().filter(|terms| terms.contains(term)).count().max(1) as f32;
        (1.0 + all / holding).ln()
    };
    asked.iter().map(|term| (term.clone(), weight(term))).collect()
}

/// A passage's sentences with what is known of them.
struct Around<'a> {
    passage: &'a Passage,
    parts: &'a [Sentence],
    terms: &'a [Terms],
    titles: &'a Terms,
}

impl Around<'_> {
    fn text(&self, number: usize) -> &str {
        &self.passage.record.text[self.parts[number].range.clone()]
    }

    fn lexical(&self, number: usize, weights: &HashMap<String, f32>) -> f32 {
        let total: f32 = weights.values().sum();
        if total <= 0.0 {
            return 0.0;
        }
        let before = number.checked_sub(1);
        let before_credit = before.map_or(0.0, |before| {
            if self.text(before).ends_with(['?', '？']) { ASKED_CREDIT } else { BEFORE_CREDIT }
        });
        let credit = |term: &String| {
            let has = |number: Option<usize>| {
                number.and_then(|n| self.terms.get(n)).is_some_and(|terms| terms.contains(term))
            };
            if has(Some(number)) {
                return 1.0;
            }
            let title = if self.titles.contains(term) { TITLE_CREDIT } else { 0.0 };
            let before = if has(before) { before_credit } else { 0.0 };
            let after = if has(Some(number + 1)) { AFTER_CREDIT } else { 0.0 };
            title.max(before).max(after)
        };
        weights.iter().map(|(term, weight)| credit(term) * weight).sum::<f32>() / total
    }

    /// The sentence, after the one before it where it needs that one to be understood.
    fn context(&self, number: usize) -> String {
        let text = self.text(number);
        let before = match number.checked_sub(1) {
            Some(before) => self.text(before),
            None => self
                .passage
                .record
                .heading_path
                .last()
                .map_or(self.passage.record.title.as_str(), String::as_str),
        };
        let needed = points_back(text)
            || before.ends_with(['?', '？', ':'])
            || text.split_whitespace().count() < SHORT_WORDS;
        if needed && !before.is_empty() && before.len() <= LONGEST_BYTES {
            format!("{before} {text}")
        } else {
            text.to_owned()
        }
    }
}
