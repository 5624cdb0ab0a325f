//! Connections that are cut, a Redis that is gone or has lost its data.

use super::*;
use crate::redis_client::{RedisSettings, testing::Proxy};

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn cut_connections_lose_and_repeat_nothing() {
    const EVENTS: usize = 600;
    let Some(corner) =
        Corner::of_test_server("event_log::redis::tests::faults::cut_connections_lose_and_repeat_nothing")
    else {
        return;
    };
    let proxy = Proxy::before(corner.address()).await;
    let log = log_of(RedisClient::new(&corner.settings_through(&proxy)).unwrap());
    let job = JobId::generate();
    let readers: Vec<_> = (0..10)
        .map(|_| {
            let log = Arc::clone(&log);
            tokio::spawn(async move {
                let mut stream = log.follow(job, 0).await.unwrap();
                next_numbers(&mut stream, EVENTS).await
            })
        })
        .collect();
    let mut numbers = Vec::new();
    for n in 0..EVENTS {
        if n % 50 == 25 {
            // While the append is on its way.
            let proxy = Arc::clone(&proxy);
            tokio::spawn(async move { proxy.cut() });
        }
        numbers.push(log.append(job, 0, delta(n)).await.unwrap());
    }
    assert!(numbers.is_sorted_by(|a, b| a < b));
    let texts: Vec<_> = log.read(job).await.unwrap().into_iter().map(|event| event.data).collect();
    assert_eq!(texts, (0..EVENTS).map(|n| delta(n).data).collect::<Vec<_>>(), "each was added once");
    for reader in readers {
        assert_eq!(reader.await.unwrap(), numbers);
    }
}

#[tokio::test]
async fn an_append_whose_answer_was_lost_is_not_made_twice() {
    let Some(corner) = Corner::of_test_server(
        "event_log::redis::tests::faults::an_append_whose_answer_was_lost_is_not_made_twice",
    ) else {
        return;
    };
    let proxy = Proxy::before(corner.address()).await;
    let log = log_of(RedisClient::new(&corner.settings_through(&proxy)).unwrap());
    let job = JobId::generate();
    log.append(job, 0, queued()).await.unwrap();
    proxy.hold_answers();
    let appending = tokio::spawn({
        let log = Arc::clone(&log);
        async move { log.append(job, 0, delta(1)).await }
    });
    let key = wire::key(&corner.prefix, job);
    until("it was carried out", || {
        redis::cmd("XLEN").arg(&key).query::<usize>(&mut corner.plain()).unwrap() == 2
    })
    .await;
    // Somebody else's comes in between.
    assert_eq!(log_of(corner.client()).append(job, 0, delta(2)).await.unwrap(), 3);
    proxy.cut();
    assert_eq!(appending.await.unwrap().unwrap(), 2);
    let read: Vec<_> = log.read(job).await.unwrap().iter().map(|event| event.seq).collect();
    assert_eq!(read, [1, 2, 3]);
}

#[tokio::test]
async fn a_reader_of_a_log_that_was_lost_is_told_so_and_goes_on() {
    let Some(corner) = Corner::of_test_server(
        "event_log::redis::tests::faults::a_reader_of_a_log_that_was_lost_is_told_so_and_goes_on",
    ) else {
        return;
    };
    let log = log_of(corner.client());
    let job = JobId::generate();
    log.append(job, 0, queued()).await.unwrap();
    let mut numbers = add(&*log, job, 9).await;
    let mut stream = log.follow(job, 0).await.unwrap();
    next_numbers(&mut stream, 10).await;
    for _ in 0..3 {
        let last = *numbers.last().unwrap();
        corner.clear();
        assert_quiet(&mut stream).await;
        // Without an answer that a flush came before; the floor is of the same epoch as ever.
        numbers = add(&*log, job, 3).await;
        assert!(numbers[0] > last, "{} after {last}", numbers[0]);
        assert_eq!(next(&mut stream).await, Followed::Missed { up_to: numbers[0] - 1 });
        assert_eq!(next_numbers(&mut stream, 3).await, numbers);

        // One that comes with a number of before is told too.
        let mut late = log.follow(job, last).await.unwrap();
        assert_eq!(next(&mut late).await, Followed::Missed { up_to: numbers[0] - 1 });
        assert_eq!(next_numbers(&mut late, 3).await, numbers);
    }
    assert!(*numbers.last().unwrap() < 1 << 24, "below the next epoch's floor");
}

#[tokio::test]
async fn a_lost_log_of_an_old_job_goes_on_below_the_next_floor() {
    let Some(corner) = Corner::of_test_server(
        "event_log::redis::tests::faults::a_lost_log_of_an_old_job_goes_on_below_the_next_floor",
    ) else {
        return;
    };
    let log = log_of(corner.client());
    let long_ago = uuid::Timestamp::from_unix(uuid::NoContext, 1_000_000_000, 0);
    let in_the_future = uuid::Timestamp::from_unix(uuid::NoContext, 4_000_000_000, 0);
    for made in [long_ago, in_the_future] {
        let job = JobId(uuid::Uuid::new_v7(made));
        let seq = log.append(job, 5 << 24, delta(0)).await.unwrap();
        assert!(((5 << 24) + 65_536..6 << 24).contains(&seq), "{seq}");
    }
}

