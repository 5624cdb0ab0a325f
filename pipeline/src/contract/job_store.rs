//! See the port's doc comment for the promises that are checked here.

mod accepting;
mod ending;
mod sweeping;
mod working;

use std::{sync::Arc, time::Duration};

use chrono::TimeDelta;

use crate::{
    domain::{
        CacheMode, Collection, GenerationOptions, IngestionResult, IngestionSpec, Job, JobId, JobResult,
        JobSpec, Metadata, MetadataFilter, PipelineName, Priority, QuerySpec, Tenant, Timestamp, now,
    },
    ports::{Accepted, Ended, Ending, Idempotency, JobStore, NewJob, Outcome, Taken},
};

type Store = Arc<dyn JobStore>;

const HOUR: Duration = Duration::from_secs(3_600);
/// A lease that has run out by the time anybody looks.
const NO_LEASE: Duration = Duration::ZERO;

/// Runs the whole suite. `fresh` gives an empty store that forgets ended jobs after the time it is given.
pub async fn run_all(fresh: impl AsyncFn(Duration) -> Store) {
    accepting::an_accepted_job_is_stored_as_it_was_given(fresh(HOUR).await).await;
    accepting::an_idempotency_key_gives_the_first_job_again(fresh(HOUR).await).await;
    accepting::an_idempotency_key_is_free_again_when_its_job_is_removed(fresh(NO_LEASE).await).await;
    accepting::of_twenty_accepts_at_once_with_one_key_one_is_new(fresh(HOUR).await).await;
    accepting::many_accepts_at_once_are_all_stored(fresh(HOUR).await).await;
    accepting::a_list_is_newest_first_and_keeps_to_its_filter(fresh(HOUR).await).await;
    accepting::paging_is_stable_while_jobs_come_in(fresh(HOUR).await).await;
    working::taking_a_job_starts_it(fresh(HOUR).await).await;
    working::a_job_is_over_for_who_comes_for_another_stage_or_too_late(fresh(HOUR).await).await;
    working::of_fifty_takes_at_once_one_wins(fresh(HOUR).await).await;
    working::a_lease_that_ran_out_is_taken_over_and_its_holder_writes_nothing(fresh(HOUR).await).await;
    working::a_holder_whose_lease_ran_out_may_finish_as_long_as_nobody_took_over(fresh(HOUR).await).await;
    working::extending_keeps_the_job_and_notes_status_and_progress(fresh(HOUR).await).await;
    working::a_claimed_job_is_as_a_taken_one_once_it_is_finished(fresh(HOUR).await).await;
    working::a_claim_is_void_once_another_has_the_job_or_ended_it(fresh(HOUR).await).await;
    working::a_claim_that_was_extended_holds(fresh(HOUR).await).await;
    working::what_was_taken_before_is_not_only_claimed(fresh(HOUR).await).await;
    working::of_fifty_claims_at_once_one_counts(fresh(HOUR).await).await;
    working::a_lease_is_not_extended_to_an_end(fresh(HOUR).await).await;
    working::a_stage_completes_once(fresh(HOUR).await).await;
    working::of_twenty_finishes_at_once_one_counts(fresh(HOUR).await).await;
    working::an_advance_counts_attempts_anew_and_keeps_the_time(fresh(HOUR).await).await;
    working::a_retry_counts_and_a_hand_back_does_not(fresh(HOUR).await).await;
    ending::success_and_failure_are_kept_with_their_times(fresh(HOUR).await).await;
    ending::a_deadline_expires_what_never_started_and_fails_what_did(fresh(HOUR).await).await;
    ending::ending_from_outside_takes_the_job_from_its_worker(fresh(HOUR).await).await;
    ending::a_final_status_is_never_left(fresh(HOUR).await).await;
    ending::of_a_finish_and_a_cancel_at_once_one_wins(fresh(HOUR).await).await;
    ending::every_write_raises_the_revision(fresh(HOUR).await).await;
    sweeping::due_jobs_come_longest_overdue_first_and_only_when_due(fresh(HOUR).await).await;
    sweeping::a_due_job_is_handed_to_one_caller(fresh(HOUR).await).await;
    sweeping::a_due_job_comes_back_after_doubling_times_until_taken(fresh(HOUR).await).await;
    sweeping::a_job_is_due_when_its_lease_ends_and_never_after_its_end(fresh(HOUR).await).await;
    sweeping::overdue_jobs_are_the_unfinished_past_their_deadline(fresh(HOUR).await).await;
    sweeping::recovery_ends_leases_and_makes_everything_due(fresh(HOUR).await).await;
    ending::only_an_ended_job_can_be_removed(fresh(HOUR).await).await;
    ending::ended_jobs_go_when_their_time_is_up(fresh(NO_LEASE).await).await;
    ending::ended_jobs_stay_until_their_time_is_up(fresh(HOUR).await).await;
    sweeping::waiting_counts_jobs_without_a_live_lease_by_stage(fresh(HOUR).await).await;
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

/// Claims a job that is known to be free.
pub async fn claim(store: &dyn JobStore, job: &Job) -> Job {
    match store.claim(job.id, job.stage, HOUR).await.unwrap() {
        Taken::Yes(job) | Taken::Claimed(job) => *job,
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

async fn end_now(store: &Store, id: JobId, ending: Ending) -> Job {
    match store.end(id, ending).await.unwrap() {
        Ended::Now(job) => *job,
        other => panic!("expected it to end now, got {other:?}"),
    }
}
