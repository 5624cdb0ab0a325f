//! Taking, extending and leaving a job.

use std::sync::Arc;

use chrono::TimeDelta;
use futures::future::join_all;

use super::{
    HOUR, NO_LEASE, Store, a_job, a_query, accept, an_ingestion, claim, end_now, get, later, success, take,
};
use crate::{
    domain::{JobError, JobId, JobStatus, Progress, Stage, now},
    ports::{Ending, ErrorKind, NewJob, Outcome, Taken},
};

pub async fn taking_a_job_starts_it(store: Store) {
    for (new, status) in [
        (a_query(JobId::generate()), JobStatus::Retrieving),
        (an_ingestion(JobId::generate()), JobStatus::Parsing),
    ] {
        let created_at = new.created_at - TimeDelta::seconds(5);
        let job = accept(&*store, NewJob { created_at, ..new }).await;
        let before = now();
        let taken = take(&*store, &job, HOUR).await;
        assert_eq!((taken.status, taken.attempt), (status, 1));
        assert!(taken.fence > job.fence);
        let started_at = taken.started_at.expect("it has started");
        assert!(started_at >= before && started_at <= now());
        let queued = u64::try_from((started_at - created_at).num_milliseconds()).unwrap();
        assert_eq!(taken.timings.queued_ms, Some(queued));
        assert_eq!(get(&store, job.id).await, taken);
        match store.take(job.id, job.stage, HOUR).await.unwrap() {
            Taken::Busy(until) => assert!(until > now() + TimeDelta::minutes(55)),
            other => panic!("expected a live lease, got {other:?}"),
        }
    }
}

pub async fn a_job_is_over_for_who_comes_for_another_stage_or_too_late(store: Store) {
    let job = a_job(&store).await;
    assert_eq!(store.take(job.id, Stage::Generation, HOUR).await.unwrap(), Taken::Over);
    assert_eq!(store.take(JobId::generate(), Stage::Retrieval, HOUR).await.unwrap(), Taken::Over);
    store.end(job.id, Ending::Cancel).await.unwrap();
    assert_eq!(store.take(job.id, Stage::Retrieval, HOUR).await.unwrap(), Taken::Over);
}

pub async fn of_fifty_takes_at_once_one_wins(store: Store) {
    let job = a_job(&store).await;
    let takes = (0..50).map(|_| {
        let (store, id) = (Arc::clone(&store), job.id);
        tokio::spawn(async move { store.take(id, Stage::Retrieval, HOUR).await.unwrap() })
    });
    let answers: Vec<_> = join_all(takes).await.into_iter().map(Result::unwrap).collect();
    assert_eq!(answers.iter().filter(|answer| matches!(answer, Taken::Yes(_))).count(), 1);
    assert_eq!(answers.iter().filter(|answer| matches!(answer, Taken::Busy(_))).count(), 49);
    assert_eq!(get(&store, job.id).await.attempt, 1);
}

pub async fn a_lease_that_ran_out_is_taken_over_and_its_holder_writes_nothing(store: Store) {
    let job = a_job(&store).await;
    let first = take(&*store, &job, NO_LEASE).await;
    let second = take(&*store, &job, HOUR).await;
    assert_eq!(second.attempt, 2);
    assert!(second.fence > first.fence);
    assert_eq!(second.started_at, first.started_at, "it started once");
    assert_eq!(second.timings.queued_ms, first.timings.queued_ms);

    let progress = Progress { done: 1, total: 2, unit: "documents".into(), ..Progress::default() };
    let extended = store.extend(job.id, first.fence, HOUR, Some(JobStatus::Retrieving), Some(progress)).await;
    assert_eq!(extended.unwrap(), None);
    for outcome in [success(), Outcome::Fail(JobError::deadline()), Outcome::Retry { due_at: later() }] {
        assert_eq!(store.finish(job.id, first.fence, outcome).await.unwrap(), None);
    }
    assert_eq!(get(&store, job.id).await, second, "nothing was written");
    assert!(store.finish(job.id, second.fence, success()).await.unwrap().is_some());
}

pub async fn a_holder_whose_lease_ran_out_may_finish_as_long_as_nobody_took_over(store: Store) {
    let job = a_job(&store).await;
    let taken = take(&*store, &job, NO_LEASE).await;
    let extended = store.extend(job.id, taken.fence, NO_LEASE, None, None).await.unwrap();
    assert!(extended.is_some(), "a late heartbeat is better than none");
    let ended = store.finish(job.id, taken.fence, success()).await.unwrap().expect("it counts");
    assert_eq!(ended.status, JobStatus::Succeeded);
}

