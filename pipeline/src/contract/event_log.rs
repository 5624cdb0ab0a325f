//! The promises of [`EventLog`]. Time is real: nothing is expected sooner than within a generous limit on waiting.

use std::{future::Future, sync::Arc, time::Duration};

use futures::{StreamExt, stream::BoxStream};
use rand::{Rng, SeedableRng, rngs::StdRng};
use serde_json::json;
use tokio::time::{Instant, timeout};

use crate::{
    domain::{Event, EventType, JobId, NewEvent},
    ports::{EventLog, Followed},
};

/// What must come is waited for so long.
const PATIENCE: Duration = Duration::from_secs(10);
/// What must not come is waited for so long. A broken log may be missed by it, a sound one is never blamed.
const MOMENT: Duration = Duration::from_millis(60);

/// What a log under test is to be set to. Its time to live is to be minutes at least.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// How many events of a job it keeps.
    pub events_per_job: usize,
}

/// Runs the whole suite; `fresh` makes an empty log that shares nothing with those before.
pub async fn run_all<F, L>(fresh: F)
where
    F: Fn(Limits) -> L,
    L: Future<Output = Arc<dyn EventLog>>,
{
    let large = || fresh(Limits { events_per_job: 5_000 });
    numbers_grow_and_events_are_kept_as_they_were_added(large().await).await;
    numbers_are_above_the_floor_and_never_fall(large().await).await;
    events_of_one_call_come_one_after_the_other(large().await).await;
    jobs_are_apart(large().await).await;
    a_late_reader_gets_the_past_and_then_what_comes(large().await).await;
    a_reader_goes_on_after_the_number_it_names(large().await).await;
    following_an_unknown_job_waits_for_its_first_event(large().await).await;
    the_stream_does_not_end_by_itself(large().await).await;
    a_reader_that_gives_up_waiting_loses_nothing(large().await).await;
    concurrent_appends_get_numbers_of_their_own(large().await).await;
    readers_that_join_at_any_time_see_no_gap_and_no_repetition(large().await).await;
    a_slow_reader_holds_nobody_up_and_is_told_what_it_missed(fresh(Limits { events_per_job: 20 }).await)
        .await;
    readers_that_are_left_alone_hold_up_no_other(large().await).await;
    what_is_forgotten_is_gone(large().await).await;
}

fn delta(n: usize) -> NewEvent {
    NewEvent::now(EventType::AnswerDelta, json!({"text": format!("piece {n}, “ü”"), "n": n}))
}

async fn add(log: &dyn EventLog, job: JobId, count: usize) -> Vec<u64> {
    let mut numbers = Vec::with_capacity(count);
    for n in 0..count {
        numbers.push(log.append(job, 0, delta(n)).await.unwrap());
    }
    numbers
}

async fn next(stream: &mut BoxStream<'static, Followed>) -> Followed {
    timeout(PATIENCE, stream.next()).await.expect("no event came").expect("the stream ended")
}

async fn next_event(stream: &mut BoxStream<'static, Followed>) -> Event {
    match next(stream).await {
        Followed::Event(event) => event,
        missed @ Followed::Missed { .. } => panic!("nothing was dropped, and yet: {missed:?}"),
    }
}

async fn next_numbers(stream: &mut BoxStream<'static, Followed>, count: usize) -> Vec<u64> {
    let mut numbers = Vec::with_capacity(count);
    for _ in 0..count {
        numbers.push(next_event(stream).await.seq);
    }
    numbers
}

async fn assert_quiet(stream: &mut BoxStream<'static, Followed>) {
    if let Ok(item) = timeout(MOMENT, stream.next()).await {
        panic!("nothing was to come, and yet: {item:?}");
    }
}

fn assert_growing(numbers: &[u64]) {
    assert!(numbers.is_sorted_by(|a, b| a < b), "{numbers:?}");
}

