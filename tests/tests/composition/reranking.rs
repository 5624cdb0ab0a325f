//! Re-ranking: in time it decides the order; late, failing or incomplete it changes nothing, and the result says so.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use raglan_pipeline::{
    domain::{Degraded, JobResult, JobStatus, Retrieved},
    lifecycle::LifecycleSettings,
    ports::{ModelError, Namespace, Reranker},
};
use raglan_workers::Role;

use crate::world::World;

/// Of the pipeline `reranked`: far longer than a re-ranker that is well takes, so that a busy machine changes nothing.
const DEADLINE: Duration = Duration::from_millis(1_500);

/// What the re-ranker does with a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mood {
    Well,
    Late,
    Failing,
    /// Answers with one score less than it was given texts.
    Incomplete,
}

/// Prefers texts that speak of seal oil.
struct Moody {
    mood: Mutex<Mood>,
    calls: AtomicUsize,
    /// Calls that were dropped before they were done.
    abandoned: AtomicUsize,
}

/// Counts a call that is dropped.
struct Running<'a>(Option<&'a AtomicUsize>);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        if let Some(abandoned) = self.0 {
            abandoned.fetch_add(1, Ordering::SeqCst);
        }
    }
}

#[async_trait]
impl Reranker for Moody {
    fn model(&self) -> &str {
        "moody"
    }

    async fn score(&self, _query: &str, texts: Vec<String>) -> Result<Vec<f32>, ModelError> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        let mut running = Running(Some(&self.abandoned));
        let mood = *self.mood.lock().unwrap();
        if mood == Mood::Late {
            std::future::pending::<()>().await;
        }
        running.0 = None;
        let score = |text: &String| if text.contains("seal oil") { 2.0 } else { 1.0 / text.len() as f32 };
        let mut scores: Vec<f32> = texts.iter().map(score).collect();
        match mood {
            Mood::Failing => Err(ModelError::try_later("no memory")),
            Mood::Incomplete => {
                scores.pop();
                Ok(scores)
            }
            Mood::Well | Mood::Late => Ok(scores),
        }
    }
}

/// The words put the first document first; only whoever reads it knows better.
const DOCUMENTS: [(&str, &str); 3] = [
    ("words", "When does the lamp of the lighthouse burn? The lamp of the lighthouse burns at night."),
    ("oil", "The keeper of the lighthouse filled the lamp with seal oil."),
    ("bakery", "The bakery opens at six in the morning and closes at noon."),
];
const QUESTION: &str = "With what does the lamp of the lighthouse burn?";

/// What was retrieved for the question; what could not take part is told in the job's result too.
async fn ask(world: &World, pipeline: &str) -> Retrieved {
    let job = world.ended(world.ask_by(pipeline, QUESTION).await).await;
    let Some(JobResult::Query(result)) = &job.result else { panic!("no answer: {job:#?}") };
    let stashed = world.lifecycle.cache.get(Namespace::Passages, &job.id.to_string()).await.unwrap().unwrap();
    let retrieved: Retrieved = serde_json::from_slice(&stashed).unwrap();
    assert_eq!(result.degraded, retrieved.degraded);
    retrieved
}

fn order(retrieved: &Retrieved) -> Vec<&str> {
    retrieved.passages.iter().map(|passage| passage.record.external_id.as_str()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_time_it_decides_and_else_the_fused_order_stands_and_the_result_says_so() {
    let reranker = Arc::new(Moody {
        mood: Mutex::new(Mood::Well),
        calls: AtomicUsize::new(0),
        abandoned: AtomicUsize::new(0),
    });
    let world = World::reranked(LifecycleSettings::default(), reranker.clone(), DEADLINE).await;
    world.start(&Role::ALL);
    let ingested = world.ingest(&DOCUMENTS).await;
    assert_eq!(world.ended(ingested).await.status, JobStatus::Succeeded);

    let fused = ask(&world, "default").await;
    assert_eq!((fused.degraded.as_slice(), reranker.calls.load(Ordering::SeqCst)), (&[][..], 0));
    assert_eq!(order(&fused)[0], "words", "the words decide: {:?}", order(&fused));

    let reranked = ask(&world, "reranked").await;
    assert_eq!(reranked.degraded, []);
    assert_eq!(order(&reranked)[0], "oil");
    let ranks: Vec<_> = reranked.passages.iter().map(|passage| passage.ranks.rerank).collect();
    assert_eq!(ranks, [Some(1), Some(2), Some(3)]);
    let scores: Vec<f32> = reranked.passages.iter().map(|passage| passage.score).collect();
    assert_eq!(scores[0], 2.0);
    assert!(scores.is_sorted_by(|a, b| a >= b), "{scores:?}");

    for (mood, abandoned) in [(Mood::Failing, 0), (Mood::Incomplete, 0), (Mood::Late, 1)] {
        *reranker.mood.lock().unwrap() = mood;
        let degraded = ask(&world, "reranked").await;
        assert_eq!(degraded.degraded, [Degraded::Reranker], "{mood:?}");
        assert_eq!(order(&degraded), order(&fused), "{mood:?}");
        assert!(degraded.passages.iter().all(|passage| passage.ranks.rerank.is_none()), "{mood:?}");
        assert_eq!(reranker.abandoned.load(Ordering::SeqCst), abandoned, "{mood:?}");
    }

    *reranker.mood.lock().unwrap() = Mood::Well;
    let again = ask(&world, "reranked").await;
    assert_eq!((again.degraded.as_slice(), order(&again)[0]), (&[][..], "oil"), "it takes part again");
    assert_eq!(reranker.calls.load(Ordering::SeqCst), 5);
}
