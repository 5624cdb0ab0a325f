//! See the port's doc comment for the promises that are checked here.

use std::{collections::HashSet, sync::Arc, time::Duration};

use chrono::TimeDelta;
use futures::future::join_all;

use super::job_store::{a_query, accept, take};
use crate::{
    domain::{
        Delivery, DeliveryAttempt, DeliveryId, DeliveryStatus, EventType, IngestionResult, Job, JobError,
        JobId, JobResult, WebhookTarget, now,
    },
    ports::{DeliveryStore, Ending, ErrorKind, JobStore, NewJob, Outcome},
};

/// Both over the same database: deliveries are made by the end of a job.
type Stores = (Arc<dyn JobStore>, Arc<dyn DeliveryStore>);

const HOUR: Duration = Duration::from_secs(3_600);

/// Runs the whole suite. `fresh` gives two empty stores over one database; ended jobs are kept for an hour.
pub async fn run_all(fresh: impl AsyncFn() -> Stores) {
    every_end_makes_the_delivery_that_the_webhook_wants(fresh().await).await;
    an_end_that_the_webhook_does_not_want_makes_none(fresh().await).await;
    a_job_that_ends_once_has_one_delivery(fresh().await).await;
    a_due_delivery_is_handed_to_one_caller(fresh().await).await;
    a_leased_delivery_comes_back_when_the_lease_ends(fresh().await).await;
    a_try_that_begins_has_its_lease(fresh().await).await;
    recovery_ends_leases_and_nothing_else(fresh().await).await;
    what_is_released_is_due_again_and_nothing_else_changes(fresh().await).await;
    due_deliveries_come_oldest_first(fresh().await).await;
    attempts_are_kept_in_order_with_what_comes_next(fresh().await).await;
    a_delivery_that_is_over_takes_no_attempt(fresh().await).await;
    a_pending_delivery_without_a_next_try_is_refused(fresh().await).await;
    of_ten_records_at_once_of_an_end_one_counts(fresh().await).await;
    a_replay_makes_it_due_under_the_same_id(fresh().await).await;
    next_due_is_the_earliest_of_the_pending(fresh().await).await;
    deliveries_go_with_their_job(fresh().await).await;
}

fn webhook(events: Vec<EventType>) -> Option<WebhookTarget> {
    Some(WebhookTarget { url: "https://example.com/hook?a=b".parse().unwrap(), events })
}

async fn a_job(jobs: &dyn JobStore, events: Vec<EventType>) -> Job {
    accept(jobs, NewJob { webhook: webhook(events), ..a_query(JobId::generate()) }).await
}

/// A pending delivery, made by the end of a job.
pub async fn a_delivery(jobs: &dyn JobStore, deliveries: &dyn DeliveryStore) -> Delivery {
    let job = a_job(jobs, vec![]).await;
    jobs.end(job.id, Ending::Cancel).await.unwrap();
    deliveries.of_job(job.id).await.unwrap().pop().expect("the end of a job makes its delivery")
}

/// A try that was answered with this HTTP status.
#[must_use]
pub fn an_attempt(status: u16) -> DeliveryAttempt {
    DeliveryAttempt {
        at: now(),
        status: Some(status),
        error: Some(format!("HTTP {status}")),
        duration_ms: 12,
    }
}

pub async fn every_end_makes_the_delivery_that_the_webhook_wants((jobs, deliveries): Stores) {
    let result = || Box::new(JobResult::Ingestion(IngestionResult::default()));
    for (events, event) in [
        (vec![], EventType::Succeeded),
        (vec![EventType::Failed], EventType::Failed),
        (vec![EventType::Succeeded, EventType::Cancelled], EventType::Cancelled),
        (vec![], EventType::Expired),
    ] {
        let job = a_job(&*jobs, events).await;
        match event {
            EventType::Succeeded => {
                let taken = take(&*jobs, &job, HOUR).await;
                let outcome = Outcome::Succeed { result: result(), took_ms: None };
                jobs.finish(job.id, taken.fence, outcome).await.unwrap().unwrap();
            }
            EventType::Failed => {
                let taken = take(&*jobs, &job, HOUR).await;
                let outcome = Outcome::Fail(JobError::deadline());
                jobs.finish(job.id, taken.fence, outcome).await.unwrap().unwrap();
            }
            EventType::Cancelled => drop(jobs.end(job.id, Ending::Cancel).await.unwrap()),
            _ => drop(jobs.end(job.id, Ending::Deadline).await.unwrap()),
        }
        let made = deliveries.of_job(job.id).await.unwrap();
        let [delivery] = made.as_slice() else { panic!("expected one delivery, got {made:?}") };
        assert_eq!((delivery.job_id, &delivery.tenant, delivery.event), (job.id, &job.tenant, event));
        assert_eq!(delivery.url, job.webhook.unwrap().url);
        assert_eq!((delivery.status, delivery.attempts.len()), (DeliveryStatus::Pending, 0));
        assert!(delivery.next_at.expect("it is due") <= now());
        assert_eq!(deliveries.get(delivery.id).await.unwrap().as_ref(), Some(delivery));
    }
    assert_eq!(deliveries.get(DeliveryId::generate()).await.unwrap(), None);
}

