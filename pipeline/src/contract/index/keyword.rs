//! What a keyword index promises beside what every replica does.

use std::{collections::BTreeSet, sync::Arc};

use async_trait::async_trait;
use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use serde_json::json;

use super::{
    corpus::{Log, chunk, document, everywhere, word},
    replica::{self, Subject},
};
use crate::{
    domain::{ChunkId, Document, IndexChunk},
    ports::{Hit, KeywordIndex, Replica, SearchScope},
};

/// Makes keyword indexes to test.
#[async_trait]
pub trait Factory: Send + Sync {
    /// A new, empty index, apart from all others.
    async fn fresh(&self) -> Arc<dyn KeywordIndex>;

    /// Closes an index that [`fresh`](Self::fresh) made, and opens it again from where it was saved.
    async fn reopen(&self, index: Arc<dyn KeywordIndex>) -> Arc<dyn KeywordIndex>;
}

/// Runs all promises.
pub async fn run_all(factory: Arc<dyn Factory>) {
    replica::run_all(&Subjects(factory.clone())).await;
    tokenises_alike(factory.fresh().await).await;
    ranks_by_words(factory.fresh().await).await;
    searches_titles_and_headings(factory.fresh().await).await;
    a_question_without_words_finds_nothing(factory.fresh().await).await;
    any_text_is_a_question(factory.fresh().await).await;
}

struct KeywordSubject {
    index: Arc<dyn KeywordIndex>,
    factory: Arc<dyn Factory>,
}

struct Subjects(Arc<dyn Factory>);

#[async_trait]
impl replica::Factory<KeywordSubject> for Subjects {
    async fn fresh(&self) -> KeywordSubject {
        KeywordSubject { index: self.0.fresh().await, factory: self.0.clone() }
    }
}

#[async_trait]
impl Subject for KeywordSubject {
    fn replica(&self) -> &dyn Replica {
        &*self.index
    }

    async fn about(&self, topic: u32, scope: &SearchScope) -> BTreeSet<ChunkId> {
        let hits = search(&*self.index, &word(topic), scope).await;
        let unique: BTreeSet<ChunkId> = hits.iter().map(|hit| hit.chunk_id).collect();
        assert_eq!(unique.len(), hits.len(), "a chunk is found once");
        unique
    }

    async fn reopened(self) -> Self {
        Self { index: self.factory.reopen(self.index).await, factory: self.factory }
    }
}

/// Searches, and checks what holds for every answer.
async fn search(index: &dyn KeywordIndex, text: &str, scope: &SearchScope) -> Vec<Hit> {
    let hits = index.search(text, scope).await.expect("a search answers");
    assert!(hits.len() <= scope.limit, "no more hits than asked for");
    assert!(hits.windows(2).all(|pair| pair[0].score >= pair[1].score), "best first");
    assert!(hits.iter().all(|hit| hit.score > 0.0 && hit.score.is_finite()), "scores are above 0: {hits:?}");
    hits
}

fn with_text(document: &Document, occurrence: u32, text: &str) -> IndexChunk {
    IndexChunk { heading_path: Vec::new(), text: text.to_owned(), ..chunk(document, 0, occurrence) }
}

async fn tokenises_alike(index: Arc<dyn KeywordIndex>) {
    let log = Log::default();
    let a = document("", json!({}));
    let text = "The Café's owners were Running 24 e-mail servers in Zürich; naïve résumés: C++ and foo_bar.";
    index.apply(vec![log.put(&a, vec![with_text(&a, 0, text)])]).await.expect("apply");
    for question in [
        "cafe",
        "CAFÉ",
        "owner",
        "ran running",
        "runs",
        "24",
        "e-mail",
        "E mail",
        "zurich",
        "ZÜRICH?",
        "naive",
        "resume",
        "c++",
        "foo_bar",
        "\"server\"",
    ] {
        assert_eq!(search(&*index, question, &everywhere(10)).await.len(), 1, "{question:?} is in {text:?}");
    }
    for question in ["bicycle", "240", "caf", "Zür", "foobar"] {
        assert!(
            search(&*index, question, &everywhere(10)).await.is_empty(),
            "{question:?} is not in {text:?}"
        );
    }
    // Every word of a text finds the text.
    for word in text.split_whitespace().filter(|word| !["The", "were", "in", "and"].contains(word)) {
        assert_eq!(search(&*index, word, &everywhere(10)).await.len(), 1, "{word:?} is in {text:?}");
    }
}

