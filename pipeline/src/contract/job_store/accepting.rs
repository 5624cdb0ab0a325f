//! Accepting and listing.

use std::{collections::HashSet, sync::Arc};

use futures::future::join_all;

use super::{Store, a_job, a_query, accept, an_ingestion, get, key};
use crate::{
    domain::{JobId, JobKind, JobStatus, Tenant, WebhookTarget},
    ports::{Accepted, Ending, JobFilter, NewJob},
};

pub async fn an_accepted_job_is_stored_as_it_was_given(store: Store) {
    let webhook = WebhookTarget { url: "https://example.com/hook?x=1".parse().unwrap(), events: vec![] };
    for new in [a_query(JobId::generate()), an_ingestion(JobId::generate())] {
        let new = NewJob { webhook: Some(webhook.clone()), ..new };
        let job = accept(&*store, new.clone()).await;
        assert_eq!(get(&store, new.id).await, job, "what accept returns is what is stored");
        assert_eq!(
            (job.id, &job.tenant, &job.spec, job.priority, &job.metadata, &job.webhook),
            (new.id, &new.tenant, &new.spec, new.priority, &new.metadata, &new.webhook),
        );
        assert_eq!((job.created_at, job.deadline), (new.created_at, new.deadline));
        assert_eq!((job.status, job.stage), (JobStatus::Queued, new.spec.first_stage()));
        assert_eq!((job.attempt, job.epoch), (0, 0));
        assert_eq!((job.started_at, job.completed_at, job.expires_at), (None, None, None));
        assert_eq!((job.progress, job.result, job.error), (None, None, None));
    }
    assert_eq!(store.get(JobId::generate()).await.unwrap(), None);
}

pub async fn an_idempotency_key_gives_the_first_job_again(store: Store) {
    let first = NewJob { idempotency: key("k", "h"), ..a_query(JobId::generate()) };
    let stored = accept(&*store, first).await;

    let again = NewJob { idempotency: key("k", "h"), ..a_query(JobId::generate()) };
    assert_eq!(store.accept(again.clone()).await.unwrap(), Accepted::Existing(stored.clone()));
    assert_eq!(store.get(again.id).await.unwrap(), None, "nothing was stored");

    let other = NewJob { idempotency: key("k", "other"), ..a_query(JobId::generate()) };
    assert_eq!(store.accept(other.clone()).await.unwrap(), Accepted::KeyReused);
    assert_eq!(store.get(other.id).await.unwrap(), None, "nothing was stored");

    let tenant = Tenant::new("other").unwrap();
    accept(&*store, NewJob { tenant, idempotency: key("k", "other"), ..a_query(JobId::generate()) }).await;
    accept(&*store, NewJob { idempotency: key("K", "h"), ..a_query(JobId::generate()) }).await;

    // It holds after the job has ended, and gives the job as it then is.
    store.end(stored.id, Ending::Cancel).await.unwrap();
    match store.accept(again).await.unwrap() {
        Accepted::Existing(job) => assert_eq!((job.id, job.status), (stored.id, JobStatus::Cancelled)),
        other => panic!("expected the ended job, got {other:?}"),
    }
}

pub async fn an_idempotency_key_is_free_again_when_its_job_is_removed(store: Store) {
    for remove_by_hand in [true, false] {
        let first =
            accept(&*store, NewJob { idempotency: key("k", "h"), ..a_query(JobId::generate()) }).await;
        store.end(first.id, Ending::Cancel).await.unwrap();
        if remove_by_hand {
            assert!(store.remove(first.id).await.unwrap());
        } else {
            assert_eq!(store.remove_expired(10).await.unwrap().len(), 1);
        }
    }
    accept(&*store, NewJob { idempotency: key("k", "other"), ..a_query(JobId::generate()) }).await;
}

