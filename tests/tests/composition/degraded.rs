//! Degraded is better than down, and is said.

use raglan_pipeline::{
    decorators::faults::Faults,
    domain::{Degraded, Job, JobResult, JobStatus, QueryResult},
    lifecycle::LifecycleSettings,
};
use raglan_workers::Role;

use crate::world::{FAILURES, SIDE_TIMEOUT, World};

const DOCUMENTS: [(&str, &str); 3] = [
    ("lighthouse", "The lighthouse of Westport was built in 1874. Its lamp burns seal oil."),
    ("bakery", "The bakery opens at six in the morning and closes at noon."),
    ("library", "The library lends books for three weeks. A reader may renew a loan twice."),
];

async fn world() -> World {
    let world = World::new(LifecycleSettings::default()).await;
    world.start(&Role::ALL);
    let ingested = world.ingest(&DOCUMENTS).await;
    assert_eq!(world.ended(ingested).await.status, JobStatus::Succeeded);
    world
}

fn result(job: Job) -> QueryResult {
    match job.result {
        Some(JobResult::Query(result)) => result,
        other => panic!("no answer: {other:?}, {:?}", job.error),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_part_that_fails_is_named_and_the_rest_answers() {
    let world = world().await;
    let healthy = result(world.ended(world.ask("When was the lighthouse built?").await).await);
    assert_eq!(healthy.degraded, []);
    assert!(healthy.answer.contains("1874"), "{}", healthy.answer);

    let slow = Faults { delay: SIDE_TIMEOUT * 4, ..Faults::none() };
    for (part, faults, expected) in [
        (&world.faults.embedder, Faults::always(), Degraded::Embedder),
        (&world.faults.embedder, slow, Degraded::Embedder),
        (&world.faults.vectors, Faults::always(), Degraded::VectorIndex),
        (&world.faults.vectors, slow, Degraded::VectorIndex),
        (&world.faults.keywords, Faults::always(), Degraded::KeywordIndex),
        (&world.faults.keywords, slow, Degraded::KeywordIndex),
    ] {
        part.set(faults);
        let answered = result(world.ended(world.ask("When was the lighthouse built?").await).await);
        part.set(Faults::none());
        assert_eq!(answered.degraded, [expected], "{faults:?}");
        assert!(answered.answer.contains("1874"), "{expected:?}: {}", answered.answer);
    }
    let again = result(world.ended(world.ask("When was the lighthouse built?").await).await);
    assert_eq!(again.degraded, [], "a part that is back takes part again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_question_is_embedded_for_vectors_that_are_left_alone() {
    let world = world().await;
    world.faults.vectors.set(Faults::always());
    for _ in 0..FAILURES {
        world.ended(world.ask("When was the lighthouse built?").await).await;
    }
    // Counts anew.
    world.faults.embedder.set(Faults::none());
    let answered = result(world.ended(world.ask("When was the lighthouse built?").await).await);
    assert_eq!(answered.degraded, [Degraded::VectorIndex]);
    assert!(answered.answer.contains("1874"), "{}", answered.answer);
    assert_eq!(world.faults.embedder.calls(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_whose_searches_all_fail_is_tried_again_and_then_fails_with_its_reason() {
    let world = world().await;
    world.faults.embedder.set(Faults::always());
    world.faults.keywords.set(Faults::always());
    let job = world.ended(world.ask("When was the lighthouse built?").await).await;
    assert_eq!(job.status, JobStatus::Failed);
    assert_eq!(job.attempt, 3);
    let error = job.error.unwrap();
    assert_eq!(error.code, "dependency_unavailable");
    assert!(error.retryable);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cache_that_is_down_makes_a_job_slower_and_never_wrong() {
    let world = world().await;
    world.faults.cache.set(Faults::always());
    let answered =
        result(world.ended(world.ask("For how many weeks does the library lend books?").await).await);
    assert!(answered.answer.contains("three weeks"), "{}", answered.answer);
    assert_eq!(answered.degraded, [Degraded::PassagesEvicted]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_ingestion_goes_on_when_the_embedder_is_back_and_embeds_nothing_twice() {
    let world = world().await;
    // Fails now and then: the job is begun again and goes on where it was.
    world.faults.embedder.set(Faults { every: 3, ..Faults::none() });
    let ingested = world.ingest(&[("museum", "The museum shows ships in bottles.")]).await;
    assert_eq!(world.ended(ingested).await.status, JobStatus::Succeeded);
    world.faults.embedder.set(Faults::none());
    let calls = world.faults.embedder.calls();
    let again = world.ingest(&[("museum", "The museum shows ships in bottles.")]).await;
    let Some(JobResult::Ingestion(report)) = world.ended(again).await.result else { panic!("no report") };
    assert_eq!((report.documents.unchanged, report.chunks.embedded), (1, 0));
    assert_eq!(world.faults.embedder.calls(), calls, "an unchanged document is not embedded");
}