pub async fn numbers_grow_and_events_are_kept_as_they_were_added(log: Arc<dyn EventLog>) {
    let job = JobId::generate();
    let added: Vec<_> = [EventType::Queued, EventType::Retrieving, EventType::Succeeded]
        .into_iter()
        .map(|kind| NewEvent::now(kind, json!({"kind": kind, "list": [1, null, 0.5], "text": "ä\n\"“"})))
        .collect();
    let mut expected = Vec::new();
    for event in added {
        let seq = log.append(job, 0, event.clone()).await.unwrap();
        expected.push(Event { seq, job_id: job, kind: event.kind, at: event.at, data: event.data });
    }
    assert_growing(&expected.iter().map(|event| event.seq).collect::<Vec<_>>());
    assert!(expected[0].seq > 0, "0 is before the first");
    assert_eq!(log.read(job).await.unwrap(), expected);
    let mut stream = log.follow(job, 0).await.unwrap();
    for event in expected {
        assert_eq!(next_event(&mut stream).await, event);
    }
}

pub async fn numbers_are_above_the_floor_and_never_fall(log: Arc<dyn EventLog>) {
    let job = JobId::generate();
    let mut numbers = Vec::new();
    for floor in [0, 1 << 24, 0, 5, 1 << 24, 2 << 24] {
        let seq = log.append(job, floor, delta(0)).await.unwrap();
        assert!(seq > floor);
        numbers.push(seq);
    }
    assert_growing(&numbers);
    let read: Vec<_> = log.read(job).await.unwrap().iter().map(|event| event.seq).collect();
    assert_eq!(read, numbers);
}

pub async fn events_of_one_call_come_one_after_the_other(log: Arc<dyn EventLog>) {
    const EACH: usize = 40;
    let job = JobId::generate();
    let mut stream = log.follow(job, 0).await.unwrap();
    let writers = (0..4).map(|writer| {
        let log = Arc::clone(&log);
        tokio::spawn(async move {
            for call in 0..EACH {
                let event = |n| NewEvent::now(EventType::AnswerDelta, json!([writer, call, n]));
                let last = log.append_all(job, 0, (0..3).map(event).collect()).await.unwrap();
                let kept = log.read(job).await.unwrap();
                let place = kept.iter().position(|event| event.seq == last).unwrap();
                let of_call: Vec<_> =
                    kept[place - 2..=place].iter().map(|event| event.data.clone()).collect();
                assert_eq!(of_call, (0..3).map(|n| json!([writer, call, n])).collect::<Vec<_>>());
            }
        })
    });
    for writer in futures::future::join_all(writers).await {
        writer.unwrap();
    }
    let kept: Vec<_> = log.read(job).await.unwrap().iter().map(|event| event.seq).collect();
    assert_growing(&kept);
    assert_eq!(next_numbers(&mut stream, 4 * 3 * EACH).await, kept);
    assert!(log.append_all(job, 0, Vec::new()).await.is_err(), "nothing cannot be added");
}

pub async fn jobs_are_apart(log: Arc<dyn EventLog>) {
    let (one, other) = (JobId::generate(), JobId::generate());
    let mut stream = log.follow(one, 0).await.unwrap();
    add(&*log, other, 3).await;
    assert_quiet(&mut stream).await;
    let numbers = add(&*log, one, 2).await;
    assert_eq!(next_numbers(&mut stream, 2).await, numbers);
    assert!(log.read(one).await.unwrap().iter().all(|event| event.job_id == one));
    assert_eq!(log.read(other).await.unwrap().len(), 3);
    assert!(log.read(JobId::generate()).await.unwrap().is_empty());
}

pub async fn a_late_reader_gets_the_past_and_then_what_comes(log: Arc<dyn EventLog>) {
    let job = JobId::generate();
    let mut numbers = add(&*log, job, 10).await;
    let mut stream = log.follow(job, 0).await.unwrap();
    numbers.extend(add(&*log, job, 10).await);
    assert_eq!(next_numbers(&mut stream, 20).await, numbers);
    assert_quiet(&mut stream).await;
    let more = add(&*log, job, 1).await;
    assert_eq!(next_numbers(&mut stream, 1).await, more);
}

