//! The promises of [`Broker`]. Time is real: "not before" is checked exactly, "at once" only by a generous limit on waiting.

use std::{
    collections::{HashMap, HashSet},
    future::Future,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use rand::{Rng, SeedableRng, rngs::StdRng};
use tokio::time::timeout;

use crate::{
    domain::{JobId, Priority, Stage, Tenant},
    message::Message,
    ports::{Broker, Consumer, Delivered, Depth, Envelope, ErrorKind},
};

const STAGE: Stage = Stage::Retrieval;
/// What must come is waited for so long.
const PATIENCE: Duration = Duration::from_secs(10);
/// What must not come is waited for so long. A broken broker may be missed by it, a sound one is never blamed.
const MOMENT: Duration = Duration::from_millis(60);
const NOW: Duration = Duration::ZERO;

/// What a broker under test is to be set to.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// How many messages a queue takes before it refuses.
    pub capacity: usize,
    /// How often a message is delivered before it is given up.
    pub max_attempts: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self { capacity: 10_000, max_attempts: 3 }
    }
}

/// Runs the whole suite; `fresh` makes an empty broker that shares nothing with those before.
pub async fn run_all<F, B>(fresh: F)
where
    F: Fn(Limits) -> B,
    B: Future<Output = Arc<dyn Broker>>,
{
    let with_defaults = || fresh(Limits::default());
    a_message_is_delivered_as_it_was_published(with_defaults().await).await;
    an_acknowledged_message_does_not_come_again(with_defaults().await).await;
    queues_are_apart(with_defaults().await).await;
    a_dropped_delivery_comes_back_at_once(with_defaults().await).await;
    unsettled_messages_of_a_consumer_that_went_come_back(with_defaults().await).await;
    a_nacked_message_comes_back_after_its_delay_and_not_before(with_defaults().await).await;
    a_nacked_message_holds_no_other_up(with_defaults().await).await;
    a_delayed_message_is_visible_after_its_delay_and_not_before(with_defaults().await).await;
    after_the_most_attempts_a_message_is_a_dead_letter_with_its_cause(with_defaults().await).await;
    handing_back_counts_as_no_attempt(with_defaults().await).await;
    dead_letters_are_listed_oldest_first_and_purged(with_defaults().await).await;
    a_replayed_dead_letter_has_its_attempts_counted_anew(with_defaults().await).await;
    a_full_queue_refuses_and_loses_nothing(fresh(Limits { capacity: 20, ..Limits::default() }).await).await;
    a_full_queue_takes_what_comes_back(fresh(Limits { capacity: 4, ..Limits::default() }).await).await;
    messages_of_a_tenant_come_in_the_order_published(with_defaults().await).await;
    a_tenant_with_many_messages_does_not_starve_another(with_defaults().await).await;
    a_lower_class_waits_but_is_not_starved(with_defaults().await).await;
    every_waiting_consumer_is_woken_for_a_message(with_defaults().await).await;
    a_dropped_call_for_the_next_loses_no_message(with_defaults().await).await;
    depth_tells_where_messages_are(with_defaults().await).await;
    let patient = Limits { max_attempts: 1_000, ..Limits::default() };
    each_message_is_acknowledged_once_however_consumers_behave(fresh(patient).await).await;
}

fn envelope(priority: Priority, tenant: &str) -> Envelope {
    Envelope {
        message: Message::Job { job_id: JobId::generate(), stage: STAGE },
        priority,
        tenant: Tenant::new(tenant).unwrap(),
    }
}

async fn publish(broker: &dyn Broker, priority: Priority, tenant: &str) -> Envelope {
    let envelope = envelope(priority, tenant);
    broker.publish(STAGE, envelope.clone(), NOW).await.unwrap();
    envelope
}

async fn publish_one(broker: &dyn Broker) -> Envelope {
    publish(broker, Priority::Normal, "acme").await
}

async fn next(consumer: &mut Box<dyn Consumer>) -> Box<dyn Delivered> {
    timeout(PATIENCE, consumer.next()).await.expect("no message came").unwrap()
}

