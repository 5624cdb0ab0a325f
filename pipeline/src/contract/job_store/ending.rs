//! How jobs end, and how they are forgotten.

use std::collections::HashSet;

use chrono::TimeDelta;

use super::{HOUR, NO_LEASE, Store, a_job, a_query, accept, end_now, get, later, success, take};
use crate::{
    domain::{JobError, JobId, JobStatus, now},
    ports::{Ended, Ending, JobFilter, NewJob, Outcome},
};

pub async fn success_and_failure_are_kept_with_their_times(store: Store) {
    let job = a_job(&store).await;
    let taken = take(&*store, &job, HOUR).await;
    let before = now();
    let Outcome::Succeed { result, .. } = success() else { unreachable!() };
    let ended = store.finish(job.id, taken.fence, success()).await.unwrap().unwrap();
    assert_eq!((ended.status, ended.result.as_ref()), (JobStatus::Succeeded, Some(&*result)));
    assert_eq!((ended.error.as_ref(), ended.timings.retrieval_ms), (None, Some(7)));
    let completed_at = ended.completed_at.expect("it has ended");
    assert!(completed_at >= before && completed_at <= now());
    assert_eq!(ended.expires_at, Some(completed_at + TimeDelta::hours(1)));
    assert_eq!(get(&store, job.id).await, ended);

    let job = a_job(&store).await;
    let taken = take(&*store, &job, HOUR).await;
    let cached = Outcome::Succeed { result, took_ms: None };
    let ended = store.finish(job.id, taken.fence, cached).await.unwrap().unwrap();
    assert_eq!(ended.timings.retrieval_ms, None, "no stage ran");

    let job = a_job(&store).await;
    let taken = take(&*store, &job, HOUR).await;
    let error = JobError::permanent("too_long", "the question is too long");
    let ended = store.finish(job.id, taken.fence, Outcome::Fail(error.clone())).await.unwrap().unwrap();
    assert_eq!((ended.status, ended.result.as_ref()), (JobStatus::Failed, None));
    assert_eq!(ended.error, Some(error));
    assert!(ended.completed_at.is_some() && ended.expires_at.is_some());
    assert_eq!(get(&store, job.id).await, ended);
}

pub async fn a_deadline_expires_what_never_started_and_fails_what_did(store: Store) {
    let never = a_job(&store).await;
    let ended = end_now(&store, never.id, Ending::Deadline).await;
    assert_eq!((ended.status, ended.error), (JobStatus::Expired, None));

    let started = a_job(&store).await;
    take(&*store, &started, NO_LEASE).await;
    let ended = end_now(&store, started.id, Ending::Deadline).await;
    assert_eq!((ended.status, ended.error), (JobStatus::Failed, Some(JobError::deadline())));
    assert!(ended.completed_at.is_some() && ended.expires_at.is_some());

    let handed_back = a_job(&store).await;
    let taken = take(&*store, &handed_back, HOUR).await;
    store.finish(taken.id, taken.fence, Outcome::HandBack { due_at: later() }).await.unwrap();
    assert_eq!(end_now(&store, taken.id, Ending::Deadline).await.status, JobStatus::Failed);
}

pub async fn ending_from_outside_takes_the_job_from_its_worker(store: Store) {
    let error = JobError::permanent("dead_letter", "no worker could do it");
    for (ending, status, expected) in [
        (Ending::Cancel, JobStatus::Cancelled, None),
        (Ending::Fail(error.clone()), JobStatus::Failed, Some(error)),
    ] {
        let job = a_job(&store).await;
        let taken = take(&*store, &job, HOUR).await;
        let ended = end_now(&store, job.id, ending).await;
        assert_eq!((ended.status, &ended.error), (status, &expected));
        assert!(ended.fence > taken.fence);
        assert_eq!(get(&store, job.id).await, ended);
        assert_eq!(store.extend(job.id, taken.fence, HOUR, None, None).await.unwrap(), None);
        assert_eq!(store.finish(job.id, taken.fence, success()).await.unwrap(), None);
        assert_eq!(store.finish(job.id, ended.fence, success()).await.unwrap(), None);
        assert_eq!(get(&store, job.id).await, ended);
    }
    assert_eq!(store.end(JobId::generate(), Ending::Cancel).await.unwrap(), Ended::Missing);
}