#[tokio::test]
async fn a_trimmed_stream_tells_what_was_missed() {
    let Some(corner) =
        Corner::of_test_server("event_log::redis::tests::faults::a_trimmed_stream_tells_what_was_missed")
    else {
        return;
    };
    let log = log_of(corner.client());
    let job = JobId::generate();
    log.append(job, 0, queued()).await.unwrap();
    add(&*log, job, 9).await;
    let mut slow = log.follow(job, 0).await.unwrap();
    assert_eq!(next_numbers(&mut slow, 10).await, (1..=10).collect::<Vec<_>>());
    add(&*log, job, 60).await;
    let key = wire::key(&corner.prefix, job);
    redis::cmd("XTRIM").arg(&key).arg("MAXLEN").arg(5).exec(&mut corner.plain()).unwrap();
    // Its buffer has overflowed, and the stream has only the last five of 70.
    let mut got = Vec::new();
    while got.last() != Some(&Followed::Missed { up_to: 65 }) {
        got.push(next(&mut slow).await);
        assert!(got.len() <= 60, "{got:?}");
    }
    assert_eq!(next_numbers(&mut slow, 5).await, (66..=70).collect::<Vec<_>>());
    let mut late = log.follow(job, 20).await.unwrap();
    assert_eq!(next(&mut late).await, Followed::Missed { up_to: 65 });
    assert_eq!(next_numbers(&mut late, 5).await, (66..=70).collect::<Vec<_>>());
    let mut later = log.follow(job, 67).await.unwrap();
    assert_eq!(next_numbers(&mut later, 3).await, [68, 69, 70]);
}

#[tokio::test]
async fn an_event_of_a_newer_program_is_passed_over_and_said_to_be_missed() {
    let Some(corner) = Corner::of_test_server(
        "event_log::redis::tests::faults::an_event_of_a_newer_program_is_passed_over_and_said_to_be_missed",
    ) else {
        return;
    };
    let log = log_of(corner.client());
    let job = JobId::generate();
    log.append(job, 0, queued()).await.unwrap();
    let mut stream = log.follow(job, 0).await.unwrap();
    assert_eq!(next_numbers(&mut stream, 1).await, [1]);
    let key = wire::key(&corner.prefix, job);
    redis::cmd("XADD")
        .arg(&[&key, "2-0", "before", "1", "mark", "m", "event", "{\"type\":\"job.dreaming\"}"])
        .exec(&mut corner.plain())
        .unwrap();
    redis::cmd("PUBLISH").arg(&key).arg("2 1 {\"type\":\"job.dreaming\"}").exec(&mut corner.plain()).unwrap();
    assert_eq!(next(&mut stream).await, Followed::Missed { up_to: 2 });
    assert_eq!(log.append(job, 0, delta(0)).await.unwrap(), 3);
    assert_eq!(next_numbers(&mut stream, 1).await, [3]);
    assert_eq!(log.read(job).await.unwrap().len(), 2);
}

#[tokio::test]
async fn readers_wait_for_a_redis_that_is_gone() {
    let Some(corner) =
        Corner::of_test_server("event_log::redis::tests::faults::readers_wait_for_a_redis_that_is_gone")
    else {
        return;
    };
    let proxy = Proxy::before(corner.address()).await;
    let log = log_of(RedisClient::new(&corner.settings_through(&proxy)).unwrap());
    let near = log_of(corner.client());
    let (old, new) = (JobId::generate(), JobId::generate());
    let mut numbers = add(&*log, old, 3).await;
    let mut before = log.follow(old, 0).await.unwrap();
    assert_eq!(next_numbers(&mut before, 3).await, numbers);
    proxy.close().await;
    assert!(log.append(old, 0, delta(0)).await.unwrap_err().is_transient());
    let mut during = log.follow(new, 0).await.expect("following does not fail");
    assert_quiet(&mut during).await;
    numbers.extend(add(&*near, old, 3).await);
    let others = add(&*near, new, 3).await;
    proxy.open().await;
    assert_eq!(next_numbers(&mut before, 3).await, numbers[3..]);
    assert_eq!(next_numbers(&mut during, 3).await, others);
}

#[tokio::test]
async fn a_connection_that_swallows_everything_is_noticed_by_readers() {
    let Some(corner) = Corner::of_test_server(
        "event_log::redis::tests::faults::a_connection_that_swallows_everything_is_noticed_by_readers",
    ) else {
        return;
    };
    let proxy = Proxy::before(corner.address()).await;
    let settings =
        RedisSettings { command_timeout: Duration::from_millis(250), ..corner.settings_through(&proxy) };
    let log = log_of(RedisClient::new(&settings).unwrap());
    let near = log_of(corner.client());
    let job = JobId::generate();
    let mut stream = log.follow(job, 0).await.unwrap();
    let first = add(&*near, job, 1).await;
    assert_eq!(next_numbers(&mut stream, 1).await, first);
    proxy.swallow();
    let second = add(&*near, job, 1).await;
    assert_eq!(next_numbers(&mut stream, 1).await, second);
}

#[tokio::test]
async fn an_event_that_was_never_heard_is_found_after_a_silence() {
    let test = "event_log::redis::tests::faults::an_event_that_was_never_heard_is_found_after_a_silence";
    let Some(corner) = Corner::of_test_server(test) else { return };
    let log = log_of(corner.client());
    let job = JobId::generate();
    log.append(job, 0, queued()).await.unwrap();
    let mut stream = log.follow(job, 0).await.unwrap();
    assert_eq!(next_numbers(&mut stream, 1).await, [1]);
    let body = String::from_utf8(wire::body(&delta(0)).unwrap()).unwrap();
    redis::cmd("XADD")
        .arg(&[&wire::key(&corner.prefix, job), "2-0", "before", "1", "mark", "m", "event", &body])
        .exec(&mut corner.plain())
        .unwrap();
    assert_eq!(next_numbers(&mut stream, 1).await, [2]);
}
