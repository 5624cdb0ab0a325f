//! The sentences of the passages that may be the answer, and what words tell of them.

use std::collections::HashSet;

use raglan_pipeline::{domain::Passage, generation::sentences::SentenceKind};

use super::{
    evidence::Ranking,
    passage::{Finder, Held, Parts},
    question::Question,
    terms::{Stems, Terms, points_back},
};

/// A longer sentence (in bytes) is no answer but a document.
const LONGEST_BYTES: usize = 1_200;
/// A shorter one (in words) says too little by itself to be compared with a question.
const SHORT_WORDS: usize = 6;

/// What a term of the question counts for a sentence that does not hold it, where it stands beside it.
const TITLE_CREDIT: f32 = 0.5;
const BEFORE_CREDIT: f32 = 0.5;
const AFTER_CREDIT: f32 = 0.3;
/// A question right before a sentence is what that sentence answers.
const ASKED_CREDIT: f32 = 0.8;

/// All that is known before anything is embedded.
#[derive(Debug)]
pub(super) struct Material {
    /// The question.
    pub(super) question: Question,
    /// The share of each of its terms in it: all of them make 1.
    pub(super) weights: Vec<f32>,
    /// The sentences of each passage.
    pub(super) passages: Vec<Parts>,
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
    /// What of the question stands in it.
    pub(super) held: Held,
    /// What of the question stands in it or around it.
    pub(super) around: Held,
    /// The share of the question that it holds, with part of what its neighbours and headings hold: 0 to 1.
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
        let question = Question::new(question, &stems);
        let mut finder = Finder::new(&question, &stems);
        let parts: Vec<Parts> = passages.iter().map(|passage| Parts::of(passage, &mut finder)).collect();
        let weights = weights(&question, &parts);

        // The promise of each sentence that may answer, its passage and number, and its own part of what is known.
        let mut open: Vec<(f32, usize, usize, f32, f32)> = Vec::new();
        let mut seen = HashSet::new();
        for (index, (passage, parts)) in passages.iter().zip(&parts).enumerate() {
            for (number, part) in parts.all.iter().enumerate() {
                let text = &passage.record.text[part.range.clone()];
                if !may_answer(part.kind, text) || is_table_head(parts, number) {
                    continue;
                }
                // Passages overlap: a sentence counts where it was found first.
                if !seen.insert(text.split_whitespace().collect::<Vec<_>>().join(" ")) {
                    continue;
                }
                let lexical = lexical(&passage.record.text, parts, number, &weights);
                let fit = question.fit(part.kind, text, &stems);
                let promise = Ranking::BY_WORDS.score(0.0, lexical, fit, rank(index));
                open.push((promise, index, number, lexical, fit));
            }
        }
        open.sort_by(|a, b| b.0.total_cmp(&a.0));
        open.truncate(limit);
        let candidates = open
            .into_iter()
            .map(|(_, passage, sentence, lexical, fit)| {
                let part = &parts[passage].all[sentence];
                let text = &passages[passage].record.text[part.range.clone()];
                Candidate {
                    passage,
                    sentence,
                    context: context(&passages[passage], &parts[passage], sentence),
                    terms: stems.terms(text),
                    held: part.held.clone(),
                    around: parts[passage].surroundings(sentence),
                    lexical,
                    fit,
                    rank: rank(passage),
                }
            })
            .collect();
        drop(finder);
        Self { question, weights, passages: parts, candidates }
    }

    /// The share of the question that is held, by weight: 0 to 1.
    pub(super) fn coverage(&self, held: &Held) -> f32 {
        coverage(&self.weights, |term| held.of(term))
    }
}

fn coverage(weights: &[f32], credit: impl Fn(usize) -> f32) -> f32 {
    weights.iter().enumerate().map(|(term, weight)| weight * credit(term)).sum()
}

fn rank(passage: usize) -> f32 {
    1.0 / (1.0 + passage as f32)
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
pub(super) fn is_table_head(parts: &Parts, number: usize) -> bool {
    let row = |number: Option<usize>| {
        number.and_then(|n| parts.all.get(n)).is_some_and(|part| part.kind == SentenceKind::Row)
    };
    row(Some(number)) && !row(number.checked_sub(1)) && row(Some(number + 1))
}

/// What each term of the question is worth: the rarer among the sentences, the more. A term that stands nowhere is worth what one
/// that stands once is: it may be there in other words.
fn weights(question: &Question, passages: &[Parts]) -> Vec<f32> {
    let mut holding = vec![0_usize; question.terms.len()];
    let mut all = 0_usize;
    for part in passages.iter().flat_map(|parts| &parts.all) {
        all += 1;
        for term in part.held.terms() {
            holding[term] += 1;
        }
    }
    let rarity = |holding: usize| (1.0 + all as f32 / holding.max(1) as f32).ln();
    let raw: Vec<f32> =
        question.terms.iter().zip(holding).map(|(term, holding)| term.weight * rarity(holding)).collect();
    let total: f32 = raw.iter().sum();
    raw.into_iter().map(|weight| if total > 0.0 { weight / total } else { 0.0 }).collect()
}

fn lexical(text: &str, parts: &Parts, number: usize, weights: &[f32]) -> f32 {
    let held = &parts.all[number].held;
    let titles = parts.headings(number);
    let before = parts.before(number).map(|before| &parts.all[before]);
    let after = parts.after(number).map(|after| &parts.all[after].held);
    let before_credit = before.map_or(0.0, |before| {
        if text[before.range.clone()].ends_with(['?', '？']) { ASKED_CREDIT } else { BEFORE_CREDIT }
    });
    coverage(weights, |term| {
        let title = TITLE_CREDIT * titles.of(term);
        let before = before.map_or(0.0, |before| before_credit * before.held.of(term));
        let after = after.map_or(0.0, |after| AFTER_CREDIT * after.of(term));
        held.of(term).max(title).max(before).max(after)
    })
}

/// The sentence, after the one before it (or the heading above it) where it needs that to be understood.
fn context(passage: &Passage, parts: &Parts, number: usize) -> String {
    let record = &passage.record;
    let words = |number: usize| &record.text[parts.all[number].range.clone()];
    let text = words(number);
    let before = match parts.before(number).or(parts.all[number].heading) {
        Some(before) => words(before),
        None => record.heading_path.last().map_or(record.title.as_str(), String::as_str),
    };
    let needed = points_back(text)
        || before.ends_with(['?', '？', ':', '：'])
        || text.split_whitespace().count() < SHORT_WORDS;
    if needed && !before.is_empty() && before.len() <= LONGEST_BYTES {
        format!("{before} {text}")
    } else {
        text.to_owned()
    }
}
