//! What is true of this log beyond the contract. Time is tokio's, paused.

use futures::FutureExt;
use raglan_pipeline::{contract, domain::EventType};
use serde_json::json;

use super::*;

const KB: usize = 1_000;

fn settings() -> EventLogSettings {
    EventLogSettings {
        events_per_job: 5,
        bytes_per_job: 100 * KB,
        total_bytes: 1_000 * KB,
        ttl: Duration::from_secs(60),
    }
}

fn delta(bytes: usize) -> NewEvent {
    NewEvent::now(EventType::AnswerDelta, json!({"text": "x".repeat(bytes)}))
}

fn last() -> NewEvent {
    NewEvent::now(EventType::Succeeded, json!({}))
}

async fn fill(log: &InProcessEventLog, job: JobId, events: usize) {
    for _ in 0..events {
        log.append(job, 0, delta(10)).await.unwrap();
    }
}

async fn numbers(log: &InProcessEventLog, job: JobId) -> Vec<u64> {
    log.read(job).await.unwrap().into_iter().map(|event| event.seq).collect()
}

/// All that a reader finds without waiting: numbers of events, and of what it missed.
fn ready(stream: &mut BoxStream<'static, Followed>) -> Vec<Result<u64, u64>> {
    std::iter::from_fn(|| stream.next().now_or_never().flatten())
        .map(|item| match item {
            Followed::Event(event) => Ok(event.seq),
            Followed::Missed { up_to } => Err(up_to),
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn it_keeps_the_contract() {
    contract::event_log::run_all(|limits| async move {
        InProcessEventLog::new(EventLogSettings {
            events_per_job: limits.events_per_job,
            ..EventLogSettings::default()
        }) as Arc<dyn EventLog>
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_reader_misses_exactly_what_it_had_not_read_when_it_was_dropped() {
    let log = InProcessEventLog::new(settings());
    let job = JobId::generate();
    fill(&log, job, 3).await;
    let mut quick = log.follow(job, 0).await.unwrap();
    let mut slow = log.follow(job, 0).await.unwrap();
    assert_eq!(ready(&mut quick), [Ok(1), Ok(2), Ok(3)]);
    assert!(matches!(slow.next().await, Some(Followed::Event(event)) if event.seq == 1));

    fill(&log, job, 5).await; // 4 to 8 are kept, 1 to 3 dropped
    assert_eq!(ready(&mut quick), [4, 5, 6, 7, 8].map(Ok), "it had read what was dropped");
    assert_eq!(ready(&mut slow), [Err(3), Ok(4), Ok(5), Ok(6), Ok(7), Ok(8)]);
    assert_eq!(ready(&mut log.follow(job, 3).await.unwrap()).first(), Some(&Ok(4)));
    assert_eq!(ready(&mut log.follow(job, 2).await.unwrap()).first(), Some(&Err(3)));
}

#[tokio::test(start_paused = true)]
async fn a_jobs_bytes_are_bounded_but_the_newest_event_is_kept_whatever_its_size() {
    let log = InProcessEventLog::new(settings());
    let job = JobId::generate();
    for _ in 0..4 {
        log.append(job, 0, delta(40 * KB)).await.unwrap();
    }
    assert_eq!(numbers(&log, job).await, [3, 4]);
    log.append(job, 0, delta(500 * KB)).await.unwrap();
    assert_eq!(numbers(&log, job).await, [5]);
}

#[tokio::test(start_paused = true)]
async fn over_the_total_ended_jobs_go_first_then_the_quietest() {
    let log = InProcessEventLog::new(EventLogSettings { total_bytes: 100 * KB, ..settings() });
    let [ended_first, running, ended_last, newcomer] = [(); 4].map(|()| JobId::generate());
    for job in [ended_first, running, ended_last] {
        log.append(job, 0, delta(20 * KB)).await.unwrap();
    }
    log.append(ended_last, 0, last()).await.unwrap();
    log.append(ended_first, 0, last()).await.unwrap();
    // `ended_last` was quiet for longer now.
    log.append(newcomer, 0, delta(50 * KB)).await.unwrap();
    assert_eq!(numbers(&log, ended_last).await, Vec::<u64>::new());
    assert_eq!(numbers(&log, ended_first).await, [1, 2]);
    log.append(newcomer, 0, delta(20 * KB)).await.unwrap();
    assert_eq!(numbers(&log, ended_first).await, Vec::<u64>::new());
    assert_eq!(numbers(&log, running).await, [1]);
    // With no ended job left, it takes from a running one, whose numbers go on.
    let mut reader = log.follow(running, 0).await.unwrap();
    log.append(newcomer, 0, delta(29 * KB)).await.unwrap();
    assert_eq!(numbers(&log, running).await, Vec::<u64>::new());
    assert_eq!(log.append(running, 0, delta(1)).await.unwrap(), 2);
    assert_eq!(ready(&mut reader), [Err(1), Ok(2)]);
    assert!(log.shared.with(|state, _| state.bytes()) <= 100 * KB);
}

#[tokio::test(start_paused = true)]
async fn one_job_alone_keeps_the_total_too() {
    let log = InProcessEventLog::new(EventLogSettings { total_bytes: 50 * KB, ..settings() });
    let job = JobId::generate();
    for _ in 0..3 {
        log.append(job, 0, delta(20 * KB)).await.unwrap();
    }
    assert_eq!(numbers(&log, job).await, [2, 3]);
}

#[tokio::test(start_paused = true)]
async fn events_go_a_time_to_live_after_the_last_of_them() {
    let log = InProcessEventLog::new(settings());
    let (ended, running) = (JobId::generate(), JobId::generate());
    fill(&log, ended, 1).await;
    fill(&log, running, 1).await;
    tokio::time::sleep(Duration::from_secs(40)).await;
    log.append(ended, 0, last()).await.unwrap();
    tokio::time::sleep(Duration::from_secs(40)).await;
    assert_eq!(numbers(&log, ended).await, [1, 2]);
    assert_eq!(numbers(&log, running).await, Vec::<u64>::new());
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert_eq!(numbers(&log, ended).await, Vec::<u64>::new());
    assert_eq!(log.append(running, 0, delta(1)).await.unwrap(), 2, "its numbers go on");
}

#[tokio::test(start_paused = true)]
async fn nothing_is_left_of_jobs_that_are_over() {
    let log = InProcessEventLog::new(settings());
    let jobs = || log.shared.with(|state, _| state.jobs());
    for _ in 0..100 {
        let job = JobId::generate();
        fill(&log, job, 3).await;
        log.append(job, 0, last()).await.unwrap();
        drop(log.follow(JobId::generate(), 0).await.unwrap());
    }
    assert_eq!(jobs(), 100);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(jobs(), 0);
    // A job that never ends is given up after a day.
    fill(&log, JobId::generate(), 1).await;
    tokio::time::sleep(Duration::from_secs(24 * 3_600 - 1)).await;
    assert_eq!(jobs(), 1);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!((jobs(), log.shared.with(|state, _| state.bytes())), (0, 0));
}

#[tokio::test]
async fn a_reader_of_a_forgotten_job_is_told_what_it_missed() {
    let log = InProcessEventLog::new(EventLogSettings { ttl: Duration::from_secs(3_600), ..settings() });
    let job = JobId::generate();
    fill(&log, job, 2).await;
    let mut reader = log.follow(job, 1).await.unwrap();
    log.forget(job).await.unwrap();
    assert_eq!(numbers(&log, job).await, Vec::<u64>::new());
    assert_eq!(ready(&mut reader), [Err(2)]);
    drop(reader);
    assert_eq!(log.shared.with(|state, _| state.jobs()), 0);
    log.forget(JobId::generate()).await.unwrap();
}
