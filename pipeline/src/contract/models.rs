//! What [`Embedder`] and [`Reranker`] promise, as a suite each. The instance may be shared: a suite leaves nothing behind.

use std::sync::Arc;

use crate::{
    domain::{EmbedPurpose, Embedding},
    ports::{Embedder, Reranker},
};

/// Texts of many lengths and scripts, each with another meaning.
const TEXTS: [&str; 8] = [
    "The harvest begins in September.",
    "a",
    "How is a password changed? Open the settings of the account, choose security, and set a new one; the old one ends at once.",
    "zebra",
    "Über die Brücke fährt der Zug nach Köln.",
    "東京の天気は晴れです",
    "x = f(y) + 42; // a line of code",
    "Invoices are paid within thirty days of their receipt, unless the contract says otherwise in writing.",
];

/// Starts calls and drops their callers at once, a few of them while they may be running.
async fn abandon<F: Future<Output = ()> + Send + 'static>(call: impl Fn() -> F) {
    let abandoned: Vec<_> = (0..16).map(|_| tokio::spawn(call())).collect();
    tokio::task::yield_now().await;
    for call in abandoned {
        call.abort();
        // Whether it was quicker than the abort does not matter.
        let _ = call.await;
    }
}

/// The suite of [`Embedder`].
pub mod embedder {
    use super::*;

    /// Runs all of it.
    pub async fn run_all(embedder: Arc<dyn Embedder>) {
        describes_itself(&*embedder);
        tokenizes(&*embedder);
        gives_unit_vectors_in_order(&*embedder).await;
        reads_any_text(&*embedder).await;
        cuts_and_says_so(&*embedder).await;
        serves_many_at_once(&embedder).await;
        outlives_callers_that_go(&embedder).await;
    }

    async fn embed(embedder: &dyn Embedder, texts: &[&str]) -> Vec<Embedding> {
        let owned = texts.iter().map(|text| (*text).to_owned()).collect();
        let embeddings = embedder.embed(owned, EmbedPurpose::Passage).await.expect("texts have embeddings");
        assert_eq!(embeddings.len(), texts.len(), "one embedding a text");
        for (embedding, text) in embeddings.iter().zip(texts) {
            assert_eq!(embedding.vector.len(), embedder.info().dimension, "of {text:?}");
            let length: f32 = embedding.vector.iter().map(|value| value * value).sum::<f32>().sqrt();
            assert!((length - 1.0).abs() < 1e-3, "the vector of {text:?} has length {length}");
        }
        embeddings
    }

    fn cosine(a: &Embedding, b: &Embedding) -> f32 {
        a.vector.iter().zip(&b.vector).map(|(a, b)| a * b).sum()
    }

    fn describes_itself(embedder: &dyn Embedder) {
        let info = embedder.info();
        assert!(!info.model.is_empty() && info.dimension > 0 && info.max_tokens > 2, "{info:?}");
    }

    fn tokenizes(embedder: &dyn Embedder) {
        let tokenizer = embedder.tokenizer();
        assert!(tokenizer.tokens("").is_empty(), "an empty text has no tokens");
        for text in TEXTS {
            let tokens = tokenizer.tokens(text);
            assert!(!tokens.is_empty(), "{text:?} has tokens");
            for token in &tokens {
                assert!(
                    text.get(token.clone()).is_some(),
                    "{token:?} is not on character boundaries of {text:?}"
                );
            }
            assert!(tokens.is_sorted_by_key(|token| token.start), "the tokens of {text:?} are in order");
        }
    }

    async fn gives_unit_vectors_in_order(embedder: &dyn Embedder) {
        assert!(embed(embedder, &[]).await.is_empty());
        let batch = embed(embedder, &TEXTS).await;
        for (index, text) in TEXTS.iter().enumerate() {
            let single = &embed(embedder, &[text]).await[0];
            let likeness = cosine(single, &batch[index]);
            assert!(likeness >= 0.999, "{text:?} in a batch has cosine {likeness} to itself alone");
            assert_eq!((single.tokens, single.truncated), (batch[index].tokens, batch[index].truncated));
            for (other, embedding) in batch.iter().enumerate().filter(|(other, _)| *other != index) {
                assert!(cosine(single, embedding) < likeness, "{text:?} is taken for {:?}", TEXTS[other]);
            }
        }
    }

    async fn reads_any_text(embedder: &dyn Embedder) {
        let odd = ["", " ", "\n\n\t", "\u{0}", "🦀🦀🦀", "[CLS] [SEP] [MASK]", "e\u{301}\u{200d}\u{feff}"];
        for embedding in embed(embedder, &odd).await {
            assert!(embedding.vector.iter().all(|value| value.is_finite()));
            assert!(!embedding.truncated);
        }
        for purpose in [EmbedPurpose::Query, EmbedPurpose::Passage, EmbedPurpose::Candidate] {
            assert_eq!(embedder.embed(vec![String::new()], purpose).await.expect("a vector").len(), 1);
        }
    }

    async fn cuts_and_says_so(embedder: &dyn Embedder) {
        let max = embedder.info().max_tokens;
        let per_word = embedder.tokenizer().tokens("a").len();
        let one = embed(embedder, &["a"]).await.remove(0);
        let special = one.tokens - per_word;
        let words = (max - special) / per_word;
        let text = |words: usize| "a ".repeat(words);
        let (fits, over, far_over) = (text(words), text(words + 1), text(words * 40));
        let embeddings = embed(embedder, &[&fits, &over, &far_over, "a"]).await;
        let said: Vec<bool> = embeddings.iter().map(|embedding| embedding.truncated).collect();
        assert_eq!(said, [false, true, true, false]);
        assert!(embeddings.iter().all(|embedding| embedding.tokens <= max));
        assert_eq!(embeddings[0].tokens, special + words * per_word);
        if per_word == 1 {
            for long in &embeddings[1..3] {
                assert!(cosine(&embeddings[0], long) >= 0.999, "what is cut off does not count");
            }
        }
    }