pub async fn extending_keeps_the_job_and_notes_status_and_progress(store: Store) {
    let job = accept(&*store, an_ingestion(JobId::generate())).await;
    let taken = take(&*store, &job, NO_LEASE).await;
    let progress = Progress {
        done: 3,
        total: 10,
        unit: "documents".into(),
        chunks: 40,
        tokens: 8_000,
        tokens_per_s: Some(1_000),
        eta_ms: Some(20_000),
    };
    let extended = store
        .extend(job.id, taken.fence, HOUR, Some(JobStatus::Embedding), Some(progress.clone()))
        .await
        .unwrap()
        .expect("it is the caller's");
    assert_eq!((extended.status, extended.progress.as_ref()), (JobStatus::Embedding, Some(&progress)));
    assert_eq!((extended.attempt, extended.fence), (taken.attempt, taken.fence));
    assert_eq!(get(&store, job.id).await, extended);
    assert!(matches!(store.take(job.id, job.stage, HOUR).await.unwrap(), Taken::Busy(_)));

    let again = store.extend(job.id, taken.fence, HOUR, None, None).await.unwrap().unwrap();
    assert_eq!(
        (again.status, again.progress),
        (JobStatus::Embedding, Some(progress)),
        "kept where not given"
    );
    assert_eq!(store.extend(JobId::generate(), 1, HOUR, None, None).await.unwrap(), None);
}

pub async fn a_claimed_job_is_as_a_taken_one_once_it_is_finished(store: Store) {
    let job = a_job(&store).await;
    let claimed = claim(&*store, &job).await;
    assert_eq!((claimed.status, claimed.attempt), (JobStatus::Retrieving, 1));
    assert!(claimed.fence > job.fence && claimed.revision > job.revision);
    let advance = Outcome::Advance { to: Stage::Generation, due_at: later(), took_ms: 3 };
    let waiting = store.finish(job.id, claimed.fence, advance.clone()).await.unwrap().unwrap();
    assert_eq!((waiting.stage, waiting.attempt), (Stage::Generation, 0));
    assert!(waiting.started_at.is_some() && waiting.timings.queued_ms.is_some());
    assert_eq!(waiting.timings.retrieval_ms, Some(3));
    assert_eq!(get(&store, job.id).await, waiting);
    assert_eq!(store.finish(job.id, claimed.fence, advance).await.unwrap(), None, "it counts once");
    assert_eq!(store.claim(job.id, Stage::Retrieval, HOUR).await.unwrap(), Taken::Over);
    let claimed = claim(&*store, &waiting).await;
    assert!(claimed.fence > waiting.fence);
    let ended = store.finish(job.id, claimed.fence, success()).await.unwrap().unwrap();
    assert_eq!((ended.status, ended.attempt), (JobStatus::Succeeded, 1));
    assert_eq!(get(&store, job.id).await, ended);
    assert_eq!(store.claim(job.id, Stage::Generation, HOUR).await.unwrap(), Taken::Over);
}

pub async fn a_claim_is_void_once_another_has_the_job_or_ended_it(store: Store) {
    let job = a_job(&store).await;
    let claimed = claim(&*store, &job).await;
    // A store may note claims, and then nobody else gets the job.
    if let Taken::Yes(taken) = store.take(job.id, job.stage, HOUR).await.unwrap() {
        assert_eq!(store.extend(job.id, claimed.fence, HOUR, None, None).await.unwrap(), None);
        assert_eq!(store.finish(job.id, claimed.fence, success()).await.unwrap(), None);
        assert_eq!(get(&store, job.id).await, *taken);
        assert!(store.finish(job.id, taken.fence, success()).await.unwrap().is_some());
    }
    let job = a_job(&store).await;
    let claimed = claim(&*store, &job).await;
    let cancelled = end_now(&store, job.id, Ending::Cancel).await;
    assert_eq!(store.extend(job.id, claimed.fence, HOUR, None, None).await.unwrap(), None);
    assert_eq!(store.finish(job.id, claimed.fence, success()).await.unwrap(), None);
    assert_eq!(get(&store, job.id).await, cancelled);
}

pub async fn a_claim_that_was_extended_holds(store: Store) {
    let job = a_job(&store).await;
    let claimed = claim(&*store, &job).await;
    let held = store.extend(job.id, claimed.fence, HOUR, None, None).await.unwrap().unwrap();
    assert_eq!(get(&store, job.id).await, held);
    assert_eq!((held.status, held.attempt, held.fence), (JobStatus::Retrieving, 1, claimed.fence));
    assert!(matches!(store.take(job.id, job.stage, HOUR).await.unwrap(), Taken::Busy(_)));
    assert!(matches!(store.claim(job.id, job.stage, HOUR).await.unwrap(), Taken::Busy(_)));
    assert!(store.finish(job.id, claimed.fence, Outcome::Retry { due_at: later() }).await.unwrap().is_some());
    assert_eq!(get(&store, job.id).await.attempt, 1);
}

pub async fn what_was_taken_before_is_not_only_claimed(store: Store) {
    let job = a_job(&store).await;
    take(&*store, &job, NO_LEASE).await;
    match store.claim(job.id, job.stage, HOUR).await.unwrap() {
        Taken::Yes(again) => assert_eq!(get(&store, job.id).await, *again),
        other => panic!("expected it to be noted, got {other:?}"),
    }
    assert_eq!(get(&store, job.id).await.attempt, 2);
}

