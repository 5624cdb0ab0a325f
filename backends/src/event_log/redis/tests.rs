//! What is true of this log beyond the contract, on real servers.

mod faults;
mod shapes;

use std::{collections::HashSet, sync::Mutex};

use raglan_pipeline::contract;
use serde_json::json;
use tokio::time::timeout;

use super::*;
use crate::redis_client::testing::{Corner, PATIENCE, until};

/// What must not come is waited for so long.
const MOMENT: Duration = Duration::from_millis(60);

fn log_of(client: Arc<RedisClient>) -> Arc<RedisEventLog> {
    RedisEventLog::new(client, RedisEventLogSettings::default())
}

fn delta(n: usize) -> NewEvent {
    NewEvent::now(EventType::AnswerDelta, json!({"text": format!("piece {n}")}))
}

fn queued() -> NewEvent {
    NewEvent::now(EventType::Queued, json!({}))
}

async fn add(log: &dyn EventLog, job: JobId, count: usize) -> Vec<u64> {
    let mut numbers = Vec::new();
    for n in 0..count {
        numbers.push(log.append(job, 0, delta(n)).await.unwrap());
    }
    numbers
}

async fn next(stream: &mut BoxStream<'static, Followed>) -> Followed {
    timeout(PATIENCE, stream.next()).await.expect("nothing came").expect("the stream ended")
}

async fn next_numbers(stream: &mut BoxStream<'static, Followed>, count: usize) -> Vec<u64> {
    let mut numbers = Vec::new();
    for _ in 0..count {
        match next(stream).await {
            Followed::Event(event) => numbers.push(event.seq),
            missed @ Followed::Missed { .. } => panic!("after {numbers:?}: {missed:?}"),
        }
    }
    numbers
}

async fn assert_quiet(stream: &mut BoxStream<'static, Followed>) {
    if let Ok(item) = timeout(MOMENT, stream.next()).await {
        panic!("nothing was to come, and yet: {item:?}");
    }
}

