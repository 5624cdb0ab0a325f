//! Documents whose every chunk tells which document, edition and part it is of.

use std::collections::BTreeSet;

use rand::{Rng, SeedableRng, rngs::StdRng};
use serde_json::{Value, json};

/// Parts of each document; each is at least a chunk.
pub const SHELVES: usize = 4;
/// A word that every sentence of every document has.
pub const COMMON_WORD: &str = "inventory";

const THINGS: [&str; 16] = [
    "kettle", "lantern", "hammer", "violin", "compass", "blanket", "ladder", "teapot", "barrel", "saddle",
    "anchor", "candle", "basket", "mirror", "needle", "pulley",
];

/// The text of one edition of a document, in Markdown.
pub fn text(document: usize, edition: usize) -> String {
    // The same text each time: a job that is sent again must be the same job.
    let mut rng = StdRng::seed_from_u64((document * 1_000 + edition) as u64);
    let mut thing = || THINGS[rng.random_range(0..THINGS.len())];
    (0..SHELVES)
        .map(|shelf| {
            let sentences: Vec<String> = (0..4)
                .map(|_| {
                    let (a, b, c) = (thing(), thing(), thing());
                    format!(
                        "The {COMMON_WORD} of {} in edition{edition} on shelf{shelf} names a {a}, a {b} and a {c}.",
                        word(document)
                    )
                })
                .collect();
            format!("## Shelf {shelf}\n\n{}\n\n", sentences.join(" "))
        })
        .collect()
}

/// A word that only this document has.
pub fn word(document: usize) -> String {
    format!("box{document:03}")
}

/// The client's id of a document.
pub fn external_id(document: usize) -> String {
    format!("{}.md", word(document))
}

/// One edition of a document as JSON.
pub fn as_json(document: usize, edition: usize) -> Value {
    json!({
        "external_id": external_id(document),
        "title": format!("Box {document}"),
        "media_type": "text/markdown",
        "text": text(document, edition),
    })
}

/// What a search shows of one document.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Seen {
    pub editions: BTreeSet<usize>,
    pub shelves: BTreeSet<usize>,
    pub chunks: usize,
}

impl Seen {
    /// Reads a search's answer.
    pub fn of(answer: &Value, document: usize) -> Self {
        let mut seen = Self::default();
        let id = external_id(document);
        for passage in answer["passages"].as_array().unwrap().iter().filter(|one| one["external_id"] == id) {
            let text = passage["text"].as_str().unwrap();
            let editions = numbers(text, "edition");
            assert!(!editions.is_empty(), "a chunk without its edition: {passage:#}");
            seen.editions.extend(editions);
            seen.shelves.extend(numbers(text, "shelf"));
            seen.chunks += 1;
        }
        seen
    }

    /// Of one edition, and whole.
    pub fn is_whole(&self) -> bool {
        self.editions.len() == 1 && self.shelves.len() == SHELVES
    }
}

/// The numbers after each `prefix` that begins a word.
fn numbers(text: &str, prefix: &str) -> BTreeSet<usize> {
    text.split_whitespace().filter_map(|word| word.strip_prefix(prefix)?.parse().ok()).collect()
}
