//! See the port's doc comment for the promises that are checked here.

use std::{collections::HashSet, sync::Arc, time::Duration};

use chrono::TimeDelta;
use futures::future::join_all;

use crate::{
    domain::{
        CacheMode, Collection, GenerationOptions, IngestionResult, IngestionSpec, Job, JobError, JobId,
        JobKind, JobResult, JobSpec, JobStatus, Metadata, MetadataFilter, PipelineName, Priority, Progress,
        QuerySpec, Stage, Tenant, Timestamp, WebhookTarget, now,
    },
    ports::{Accepted, Ended, Ending, Idempotency, JobFilter, JobStore, NewJob, Outcome, Taken},
};

type Store = Arc<dyn JobStore>;

const HOUR: Duration = Duration::from_secs(3_600);
/// A lease that has run out by the time anybody looks.
const NO_LEASE: Duration = Duration::ZERO;

/// Runs the whole suite. `fresh` gives an empty store that forgets ended jobs after the time it is given.
pub async fn run_all(fresh: impl AsyncFn(Duration) -> Store) {
    an_accepted_job_is_stored_as_it_was_given(fresh(HOUR).await).await;
    an_idempotency_key_gives_the_first_job_again(fresh(HOUR).await).await;
    an_idempotency_key_is_free_again_when_its_job_is_removed(fresh(NO_LEASE).await).await;
    of_twenty_accepts_at_once_with_one_key_one_is_new(fresh(HOUR).await).await;
    many_accepts_at_once_are_all_stored(fresh(HOUR).await).await;
    a_list_is_newest_first_and_keeps_to_its_filter(fresh(HOUR).await).await;
    paging_is_stable_while_jobs_come_in(fresh(HOUR).await).await;
    taking_a_job_starts_it(fresh(HOUR).await).await;
    a_job_is_over_for_who_comes_for_another_stage_or_too_late(fresh(HOUR).await).await;
    of_fifty_takes_at_once_one_wins(fresh(HOUR).await).await;
    a_lease_that_ran_out_is_taken_over_and_its_holder_writes_nothing(fresh(HOUR).await).await;
    a_holder_whose_lease_ran_out_may_finish_as_long_as_nobody_took_over(fresh(HOUR).await).await;
    extending_keeps_the_job_and_notes_status_and_progress(fresh(HOUR).await).await;
    a_lease_is_not_extended_to_an_end(fresh(HOUR).await).await;
    a_stage_completes_once(fresh(HOUR).await).await;
    of_twenty_finishes_at_once_one_counts(fresh(HOUR).await).await;
    an_advance_counts_attempts_anew_and_keeps_the_time(fresh(HOUR).await).await;
    a_retry_counts_and_a_hand_back_does_not(fresh(HOUR).await).await;
    success_and_failure_are_kept_with_their_times(fresh(HOUR).await).await;
    a_deadline_expires_what_never_started_and_fails_what_did(fresh(HOUR).await).await;
    ending_from_outside_takes_the_job_from_its_worker(fresh(HOUR).await).await;
    a_final_status_is_never_left(fresh(HOUR).await).await;
    of_a_finish_and_a_cancel_at_once_one_wins(fresh(HOUR).await).await;
    every_write_raises_the_revision(fresh(HOUR).await).await;
    due_jobs_come_longest_overdue_first_and_only_when_due(fresh(HOUR).await).await;
    a_due_job_is_handed_to_one_caller(fresh(HOUR).await).await;
    a_due_job_comes_back_after_doubling_times_until_taken(fresh(HOUR).await).await;
    a_job_is_due_when_its_lease_ends_and_never_after_its_end(fresh(HOUR).await).await;
    overdue_jobs_are_the_unfinished_past_their_deadline(fresh(HOUR).await).await;
    recovery_ends_leases_and_makes_everything_due(fresh(HOUR).await).await;
    only_an_ended_job_can_be_removed(fresh(HOUR).await).await;
    ended_jobs_go_when_their_time_is_up(fresh(NO_LEASE).await).await;
    ended_jobs_stay_until_their_time_is_up(fresh(HOUR).await).await;
    waiting_counts_jobs_without_a_live_lease_by_stage(fresh(HOUR).await).await;
}

