//! The connection goes away, in all ways in which connections do.

use std::{
    collections::{HashMap, HashSet},
    sync::atomic::{AtomicUsize, Ordering},
};

use futures::poll;

use super::{proxy::Proxy, *};

/// A broker behind a proxy.
async fn behind_a_proxy(
    queues: &mut Queues,
    change: impl Fn(&mut RabbitMqSettings),
) -> (Arc<RabbitMqBroker>, Proxy) {
    let proxy = Proxy::start(&amqp_url()).await;
    let mut settings = queues.settings();
    settings.url = proxy.url(&amqp_url());
    change(&mut settings);
    (RabbitMqBroker::connect(settings).await.unwrap(), proxy)
}

/// Publishes until it is accepted; what fails meanwhile must say that trying again helps.
async fn publish_until_accepted(broker: &RabbitMqBroker, envelope: &Envelope, delay: Duration) {
    let accepted = async {
        while let Err(error) = broker.publish(STAGE, envelope.clone(), delay).await {
            assert!(error.is_transient(), "{error:?}");
        }
    };
    timeout(PATIENCE, accepted).await.expect("nothing is accepted any more");
}

/// Waits until so many messages have come that nobody took. What is still on its way when its subscription ends was delivered, for RabbitMQ. They
/// may have gone back already, being unwanted; so it does not wait for long.
async fn until_fetched(broker: &RabbitMqBroker, count: u64) {
    let unsettled = &broker.client.queue(STAGE).unsettled;
    let fetched = async {
        while unsettled.load(Ordering::Relaxed) < count {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let _ = timeout(Duration::from_secs(2), fetched).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nothing_is_lost_when_the_connection_is_cut() {
    const MESSAGES: usize = 200;
    const CUTS: [usize; 3] = [40, 90, 150];
    let name = "broker::rabbitmq::nothing_is_lost_when_the_connection_is_cut";
    let Some(mut queues) = Queues::new(name).await else { return };
    let (broker, proxy) = behind_a_proxy(&mut queues, |settings| settings.max_attempts = 100).await;
    let begun = Arc::new(AtomicUsize::new(0));
    let proxy = Arc::new(proxy);
    let publishers: Vec<_> = (0..8)
        .map(|_| {
            let (broker, proxy, begun) = (Arc::clone(&broker), Arc::clone(&proxy), Arc::clone(&begun));
            tokio::spawn(async move {
                let mut sent = Vec::new();
                loop {
                    let number = begun.fetch_add(1, Ordering::Relaxed);
                    if number >= MESSAGES {
                        return sent;
                    }
                    if CUTS.contains(&number) {
                        proxy.cut();
                    }
                    let envelope = envelope();
                    publish_until_accepted(&broker, &envelope, NOW).await;
                    sent.push(id(&envelope));
                }
            })
        })
        .collect();
    let consumer = tokio::spawn({
        let (broker, proxy) = (Arc::clone(&broker), Arc::clone(&proxy));
        async move {
            let mut consumer = broker.consume(STAGE).await.unwrap();
            let mut settled = HashMap::<JobId, u32>::new();
            while settled.len() < MESSAGES {
                let delivered = next(&mut consumer).await;
                let id = id(delivered.envelope());
                if settled.len() == MESSAGES / 2 {
                    // With a message in hand, and whatever was fetched in advance.
                    proxy.cut();
                }
                match delivered.ack().await {
                    Ok(()) => *settled.entry(id).or_default() += 1,
                    Err(error) => assert!(error.is_transient(), "{error:?}"),
                }
            }
            settled.into_keys().collect::<HashSet<_>>()
        }
    });
    let sent: HashSet<JobId> =
        futures::future::join_all(publishers).await.into_iter().flat_map(Result::unwrap).collect();
    assert_eq!(sent.len(), MESSAGES);
    assert_eq!(timeout(2 * PATIENCE, consumer).await.expect("messages were lost").unwrap(), sent);
    broker.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_there_is_no_connection_publishers_are_refused_and_consumers_wait() {
    let name = "broker::rabbitmq::while_there_is_no_connection_publishers_are_refused_and_consumers_wait";
    let Some(mut queues) = Queues::new(name).await else { return };
    let short = |settings: &mut RabbitMqSettings| settings.publish_wait = Duration::from_millis(50);
    let (broker, proxy) = behind_a_proxy(&mut queues, short).await;
    let mut consumer = broker.consume(STAGE).await.unwrap();
    publish(&broker).await;
    let kept = next(&mut consumer).await;
    assert!(broker.check().await.unwrap().starts_with("connected"));

    proxy.down();
    // The first ones may still be on their way when the connection goes; then there is none.
    let refused = async {
        loop {
            let refused = broker.publish(STAGE, envelope(), NOW).await;
            if refused.is_err_and(|error| error.kind() == ErrorKind::Unavailable)
                && broker.check().await.is_err()
            {
                return;
            }
        }
    };
    timeout(PATIENCE, refused).await.expect("publishers are not refused");
    assert_eq!(broker.depth(Stage::Webhook).await.unwrap_err().kind(), ErrorKind::Unavailable);
    {
        let mut waiting = consumer.next();
        assert!(poll!(&mut waiting).is_pending());
    }
    let not_acked = kept.ack().await.unwrap_err();
    assert!(not_acked.is_transient());

    proxy.up();
    let again = next(&mut consumer).await;
    assert_eq!(again.attempt(), 2);
    again.ack().await.unwrap();
    broker.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_says_nothing_more_is_given_up() {
    let name = "broker::rabbitmq::a_connection_that_says_nothing_more_is_given_up";
    let Some(mut queues) = Queues::new(name).await else { return };
    let impatient = |settings: &mut RabbitMqSettings| settings.confirm_timeout = Duration::from_millis(300);
    let (broker, proxy) = behind_a_proxy(&mut queues, impatient).await;
    let mut consumer = broker.consume(STAGE).await.unwrap();
    publish(&broker).await;
    next(&mut consumer).await.ack().await.unwrap();

    proxy.silence();
    let sent = envelope();
    publish_until_accepted(&broker, &sent, NOW).await;
    // What was sent into the silence was not stored, but that could not be known.
    let delivered = next(&mut consumer).await;
    assert_eq!(delivered.envelope(), &sent);
    delivered.ack().await.unwrap();
    broker.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_closed_broker_gives_back_what_it_fetched_and_refuses_the_rest() {
    let name = "broker::rabbitmq::a_closed_broker_gives_back_what_it_fetched_and_refuses_the_rest";
    let Some(mut queues) = Queues::new(name).await else { return };
    let settings = queues.settings();
    let broker = RabbitMqBroker::connect(settings.clone()).await.unwrap();
    let mut consumer = broker.consume(STAGE).await.unwrap();
    // In several lanes, so that more is fetched than handed out.
    let mut sent = Vec::new();
    for class in Priority::ALL {
        let envelope = Envelope { priority: class, ..envelope() };
        broker.publish(STAGE, envelope.clone(), NOW).await.unwrap();
        sent.push(envelope);
    }
    let done = next(&mut consumer).await;
    sent.retain(|envelope| envelope != done.envelope());
    done.ack().await.unwrap();
    until_fetched(&broker, sent.len() as u64).await;
    broker.close().await;
    assert!(consumer.next().await.is_err_and(|error| error.kind() == ErrorKind::Unavailable));
    assert!(broker.consume(STAGE).await.is_err());
    assert!(broker.publish(STAGE, envelope(), NOW).await.is_err_and(|error| error.is_transient()));

    let another = RabbitMqBroker::connect(settings).await.unwrap();
    let mut consumer = another.consume(STAGE).await.unwrap();
    for _ in &sent {
        let delivered = next(&mut consumer).await;
        assert_eq!(delivered.attempt(), 1);
        assert!(sent.contains(delivered.envelope()));
        delivered.ack().await.unwrap();
    }
    another.close().await;
}
