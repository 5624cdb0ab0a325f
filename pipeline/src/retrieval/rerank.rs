//! The best of the fused list, scored again by a model that reads question and passage together.

use std::time::Duration;

use tracing::warn;

use crate::{
    domain::{Passage, Ranks},
    ports::Reranker,
};

/// Orders passages by the re-ranker. False when it failed, or did not score all of them in time: then their order stands. What it has not done by then
/// is dropped, which cancels it.
pub(super) async fn rerank(
    reranker: &dyn Reranker,
    deadline_ms: u64,
    query: &str,
    passages: &mut Vec<Passage>,
) -> bool {
    if passages.is_empty() {
        return true;
    }
    let texts = passages.iter().map(scored_text).collect();
    let scoring = reranker.score(query, texts);
    let scores = match tokio::time::timeout(Duration::from_millis(deadline_ms), scoring).await {
        Ok(Ok(scores)) => scores,
        Ok(Err(error)) => {
            warn!(%error, "re-ranking failed");
            return false;
        }
        Err(_) => {
            warn!(deadline_ms, "re-ranking took too long");
            return false;
        }
    };
    if scores.len() != passages.len() || scores.iter().any(|score| score.is_nan()) {
        warn!(
            scores = scores.len(),
            passages = passages.len(),
            "re-ranker did not answer with a score a passage"
        );
        return false;
    }
    let mut scored: Vec<(f32, Passage)> = scores.into_iter().zip(passages.drain(..)).collect();
    // Stable: of equals, the better of the fused list stays before the other.
    scored.sort_by(|a, b| b.0.total_cmp(&a.0));
    passages.extend((1u32..).zip(scored).map(|(rank, (score, mut passage))| {
        passage.score = score;
        passage.ranks = Ranks { rerank: Some(rank), ..passage.ranks };
        passage
    }));
    true
}

/// What of a passage is read with the question.
fn scored_text(passage: &Passage) -> String {
    match passage.record.title.as_str() {
        "" => passage.record.text.clone(),
        title => format!("{title}\n{}", passage.record.text),
    }
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;
    use tokio::time::Instant;
    use uuid::Uuid;

    use super::*;
    use crate::{
        domain::{ChunkId, DocumentId, Metadata, PassageRecord},
        ports::ModelError,
    };

    /// Answers with these scores after this time.
    struct Scripted(Vec<f32>, Duration);

    #[async_trait]
    impl Reranker for Scripted {
        fn model(&self) -> &str {
            "scripted"
        }

        async fn score(&self, _: &str, _: Vec<String>) -> Result<Vec<f32>, ModelError> {
            tokio::time::sleep(self.1).await;
            Ok(self.0.clone())
        }
    }

    fn passages() -> Vec<Passage> {
        let passage = |number: u8| Passage {
            record: PassageRecord {
                chunk_id: ChunkId(Uuid::from_u128(number.into())),
                document_id: DocumentId(Uuid::nil()),
                external_id: String::new(),
                title: String::new(),
                uri: None,
                metadata: Metadata::new(),
                heading_path: Vec::new(),
                text: number.to_string(),
                ordinal: number.into(),
                start: 0,
                end: 1,
            },
            score: 1.0 / f32::from(number),
            ranks: Ranks { keyword: Some(number.into()), ..Ranks::default() },
        };
        (1..=3).map(passage).collect()
    }

    /// The passages by their texts, and whether they were scored again, within a second.
    async fn order(scores: &[f32], after_ms: u64) -> (String, bool) {
        let mut passages = passages();
        let reranker = Scripted(scores.to_vec(), Duration::from_millis(after_ms));
        let scored = rerank(&reranker, 1_000, "which", &mut passages).await;
        assert!(passages.iter().all(|passage| passage.ranks.rerank.is_some() == scored));
        (passages.iter().map(|passage| passage.record.text.as_str()).collect(), scored)
    }

    #[tokio::test(start_paused = true)]
    async fn scores_decide_and_of_equals_the_fused_order() {
        assert_eq!(order(&[0.1, 0.9, 0.5], 999).await, ("231".to_owned(), true));
        assert_eq!(order(&[-3.0, -1.0, -1.0], 0).await, ("231".to_owned(), true));
        let mut kept = passages();
        assert!(rerank(&Scripted(vec![1.0, 2.0, 3.0], Duration::ZERO), 1, "which", &mut kept).await);
        let ranks: Vec<_> = kept.iter().map(|passage| (passage.score, passage.ranks)).collect();
        let third = Ranks { vector: None, keyword: Some(3), rerank: Some(1) };
        assert_eq!(ranks[0], (3.0, third));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_late_or_is_no_score_a_passage_changes_nothing() {
        let begun = Instant::now();
        assert_eq!(order(&[0.1, 0.9, 0.5], 1_001).await, ("123".to_owned(), false));
        assert_eq!(begun.elapsed(), Duration::from_secs(1), "not waited for beyond its deadline");
        for scores in [&[0.1, 0.9][..], &[0.1, 0.9, 0.5, 0.7], &[], &[0.1, f32::NAN, 0.5]] {
            assert_eq!(order(scores, 0).await, ("123".to_owned(), false), "{scores:?}");
        }
    }
}