async fn ranks_by_words(index: Arc<dyn KeywordIndex>) {
    let log = Log::default();
    let a = document("", json!({}));
    let texts = [
        "Backups of the database run every night.",
        "The database is large. The database is old. Everybody knows the database.",
        "Nightly jobs: backups, reports and cleaning.",
        "A recipe for soup.",
        "Database.",
    ];
    let chunks = (0..).zip(texts).map(|(n, text)| with_text(&a, n, text)).collect();
    index.apply(vec![log.put(&a, chunks)]).await.expect("apply");
    let id = |n| with_text(&a, n, "").id;
    let hits = search(&*index, "When do the backups of our database run?", &everywhere(10)).await;
    assert_eq!(hits[0].chunk_id, id(0), "the most words, and the rarest");
    let found: BTreeSet<ChunkId> = hits.iter().map(|hit| hit.chunk_id).collect();
    assert_eq!(found, [id(0), id(1), id(2), id(4)].into(), "one word is enough, none is not");

    // Asked again, the answer is the same, and a smaller limit gives its beginning.
    assert_eq!(search(&*index, "When do the backups of our database run?", &everywhere(10)).await, hits);
    assert_eq!(search(&*index, "When do the backups of our database run?", &everywhere(2)).await, hits[..2]);
}

async fn searches_titles_and_headings(index: Arc<dyn KeywordIndex>) {
    let log = Log::default();
    let mut a = document("Vacation policy", json!({}));
    let mut held = with_text(&a, 0, "Thirty days a year.");
    held.heading_path = vec!["Part one".to_owned(), "Carry-over".to_owned()];
    index.apply(vec![log.put(&a, vec![held.clone()])]).await.expect("apply");
    for question in ["vacations", "carry", "thirty"] {
        assert_eq!(search(&*index, question, &everywhere(10)).await.len(), 1, "{question:?}");
    }
    a.title = "Leave".to_owned();
    index.apply(vec![log.put_document(&a)]).await.expect("apply");
    assert!(search(&*index, "vacation", &everywhere(10)).await.is_empty(), "the old title is gone");
    for question in ["leave", "carry", "thirty"] {
        assert_eq!(
            search(&*index, question, &everywhere(10)).await.len(),
            1,
            "{question:?}, with the new title"
        );
    }
    assert_eq!(index.count().await.expect("count"), 1);
}

async fn a_question_without_words_finds_nothing(index: Arc<dyn KeywordIndex>) {
    let log = Log::default();
    let a = document("the", json!({}));
    let chunks =
        vec![with_text(&a, 0, "the and of, is it?"), with_text(&a, 1, "something"), with_text(&a, 2, "")];
    index.apply(vec![log.put(&a, chunks)]).await.expect("apply");
    assert_eq!(index.count().await.expect("count"), 3, "chunks without words are held");
    for question in ["", "   \n\t", "?!… — ()", "the", "is it of the", "\u{0}", "\u{200b}"] {
        assert!(search(&*index, question, &everywhere(10)).await.is_empty(), "{question:?}");
    }
}

/// No text is an error, and none has operators.
async fn any_text_is_a_question(index: Arc<dyn KeywordIndex>) {
    let log = Log::default();
    let a = document("a", json!({}));
    let chunks = vec![with_text(&a, 0, "apples and pears"), with_text(&a, 1, "only pears here")];
    index.apply(vec![log.put(&a, chunks)]).await.expect("apply");
    for question in [
        "apples NOT pears",
        "-apples",
        "+apples",
        "apples AND pears",
        "body:apples",
        "title:\"apples",
        "apples~2",
        "appl* apples",
        "(apples",
        "apples^1e9",
        "[apples TO pears]",
        "apples\\",
        "/apples/",
        "'apples'",
        "*:* apples",
        "apples\u{0}\u{1}",
        "{\"apples\": 1}",
    ] {
        let hits = search(&*index, question, &everywhere(10)).await;
        assert!(hits.iter().any(|hit| hit.chunk_id == with_text(&a, 0, "").id), "{question:?} finds apples");
    }
    let pears = search(&*index, "apples NOT pears", &everywhere(10)).await;
    assert_eq!(pears.len(), 2, "NOT is a word like any other");

    let mut rng = StdRng::seed_from_u64(5);
    let pieces = [
        "\"", "(", ")", ":", "*", "^", "~", "\\", "-", "+", "a", " ", "é", "中", "🦀", "\u{301}", "\n", "0",
        "OR ",
    ];
    for _ in 0..200 {
        let length = rng.random_range(0..40);
        let text: String = (0..length).filter_map(|_| pieces.choose(&mut rng).copied()).collect();
        search(&*index, &text, &everywhere(3)).await;
    }
    let long = "pear ".repeat(20_000) + &"x".repeat(100_000);
    assert_eq!(search(&*index, &long, &everywhere(10)).await.len(), 2, "a long question is answered");
    let many: String = (0..5_000).map(|n| format!("w{n} ")).collect();
    assert!(search(&*index, &many, &everywhere(10)).await.is_empty(), "so is one of many words");
}