/// Runs the suite on logs with keys of their own.
async fn keeps_the_contract(corner: impl Fn() -> Corner) {
    let corners = Mutex::new(Vec::new());
    contract::event_log::run_all(|limits| {
        let corner = corner();
        let settings = RedisEventLogSettings {
            events_per_job: limits.events_per_job,
            ..RedisEventLogSettings::default()
        };
        let log = RedisEventLog::new(corner.client(), settings) as Arc<dyn EventLog>;
        corners.lock().unwrap().push(corner);
        async { log }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn it_keeps_the_contract() {
    let test = "event_log::redis::tests::it_keeps_the_contract";
    if Corner::of_test_server(test).is_some() {
        keeps_the_contract(|| Corner::of_test_server(test).unwrap()).await;
    }
}

#[tokio::test]
async fn a_job_counts_from_one() {
    let Some(corner) = Corner::of_test_server("event_log::redis::tests::a_job_counts_from_one") else {
        return;
    };
    let log = log_of(corner.client());
    let job = JobId::generate();
    assert_eq!(log.append(job, 0, queued()).await.unwrap(), 1);
    assert_eq!(add(&*log, job, 3).await, [2, 3, 4]);
    assert_eq!(log.append(job, 1 << 40, delta(0)).await.unwrap(), (1 << 40) + 1, "without rounding");
    assert_eq!(corner.keys(), [wire::key(&corner.prefix, job)], "one key a job");
}

#[tokio::test]
async fn events_live_as_long_as_they_are_told_to() {
    let Some(corner) =
        Corner::of_test_server("event_log::redis::tests::events_live_as_long_as_they_are_told_to")
    else {
        return;
    };
    let log = log_of(corner.client());
    let job = JobId::generate();
    add(&*log, job, 1).await;
    let key = wire::key(&corner.prefix, job);
    let left_ms = || redis::cmd("PTTL").arg(&key).query::<i64>(&mut corner.plain()).unwrap();
    assert!((3_000_000..=3_600_000).contains(&left_ms()), "{}", left_ms());
    log.forget(job).await.unwrap();
    assert!(corner.keys().is_empty());
}

#[tokio::test]
async fn an_event_that_is_too_large_is_left_out_and_those_beside_it_are_kept() {
    let Some(corner) = Corner::of_test_server(
        "event_log::redis::tests::an_event_that_is_too_large_is_left_out_and_those_beside_it_are_kept",
    ) else {
        return;
    };
    let log = log_of(corner.client());
    let job = JobId::generate();
    let large = NewEvent::now(EventType::Succeeded, json!({"text": "x".repeat(MAX_EVENT_BYTES)}));
    assert_eq!(log.append(job, 0, large.clone()).await.unwrap_err().kind(), ErrorKind::Invalid);
    assert_eq!(log.append_all(job, 0, vec![queued(), large, queued()]).await.unwrap(), 2);
    assert_eq!(log.read(job).await.unwrap().len(), 2);
}

#[tokio::test]
async fn events_that_a_reader_cannot_hold_together_all_come_one_after_the_other() {
    let Some(corner) = Corner::of_test_server(
        "event_log::redis::tests::events_that_a_reader_cannot_hold_together_all_come_one_after_the_other",
    ) else {
        return;
    };
    let log = log_of(corner.client());
    let job = JobId::generate();
    let mut numbers = add(&*log, job, 3).await;
    for _ in 0..12 {
        let large = NewEvent::now(EventType::AnswerDelta, json!({"text": "x".repeat(50 << 10)}));
        numbers.push(log.append(job, 0, large).await.unwrap());
    }
    numbers.extend(add(&*log, job, PAGE).await);
    let mut stream = log.follow(job, 0).await.unwrap();
    assert_eq!(next_numbers(&mut stream, numbers.len()).await, numbers);
    assert_quiet(&mut stream).await;
}

#[tokio::test]
async fn all_pages_of_a_long_log_are_read() {
    let Some(corner) = Corner::of_test_server("event_log::redis::tests::all_pages_of_a_long_log_are_read")
    else {
        return;
    };
    let log = log_of(corner.client());
    let job = JobId::generate();
    let numbers = add(&*log, job, 2 * PAGE).await;
    let read: Vec<_> = log.read(job).await.unwrap().iter().map(|event| event.seq).collect();
    assert_eq!(read, numbers);
    let mut stream = log.follow(job, 0).await.unwrap();
    assert_eq!(next_numbers(&mut stream, numbers.len()).await, numbers);
    assert_quiet(&mut stream).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_readers_need_one_connection_and_leave_no_channel_behind() {
    const READERS: usize = 500;
    let Some(corner) = Corner::of_test_server(
        "event_log::redis::tests::many_readers_need_one_connection_and_leave_no_channel_behind",
    ) else {
        return;
    };
    let log = log_of(corner.client());
    // Some jobs have many readers, most have one.
    let jobs: Vec<_> = (0..READERS / 2).map(|_| JobId::generate()).collect();
    let of_reader = |n: usize| jobs[n % (READERS / 2).min(1 + n)];
    let mut readers = Vec::new();
    for n in 0..READERS {
        readers.push((of_reader(n), log.follow(of_reader(n), 0).await.unwrap()));
    }
    let followed: HashSet<_> = readers.iter().map(|(job, _)| *job).collect();
    until("all jobs are heard", || corner.channels() == followed.len()).await;
    let readers: Vec<_> = readers
        .into_iter()
        .map(|(job, mut stream)| {
            tokio::spawn(async move { (job, next_numbers(&mut stream, 20).await, stream) })
        })
        .collect();
    let appended = followed.iter().map(|job| {
        let (log, job) = (Arc::clone(&log), *job);
        tokio::spawn(async move { (job, add(&*log, job, 20).await) })
    });
    let mut numbers = std::collections::HashMap::new();
    for appended in futures::future::join_all(appended).await {
        let (job, own) = appended.unwrap();
        numbers.insert(job, own);
    }
    let mut streams = Vec::new();
    for reader in readers {
        let (job, got, stream) = reader.await.unwrap();
        assert_eq!(got, numbers[&job]);
        streams.push(stream);
    }
    assert_eq!(corner.connections("events"), 1);
    assert_eq!(corner.connections("commands"), 2);
    drop(streams);
    until("no job is heard any more", || corner.channels() == 0).await;
}

#[tokio::test]
async fn the_connection_for_readers_goes_with_the_log_and_its_readers() {
    let Some(corner) = Corner::of_test_server(
        "event_log::redis::tests::the_connection_for_readers_goes_with_the_log_and_its_readers",
    ) else {
        return;
    };
    let log = log_of(corner.client());
    assert_eq!(corner.connections("events"), 0, "nobody reads");
    let mut stream = log.follow(JobId::generate(), 0).await.unwrap();
    assert_quiet(&mut stream).await;
    until("a connection", || corner.connections("events") == 1).await;
    drop(log);
    assert_eq!(corner.connections("events"), 1, "a reader is left");
    drop(stream);
    until("no connection", || corner.connections("events") == 0).await;
}

#[tokio::test]
async fn a_slow_reader_holds_a_bounded_number_of_events_and_gets_all_that_are_kept() {
    let Some(corner) = Corner::of_test_server(
        "event_log::redis::tests::a_slow_reader_holds_a_bounded_number_of_events_and_gets_all_that_are_kept",
    ) else {
        return;
    };
    let log = log_of(corner.client());
    let job = JobId::generate();
    let mut numbers = add(&*log, job, 1).await;
    let mut slow = log.follow(job, 0).await.unwrap();
    assert_eq!(next_numbers(&mut slow, 1).await, numbers);
    // Far more than its buffer.
    numbers.extend(add(&*log, job, 1_000).await);
    assert_eq!(next_numbers(&mut slow, 1_000).await, numbers[1..]);
    assert_quiet(&mut slow).await;
}