pub async fn a_reader_goes_on_after_the_number_it_names(log: Arc<dyn EventLog>) {
    let job = JobId::generate();
    let numbers = add(&*log, job, 10).await;
    for (place, after) in numbers.iter().enumerate() {
        let mut stream = log.follow(job, *after).await.unwrap();
        let rest = &numbers[place + 1..];
        assert_eq!(next_numbers(&mut stream, rest.len()).await, rest);
    }
    let mut stream = log.follow(job, numbers[9]).await.unwrap();
    assert_quiet(&mut stream).await;
    let more = add(&*log, job, 1).await;
    assert_eq!(next_numbers(&mut stream, 1).await, more);
}

pub async fn following_an_unknown_job_waits_for_its_first_event(log: Arc<dyn EventLog>) {
    let job = JobId::generate();
    let mut stream = log.follow(job, 0).await.unwrap();
    assert_quiet(&mut stream).await;
    let reader = tokio::spawn(async move { next_numbers(&mut stream, 1).await });
    let numbers = add(&*log, job, 1).await;
    assert_eq!(reader.await.unwrap(), numbers);
}

pub async fn the_stream_does_not_end_by_itself(log: Arc<dyn EventLog>) {
    let job = JobId::generate();
    let last = log.append(job, 0, NewEvent::now(EventType::Succeeded, json!({}))).await.unwrap();
    let mut stream = log.follow(job, 0).await.unwrap();
    assert_eq!(next_event(&mut stream).await.seq, last);
    assert_quiet(&mut stream).await;
}

pub async fn a_reader_that_gives_up_waiting_loses_nothing(log: Arc<dyn EventLog>) {
    const EVENTS: usize = 200;
    let job = JobId::generate();
    let mut stream = log.follow(job, 0).await.unwrap();
    let writer = tokio::spawn({
        let log = Arc::clone(&log);
        async move {
            let mut numbers = Vec::new();
            for _ in 0..EVENTS {
                numbers.extend(add(&*log, job, 1).await);
                tokio::task::yield_now().await;
            }
            numbers
        }
    });
    let mut rng = StdRng::seed_from_u64(11);
    let (mut got, mut last_news) = (Vec::new(), Instant::now());
    while got.len() < EVENTS {
        assert!(last_news.elapsed() < PATIENCE, "only {} of {EVENTS} came", got.len());
        let patience = Duration::from_micros(rng.random_range(0..500));
        if let Ok(Some(Followed::Event(event))) = timeout(patience, stream.next()).await {
            got.push(event.seq);
            last_news = Instant::now();
        }
    }
    assert_eq!(got, writer.await.unwrap());
}

/// Four writers at once; returns all numbers, in order.
async fn write_from_four(log: Arc<dyn EventLog>, job: JobId, each: usize) -> Vec<u64> {
    let writers = (0..4).map(|_| {
        let log = Arc::clone(&log);
        tokio::spawn(async move {
            let mut numbers = Vec::new();
            for _ in 0..each {
                numbers.extend(add(&*log, job, 1).await);
                tokio::task::yield_now().await;
            }
            numbers
        })
    });
    let mut all = Vec::new();
    for writer in futures::future::join_all(writers).await {
        let own = writer.unwrap();
        assert_growing(&own);
        all.extend(own);
    }
    all.sort_unstable();
    all
}

pub async fn concurrent_appends_get_numbers_of_their_own(log: Arc<dyn EventLog>) {
    let job = JobId::generate();
    let numbers = write_from_four(Arc::clone(&log), job, 100).await;
    assert_growing(&numbers);
    let read: Vec<_> = log.read(job).await.unwrap().iter().map(|event| event.seq).collect();
    assert_eq!(read, numbers);
}

