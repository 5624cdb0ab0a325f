//! What the sweeper asks: due, overdue, recovery, waiting.

use std::{collections::HashSet, sync::Arc, time::Duration};

use chrono::TimeDelta;
use futures::future::join_all;

use super::{HOUR, NO_LEASE, Store, a_job, a_query, accept, an_ingestion, get, later, success, take};
use crate::{
    domain::{Job, JobId, Stage, now},
    ports::{Ending, NewJob, Outcome},
};

async fn due_in(store: &Store, seconds: i64) -> JobId {
    let due_at = now() + TimeDelta::seconds(seconds);
    accept(&**store, NewJob { due_at, ..a_query(JobId::generate()) }).await.id
}

async fn due_ids(store: &Store, limit: usize, postpone: Duration) -> Vec<JobId> {
    store.due(limit, postpone).await.unwrap().iter().map(|job| job.id).collect()
}

pub async fn due_jobs_come_longest_overdue_first_and_only_when_due(store: Store) {
    let (b, a, _not_yet, c) = (
        due_in(&store, -20).await,
        due_in(&store, -30).await,
        due_in(&store, 60).await,
        due_in(&store, -10).await,
    );
    assert_eq!(due_ids(&store, 2, HOUR).await, [a, b]);
    assert_eq!(due_ids(&store, 2, HOUR).await, [c]);
    assert!(due_ids(&store, 2, HOUR).await.is_empty());
}

pub async fn a_due_job_is_handed_to_one_caller(store: Store) {
    let mut expected = HashSet::new();
    for _ in 0..40 {
        expected.insert(due_in(&store, -1).await);
    }
    let calls = (0..16).map(|_| {
        let store = Arc::clone(&store);
        tokio::spawn(async move { due_ids(&store, 5, HOUR).await })
    });
    let handed: Vec<JobId> = join_all(calls).await.into_iter().flat_map(Result::unwrap).collect();
    assert_eq!(handed.len(), 40);
    assert_eq!(handed.into_iter().collect::<HashSet<_>>(), expected);
}

pub async fn a_due_job_comes_back_after_doubling_times_until_taken(store: Store) {
    const POSTPONE: Duration = Duration::from_millis(40);
    let id = due_in(&store, -1).await;
    let next = async || {
        loop {
            let asked_at = now();
            if due_ids(&store, 1, POSTPONE).await == [id] {
                return (asked_at, now());
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    // Only that it does not come too early is checked: a slow machine may well be late.
    let (mut before, _) = next().await;
    for factor in [1, 2, 4] {
        let (asked_at, returned_at) = next().await;
        let waited = (returned_at - before).to_std().unwrap();
        assert!(
            waited >= POSTPONE * factor,
            "came back after {waited:?}, before {factor} times {POSTPONE:?}"
        );
        before = asked_at;
    }
    // A take counts anew: it comes back at once when the lease ends, and then after one postponement.
    let job = get(&store, id).await;
    take(&*store, &job, NO_LEASE).await;
    assert_eq!(due_ids(&store, 1, Duration::ZERO).await, [id]);
    assert_eq!(due_ids(&store, 1, HOUR).await, [id], "twice nothing is nothing");
    assert!(due_ids(&store, 1, HOUR).await.is_empty());
}

pub async fn a_job_is_due_when_its_lease_ends_and_never_after_its_end(store: Store) {
    let leased = a_job(&store).await;
    take(&*store, &leased, HOUR).await;
    assert!(due_ids(&store, 10, HOUR).await.is_empty(), "its worker lives");
    let dead = a_job(&store).await;
    let taken = take(&*store, &dead, NO_LEASE).await;
    assert_eq!(due_ids(&store, 10, NO_LEASE).await, [dead.id]);
    let extended = store.extend(dead.id, taken.fence, HOUR, None, None).await.unwrap();
    assert!(extended.is_some());
    assert!(due_ids(&store, 10, HOUR).await.is_empty());
    let retry = Outcome::Retry { due_at: now() - TimeDelta::seconds(1) };
    store.finish(dead.id, taken.fence, retry).await.unwrap();
    assert_eq!(due_ids(&store, 10, NO_LEASE).await, [dead.id]);
    store.end(dead.id, Ending::Cancel).await.unwrap();
    assert!(due_ids(&store, 10, HOUR).await.is_empty());
}

pub async fn overdue_jobs_are_the_unfinished_past_their_deadline(store: Store) {
    let past =
        |seconds| NewJob { deadline: now() - TimeDelta::seconds(seconds), ..a_query(JobId::generate()) };
    let second = accept(&*store, past(5)).await;
    let first = accept(&*store, past(50)).await;
    let ended = accept(&*store, past(50)).await;
    store.end(ended.id, Ending::Deadline).await.unwrap();
    let running = accept(&*store, past(2)).await;
    take(&*store, &running, HOUR).await;
    a_job(&store).await;
    let ids = |jobs: Vec<Job>| jobs.iter().map(|job| job.id).collect::<HashSet<_>>();
    assert_eq!(ids(store.overdue(10).await.unwrap()), HashSet::from([first.id, second.id, running.id]));
    assert_eq!(store.overdue(2).await.unwrap().len(), 2);
}

pub async fn recovery_ends_leases_and_makes_everything_due(store: Store) {
    let queued = a_job(&store).await;
    let leased = a_job(&store).await;
    let taken = take(&*store, &leased, HOUR).await;
    let ended = a_job(&store).await;
    store.end(ended.id, Ending::Cancel).await.unwrap();
    assert_eq!(store.recover().await.unwrap(), 2);
    assert_eq!(store.finish(leased.id, taken.fence, success()).await.unwrap(), None, "its lease has ended");
    let due: HashSet<_> = due_ids(&store, 10, HOUR).await.into_iter().collect();
    assert_eq!(due, HashSet::from([queued.id, leased.id]));
    let again = take(&*store, &leased, HOUR).await;
    assert_eq!((again.epoch, again.attempt), (1, 2));
    assert!(again.event_floor() > leased.event_floor());
    assert_eq!(store.recover().await.unwrap(), 2);
    assert_eq!(get(&store, queued.id).await.epoch, 2);
    assert_eq!(get(&store, ended.id).await.epoch, 0);
}

pub async fn waiting_counts_jobs_without_a_live_lease_by_stage(store: Store) {
    let waiting = async || {
        let mut waiting = store.waiting().await.unwrap();
        waiting.retain(|(_, jobs)| *jobs > 0);
        waiting.sort_unstable();
        waiting
    };
    assert!(waiting().await.is_empty());
    let (a, _b) = (a_job(&store).await, a_job(&store).await);
    accept(&*store, an_ingestion(JobId::generate())).await;
    assert_eq!(waiting().await, [(Stage::Retrieval, 2), (Stage::Ingestion, 1)]);
    let taken = take(&*store, &a, HOUR).await;
    assert_eq!(waiting().await, [(Stage::Retrieval, 1), (Stage::Ingestion, 1)]);
    let advance = Outcome::Advance { to: Stage::Generation, due_at: later(), took_ms: 1 };
    let waits = store.finish(a.id, taken.fence, advance).await.unwrap().unwrap();
    assert_eq!(waiting().await, [(Stage::Retrieval, 1), (Stage::Generation, 1), (Stage::Ingestion, 1)]);
    take(&*store, &waits, NO_LEASE).await;
    assert_eq!(waiting().await.len(), 3, "a lease that ran out is none");
    store.end(a.id, Ending::Cancel).await.unwrap();
    assert_eq!(waiting().await, [(Stage::Retrieval, 1), (Stage::Ingestion, 1)]);
}