pub async fn of_fifty_claims_at_once_one_counts(store: Store) {
    let job = a_job(&store).await;
    let claims = (0..50).map(|_| {
        let (store, id) = (Arc::clone(&store), job.id);
        tokio::spawn(async move {
            match store.claim(id, Stage::Retrieval, HOUR).await.unwrap() {
                Taken::Yes(job) | Taken::Claimed(job) => {
                    store.finish(id, job.fence, success()).await.unwrap()
                }
                Taken::Busy(_) | Taken::Over => None,
            }
        })
    });
    let finished: Vec<_> = join_all(claims).await.into_iter().filter_map(Result::unwrap).collect();
    assert_eq!(finished.len(), 1);
    assert_eq!(get(&store, job.id).await, finished[0]);
}

pub async fn a_lease_is_not_extended_to_an_end(store: Store) {
    let job = a_job(&store).await;
    let taken = take(&*store, &job, HOUR).await;
    for status in JobStatus::ALL.into_iter().filter(|status| status.is_final()) {
        let error = store.extend(job.id, taken.fence, HOUR, Some(status), None).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
    }
    assert_eq!(get(&store, job.id).await, taken);
}

pub async fn a_stage_completes_once(store: Store) {
    for outcome in [
        Outcome::Advance { to: Stage::Generation, due_at: later(), took_ms: 5 },
        Outcome::Retry { due_at: later() },
        Outcome::HandBack { due_at: later() },
        success(),
        Outcome::Fail(JobError::deadline()),
    ] {
        let job = a_job(&store).await;
        let taken = take(&*store, &job, HOUR).await;
        let left =
            store.finish(job.id, taken.fence, outcome.clone()).await.unwrap().expect("the first counts");
        assert_eq!(store.finish(job.id, taken.fence, outcome).await.unwrap(), None);
        assert_eq!(store.finish(job.id, taken.fence, success()).await.unwrap(), None);
        assert_eq!(store.extend(job.id, taken.fence, HOUR, None, None).await.unwrap(), None);
        assert_eq!(get(&store, job.id).await, left, "what came second changed nothing");
    }
    let job = a_job(&store).await;
    assert_eq!(store.finish(job.id, job.fence, success()).await.unwrap(), None, "it was never taken");
}

pub async fn of_twenty_finishes_at_once_one_counts(store: Store) {
    let job = a_job(&store).await;
    let taken = take(&*store, &job, HOUR).await;
    let finishes = (0..20).map(|i| {
        let (store, id, fence) = (Arc::clone(&store), job.id, taken.fence);
        let outcome = match i % 3 {
            0 => success(),
            1 => Outcome::Advance { to: Stage::Generation, due_at: later(), took_ms: 1 },
            _ => Outcome::Fail(JobError::deadline()),
        };
        tokio::spawn(async move { store.finish(id, fence, outcome).await.unwrap() })
    });
    let answers: Vec<_> = join_all(finishes).await.into_iter().filter_map(Result::unwrap).collect();
    assert_eq!(answers.len(), 1);
    assert_eq!(get(&store, job.id).await, answers[0]);
}

pub async fn an_advance_counts_attempts_anew_and_keeps_the_time(store: Store) {
    let job = a_job(&store).await;
    take(&*store, &job, NO_LEASE).await;
    let taken = take(&*store, &job, HOUR).await;
    assert_eq!(taken.attempt, 2);
    let advance = Outcome::Advance { to: Stage::Generation, due_at: later(), took_ms: 14 };
    let waits = store.finish(job.id, taken.fence, advance).await.unwrap().unwrap();
    assert_eq!((waits.stage, waits.attempt), (Stage::Generation, 0));
    assert_eq!(waits.status, JobStatus::Retrieving, "it changes when the next worker comes");
    assert_eq!((waits.timings.retrieval_ms, waits.timings.generation_ms), (Some(14), None));
    assert_eq!(get(&store, job.id).await, waits);
    assert_eq!(store.take(job.id, Stage::Retrieval, HOUR).await.unwrap(), Taken::Over);

    let taken = take(&*store, &waits, HOUR).await;
    assert_eq!((taken.status, taken.attempt), (JobStatus::Generating, 1));
    assert!(taken.fence > waits.fence);
    let ended = store.finish(job.id, taken.fence, success()).await.unwrap().unwrap();
    assert_eq!((ended.timings.retrieval_ms, ended.timings.generation_ms), (Some(14), Some(7)));
}

pub async fn a_retry_counts_and_a_hand_back_does_not(store: Store) {
    let job = a_job(&store).await;
    let first = take(&*store, &job, HOUR).await;
    let back =
        store.finish(job.id, first.fence, Outcome::HandBack { due_at: later() }).await.unwrap().unwrap();
    assert_eq!((back.attempt, back.stage, back.status), (0, Stage::Retrieval, JobStatus::Retrieving));
    let second = take(&*store, &back, HOUR).await;
    assert_eq!(second.attempt, 1);
    let retry = Outcome::Retry { due_at: later() };
    let waits = store.finish(job.id, second.fence, retry).await.unwrap().unwrap();
    assert_eq!((waits.attempt, waits.stage), (1, Stage::Retrieval));
    let third = take(&*store, &waits, HOUR).await;
    assert_eq!(third.attempt, 2);
    assert!(first.fence < second.fence && second.fence < third.fence);
    assert_eq!(third.started_at, first.started_at);
}