pub async fn readers_that_join_at_any_time_see_no_gap_and_no_repetition(log: Arc<dyn EventLog>) {
    const EACH: usize = 250;
    let job = JobId::generate();
    let readers: Vec<_> = (0..20)
        .map(|seed| {
            let log = Arc::clone(&log);
            tokio::spawn(async move {
                let mut rng = StdRng::seed_from_u64(seed);
                let mut got: Vec<u64> = Vec::new();
                while got.len() < 4 * EACH {
                    for _ in 0..rng.random_range(0..20) {
                        tokio::task::yield_now().await;
                    }
                    // It leaves now and then, and comes again where it left.
                    let after = got.last().copied().unwrap_or(0);
                    let mut stream = log.follow(job, after).await.unwrap();
                    let stay = rng.random_range(1..=300).min(4 * EACH - got.len());
                    got.extend(next_numbers(&mut stream, stay).await);
                }
                got
            })
        })
        .collect();
    let numbers = write_from_four(Arc::clone(&log), job, EACH).await;
    for reader in readers {
        assert_eq!(reader.await.unwrap(), numbers);
    }
}

pub async fn a_slow_reader_holds_nobody_up_and_is_told_what_it_missed(log: Arc<dyn EventLog>) {
    let job = JobId::generate();
    let mut numbers = add(&*log, job, 5).await;
    let mut slow = log.follow(job, 0).await.unwrap();
    assert_eq!(next_event(&mut slow).await.seq, numbers[0]);
    // It reads nothing while all this is written.
    numbers.extend(timeout(6 * PATIENCE, add(&*log, job, 500)).await.expect("a reader holds the writer up"));
    let kept: Vec<_> = log.read(job).await.unwrap().iter().map(|event| event.seq).collect();
    assert!(kept.len() < 400, "a log of 20 events a job keeps {}", kept.len());
    assert!(numbers.ends_with(&kept), "the newest are kept");

    // A reader may have fetched some events ahead; from there on, each event comes, or is among those missed.
    let (mut place, mut missed) = (1, false);
    while place < numbers.len() {
        match next(&mut slow).await {
            Followed::Event(event) => {
                assert_eq!(event.seq, numbers[place], "a gap or a repetition");
                place += 1;
            }
            Followed::Missed { up_to } => {
                assert!(up_to >= numbers[place], "nothing was missed up to {up_to}");
                place = numbers.partition_point(|number| *number <= up_to);
                missed = true;
            }
        }
    }
    assert!(missed);
    assert_quiet(&mut slow).await;

    let mut late = log.follow(job, numbers[0]).await.unwrap();
    assert!(matches!(next(&mut late).await, Followed::Missed { up_to } if up_to < kept[0]));
    assert_eq!(next_numbers(&mut late, kept.len()).await, kept);
}

pub async fn readers_that_are_left_alone_hold_up_no_other(log: Arc<dyn EventLog>) {
    let job = JobId::generate();
    let numbers = add(&*log, job, 100).await;
    let mut left_alone = Vec::new();
    for _ in 0..200 {
        left_alone.push(log.follow(job, 0).await.unwrap());
    }
    // Each is polled now and then, until it has begun to read, and gets no further. What it says, if anything, is of no interest.
    for _ in 0..2 {
        for stream in &mut left_alone {
            let _ = futures::poll!(stream.next());
            tokio::task::yield_now().await;
        }
        tokio::time::sleep(5 * MOMENT).await;
    }
    let mut stream = log.follow(job, 0).await.unwrap();
    assert_eq!(next_numbers(&mut stream, numbers.len()).await, numbers);
    drop(left_alone);
}

pub async fn what_is_forgotten_is_gone(log: Arc<dyn EventLog>) {
    let (job, other) = (JobId::generate(), JobId::generate());
    add(&*log, job, 3).await;
    add(&*log, other, 3).await;
    log.forget(job).await.unwrap();
    let begun = Instant::now();
    while !log.read(job).await.unwrap().is_empty() {
        assert!(begun.elapsed() < PATIENCE, "it is still there");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(log.read(other).await.unwrap().len(), 3);
    log.forget(job).await.unwrap();
}