async fn assert_quiet(consumer: &mut Box<dyn Consumer>) {
    if let Ok(delivered) = timeout(MOMENT, consumer.next()).await {
        panic!("a message came that should not: {:?}", delivered.unwrap().envelope());
    }
}

/// Waits until the depth is as expected; a server's counts may lag behind.
async fn assert_depth(broker: &dyn Broker, expected: Depth) {
    let begun = Instant::now();
    loop {
        let depth = broker.depth(STAGE).await.unwrap();
        if depth == expected {
            return;
        }
        assert!(begun.elapsed() < PATIENCE, "the depth stays {depth:?} and not {expected:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Delivers a message until it is given up, the last time for `cause`.
async fn kill(broker: &dyn Broker, consumer: &mut Box<dyn Consumer>, cause: &str) -> Envelope {
    let sent = publish_one(broker).await;
    for attempt in 1..=Limits::default().max_attempts {
        let delivered = next(consumer).await;
        assert_eq!((delivered.envelope(), delivered.attempt()), (&sent, attempt));
        delivered.nack(NOW, cause).await.unwrap();
    }
    sent
}

pub async fn a_message_is_delivered_as_it_was_published(broker: Arc<dyn Broker>) {
    let sent = publish(&*broker, Priority::Batch, "tenant-2").await;
    let mut consumer = broker.consume(STAGE).await.unwrap();
    let delivered = next(&mut consumer).await;
    assert_eq!(delivered.envelope(), &sent);
    assert_eq!(delivered.attempt(), 1);
    delivered.ack().await.unwrap();
}

pub async fn an_acknowledged_message_does_not_come_again(broker: Arc<dyn Broker>) {
    publish_one(&*broker).await;
    let mut consumer = broker.consume(STAGE).await.unwrap();
    next(&mut consumer).await.ack().await.unwrap();
    drop(consumer);
    let mut consumer = broker.consume(STAGE).await.unwrap();
    assert_quiet(&mut consumer).await;
    assert_depth(&*broker, Depth::default()).await;
}

pub async fn queues_are_apart(broker: Arc<dyn Broker>) {
    let sent = publish_one(&*broker).await;
    for stage in Stage::ALL.into_iter().filter(|stage| *stage != STAGE) {
        let mut consumer = broker.consume(stage).await.unwrap();
        assert_quiet(&mut consumer).await;
    }
    let mut consumer = broker.consume(STAGE).await.unwrap();
    let delivered = next(&mut consumer).await;
    assert_eq!(delivered.envelope(), &sent);
    delivered.ack().await.unwrap();
}

pub async fn a_dropped_delivery_comes_back_at_once(broker: Arc<dyn Broker>) {
    let sent = publish_one(&*broker).await;
    let mut consumer = broker.consume(STAGE).await.unwrap();
    drop(next(&mut consumer).await);
    let delivered = next(&mut consumer).await;
    assert_eq!((delivered.envelope(), delivered.attempt()), (&sent, 2));
    delivered.ack().await.unwrap();
}

pub async fn unsettled_messages_of_a_consumer_that_went_come_back(broker: Arc<dyn Broker>) {
    let sent = [publish_one(&*broker).await, publish_one(&*broker).await];
    let worker = tokio::spawn({
        let broker = Arc::clone(&broker);
        async move {
            let mut consumer = broker.consume(STAGE).await.unwrap();
            let _kept = (next(&mut consumer).await, next(&mut consumer).await);
            panic!("the worker dies on purpose");
        }
    });
    assert!(worker.await.is_err());
    let mut consumer = broker.consume(STAGE).await.unwrap();
    let again = [next(&mut consumer).await, next(&mut consumer).await];
    for delivered in again {
        assert!(sent.contains(delivered.envelope()));
        delivered.ack().await.unwrap();
    }
}

pub async fn a_nacked_message_comes_back_after_its_delay_and_not_before(broker: Arc<dyn Broker>) {
    let delay = Duration::from_millis(150);
    let sent = publish_one(&*broker).await;
    let mut consumer = broker.consume(STAGE).await.unwrap();
    let delivered = next(&mut consumer).await;
    let begun = Instant::now();
    delivered.nack(delay, "not yet").await.unwrap();
    let delivered = next(&mut consumer).await;
    assert!(begun.elapsed() >= delay, "it came back after {:?}", begun.elapsed());
    assert_eq!((delivered.envelope(), delivered.attempt()), (&sent, 2));
    delivered.ack().await.unwrap();
}

pub async fn a_nacked_message_holds_no_other_up(broker: Arc<dyn Broker>) {
    let late = publish_one(&*broker).await;
    let mut consumer = broker.consume(STAGE).await.unwrap();
    let delivered = next(&mut consumer).await;
    assert_eq!(delivered.envelope(), &late);
    delivered.nack(Duration::from_secs(3_600), "much later").await.unwrap();
    let other = publish_one(&*broker).await;
    let delivered = next(&mut consumer).await;
    assert_eq!(delivered.envelope(), &other);
    delivered.ack().await.unwrap();
    assert_depth(&*broker, Depth { delayed: 1, ..Depth::default() }).await;
}

pub async fn a_delayed_message_is_visible_after_its_delay_and_not_before(broker: Arc<dyn Broker>) {
    let (long, short) = (Duration::from_millis(300), Duration::from_millis(100));
    let begun = Instant::now();
    let (last, first, now) = (
        envelope(Priority::Normal, "acme"),
        envelope(Priority::Normal, "acme"),
        envelope(Priority::Normal, "acme"),
    );
    broker.publish(STAGE, last.clone(), long).await.unwrap();
    broker.publish(STAGE, first.clone(), short).await.unwrap();
    broker.publish(STAGE, now.clone(), NOW).await.unwrap();
    let mut consumer = broker.consume(STAGE).await.unwrap();
    // In which order they come depends on how long this test itself takes; not before their time, in any case.
    let mut times = HashMap::from([(id(&now), NOW), (id(&first), short), (id(&last), long)]);
    while !times.is_empty() {
        let delivered = next(&mut consumer).await;
        let delay = times.remove(&id(delivered.envelope())).expect("each comes once");
        assert!(begun.elapsed() >= delay, "it came after {:?} and not {delay:?}", begun.elapsed());
        delivered.ack().await.unwrap();
    }
}

pub async fn after_the_most_attempts_a_message_is_a_dead_letter_with_its_cause(broker: Arc<dyn Broker>) {
    let mut consumer = broker.consume(STAGE).await.unwrap();
    let sent = kill(&*broker, &mut consumer, "the model said no").await;
    assert_quiet(&mut consumer).await;
    assert_depth(&*broker, Depth { dead: 1, ..Depth::default() }).await;
    let dead = broker.dead_letters(STAGE, 10).await.unwrap();
    assert_eq!(dead.len(), 1);
    assert_eq!(dead[0].envelope, sent);
    assert_eq!(dead[0].cause, "the model said no");
    assert_eq!(dead[0].attempts, Limits::default().max_attempts);
}

pub async fn handing_back_counts_as_no_attempt(broker: Arc<dyn Broker>) {
    let sent = publish_one(&*broker).await;
    let mut consumer = broker.consume(STAGE).await.unwrap();
    for _ in 0..Limits::default().max_attempts * 3 {
        let delivered = next(&mut consumer).await;
        assert_eq!((delivered.envelope(), delivered.attempt()), (&sent, 1));
        delivered.hand_back().await.unwrap();
    }
    next(&mut consumer).await.ack().await.unwrap();
    assert_depth(&*broker, Depth::default()).await;
}

pub async fn dead_letters_are_listed_oldest_first_and_purged(broker: Arc<dyn Broker>) {
    let mut consumer = broker.consume(STAGE).await.unwrap();
    for cause in ["one", "two", "three"] {
        kill(&*broker, &mut consumer, cause).await;
    }
    assert_depth(&*broker, Depth { dead: 3, ..Depth::default() }).await;
    let causes = |limit| {
        let broker = Arc::clone(&broker);
        async move {
            let dead = broker.dead_letters(STAGE, limit).await.unwrap();
            dead.into_iter().map(|letter| letter.cause).collect::<Vec<_>>()
        }
    };
    assert_eq!(causes(10).await, ["one", "two", "three"]);
    assert_eq!(causes(2).await, ["one", "two"]);
    assert_eq!(broker.purge_dead_letters(STAGE).await.unwrap(), 3);
    assert_eq!(broker.purge_dead_letters(STAGE).await.unwrap(), 0);
    assert!(causes(10).await.is_empty());
    assert_quiet(&mut consumer).await;
}

pub async fn a_replayed_dead_letter_has_its_attempts_counted_anew(broker: Arc<dyn Broker>) {
    let mut consumer = broker.consume(STAGE).await.unwrap();
    let kept = kill(&*broker, &mut consumer, "kept").await;
    let replayed = kill(&*broker, &mut consumer, "replayed").await;
    assert_depth(&*broker, Depth { dead: 2, ..Depth::default() }).await;
    let dead = broker.dead_letters(STAGE, 10).await.unwrap();
    assert!(broker.replay(STAGE, &dead[1].id).await.unwrap());
    let delivered = next(&mut consumer).await;
    assert_eq!((delivered.envelope(), delivered.attempt()), (&replayed, 1));
    delivered.ack().await.unwrap();
    assert!(!broker.replay(STAGE, &dead[1].id).await.unwrap(), "it is no longer there");
    assert!(!broker.replay(STAGE, "no such id").await.unwrap());
    let left = broker.dead_letters(STAGE, 10).await.unwrap();
    assert_eq!(left.iter().map(|letter| &letter.envelope).collect::<Vec<_>>(), [&kept]);
}

pub async fn a_full_queue_refuses_and_loses_nothing(broker: Arc<dyn Broker>) {
    let publishers = (0..8).map(|_| {
        let broker = Arc::clone(&broker);
        tokio::spawn(async move {
            let mut accepted = Vec::new();
            for _ in 0..20 {
                let envelope = envelope(Priority::Normal, "acme");
                match broker.publish(STAGE, envelope.clone(), NOW).await {
                    Ok(()) => accepted.push(id(&envelope)),
                    Err(refused) => assert_eq!(refused.kind(), ErrorKind::Overloaded, "{refused}"),
                }
            }
            accepted
        })
    });
    let accepted: HashSet<JobId> =
        futures::future::join_all(publishers).await.into_iter().flat_map(Result::unwrap).collect();
    assert!(accepted.len() < 160, "a queue for 20 took 160");
    assert!(accepted.len() >= 20, "a queue for 20 took {}", accepted.len());

    let mut consumer = broker.consume(STAGE).await.unwrap();
    let mut got = HashSet::new();
    for _ in 0..accepted.len() {
        let delivered = next(&mut consumer).await;
        assert!(got.insert(id(delivered.envelope())), "a message came twice");
        delivered.ack().await.unwrap();
    }
    assert_eq!(got, accepted);
    assert_quiet(&mut consumer).await;
    publish_one(&*broker).await;
    next(&mut consumer).await.ack().await.unwrap();
}

pub async fn a_full_queue_takes_what_comes_back(broker: Arc<dyn Broker>) {
    let mut consumer = broker.consume(STAGE).await.unwrap();
    let mut taken = Vec::new();
    for _ in 0..3 {
        publish_one(&*broker).await;
        taken.push(next(&mut consumer).await);
    }
    let mut accepted = 3;
    while broker.publish(STAGE, envelope(Priority::Normal, "acme"), NOW).await.is_ok() {
        accepted += 1;
        assert!(accepted < 1_000, "a queue for 4 took {accepted}");
    }
    let mut taken = taken.into_iter();
    taken.next().unwrap().hand_back().await.unwrap();
    taken.next().unwrap().nack(NOW, "busy").await.unwrap();
    drop(taken.next());
    for _ in 0..accepted {
        next(&mut consumer).await.ack().await.unwrap();
    }
    assert_depth(&*broker, Depth::default()).await;
}

pub async fn messages_of_a_tenant_come_in_the_order_published(broker: Arc<dyn Broker>) {
    let mut sent = Vec::new();
    for n in 0..50 {
        let tenant = if n % 3 == 0 { "other" } else { "acme" };
        let envelope = publish(&*broker, Priority::Normal, tenant).await;
        sent.push(envelope);
    }
    let mut consumer = broker.consume(STAGE).await.unwrap();
    let mut got = Vec::new();
    for _ in 0..50 {
        let delivered = next(&mut consumer).await;
        got.push(delivered.envelope().clone());
        delivered.ack().await.unwrap();
    }
    let of = |envelopes: &[Envelope], tenant: &str| -> Vec<JobId> {
        envelopes.iter().filter(|envelope| envelope.tenant.as_str() == tenant).map(id).collect()
    };
    for tenant in ["acme", "other"] {
        assert_eq!(of(&got, tenant), of(&sent, tenant));
    }
}

pub async fn a_tenant_with_many_messages_does_not_starve_another(broker: Arc<dyn Broker>) {
    for _ in 0..200 {
        publish(&*broker, Priority::Normal, "greedy").await;
    }
    for _ in 0..3 {
        publish(&*broker, Priority::Normal, "modest").await;
    }
    let order = drain(&*broker, 203).await;
    let last = order.iter().rposition(|envelope| envelope.tenant.as_str() == "modest").unwrap();
    assert!(last < 100, "its last message came as number {last}");
}

pub async fn a_lower_class_waits_but_is_not_starved(broker: Arc<dyn Broker>) {
    for _ in 0..10 {
        publish(&*broker, Priority::Batch, "acme").await;
    }
    for _ in 0..200 {
        publish(&*broker, Priority::Interactive, "acme").await;
    }
    let order = drain(&*broker, 210).await;
    let batch = |envelope: &&Envelope| envelope.priority == Priority::Batch;
    assert!(order[..20].iter().filter(batch).count() < 10, "the higher class does not go first");
    assert!(
        order[..200].iter().filter(batch).count() > 0,
        "the lower class waits until all others are served"
    );
}

async fn drain(broker: &dyn Broker, count: usize) -> Vec<Envelope> {
    let mut consumer = broker.consume(STAGE).await.unwrap();
    let mut order = Vec::with_capacity(count);
    for _ in 0..count {
        let delivered = next(&mut consumer).await;
        order.push(delivered.envelope().clone());
        delivered.ack().await.unwrap();
    }
    order
}

pub async fn every_waiting_consumer_is_woken_for_a_message(broker: Arc<dyn Broker>) {
    let barrier = Arc::new(tokio::sync::Barrier::new(17));
    let waiting: Vec<_> = (0..16)
        .map(|_| {
            let (broker, barrier) = (Arc::clone(&broker), Arc::clone(&barrier));
            tokio::spawn(async move {
                let mut consumer = broker.consume(STAGE).await.unwrap();
                barrier.wait().await;
                // Each holds its message until all have one, so that none can serve two.
                let delivered = next(&mut consumer).await;
                barrier.wait().await;
                delivered.ack().await.unwrap();
            })
        })
        .collect();
    barrier.wait().await;
    for _ in 0..16 {
        publish_one(&*broker).await;
    }
    timeout(PATIENCE, barrier.wait()).await.expect("a consumer waits while a message does");
    for consumer in waiting {
        consumer.await.unwrap();
    }
    assert_depth(&*broker, Depth::default()).await;
}

pub async fn a_dropped_call_for_the_next_loses_no_message(broker: Arc<dyn Broker>) {
    const MESSAGES: usize = 200;
    let publisher = tokio::spawn({
        let broker = Arc::clone(&broker);
        async move {
            for _ in 0..MESSAGES {
                publish_one(&*broker).await;
                tokio::task::yield_now().await;
            }
        }
    });
    let mut consumer = broker.consume(STAGE).await.unwrap();
    let mut rng = StdRng::seed_from_u64(7);
    let (mut got, mut last_news) = (HashSet::new(), Instant::now());
    while got.len() < MESSAGES {
        assert!(last_news.elapsed() < PATIENCE, "only {} of {MESSAGES} came", got.len());
        let patience = Duration::from_micros(rng.random_range(0..500));
        if let Ok(delivered) = timeout(patience, consumer.next()).await {
            let delivered = delivered.unwrap();
            assert!(got.insert(id(delivered.envelope())), "a message came twice");
            delivered.ack().await.unwrap();
            last_news = Instant::now();
        }
    }
    publisher.await.unwrap();
}

pub async fn depth_tells_where_messages_are(broker: Arc<dyn Broker>) {
    let mut consumer = broker.consume(STAGE).await.unwrap();
    kill(&*broker, &mut consumer, "bad").await;
    for _ in 0..3 {
        publish_one(&*broker).await;
    }
    let hour = Duration::from_secs(3_600);
    broker.publish(STAGE, envelope(Priority::Normal, "acme"), hour).await.unwrap();
    let taken = next(&mut consumer).await;
    // Where messages are fetched ahead, they wait for settlement in the consumer; so only the sums are told.
    let begun = Instant::now();
    loop {
        let depth = broker.depth(STAGE).await.unwrap();
        if depth.unsettled >= 1 && depth.ready + depth.unsettled == 3 && (depth.delayed, depth.dead) == (1, 1)
        {
            break;
        }
        assert!(begun.elapsed() < PATIENCE, "the depth stays {depth:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    taken.ack().await.unwrap();
}

/// Eight consumers settle 2,000 messages at random: acknowledge, refuse, hand back, drop, or die.
pub async fn each_message_is_acknowledged_once_however_consumers_behave(broker: Arc<dyn Broker>) {
    const MESSAGES: usize = 2_000;
    const CONSUMERS: u64 = 8;
    let acknowledged: Arc<Mutex<HashMap<JobId, u32>>> = Arc::default();
    let consumers: Vec<_> = (0..CONSUMERS)
        .map(|seed| {
            let (broker, acknowledged) = (Arc::clone(&broker), Arc::clone(&acknowledged));
            tokio::spawn(async move {
                let mut rng = StdRng::seed_from_u64(seed);
                let mut consumer = broker.consume(STAGE).await.unwrap();
                while acknowledged.lock().unwrap().len() < MESSAGES {
                    // Ends soon after the last message, which another consumer may have got.
                    let Ok(delivered) = timeout(MOMENT, consumer.next()).await else { continue };
                    let delivered = delivered.unwrap();
                    let job = id(delivered.envelope());
                    match rng.random_range(0..10) {
                        0 => {
                            let delay = Duration::from_millis(rng.random_range(0..20));
                            delivered.nack(delay, "chance").await.unwrap();
                        }
                        1 => delivered.hand_back().await.unwrap(),
                        2 => drop(delivered),
                        3 => {
                            // Another consumer in its place.
                            consumer = broker.consume(STAGE).await.unwrap();
                            drop(delivered);
                        }
                        4 => {
                            tokio::task::yield_now().await;
                            delivered.hand_back().await.unwrap();
                        }
                        _ => {
                            delivered.ack().await.unwrap();
                            *acknowledged.lock().unwrap().entry(job).or_default() += 1;
                        }
                    }
                }
            })
        })
        .collect();
    let mut sent = HashSet::new();
    for n in 0..MESSAGES {
        let tenant = ["acme", "beta", "gamma"][n % 3];
        let envelope = envelope(Priority::ALL[n % 7 % 3], tenant);
        let delay = Duration::from_millis(if n % 5 == 0 { 10 } else { 0 });
        broker.publish(STAGE, envelope.clone(), delay).await.unwrap();
        sent.insert(id(&envelope));
    }
    let all = futures::future::join_all(consumers);
    for consumer in timeout(6 * PATIENCE, all).await.expect("messages were lost") {
        consumer.unwrap();
    }
    let acknowledged = std::mem::take(&mut *acknowledged.lock().unwrap());
    assert_eq!(acknowledged.keys().copied().collect::<HashSet<_>>(), sent);
    assert!(acknowledged.values().all(|times| *times == 1), "a message was acknowledged twice");
    assert_depth(&*broker, Depth::default()).await;
}

fn id(envelope: &Envelope) -> JobId {
    match &envelope.message {
        Message::Job { job_id, .. } => *job_id,
        other @ Message::Delivery { .. } => panic!("{other:?} was never sent"),
    }
}
