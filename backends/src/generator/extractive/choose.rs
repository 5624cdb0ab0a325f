//! Decides whether the passages hold an answer, and which sentences give it.

use std::collections::BTreeSet;

use super::{
    ExtractiveSettings,
    candidates::{Candidate, Material},
    evidence::{Evidence, Ranking, probabilities},
};

/// Sentences are taken until the one that answers is among them with this probability…
const SURE: f32 = 0.75;
/// …but none that has less than this itself…
const LEAST: f32 = 0.12;
/// …unless it has this, and holds so much of the question that the others do not: several facts may be asked for.
const LEAST_FOR_NEWS: f32 = 0.04;
const NEWS: f32 = 0.25;
/// A sentence that is so like a chosen one repeats it.
const REPETITION: f32 = 0.85;

/// How related the candidates are to the question and to each other.
#[derive(Debug)]
pub(super) struct Vectors {
    /// Each candidate's vector, in order, of length 1.
    pub(super) candidates: Vec<Vec<f32>>,
    /// Each candidate's likeness to the question: 0 as unrelated texts have it, 1 for the same text.
    pub(super) related: Vec<f32>,
}

/// The candidates that answer, by index, the best first. Empty where the passages most likely hold no answer.
pub(super) fn choose(
    material: &Material,
    vectors: Option<&Vectors>,
    settings: &ExtractiveSettings,
) -> Vec<usize> {
    let related = |index: usize| vectors.and_then(|vectors| vectors.related.get(index).copied());
    let ranking = if vectors.is_some() { Ranking::BY_MEANING } else { Ranking::BY_WORDS };
    let scores: Vec<f32> = material
        .candidates
        .iter()
        .enumerate()
        .map(|(index, candidate)| {
            let Candidate { lexical, fit, rank, .. } = *candidate;
            ranking.score(related(index).unwrap_or(0.0), lexical, fit, rank)
        })
        .collect();
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
    let Some(&best) = order.first() else { return Vec::new() };

    let evidence = evidence(material, &order, related(best));
    let probability = evidence.probability();
    let threshold = if vectors.is_some() { settings.threshold } else { settings.lexical_threshold };
    tracing::debug!(probability, threshold, ?evidence, "the best sentence was judged");
    if probability < threshold {
        return Vec::new();
    }

    let probabilities = probabilities(&scores);
    let mut chosen = vec![best];
    let mut sure = probabilities[best];
    for &next in &order[1..] {
        if chosen.len() >= settings.max_sentences.max(1) || probabilities[next] < LEAST_FOR_NEWS {
            break;
        }
        if chosen.iter().any(|&other| alike(material, vectors, next, other) >= REPETITION) {
            // It says what was said, and so does not make that any less likely.
            sure += probabilities[next];
            continue;
        }
        let likely = sure < SURE && probabilities[next] >= LEAST;
        if likely || news(material, next, &chosen) >= NEWS {
            sure += probabilities[next];
            chosen.push(next);
        }
    }
    chosen
}

/// The signs that the best candidate answers. `order` is all candidates, the best first.
fn evidence(material: &Material, order: &[usize], related: Option<f32>) -> Evidence {
    let best = &material.candidates[order[0]];
    // What one passage does not name another may: an answer can have two parts.
    let other = order
        .iter()
        .map(|&index| &material.candidates[index])
        .find(|candidate| candidate.passage != best.passage);
    let names = material.question.terms.iter().enumerate().filter(|(_, term)| term.name);
    let (mut all, mut missing) = (0.0, 0.0);
    for (index, _) in names {
        all += 1.0;
        if best.around.of(index).max(other.map_or(0.0, |other| other.around.of(index))) == 0.0 {
            missing += 1.0;
        }
    }
    Evidence {
        related,
        lexical: best.lexical,
        around: material.coverage(&best.around),
        missing_names: if all > 0.0 { missing / all } else { 0.0 },
        unfit: best.fit < 0.0,
    }
}

/// The cosine of two vectors of length 1.
pub(super) fn cosine(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// How alike two candidates are: cosine, or the share of common terms.
fn alike(material: &Material, vectors: Option<&Vectors>, a: usize, b: usize) -> f32 {
    if let Some(vectors) = vectors {
        return match (vectors.candidates.get(a), vectors.candidates.get(b)) {
            (Some(a), Some(b)) => cosine(a, b),
            _ => 0.0,
        };
    }
    let (a, b): (&BTreeSet<_>, &BTreeSet<_>) = (&material.candidates[a].terms, &material.candidates[b].terms);
    let all = a.union(b).count();
    if all == 0 { 0.0 } else { a.intersection(b).count() as f32 / all as f32 }
}

/// The share of the question, by weight, that a candidate holds and neither the chosen ones nor the headings above it do.
fn news(material: &Material, candidate: usize, chosen: &[usize]) -> f32 {
    let candidate = &material.candidates[candidate];
    let headings = material.passages[candidate.passage].headings(candidate.sentence);
    let fresh = |term: &usize| {
        let said = chosen.iter().any(|&other| material.candidates[other].held.of(*term) > 0.0);
        !said && headings.of(*term) == 0.0
    };
    candidate.held.terms().filter(fresh).map(|term| material.weights[term]).sum()
}