pub async fn an_end_that_the_webhook_does_not_want_makes_none((jobs, deliveries): Stores) {
    let unwanted = a_job(&*jobs, vec![EventType::Succeeded]).await;
    let without = accept(&*jobs, a_query(JobId::generate())).await;
    let unfinished = a_job(&*jobs, vec![]).await;
    let taken = take(&*jobs, &unfinished, HOUR).await;
    jobs.finish(unfinished.id, taken.fence, Outcome::Retry { due_at: now() }).await.unwrap().unwrap();
    for id in [unwanted.id, without.id] {
        jobs.end(id, Ending::Cancel).await.unwrap();
    }
    for id in [unwanted.id, without.id, unfinished.id] {
        assert!(deliveries.of_job(id).await.unwrap().is_empty());
    }
    assert_eq!(deliveries.next_due().await.unwrap(), None);
    assert!(deliveries.due(10, HOUR).await.unwrap().is_empty());
}

pub async fn a_job_that_ends_once_has_one_delivery((jobs, deliveries): Stores) {
    let job = a_job(&*jobs, vec![]).await;
    let taken = take(&*jobs, &job, HOUR).await;
    let ends = (0..10).map(|i| {
        let (jobs, id, fence) = (Arc::clone(&jobs), job.id, taken.fence);
        tokio::spawn(async move {
            if i % 2 == 0 {
                jobs.end(id, Ending::Cancel).await.map(drop)
            } else {
                jobs.finish(id, fence, Outcome::Fail(JobError::deadline())).await.map(drop)
            }
        })
    });
    for end in join_all(ends).await {
        end.unwrap().unwrap();
    }
    assert_eq!(deliveries.of_job(job.id).await.unwrap().len(), 1);
}

pub async fn a_due_delivery_is_handed_to_one_caller((jobs, deliveries): Stores) {
    let mut expected = HashSet::new();
    for _ in 0..20 {
        expected.insert(a_delivery(&*jobs, &*deliveries).await.id);
    }
    let calls = (0..10).map(|_| {
        let deliveries = Arc::clone(&deliveries);
        tokio::spawn(async move { deliveries.due(4, HOUR).await.unwrap() })
    });
    let handed: Vec<_> = join_all(calls).await.into_iter().flat_map(Result::unwrap).collect();
    assert_eq!(handed.len(), 20);
    assert!(handed.iter().all(|delivery| delivery.next_at.unwrap() > now() + TimeDelta::minutes(55)));
    assert_eq!(handed.iter().map(|delivery| delivery.id).collect::<HashSet<_>>(), expected);
}

pub async fn a_leased_delivery_comes_back_when_the_lease_ends((jobs, deliveries): Stores) {
    let made = a_delivery(&*jobs, &*deliveries).await;
    for lease in [Duration::ZERO, Duration::ZERO, HOUR] {
        let due = deliveries.due(10, lease).await.unwrap();
        assert_eq!(due.iter().map(|delivery| delivery.id).collect::<Vec<_>>(), [made.id]);
    }
    assert!(deliveries.due(10, HOUR).await.unwrap().is_empty());
    let kept = deliveries.get(made.id).await.unwrap().unwrap();
    assert_eq!((kept.status, kept.attempts.len()), (DeliveryStatus::Pending, 0), "a lease is no attempt");
}

pub async fn a_try_that_begins_has_its_lease((jobs, deliveries): Stores) {
    let made = a_delivery(&*jobs, &*deliveries).await;
    assert_eq!(deliveries.due(10, Duration::ZERO).await.unwrap().len(), 1);
    let begun = deliveries.begin(made.id, HOUR).await.unwrap().expect("it is pending");
    assert!(begun.next_at.unwrap() > now() + TimeDelta::minutes(55));
    assert_eq!(Delivery { next_at: made.next_at, ..begun.clone() }, made);
    assert!(deliveries.due(10, HOUR).await.unwrap().is_empty());
    // A copy of the message may come at any time, and makes no lease shorter.
    assert_eq!(deliveries.begin(made.id, Duration::ZERO).await.unwrap(), Some(begun));
    deliveries.release(&[made.id]).await.unwrap();
    assert_eq!(deliveries.get(made.id).await.unwrap(), Some(made.clone()));
    deliveries.record(made.id, an_attempt(200), DeliveryStatus::Delivered, None).await.unwrap().unwrap();
    for id in [made.id, DeliveryId::generate()] {
        assert_eq!(deliveries.begin(id, HOUR).await.unwrap(), None);
    }
}

