//! Chooses the sentences that answer, and writes them down with their citations.

use std::collections::{BTreeSet, HashMap};

use raglan_pipeline::{
    domain::{DocumentId, Passage},
    generation::{
        citations::{leaves_code_open, without_markers},
        sentences::{Sentence, SentenceKind},
    },
};

use super::{
    ExtractiveSettings,
    candidates::{Candidate, Material},
    terms::points_back,
};

/// Cosines from unrelated to surely related are stretched to 0 to 1.
const UNRELATED: f32 = 0.10;
const RELATED: f32 = 0.70;

/// A further sentence must score this share of the best one's…
const NEARLY_AS_GOOD: f32 = 0.8;
/// …and, unless it scores this share…
const AS_GOOD: f32 = 0.93;
/// …hold so much of the question that the others do not.
const NEWS: f32 = 0.15;
/// A sentence that is so like a chosen one repeats it.
const REPETITION: f32 = 0.85;
/// What likeness to a chosen sentence costs.
const LIKENESS_COST: f32 = 0.3;

/// A list after a colon is taken along up to this many items.
const LONGEST_LIST: usize = 8;

/// The vectors of the question and of each candidate, in order.
#[derive(Debug)]
pub(super) struct Vectors {
    pub(super) question: Vec<f32>,
    pub(super) candidates: Vec<Vec<f32>>,
}

/// A candidate with all that is known of it.
struct Scored<'a> {
    candidate: &'a Candidate,
    vector: Option<&'a [f32]>,
    /// How sure it is that this answers at all: what the threshold is about.
    evidence: f32,
    /// How good it is among the others.
    score: f32,
}

/// The answer in the sentences' own words, or none where no sentence is good enough.
pub(super) fn answer(
    material: &Material,
    vectors: Option<&Vectors>,
    passages: &[Passage],
    settings: &ExtractiveSettings,
) -> Option<String> {
    let chosen = choose(material, vectors, settings);
    if chosen.is_empty() {
        return None;
    }
    let taken = take_along(&chosen, material, passages);
    Some(write(&taken, material, passages))
}

fn cosine(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn score<'a>(candidate: &'a Candidate, pair: Option<(&[f32], &'a [f32])>) -> Scored<'a> {
    let Candidate { lexical, fit, rank, .. } = *candidate;
    // A date that is not there is a stronger sign than one that is: most sentences with a date are not the answer.
    let kind = if fit < 0.0 { 0.2 * fit } else { 0.08 * fit };
    let (evidence, vector) = match pair {
        Some((question, vector)) => {
            let related = ((cosine(question, vector) - UNRELATED) / (RELATED - UNRELATED)).clamp(0.0, 1.0);
            (0.6 * related + 0.4 * lexical + kind, Some(vector))
        }
        None => (lexical + kind, None),
    };
    Scored { candidate, vector, evidence, score: evidence + 0.05 * rank }
}

/// One to three sentences, by maximal marginal relevance (Carbonell and Goldstein, 1998): good ones that do not repeat each other.
fn choose<'a>(
    material: &'a Material,
    vectors: Option<&'a Vectors>,
    settings: &ExtractiveSettings,
) -> Vec<&'a Candidate> {
    let threshold = if vectors.is_some() { settings.threshold } else { settings.lexical_threshold };
    let mut open: Vec<Scored<'_>> = material
        .candidates
        .iter()
        .enumerate()
        .map(|(index, candidate)| {
            let pair = vectors
                .and_then(|all| Some((all.question.as_slice(), all.candidates.get(index)?.as_slice())));
            score(candidate, pair)
        })
        .filter(|scored| scored.evidence >= threshold)
        .collect();
    open.sort_by(|a, b| b.score.total_cmp(&a.score));
    let Some(best) = open.first().map(|best| best.score) else { return Vec::new() };
    open.retain(|scored| scored.score >= NEARLY_AS_GOOD * best);

    let mut chosen = vec![open.remove(0)];
    while chosen.len() < settings.max_sentences.max(1) {
        let likeness =
            |scored: &Scored<'_>| chosen.iter().map(|other| alike(scored, other)).fold(0.0, f32::max);
        let worth = |scored: &Scored<'_>| scored.score - LIKENESS_COST * likeness(scored);
        let fit = |scored: &Scored<'_>| {
            likeness(scored) < REPETITION
                && (scored.score >= AS_GOOD * best
                    || news(scored.candidate, &chosen, &material.weights) >= NEWS)
        };
        let next = (0..open.len())
            .filter(|&i| fit(&open[i]))
            .max_by(|&a, &b| worth(&open[a]).total_cmp(&worth(&open[b])));
        let Some(next) = next else { break };
        chosen.push(open.remove(next));
    }
    chosen.into_iter().map(|scored| scored.candidate).collect()
}

