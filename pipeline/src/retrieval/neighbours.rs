//! Chunks that follow each other in their document, read as one passage.

use crate::domain::{Passage, PassageRecord};

/// The most chunks that become one passage: a passage must stay something that a person reads and a model weighs as one source.
const MOST_MERGED: u32 = 3;

/// What may lie between two chunks: the whitespace that cutting took away, so many characters of it.
const WIDEST_GAP: usize = 16;

/// A passage with the chunks that it holds.
struct Run {
    passage: Passage,
    /// The last chunk's number in the document; the first one's is the record's.
    last: u32,
}

impl Run {
    fn of(passage: Passage) -> Self {
        Self { last: passage.record.ordinal, passage }
    }

    /// Takes a chunk in that stands right before or after. It keeps its own place, score and id: those of the better chunk.
    fn absorb(&mut self, other: &PassageRecord) -> bool {
        let record = &mut self.passage.record;
        if record.document_id != other.document_id || self.last - record.ordinal + 1 >= MOST_MERGED {
            return false;
        }
        let text = if other.ordinal == self.last + 1 {
            joined(record, other)
        } else if other.ordinal + 1 == record.ordinal {
            joined(other, record)
        } else {
            return false;
        };
        let Some(text) = text else { return false };
        record.text = text;
        record.start = record.start.min(other.start);
        record.end = record.end.max(other.end);
        record.ordinal = record.ordinal.min(other.ordinal);
        self.last = self.last.max(other.ordinal);
        let shared = record.heading_path.iter().zip(&other.heading_path).take_while(|(a, b)| a == b).count();
        record.heading_path.truncate(shared);
        true
    }
}

/// The text from the beginning of one chunk to the end of the next, every character at its place. What they share stands once;
/// whitespace between them, which no chunk holds, is given as line ends.
fn joined(first: &PassageRecord, second: &PassageRecord) -> Option<String> {
    let gap = second.start.saturating_sub(first.end);
    if gap > WIDEST_GAP {
        return None;
    }
    let shared = first.end.saturating_sub(second.start);
    let mut text = first.text.clone();
    text.extend(std::iter::repeat_n('\n', gap));
    text.extend(second.text.chars().skip(shared));
    Some(text)
}

/// Puts chunks that follow each other together, until there are `most` passages and the next is a new one. The best first, as they come.
pub(super) fn merge_neighbours(passages: impl Iterator<Item = Passage>, most: usize) -> Vec<Passage> {
    let mut runs: Vec<Run> = Vec::new();
    for passage in passages {
        if runs.iter_mut().any(|run| run.absorb(&passage.record)) {
            continue;
        }
        if runs.len() == most {
            break;
        }
        runs.push(Run::of(passage));
    }
    runs.into_iter().map(|run| run.passage).collect()
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::domain::{ChunkId, DocumentId, Metadata, Ranks};

    const TEXT: &str = "Ein Äpfelchen. Zwei Birnen. Drei Nüsse.\n\nVier Kekse. Fünf Gurken.";

    /// Characters `start..end` of [`TEXT`] as a chunk.
    fn chunk(document: u128, ordinal: u32, start: usize, end: usize, headings: &[&str]) -> Passage {
        let record = PassageRecord {
            chunk_id: ChunkId(Uuid::from_u128(document * 100 + u128::from(ordinal))),
            document_id: DocumentId(Uuid::from_u128(document)),
            external_id: String::new(),
            title: String::new(),
            uri: None,
            metadata: Metadata::new(),
            heading_path: headings.iter().map(|heading| (*heading).to_owned()).collect(),
            text: TEXT.chars().skip(start).take(end - start).collect(),
            ordinal,
            start,
            end,
        };
        Passage { record, score: 0.5, ranks: Ranks::default() }
    }

    fn places(passages: &[Passage]) -> Vec<(usize, usize)> {
        passages.iter().map(|passage| (passage.record.start, passage.record.end)).collect()
    }

    fn merged(passages: Vec<Passage>, most: usize) -> Vec<Passage> {
        merge_neighbours(passages.into_iter(), most)
    }

    #[test]
    fn chunks_that_overlap_or_follow_become_one_in_either_order() {
        let (first, second, third) =
            (chunk(1, 0, 0, 27, &["A", "B"]), chunk(1, 1, 15, 39, &["A", "C"]), chunk(1, 2, 41, 65, &["A"]));
        for order in [[&first, &second, &third], [&third, &second, &first], [&second, &first, &third]] {
            let best = order[0].record.chunk_id;
            let [one] = &merged(order.into_iter().cloned().collect(), 5)[..] else {
                panic!("they are one passage");
            };
            assert_eq!(one.record.text, TEXT);
            assert_eq!((one.record.start, one.record.end), (0, TEXT.chars().count()));
            assert_eq!((one.record.ordinal, one.record.chunk_id), (0, best));
            assert_eq!(one.record.heading_path, ["A"]);
        }
    }

    #[test]
    fn chunks_apart_of_other_documents_or_too_many_stay_by_themselves() {
        let apart = vec![chunk(1, 0, 0, 14, &[]), chunk(1, 2, 15, 27, &[]), chunk(2, 1, 15, 27, &[])];
        assert_eq!(merged(apart.clone(), 5), apart);
        let row: Vec<Passage> =
            (0..5).map(|n| chunk(1, n, 4 * n as usize, 4 * n as usize + 4, &[])).collect();
        assert_eq!(places(&merged(row, 5)), [(0, 12), (12, 20)]);
    }

    #[test]
    fn room_that_merging_leaves_goes_to_the_next() {
        let passages = vec![
            chunk(1, 0, 0, 14, &[]),
            chunk(1, 1, 15, 27, &[]),
            chunk(2, 0, 0, 14, &[]),
            chunk(2, 1, 15, 27, &[]),
            chunk(3, 0, 0, 14, &[]),
        ];
        let two = merged(passages, 2);
        assert_eq!(places(&two), [(0, 27), (0, 27)]);
    }
}