pub async fn recovery_ends_leases_and_nothing_else((jobs, deliveries): Stores) {
    let scheduled = a_delivery(&*jobs, &*deliveries).await;
    let over = a_delivery(&*jobs, &*deliveries).await;
    assert_eq!(deliveries.due(10, HOUR).await.unwrap().len(), 2);
    let later = Some(now() + TimeDelta::seconds(5));
    for (id, status, next_at) in
        [(scheduled.id, DeliveryStatus::Pending, later), (over.id, DeliveryStatus::Delivered, None)]
    {
        deliveries.record(id, an_attempt(500), status, next_at).await.unwrap().unwrap();
    }
    // Leased twice: the holder of the first lease died.
    let leased = a_delivery(&*jobs, &*deliveries).await;
    for lease in [Duration::ZERO, HOUR] {
        assert_eq!(deliveries.due(10, lease).await.unwrap().len(), 1);
    }
    assert_eq!(deliveries.recover().await.unwrap(), 1);
    assert_eq!(deliveries.recover().await.unwrap(), 0);
    assert_eq!(deliveries.get(leased.id).await.unwrap().unwrap().next_at, leased.next_at);
    assert_eq!(deliveries.get(scheduled.id).await.unwrap().unwrap().next_at, later);
    let due: Vec<_> = deliveries.due(10, HOUR).await.unwrap().iter().map(|delivery| delivery.id).collect();
    assert_eq!(due, [leased.id]);
}

pub async fn what_is_released_is_due_again_and_nothing_else_changes((jobs, deliveries): Stores) {
    let (released, kept, over) = (
        a_delivery(&*jobs, &*deliveries).await,
        a_delivery(&*jobs, &*deliveries).await,
        a_delivery(&*jobs, &*deliveries).await,
    );
    assert_eq!(deliveries.due(10, HOUR).await.unwrap().len(), 3);
    let ended =
        deliveries.record(over.id, an_attempt(200), DeliveryStatus::Delivered, None).await.unwrap().unwrap();
    deliveries.release(&[released.id, over.id, DeliveryId::generate()]).await.unwrap();
    assert_eq!(deliveries.get(released.id).await.unwrap(), Some(released.clone()));
    assert_eq!(deliveries.get(over.id).await.unwrap(), Some(ended));
    assert!(deliveries.get(kept.id).await.unwrap().unwrap().next_at > kept.next_at);
    let due: Vec<_> = deliveries.due(10, HOUR).await.unwrap().iter().map(|delivery| delivery.id).collect();
    assert_eq!(due, [released.id]);
}

pub async fn due_deliveries_come_oldest_first((jobs, deliveries): Stores) {
    let mut ids = Vec::new();
    for seconds in [10, 30, 20] {
        let made = a_delivery(&*jobs, &*deliveries).await;
        let next_at = Some(now() - TimeDelta::seconds(seconds));
        deliveries.record(made.id, an_attempt(500), DeliveryStatus::Pending, next_at).await.unwrap().unwrap();
        ids.push(made.id);
    }
    let due: Vec<_> = deliveries.due(2, HOUR).await.unwrap().iter().map(|delivery| delivery.id).collect();
    assert_eq!(due, [ids[1], ids[2]]);
}

pub async fn attempts_are_kept_in_order_with_what_comes_next((jobs, deliveries): Stores) {
    let made = a_delivery(&*jobs, &*deliveries).await;
    let next_at = now() + TimeDelta::seconds(5);
    let (first, second) = (an_attempt(503), DeliveryAttempt { error: None, ..an_attempt(204) });
    let tried = deliveries
        .record(made.id, first.clone(), DeliveryStatus::Pending, Some(next_at))
        .await
        .unwrap()
        .expect("it was pending");
    assert_eq!((tried.status, tried.next_at), (DeliveryStatus::Pending, Some(next_at)));
    assert!(deliveries.due(10, HOUR).await.unwrap().is_empty(), "not before its time");
    let done = deliveries
        .record(made.id, second.clone(), DeliveryStatus::Delivered, None)
        .await
        .unwrap()
        .expect("it was pending");
    assert_eq!((done.status, done.next_at), (DeliveryStatus::Delivered, None));
    assert_eq!(done.attempts, [first, second]);
    assert_eq!(deliveries.get(made.id).await.unwrap(), Some(done));
}