    async fn serves_many_at_once(embedder: &Arc<dyn Embedder>) {
        let alone = embed(&**embedder, &TEXTS).await;
        let callers: Vec<_> = (0..32)
            .map(|number| {
                let embedder = Arc::clone(embedder);
                tokio::spawn(async move {
                    let purpose = if number % 4 == 0 { EmbedPurpose::Query } else { EmbedPurpose::Passage };
                    // Models with prefixes see a question and a passage differently: these are compared by purpose.
                    let which = [number % TEXTS.len(), (number + 3) % TEXTS.len()];
                    let texts = which.map(|index| TEXTS[index].to_owned()).to_vec();
                    (purpose, which, embedder.embed(texts, purpose).await.expect("an answer"))
                })
            })
            .collect();
        for caller in callers {
            let (purpose, which, embeddings) = caller.await.expect("no panic");
            assert_eq!(embeddings.len(), which.len());
            for (index, embedding) in which.into_iter().zip(&embeddings) {
                if purpose == EmbedPurpose::Passage {
                    assert!(cosine(embedding, &alone[index]) >= 0.999, "another caller's vector");
                }
            }
        }
    }

    async fn outlives_callers_that_go(embedder: &Arc<dyn Embedder>) {
        let shared = Arc::clone(embedder);
        abandon(move || {
            let embedder = Arc::clone(&shared);
            async move {
                let texts = TEXTS.iter().cycle().take(64).map(|text| (*text).to_owned()).collect();
                let _ = embedder.embed(texts, EmbedPurpose::Passage).await;
            }
        })
        .await;
        embed(&**embedder, &TEXTS).await;
    }
}

/// The suite of [`Reranker`].
pub mod reranker {
    use super::*;

    const QUESTION: &str = "how do I set a new password";

    /// Runs all of it.
    pub async fn run_all(reranker: Arc<dyn Reranker>) {
        assert!(!reranker.model().is_empty());
        scores_in_order(&*reranker).await;
        reads_any_text(&*reranker).await;
        serves_many_at_once(&reranker).await;
        outlives_callers_that_go(&reranker).await;
    }

    async fn score(reranker: &dyn Reranker, question: &str, texts: &[&str]) -> Vec<f32> {
        let owned = texts.iter().map(|text| (*text).to_owned()).collect();
        let scores = reranker.score(question, owned).await.expect("texts have scores");
        assert_eq!(scores.len(), texts.len(), "one score a text");
        assert!(scores.iter().all(|score| score.is_finite()), "{scores:?}");
        scores
    }

    fn same(a: f32, b: f32) -> bool {
        (a - b).abs() <= 1e-3_f32.max(1e-3 * a.abs())
    }

    async fn scores_in_order(reranker: &dyn Reranker) {
        assert!(score(reranker, QUESTION, &[]).await.is_empty());
        let batch = score(reranker, QUESTION, &TEXTS).await;
        for (text, batched) in TEXTS.iter().zip(&batch) {
            let single = score(reranker, QUESTION, &[text]).await[0];
            assert!(same(single, *batched), "{text:?} scores {single} alone and {batched} in a batch");
        }
        let reversed: Vec<&str> = TEXTS.into_iter().rev().collect();
        let backwards = score(reranker, QUESTION, &reversed).await;
        for (forward, backward) in batch.iter().zip(backwards.iter().rev()) {
            assert!(same(*forward, *backward), "the order of the texts changes their scores");
        }
        let differs = batch.iter().any(|score| !same(*score, batch[0]));
        assert!(differs, "all texts have the same score: {batch:?}");
        let other = score(reranker, "when is the grape harvest", &TEXTS).await;
        assert!(batch.iter().zip(&other).any(|(a, b)| !same(*a, *b)), "the question does not count");
    }

    async fn reads_any_text(reranker: &dyn Reranker) {
        let long = "password ".repeat(20_000);
        score(reranker, QUESTION, &["", " ", "🦀", "[SEP]", &long]).await;
        score(reranker, "", &["", "text"]).await;
        score(reranker, &long, &["text", &long]).await;
    }

    async fn serves_many_at_once(reranker: &Arc<dyn Reranker>) {
        let alone = score(&**reranker, QUESTION, &TEXTS).await;
        let callers: Vec<_> = (0..16)
            .map(|number| {
                let reranker = Arc::clone(reranker);
                tokio::spawn(async move {
                    let index = number % TEXTS.len();
                    (index, score(&*reranker, QUESTION, &[TEXTS[index]]).await[0])
                })
            })
            .collect();
        for caller in callers {
            let (index, score) = caller.await.expect("no panic");
            assert!(same(score, alone[index]), "another caller's score");
        }
    }

    async fn outlives_callers_that_go(reranker: &Arc<dyn Reranker>) {
        let shared = Arc::clone(reranker);
        abandon(move || {
            let reranker = Arc::clone(&shared);
            async move {
                let texts = TEXTS.iter().map(|text| (*text).to_owned()).collect();
                let _ = reranker.score(QUESTION, texts).await;
            }
        })
        .await;
        score(&**reranker, QUESTION, &TEXTS).await;
    }
}