/// How alike two sentences are: cosine, or the share of common terms.
fn alike(a: &Scored<'_>, b: &Scored<'_>) -> f32 {
    if let (Some(a), Some(b)) = (a.vector, b.vector) {
        return cosine(a, b);
    }
    let (a, b) = (&a.candidate.terms, &b.candidate.terms);
    let all = a.union(b).count();
    if all == 0 { 0.0 } else { a.intersection(b).count() as f32 / all as f32 }
}

/// The share of the question, by worth, that a sentence holds and the chosen ones do not.
fn news(candidate: &Candidate, chosen: &[Scored<'_>], weights: &HashMap<String, f32>) -> f32 {
    let total: f32 = weights.values().sum();
    let fresh = |term: &&String| {
        candidate.terms.contains(*term) && !chosen.iter().any(|other| other.candidate.terms.contains(*term))
    };
    let new: f32 = weights.iter().filter(|(term, _)| fresh(term)).map(|(_, weight)| weight).sum();
    if total > 0.0 { new / total } else { 0.0 }
}

/// The chosen sentences (passage and number), with those that they cannot stand without: the one that they point back to, the list that they
/// announce, the words that announce a piece of code.
fn take_along(chosen: &[&Candidate], material: &Material, passages: &[Passage]) -> BTreeSet<(usize, usize)> {
    let mut taken = BTreeSet::new();
    for candidate in chosen {
        let Candidate { passage, sentence, .. } = **candidate;
        let parts = &material.sentences[passage];
        let text = |number: usize| &passages[passage].record.text[parts[number].range.clone()];
        taken.insert((passage, sentence));
        if let Some(before) = sentence.checked_sub(1) {
            let same = parts[before].kind == parts[sentence].kind && !text(before).ends_with(['?', '？']);
            let announced = parts[sentence].kind == SentenceKind::Code && text(before).ends_with(':');
            if (same && points_back(text(sentence))) || announced {
                taken.insert((passage, before));
            }
        }
        if text(sentence).ends_with([':', '：']) {
            let listed = |part: &&Sentence| {
                matches!(part.kind, SentenceKind::Item | SentenceKind::Row | SentenceKind::Code)
            };
            let length = parts[sentence + 1..].iter().take_while(listed).take(LONGEST_LIST).count();
            // A block of code that was cut off has no end of its own, and would swallow the citation.
            let whole =
                |number: &usize| parts[*number].kind != SentenceKind::Code || text(*number).ends_with("```");
            taken
                .extend((sentence + 1..=sentence + length).take_while(whole).map(|number| (passage, number)));
        }
    }
    taken
}

/// Writes sentences down in reading order: documents as they were found, each from its beginning on. Neighbours stay together, and
/// each group is followed by its source's number.
fn write(taken: &BTreeSet<(usize, usize)>, material: &Material, passages: &[Passage]) -> String {
    let mut first_seen: HashMap<DocumentId, usize> = HashMap::new();
    for (passage, _) in taken {
        first_seen.entry(passages[*passage].record.document_id).or_insert(*passage);
    }
    let mut groups: Vec<(usize, usize, usize)> = Vec::new();
    for &(passage, number) in taken {
        match groups.last_mut() {
            Some((last, _, end)) if *last == passage && *end + 1 == number => *end = number,
            _ => groups.push((passage, number, number)),
        }
    }
    groups.sort_by_key(|&(passage, start, _)| {
        let record = &passages[passage].record;
        (
            first_seen.get(&record.document_id).copied(),
            record.start,
            material.sentences[passage][start].range.start,
        )
    });

    let mut answer = String::new();
    for (passage, start, end) in groups {
        let parts = &material.sentences[passage][start..=end];
        let text = quote(&passages[passage].record.text, parts);
        if text.is_empty() {
            continue;
        }
        let block = text.contains('\n');
        if !answer.is_empty() {
            answer.push_str(if block || answer.contains('\n') { "\n\n" } else { " " });
        }
        answer.push_str(&text);
        answer.push_str(if text.ends_with("```") { "\n" } else { " " });
        answer.push_str(&format!("[{}]", passage + 1));
    }
    answer
}

/// Neighbouring sentences in the words of their text. Prose becomes one line; lists and code keep theirs.
fn quote(text: &str, parts: &[Sentence]) -> String {
    let (Some(first), Some(last)) = (parts.first(), parts.last()) else { return String::new() };
    let words = &text[first.range.start..last.range.end];
    let prose = parts.iter().all(|part| part.kind == SentenceKind::Prose)
        || parts.len() == 1 && first.kind != SentenceKind::Code;
    let words =
        if prose { words.split_whitespace().collect::<Vec<_>>().join(" ") } else { words.trim().to_owned() };
    // A lone backtick would make the source's number code.
    let words = if leaves_code_open(&words) { words.replace('`', "") } else { words };
    // The text's own references would read as numbers of our sources.
    without_markers(&words).trim().to_owned()
}