/// A question that is due in a minute and must be answered in an hour.
#[must_use]
pub fn a_query(id: JobId) -> NewJob {
    let created_at = now();
    NewJob {
        id,
        tenant: Tenant::default(),
        spec: JobSpec::Query(QuerySpec {
            query: "How long is the retention? Wie lang? 多久?".into(),
            collection: Collection::default(),
            pipeline: PipelineName::default(),
            filter: MetadataFilter::default(),
            top_k: 5,
            generation: GenerationOptions { max_tokens: 64, temperature: 0.25 },
            cache: CacheMode::Bypass,
        }),
        priority: Priority::Interactive,
        metadata: serde_json::from_str::<Metadata>(r#"{"ticket": "42", "nested": {"a": [1, null]}}"#)
            .unwrap(),
        webhook: None,
        created_at,
        deadline: created_at + TimeDelta::hours(1),
        due_at: created_at + TimeDelta::minutes(1),
        idempotency: None,
    }
}

/// An ingestion with the same times.
#[must_use]
pub fn an_ingestion(id: JobId) -> NewJob {
    let spec =
        IngestionSpec { pipeline: PipelineName::default(), manifest: "jobs/x/manifest".into(), documents: 3 };
    NewJob { spec: JobSpec::Ingestion(spec), ..a_query(id) }
}

/// Accepts a job and gives it as it is stored.
pub async fn accept(store: &dyn JobStore, new: NewJob) -> Job {
    match store.accept(new).await.unwrap() {
        Accepted::New(job) => job,
        other => panic!("expected a new job, got {other:?}"),
    }
}

/// Takes a job that is known to be free.
pub async fn take(store: &dyn JobStore, job: &Job, lease: Duration) -> Job {
    match store.take(job.id, job.stage, lease).await.unwrap() {
        Taken::Yes(job) => *job,
        other => panic!("expected to get the job, got {other:?}"),
    }
}

async fn get(store: &Store, id: JobId) -> Job {
    store.get(id).await.unwrap().expect("the job is there")
}

async fn a_job(store: &Store) -> Job {
    accept(&**store, a_query(JobId::generate())).await
}

fn success() -> Outcome {
    let result = IngestionResult { model: Some("m".into()), ..IngestionResult::default() };
    Outcome::Succeed { result: Box::new(JobResult::Ingestion(result)), took_ms: Some(7) }
}

fn later() -> Timestamp {
    now() + TimeDelta::minutes(1)
}

fn key(key: &str, request_hash: &str) -> Option<Idempotency> {
    Some(Idempotency { key: key.into(), request_hash: request_hash.into() })
}

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

pub async fn taking_a_job_starts_it(store: Store) {
    for (new, status) in [
        (a_query(JobId::generate()), JobStatus::Retrieving),
        (an_ingestion(JobId::generate()), JobStatus::Parsing),
    ] {
        let created_at = new.created_at - TimeDelta::seconds(5);
        let job = accept(&*store, NewJob { created_at, ..new }).await;
        let before = now();
        let taken = take(&*store, &job, HOUR).await;
        assert_eq!((taken.status, taken.attempt, taken.fence), (status, 1, job.fence + 1));
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
    assert_eq!((second.attempt, second.fence), (2, first.fence + 1));
    assert_eq!(second.started_at, first.started_at, "it started once");
    assert_eq!(second.timings.queued_ms, first.timings.queued_ms);

    let progress = Progress { done: 1, total: 2, unit: "documents".into(), chunks: 0 };
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
    let progress = Progress { done: 3, total: 10, unit: "documents".into(), chunks: 40 };
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

pub async fn a_lease_is_not_extended_to_an_end(store: Store) {
    let job = a_job(&store).await;
    let taken = take(&*store, &job, HOUR).await;
    for status in JobStatus::ALL.into_iter().filter(|status| status.is_final()) {
        let error = store.extend(job.id, taken.fence, HOUR, Some(status), None).await.unwrap_err();
        assert_eq!(error.kind(), crate::ports::ErrorKind::Invalid);
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
    assert_eq!((third.attempt, third.fence), (2, first.fence + 2));
    assert_eq!(third.started_at, first.started_at);
}

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

async fn end_now(store: &Store, id: JobId, ending: Ending) -> Job {
    match store.end(id, ending).await.unwrap() {
        Ended::Now(job) => *job,
        other => panic!("expected it to end now, got {other:?}"),
    }
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