pub async fn a_delivery_that_is_over_takes_no_attempt((jobs, deliveries): Stores) {
    for status in [DeliveryStatus::Delivered, DeliveryStatus::Dead] {
        let made = a_delivery(&*jobs, &*deliveries).await;
        let over = deliveries.record(made.id, an_attempt(410), status, None).await.unwrap().unwrap();
        let late = deliveries.record(made.id, an_attempt(200), DeliveryStatus::Pending, Some(now())).await;
        assert_eq!(late.unwrap(), None);
        assert_eq!(deliveries.get(made.id).await.unwrap(), Some(over));
    }
    let none = deliveries.record(DeliveryId::generate(), an_attempt(200), DeliveryStatus::Dead, None).await;
    assert_eq!(none.unwrap(), None);
    assert!(deliveries.due(10, HOUR).await.unwrap().is_empty());
}

pub async fn a_pending_delivery_without_a_next_try_is_refused((jobs, deliveries): Stores) {
    let made = a_delivery(&*jobs, &*deliveries).await;
    let refused = deliveries.record(made.id, an_attempt(500), DeliveryStatus::Pending, None).await;
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::Invalid);
    assert_eq!(deliveries.get(made.id).await.unwrap(), Some(made));
}

pub async fn of_ten_records_at_once_of_an_end_one_counts((jobs, deliveries): Stores) {
    let made = a_delivery(&*jobs, &*deliveries).await;
    let records = (0..10).map(|_| {
        let (deliveries, id) = (Arc::clone(&deliveries), made.id);
        tokio::spawn(async move {
            deliveries.record(id, an_attempt(200), DeliveryStatus::Delivered, None).await.unwrap()
        })
    });
    let counted: Vec<_> = join_all(records).await.into_iter().filter_map(Result::unwrap).collect();
    assert_eq!(counted.len(), 1);
    assert_eq!(counted[0].attempts.len(), 1);
}

pub async fn a_replay_makes_it_due_under_the_same_id((jobs, deliveries): Stores) {
    let made = a_delivery(&*jobs, &*deliveries).await;
    deliveries.record(made.id, an_attempt(410), DeliveryStatus::Dead, None).await.unwrap().unwrap();
    let again = deliveries.replay(made.id).await.unwrap().expect("it is there");
    assert_eq!((again.id, again.status, again.attempts.len()), (made.id, DeliveryStatus::Pending, 1));
    assert_eq!(deliveries.due(10, HOUR).await.unwrap()[0].id, made.id);
    // A pending one, which somebody leased for an hour, becomes due now.
    let sooner = deliveries.replay(made.id).await.unwrap().unwrap();
    assert!(sooner.next_at.unwrap() <= now());
    assert_eq!(deliveries.due(10, HOUR).await.unwrap()[0].id, made.id);
    assert_eq!(deliveries.replay(DeliveryId::generate()).await.unwrap(), None);
}

pub async fn next_due_is_the_earliest_of_the_pending((jobs, deliveries): Stores) {
    assert_eq!(deliveries.next_due().await.unwrap(), None);
    let mut times = Vec::new();
    for minutes in [3, 1, 2] {
        let made = a_delivery(&*jobs, &*deliveries).await;
        let at = now() + TimeDelta::minutes(minutes);
        deliveries
            .record(made.id, an_attempt(500), DeliveryStatus::Pending, Some(at))
            .await
            .unwrap()
            .unwrap();
        times.push((at, made.id));
    }
    assert_eq!(deliveries.next_due().await.unwrap(), Some(times[1].0));
    deliveries.record(times[1].1, an_attempt(200), DeliveryStatus::Delivered, None).await.unwrap().unwrap();
    assert_eq!(deliveries.next_due().await.unwrap(), Some(times[2].0));
}

pub async fn deliveries_go_with_their_job((jobs, deliveries): Stores) {
    let made = a_delivery(&*jobs, &*deliveries).await;
    let kept = a_delivery(&*jobs, &*deliveries).await;
    assert!(jobs.remove(made.job_id).await.unwrap());
    assert_eq!(deliveries.get(made.id).await.unwrap(), None);
    assert!(deliveries.of_job(made.job_id).await.unwrap().is_empty());
    assert_eq!(deliveries.get(kept.id).await.unwrap(), Some(kept));
}
