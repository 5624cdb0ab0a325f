//! What is true of this broker beyond the contract. Time is tokio's, paused where it matters.

use std::task::Poll;

use futures::poll;
use raglan_pipeline::{
    contract,
    domain::{JobId, Priority, Tenant},
    message::Message,
    ports::ErrorKind,
};

use super::*;

const STAGE: Stage = Stage::Retrieval;

fn settings() -> BrokerSettings {
    BrokerSettings { capacity: 100, max_attempts: 3, lease: Duration::from_secs(60), dead_letters: 2 }
}

fn envelope() -> Envelope {
    Envelope {
        message: Message::Job { job_id: JobId::generate(), stage: STAGE },
        priority: Priority::Normal,
        tenant: Tenant::default(),
    }
}

async fn publish(broker: &InProcessBroker) -> Envelope {
    let envelope = envelope();
    broker.publish(STAGE, envelope.clone(), Duration::ZERO).await.unwrap();
    envelope
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn it_keeps_the_contract() {
    contract::broker::run_all(|limits| async move {
        InProcessBroker::new(BrokerSettings {
            capacity: limits.capacity,
            max_attempts: limits.max_attempts,
            ..BrokerSettings::default()
        }) as Arc<dyn Broker>
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_message_kept_past_its_lease_comes_back_and_a_late_ack_counts_for_nothing() {
    let broker = InProcessBroker::new(settings());
    let sent = publish(&broker).await;
    let mut consumer = broker.consume(STAGE).await.unwrap();
    let kept = consumer.next().await.unwrap();
    let begun = Instant::now();
    // Nobody touches the broker meanwhile: the keeper brings it back.
    let again = consumer.next().await.unwrap();
    assert!(begun.elapsed() >= Duration::from_secs(60));
    assert_eq!((again.envelope(), again.attempt()), (&sent, 2));

    kept.ack().await.unwrap();
    assert_eq!(
        broker.depth(STAGE).await.unwrap().unsettled,
        1,
        "the second delivery is not settled by the first"
    );
    again.ack().await.unwrap();
    assert_eq!(broker.depth(STAGE).await.unwrap(), Depth::default());
}

#[tokio::test(start_paused = true)]
async fn a_late_nack_hand_back_or_drop_makes_no_second_message() {
    let broker = InProcessBroker::new(BrokerSettings { max_attempts: 10, ..settings() });
    publish(&broker).await;
    let mut consumer = broker.consume(STAGE).await.unwrap();
    let mut late = Vec::new();
    for _ in 0..3 {
        late.push(consumer.next().await.unwrap());
    }
    let last = consumer.next().await.unwrap();
    let [dropped, nacked, handed] = <[_; 3]>::try_from(late).ok().unwrap();
    drop(dropped);
    nacked.nack(Duration::ZERO, "late").await.unwrap();
    handed.hand_back().await.unwrap();
    assert_eq!(broker.depth(STAGE).await.unwrap(), Depth { unsettled: 1, ..Depth::default() });
    last.ack().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_message_that_kills_its_consumer_ends_as_a_dead_letter() {
    let broker = InProcessBroker::new(settings());
    publish(&broker).await;
    let mut consumer = broker.consume(STAGE).await.unwrap();
    for attempt in 1..=3 {
        let delivered = consumer.next().await.unwrap();
        assert_eq!(delivered.attempt(), attempt);
    }
    let dead = broker.dead_letters(STAGE, 10).await.unwrap();
    assert_eq!(dead.len(), 1);
    assert_eq!((dead[0].attempts, dead[0].cause.as_str()), (3, "its consumer went without settling it"));
}

#[tokio::test(start_paused = true)]
async fn messages_that_come_back_are_in_the_order_published() {
    let broker = InProcessBroker::new(settings());
    let mut sent = Vec::new();
    for _ in 0..5 {
        sent.push(publish(&broker).await);
    }
    let mut consumer = broker.consume(STAGE).await.unwrap();
    let (first, second) = (consumer.next().await.unwrap(), consumer.next().await.unwrap());
    first.hand_back().await.unwrap();
    drop(second);
    for expected in sent {
        let delivered = consumer.next().await.unwrap();
        assert_eq!(delivered.envelope(), &expected);
        delivered.ack().await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_delay_set_while_all_wait_for_a_later_one_is_kept() {
    let broker = InProcessBroker::new(settings());
    let (late, soon) = (envelope(), envelope());
    let begun = Instant::now();
    broker.publish(STAGE, late.clone(), Duration::from_secs(30)).await.unwrap();
    let mut consumer = broker.consume(STAGE).await.unwrap();
    let mut next = consumer.next();
    assert!(poll!(&mut next).is_pending());
    tokio::time::sleep(Duration::from_secs(1)).await;
    broker.publish(STAGE, soon.clone(), Duration::from_secs(5)).await.unwrap();
    let delivered = next.await.unwrap();
    assert_eq!(delivered.envelope(), &soon);
    let waited = begun.elapsed();
    assert!((Duration::from_secs(6)..Duration::from_secs(7)).contains(&waited), "{waited:?}");
    delivered.ack().await.unwrap();

    let delivered = consumer.next().await.unwrap();
    assert_eq!(delivered.envelope(), &late);
    assert!(begun.elapsed() >= Duration::from_secs(30));
    delivered.ack().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_delay_beyond_all_clocks_is_no_panic() {
    let broker = InProcessBroker::new(settings());
    broker.publish(STAGE, envelope(), Duration::MAX).await.unwrap();
    assert_eq!(broker.depth(STAGE).await.unwrap().delayed, 1);
}

#[tokio::test(start_paused = true)]
async fn a_refusal_says_when_to_come_again_and_delayed_messages_count() {
    let broker = InProcessBroker::new(BrokerSettings { capacity: 2, ..settings() });
    publish(&broker).await;
    broker.publish(STAGE, envelope(), Duration::from_secs(5)).await.unwrap();
    let refused = broker.publish(STAGE, envelope(), Duration::ZERO).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Overloaded);
    assert_eq!(refused.retry_after(), Some(Duration::from_secs(1)));
}

#[tokio::test(start_paused = true)]
async fn dead_letters_are_bounded_and_the_oldest_go() {
    let broker = InProcessBroker::new(BrokerSettings { max_attempts: 1, ..settings() });
    let mut consumer = broker.consume(STAGE).await.unwrap();
    for n in 0..5 {
        publish(&broker).await;
        let cause = format!("cause {n} {}", "ü".repeat(5_000));
        consumer.next().await.unwrap().nack(Duration::ZERO, &cause).await.unwrap();
    }
    let dead = broker.dead_letters(STAGE, 10).await.unwrap();
    assert_eq!(dead.len(), 2);
    assert!(dead[0].cause.starts_with("cause 3 ") && dead[1].cause.starts_with("cause 4 "));
    assert!(dead.iter().all(|letter| letter.cause.len() <= 2_000));
    assert_ne!(dead[0].id, dead[1].id);
}

#[tokio::test(start_paused = true)]
async fn waiting_consumers_are_served_first_come_first_served() {
    let broker = InProcessBroker::new(settings());
    let mut consumers = Vec::new();
    for _ in 0..3 {
        consumers.push(broker.consume(STAGE).await.unwrap());
    }
    let mut waiting: Vec<_> = consumers.iter_mut().map(|consumer| consumer.next()).collect();
    for next in &mut waiting {
        assert!(poll!(next.as_mut()).is_pending());
    }
    // Whoever gives up passes its turn on.
    let given_up = waiting.remove(0);
    publish(&broker).await;
    drop(given_up);
    let Poll::Ready(first) = poll!(waiting[0].as_mut()) else { panic!("the longest waiting was not woken") };
    assert!(poll!(waiting[1].as_mut()).is_pending());
    first.unwrap().ack().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_keepers_end_with_the_broker() {
    let alive = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let before = alive();
    let broker = InProcessBroker::new(settings());
    broker.publish(STAGE, envelope(), Duration::from_secs(3_600)).await.unwrap();
    assert_eq!(alive(), before + 4);
    drop(broker);
    while alive() > before {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn its_metrics_say_what_happened_and_what_is_there() {
    let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
    let rendered = recorder.handle();
    let broker = ::metrics::with_local_recorder(&recorder, || {
        InProcessBroker::new(BrokerSettings { capacity: 4, max_attempts: 1, ..settings() })
    });
    let mut consumer = broker.consume(STAGE).await.unwrap();
    for _ in 0..4 {
        publish(&broker).await;
    }
    broker.publish(STAGE, envelope(), Duration::ZERO).await.unwrap_err();
    consumer.next().await.unwrap().ack().await.unwrap();
    consumer.next().await.unwrap().nack(Duration::ZERO, "no").await.unwrap();
    let _kept = consumer.next().await.unwrap();

    let text = rendered.render();
    for expected in [
        r#"raglan_queue_published_total{queue="retrieval"} 4"#,
        r#"raglan_queue_refused_total{queue="retrieval"} 1"#,
        r#"raglan_queue_acked_total{queue="retrieval"} 1"#,
        r#"raglan_queue_nacked_total{queue="retrieval"} 1"#,
        r#"raglan_queue_dead_total{queue="retrieval"} 1"#,
        r#"raglan_queue_messages{queue="retrieval",state="ready"} 1"#,
        r#"raglan_queue_messages{queue="retrieval",state="unsettled"} 1"#,
        r#"raglan_queue_messages{queue="retrieval",state="dead"} 1"#,
        r#"raglan_queue_messages{queue="retrieval",state="delayed"} 0"#,
        r#"raglan_queue_messages{queue="webhook",state="ready"} 0"#,
    ] {
        assert!(text.lines().any(|line| line == expected), "no {expected} in\n{text}");
    }
}
