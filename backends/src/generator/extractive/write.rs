//! Writes the chosen sentences down in their own words, with what they cannot stand without, and their citations.

use std::collections::{BTreeSet, HashMap};

use raglan_pipeline::{
    domain::{DocumentId, Passage},
    generation::{
        citations::{leaves_code_open, without_markers},
        sentences::SentenceKind,
    },
};

use super::{
    candidates::{Candidate, Material, is_table_head},
    passage::{Part, Parts},
    question::Wants,
    terms::points_back,
};

/// A list after a colon, and the steps of a procedure, are taken along up to this many items.
const LONGEST_LIST: usize = 8;

/// The answer in the words of the chosen candidates (by index, the best first).
pub(super) fn write(chosen: &[usize], material: &Material, passages: &[Passage]) -> String {
    let chosen: Vec<&Candidate> = chosen.iter().map(|&index| &material.candidates[index]).collect();
    let taken = take_along(&chosen, material, passages);

    // The document of the best sentence comes first; within a document, reading order.
    let mut first_seen: HashMap<DocumentId, usize> = HashMap::new();
    for (place, candidate) in chosen.iter().enumerate() {
        first_seen.entry(passages[candidate.passage].record.document_id).or_insert(place);
    }
    let mut groups = groups(&taken, material);
    groups.sort_by_key(|group| {
        let record = &passages[group.passage].record;
        let place = first_seen.get(&record.document_id).copied();
        (place, record.start, material.passages[group.passage].all[group.start].range.start)
    });

    let mut answer = String::new();
    for group in groups {
        let text = quote(&passages[group.passage].record.text, &material.passages[group.passage], &group);
        if text.is_empty() {
            continue;
        }
        let block = text.contains('\n');
        if !answer.is_empty() {
            answer.push_str(if block || answer.contains('\n') { "\n\n" } else { " " });
        }
        answer.push_str(&text);
        // After a fence or a table a marker would be part of it.
        answer.push_str(if text.ends_with("```") || block && text.ends_with('|') { "\n" } else { " " });
        answer.push_str(&format!("[{}]", group.passage + 1));
    }
    answer
}

/// The chosen sentences (passage and number), with those that they cannot stand without: the one that they point back to, the list that they
/// announce, the other steps, the names of a table's columns, the words that announce a piece of code.
fn take_along(chosen: &[&Candidate], material: &Material, passages: &[Passage]) -> BTreeSet<(usize, usize)> {
    let mut taken = BTreeSet::new();
    for candidate in chosen {
        let Candidate { passage, sentence, .. } = **candidate;
        let parts = &material.passages[passage];
        let kind = |number: usize| parts.all[number].kind;
        let text = |number: usize| &passages[passage].record.text[parts.all[number].range.clone()];
        taken.insert((passage, sentence));
        if let Some(before) = parts.before(sentence) {
            let same = kind(before) == kind(sentence) && !text(before).ends_with(['?', '？']);
            let announced = kind(sentence) == SentenceKind::Code && text(before).ends_with(':');
            if (same && points_back(text(sentence))) || announced {
                taken.insert((passage, before));
            }
        }
        let length = |start: usize, listed: &dyn Fn(&Part) -> bool| {
            parts.all[start..].iter().take(LONGEST_LIST).take_while(|part| listed(part)).count()
        };
        match kind(sentence) {
            SentenceKind::Item if material.question.wants == Wants::Steps => {
                let item = |number: &usize| kind(*number) == SentenceKind::Item;
                let first = (sentence.saturating_sub(LONGEST_LIST)..sentence).rev().take_while(item).last();
                let first = first.unwrap_or(sentence);
                let last = sentence + length(sentence, &|part| part.kind == SentenceKind::Item);
                taken.extend((first..last).map(|number| (passage, number)));
                if let Some(before) = parts.before(first)
                    && text(before).ends_with([':', '：'])
                {
                    taken.insert((passage, before));
                }
            }
            SentenceKind::Row => {
                let row = |number: &usize| kind(*number) == SentenceKind::Row;
                let first = (0..sentence).rev().take_while(row).last();
                taken
                    .extend(first.filter(|first| is_table_head(parts, *first)).map(|first| (passage, first)));
            }
            _ if text(sentence).ends_with([':', '：']) => {
                let listed = |part: &Part| {
                    matches!(part.kind, SentenceKind::Item | SentenceKind::Row | SentenceKind::Code)
                };
                // A block of code that was cut off has no end of its own, and would swallow the citation.
                let whole =
                    |number: &usize| kind(*number) != SentenceKind::Code || text(*number).ends_with("```");
                let list = sentence + 1..sentence + 1 + length(sentence + 1, &listed);
                taken.extend(list.take_while(whole).map(|number| (passage, number)));
            }
            _ => {}
        }
    }
    taken
}

/// Neighbouring sentences of one passage; for a row of a table also the row that names its columns.
struct Group {
    passage: usize,
    start: usize,
    end: usize,
    table_head: Option<usize>,
}

fn groups(taken: &BTreeSet<(usize, usize)>, material: &Material) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    for &(passage, number) in taken {
        let parts = &material.passages[passage];
        match groups.last_mut() {
            Some(last) if last.passage == passage && last.end + 1 == number => last.end = number,
            // Only the names of the columns so far, and this is a row under them.
            Some(last)
                if last.passage == passage
                    && last.start == last.end
                    && is_table_head(parts, last.start)
                    && parts.all[last.end..=number].iter().all(|part| part.kind == SentenceKind::Row) =>
            {
                *last = Group { passage, start: number, end: number, table_head: Some(last.start) };
            }
            _ => groups.push(Group { passage, start: number, end: number, table_head: None }),
        }
    }
    groups
}

/// Neighbouring sentences in the words of their text. Prose becomes one line; lists, tables and code keep theirs.
fn quote(text: &str, parts: &Parts, group: &Group) -> String {
    let all = &parts.all[group.start..=group.end];
    let (Some(first), Some(last)) = (all.first(), all.last()) else { return String::new() };
    let words = &text[first.range.start..last.range.end];
    let prose = all.iter().all(|part| part.kind == SentenceKind::Prose)
        || all.len() == 1 && first.kind != SentenceKind::Code;
    let mut words =
        if prose { words.split_whitespace().collect::<Vec<_>>().join(" ") } else { words.trim().to_owned() };
    if let Some(head) = group.table_head {
        // With the line that separates it, so that it still is a table.
        let head = text[parts.all[head].range.start..parts.all[head + 1].range.start].trim();
        words = format!("{head}\n{words}");
    }
    // A lone backtick would make the source's number code.
    let words = if leaves_code_open(&words) { words.replace('`', "") } else { words };
    // The text's own references would read as numbers of our sources.
    without_markers(&words).trim().to_owned()
}