pub async fn of_twenty_accepts_at_once_with_one_key_one_is_new(store: Store) {
    let accepts = (0..20).map(|i| {
        let hash = if i < 15 { "h" } else { "other" };
        let new = NewJob { idempotency: key("k", hash), ..a_query(JobId::generate()) };
        let store = Arc::clone(&store);
        tokio::spawn(async move { store.accept(new).await.unwrap() })
    });
    let answers: Vec<_> = join_all(accepts).await.into_iter().map(Result::unwrap).collect();
    let new: Vec<_> = answers.iter().filter(|answer| matches!(answer, Accepted::New(_))).collect();
    assert_eq!(new.len(), 1, "{answers:?}");
    let Accepted::New(job) = new[0] else { unreachable!() };
    for answer in &answers {
        if let Accepted::Existing(existing) = answer {
            assert_eq!(existing.id, job.id);
        }
    }
    let all = store.list(&JobFilter { limit: 100, ..JobFilter::default() }).await.unwrap();
    assert_eq!(all.len(), 1);
}

pub async fn many_accepts_at_once_are_all_stored(store: Store) {
    let accepts = (0..200).map(|_| {
        let store = Arc::clone(&store);
        tokio::spawn(async move { accept(&*store, a_query(JobId::generate())).await.id })
    });
    let ids: HashSet<_> = join_all(accepts).await.into_iter().map(Result::unwrap).collect();
    let stored = store.list(&JobFilter { limit: 1_000, ..JobFilter::default() }).await.unwrap();
    assert_eq!(stored.iter().map(|job| job.id).collect::<HashSet<_>>(), ids);
}

pub async fn a_list_is_newest_first_and_keeps_to_its_filter(store: Store) {
    let other = Tenant::new("other").unwrap();
    let mut ids = Vec::new();
    for i in 0..6 {
        let new = if i % 2 == 0 { a_query(JobId::generate()) } else { an_ingestion(JobId::generate()) };
        let tenant = if i < 4 { Tenant::default() } else { other.clone() };
        ids.push(accept(&*store, NewJob { tenant, ..new }).await.id);
    }
    store.end(ids[1], Ending::Cancel).await.unwrap();
    let listed = async |filter: JobFilter| -> Vec<usize> {
        let jobs = store.list(&JobFilter { limit: 10, ..filter }).await.unwrap();
        jobs.iter().map(|job| ids.iter().position(|id| *id == job.id).unwrap()).collect()
    };
    let mine = Some(Tenant::default());
    assert_eq!(listed(JobFilter::default()).await, [5, 4, 3, 2, 1, 0]);
    assert_eq!(listed(JobFilter { tenant: mine.clone(), ..JobFilter::default() }).await, [3, 2, 1, 0]);
    assert_eq!(listed(JobFilter { tenant: Some(other), ..JobFilter::default() }).await, [5, 4]);
    assert_eq!(listed(JobFilter { kind: Some(JobKind::Ingestion), ..JobFilter::default() }).await, [5, 3, 1]);
    let cancelled = Some(JobStatus::Cancelled);
    assert_eq!(listed(JobFilter { status: cancelled, ..JobFilter::default() }).await, [1]);
    let all = JobFilter {
        tenant: mine,
        status: Some(JobStatus::Queued),
        kind: Some(JobKind::Query),
        before: Some(ids[2]),
        limit: 0,
    };
    assert_eq!(listed(all).await, [0]);
    assert!(store.list(&JobFilter::default()).await.unwrap().is_empty(), "a limit of none is none");
}

pub async fn paging_is_stable_while_jobs_come_in(store: Store) {
    let mut expected = Vec::new();
    for _ in 0..10 {
        expected.push(a_job(&store).await.id);
    }
    expected.reverse();
    let (mut seen, mut before) = (Vec::new(), None);
    loop {
        let filter = JobFilter { before, limit: 3, tenant: Some(Tenant::default()), ..JobFilter::default() };
        let page = store.list(&filter).await.unwrap();
        let Some(last) = page.last() else { break };
        before = Some(last.id);
        seen.extend(page.iter().map(|job| job.id));
        a_job(&store).await;
    }
    assert_eq!(seen, expected, "each once, in order, and none of those that came in between");
}