pub async fn a_final_status_is_never_left(store: Store) {
    let job = a_job(&store).await;
    let ended = end_now(&store, job.id, Ending::Cancel).await;
    for ending in [Ending::Cancel, Ending::Deadline, Ending::Fail(JobError::deadline())] {
        assert_eq!(store.end(job.id, ending).await.unwrap(), Ended::Before(Box::new(ended.clone())));
    }
    assert_eq!(store.recover().await.unwrap(), 0);
    assert_eq!(get(&store, job.id).await, ended);
}

pub async fn of_a_finish_and_a_cancel_at_once_one_wins(store: Store) {
    for _ in 0..20 {
        let job = a_job(&store).await;
        let taken = take(&*store, &job, HOUR).await;
        let (finished, ended) =
            tokio::join!(store.finish(job.id, taken.fence, success()), store.end(job.id, Ending::Cancel));
        let (finished, ended) = (finished.unwrap(), ended.unwrap());
        let stored = get(&store, job.id).await;
        match (finished, ended) {
            (Some(finished), Ended::Before(seen)) => assert_eq!((&finished, &stored), (&*seen, &finished)),
            (None, Ended::Now(ended)) => assert_eq!(*ended, stored),
            other => panic!("both or neither won: {other:?}"),
        }
    }
}

pub async fn every_write_raises_the_revision(store: Store) {
    let job = accept(&*store, NewJob { due_at: now(), ..a_query(JobId::generate()) }).await;
    let mut revisions = vec![job.revision];
    revisions.push(store.due(1, HOUR).await.unwrap()[0].revision);
    let taken = take(&*store, &job, HOUR).await;
    revisions.push(taken.revision);
    revisions.push(store.extend(job.id, taken.fence, HOUR, None, None).await.unwrap().unwrap().revision);
    let retry = Outcome::Retry { due_at: later() };
    revisions.push(store.finish(job.id, taken.fence, retry).await.unwrap().unwrap().revision);
    store.recover().await.unwrap();
    revisions.push(get(&store, job.id).await.revision);
    revisions.push(end_now(&store, job.id, Ending::Cancel).await.revision);
    assert!(revisions.is_sorted_by(|a, b| a < b), "{revisions:?}");
    assert_eq!(get(&store, job.id).await.revision, *revisions.last().unwrap());
}

pub async fn only_an_ended_job_can_be_removed(store: Store) {
    let job = a_job(&store).await;
    assert!(!store.remove(job.id).await.unwrap());
    take(&*store, &job, HOUR).await;
    assert!(!store.remove(job.id).await.unwrap());
    store.end(job.id, Ending::Cancel).await.unwrap();
    assert!(store.remove(job.id).await.unwrap());
    assert_eq!(store.get(job.id).await.unwrap(), None);
    assert!(!store.remove(job.id).await.unwrap());
    assert!(!store.remove(JobId::generate()).await.unwrap());
}

/// The store forgets at once.
pub async fn ended_jobs_go_when_their_time_is_up(store: Store) {
    let mut ended = HashSet::new();
    for _ in 0..5 {
        let id = a_job(&store).await.id;
        ended.insert(end_now(&store, id, Ending::Cancel).await.id);
    }
    let running = a_job(&store).await;
    let first = store.remove_expired(3).await.unwrap();
    let rest = store.remove_expired(3).await.unwrap();
    assert_eq!((first.len(), rest.len()), (3, 2));
    assert!(first.iter().all(|job| job.status == JobStatus::Cancelled));
    assert_eq!(first.iter().chain(&rest).map(|job| job.id).collect::<HashSet<_>>(), ended);
    assert!(store.remove_expired(3).await.unwrap().is_empty());
    let left = store.list(&JobFilter { limit: 10, ..JobFilter::default() }).await.unwrap();
    assert_eq!(left.iter().map(|job| job.id).collect::<Vec<_>>(), [running.id]);
}

/// The store forgets after an hour.
pub async fn ended_jobs_stay_until_their_time_is_up(store: Store) {
    let job = a_job(&store).await;
    let ended = end_now(&store, job.id, Ending::Cancel).await;
    assert!(store.remove_expired(10).await.unwrap().is_empty());
    assert_eq!(get(&store, job.id).await, ended);
}
