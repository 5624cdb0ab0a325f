//! What lies in the queues, and what befalls them.

use std::collections::HashSet;

use lapin::{
    BasicProperties, Channel, Connection, ConnectionProperties,
    options::{
        BasicGetOptions, BasicPublishOptions, BasicRejectOptions, ConfirmSelectOptions, QueueDeleteOptions,
    },
    types::AMQPValue,
};

use super::*;

/// A channel past the broker.
async fn raw() -> (Connection, Channel) {
    let connection = Connection::connect(&amqp_url(), ConnectionProperties::default()).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
    (connection, channel)
}

fn lane(settings: &RabbitMqSettings) -> String {
    let names = names::Names::new(&settings.prefix, settings.lanes);
    names.lane(STAGE, Priority::Normal, &Tenant::default())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn queues_that_are_deleted_are_made_again() {
    let name = "broker::rabbitmq::queues_that_are_deleted_are_made_again";
    let Some(mut queues) = Queues::new(name).await else { return };
    let settings = queues.settings();
    let broker = RabbitMqBroker::connect(settings.clone()).await.unwrap();
    let mut consumer = broker.consume(STAGE).await.unwrap();
    publish(&broker).await;
    next(&mut consumer).await.ack().await.unwrap();

    let (_connection, channel) = raw().await;
    channel.queue_delete(lane(&settings).into(), QueueDeleteOptions::default()).await.unwrap();
    let sent = publish(&broker).await;
    let delivered = next(&mut consumer).await;
    assert_eq!(delivered.envelope(), &sent);
    delivered.ack().await.unwrap();

    // All of them, and the ladder of delays with its exchanges.
    broker.publish(STAGE, envelope(), Duration::from_secs(3_600)).await.unwrap();
    RabbitMqBroker::remove_queues(&settings).await.unwrap();
    let sent = envelope();
    let accepted = async {
        // The first time it may be the channel that goes, with the exchange that is not there.
        while let Err(error) = broker.publish(STAGE, sent.clone(), Duration::from_millis(50)).await {
            assert!(error.is_transient(), "{error:?}");
        }
    };
    timeout(PATIENCE, accepted).await.expect("the queues are not made again");
    let delivered = next(&mut consumer).await;
    assert_eq!(delivered.envelope(), &sent);
    delivered.ack().await.unwrap();
    assert_depth(&broker, |depth| *depth == Depth::default()).await;
    broker.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn queues_made_with_other_settings_are_used_as_they_are() {
    let name = "broker::rabbitmq::queues_made_with_other_settings_are_used_as_they_are";
    let Some(mut queues) = Queues::new(name).await else { return };
    let settings = queues.settings();
    let before = RabbitMqBroker::connect(settings.clone()).await.unwrap();
    let sent = publish(&before).await;
    before.close().await;
    let changed = RabbitMqSettings { capacity: 77, max_attempts: 9, ..settings };
    let after = RabbitMqBroker::connect(changed).await.unwrap();
    let mut consumer = after.consume(STAGE).await.unwrap();
    let delivered = next(&mut consumer).await;
    assert_eq!(delivered.envelope(), &sent);
    delivered.ack().await.unwrap();
    after.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_cannot_be_read_becomes_a_dead_letter() {
    let name = "broker::rabbitmq::a_message_that_cannot_be_read_becomes_a_dead_letter";
    let Some(mut queues) = Queues::new(name).await else { return };
    let settings = queues.settings();
    let broker = RabbitMqBroker::connect(settings.clone()).await.unwrap();
    let good = publish(&broker).await;
    let (_connection, channel) = raw().await;
    for (body, properties) in [
        (&b"\xff\xfe garbage"[..], BasicProperties::default()),
        (br#"{"type":"job.v2","job":1}"#, BasicProperties::default().with_message_id("newer".into())),
    ] {
        let options = BasicPublishOptions::default();
        let sent = channel.basic_publish("".into(), lane(&settings).into(), options, body, properties);
        assert!(sent.await.unwrap().await.unwrap().is_ack());
    }
    let last = publish(&broker).await;
    let mut consumer = broker.consume(STAGE).await.unwrap();
    for sent in [good, last] {
        let delivered = next(&mut consumer).await;
        assert_eq!(delivered.envelope(), &sent);
        delivered.ack().await.unwrap();
    }
    assert_depth(&broker, |depth| *depth == Depth { dead: 2, ..Depth::default() }).await;
    assert_eq!(broker.dead_letters(STAGE, 10).await.unwrap(), [], "what cannot be read cannot be listed");

    // Both are kept as they came, with what is wrong with them.
    let dead = names::Names::new(&settings.prefix, settings.lanes).dead(STAGE);
    for _ in 0..2 {
        let got = channel.basic_get(dead.as_str().into(), BasicGetOptions::default()).await.unwrap().unwrap();
        let headers = got.delivery.properties.headers().clone().unwrap();
        let AMQPValue::LongString(cause) = headers.inner()["x-raglan-cause"].clone() else { panic!() };
        assert!(cause.to_string().contains("cannot be read"), "{cause}");
        let options = BasicRejectOptions { requeue: true };
        assert!(got.delivery.data.starts_with(b"\xff") || got.delivery.data.starts_with(b"{"));
        channel.basic_reject(got.delivery.delivery_tag, options).await.unwrap();
    }
    channel.close(200, "done".into()).await.unwrap();
    // A newer process may be able to read what this one cannot.
    assert!(broker.replay(STAGE, "newer").await.unwrap());
    assert_eq!(broker.purge_dead_letters(STAGE).await.unwrap(), 1);
    broker.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_dropped_consumer_had_fetched_goes_back_uncounted() {
    let name = "broker::rabbitmq::what_a_dropped_consumer_had_fetched_goes_back_uncounted";
    let Some(mut queues) = Queues::new(name).await else { return };
    let broker = RabbitMqBroker::connect(queues.settings()).await.unwrap();
    let mut sent = HashSet::new();
    for _ in 0..20 {
        sent.insert(id(&publish(&broker).await));
    }
    let mut fetching = broker.consume(STAGE).await.unwrap();
    // With the first one, more are fetched.
    let first = next(&mut fetching).await;
    drop(fetching);
    first.hand_back().await.unwrap();
    let mut consumer = broker.consume(STAGE).await.unwrap();
    while !sent.is_empty() {
        let delivered = next(&mut consumer).await;
        assert_eq!(delivered.attempt(), 1);
        assert!(sent.remove(&id(delivered.envelope())), "a message came twice");
        delivered.ack().await.unwrap();
    }
    broker.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_busy_consumer_keeps_nothing_from_an_idle_one() {
    let name = "broker::rabbitmq::a_busy_consumer_keeps_nothing_from_an_idle_one";
    let Some(mut queues) = Queues::new(name).await else { return };
    let broker = RabbitMqBroker::connect(queues.settings()).await.unwrap();
    let mut busy = broker.consume(STAGE).await.unwrap();
    publish(&broker).await;
    let kept = next(&mut busy).await;
    let mut sent = HashSet::new();
    for class in Priority::ALL {
        for tenant in ["acme", "beta", "greedy"] {
            let tenant = Tenant::new(tenant).unwrap();
            let envelope = Envelope { priority: class, tenant, ..envelope() };
            broker.publish(STAGE, envelope.clone(), NOW).await.unwrap();
            sent.insert(id(&envelope));
        }
    }
    let mut idle = broker.consume(STAGE).await.unwrap();
    while !sent.is_empty() {
        let delivered = next(&mut idle).await;
        assert_eq!(delivered.attempt(), 1);
        assert!(sent.remove(&id(delivered.envelope())));
        delivered.ack().await.unwrap();
    }
    // And it gets the next ones when it has time again.
    kept.ack().await.unwrap();
    drop(idle);
    let sent = publish(&broker).await;
    assert_eq!(next(&mut busy).await.envelope(), &sent);
    broker.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_consumer_may_hold_more_messages_than_are_fetched_ahead() {
    let name = "broker::rabbitmq::a_consumer_may_hold_more_messages_than_are_fetched_ahead";
    let Some(mut queues) = Queues::new(name).await else { return };
    let settings = RabbitMqSettings { prefetch: 2, ..queues.settings() };
    let broker = RabbitMqBroker::connect(settings).await.unwrap();
    let mut sent = Vec::new();
    for _ in 0..40 {
        sent.push(publish(&broker).await);
    }
    let mut consumer = broker.consume(STAGE).await.unwrap();
    let mut held = Vec::new();
    for expected in &sent {
        let delivered = next(&mut consumer).await;
        assert_eq!(delivered.envelope(), expected);
        held.push(delivered);
    }
    for delivered in held {
        delivered.ack().await.unwrap();
    }
    assert_depth(&broker, |depth| *depth == Depth::default()).await;
    broker.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_is_dropped_too_often_becomes_a_dead_letter() {
    let name = "broker::rabbitmq::a_message_that_is_dropped_too_often_becomes_a_dead_letter";
    let Some(mut queues) = Queues::new(name).await else { return };
    let broker = RabbitMqBroker::connect(queues.settings()).await.unwrap();
    let sent = publish(&broker).await;
    let mut consumer = broker.consume(STAGE).await.unwrap();
    for attempt in 1..=3 {
        let delivered = next(&mut consumer).await;
        assert_eq!(delivered.attempt(), attempt);
        drop(delivered);
    }
    let last = publish(&broker).await;
    let delivered = next(&mut consumer).await;
    assert_eq!(delivered.envelope(), &last);
    delivered.ack().await.unwrap();
    assert_depth(&broker, |depth| *depth == Depth { dead: 1, ..Depth::default() }).await;
    let dead = broker.dead_letters(STAGE, 10).await.unwrap();
    assert_eq!((&dead[0].envelope, dead[0].attempts), (&sent, 3));
    assert_eq!(dead[0].cause, "its consumer went without settling it");
    broker.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_rabbitmq_itself_gives_up_is_a_dead_letter_like_others() {
    let name = "broker::rabbitmq::what_rabbitmq_itself_gives_up_is_a_dead_letter_like_others";
    let Some(mut queues) = Queues::new(name).await else { return };
    let settings = queues.settings();
    let broker = RabbitMqBroker::connect(settings.clone()).await.unwrap();
    let sent = publish(&broker).await;
    // Consumers that die before they can count.
    let (_connection, channel) = raw().await;
    let rejecting = async {
        loop {
            match channel.basic_get(lane(&settings).into(), BasicGetOptions::default()).await.unwrap() {
                Some(message) => {
                    let options = BasicRejectOptions { requeue: true };
                    channel.basic_reject(message.delivery.delivery_tag, options).await.unwrap();
                }
                None if broker.depth(STAGE).await.unwrap().dead == 1 => return,
                None => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    };
    timeout(PATIENCE, rejecting).await.expect("RabbitMQ does not give it up");
    let dead = broker.dead_letters(STAGE, 10).await.unwrap();
    assert_eq!(dead[0].envelope, sent);
    assert_eq!(dead[0].attempts, settings.delivery_limit() + 1);
    assert!(dead[0].cause.contains("went without settling it"), "{}", dead[0].cause);

    assert!(broker.replay(STAGE, &dead[0].id).await.unwrap());
    let mut consumer = broker.consume(STAGE).await.unwrap();
    let delivered = next(&mut consumer).await;
    assert_eq!((delivered.envelope(), delivered.attempt()), (&sent, 1));
    delivered.ack().await.unwrap();
    broker.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dead_letters_stay_in_order_however_often_they_are_looked_at() {
    let name = "broker::rabbitmq::dead_letters_stay_in_order_however_often_they_are_looked_at";
    let Some(mut queues) = Queues::new(name).await else { return };
    let settings = RabbitMqSettings { max_attempts: 1, ..queues.settings() };
    let broker = RabbitMqBroker::connect(settings).await.unwrap();
    let mut consumer = broker.consume(STAGE).await.unwrap();
    for n in 0..40 {
        publish(&broker).await;
        next(&mut consumer).await.nack(NOW, &format!("{n}")).await.unwrap();
    }
    let causes = async |limit| -> Vec<String> {
        let dead = broker.dead_letters(STAGE, limit).await.unwrap();
        dead.into_iter().map(|letter| letter.cause).collect()
    };
    let all: Vec<_> = (0..40).map(|n| n.to_string()).collect();
    for limit in [40, 3, 50, 1, 40] {
        assert_eq!(causes(limit).await, all[..limit.min(40)]);
    }
    // More looks than the delivery limit that RabbitMQ 4 has by itself.
    for _ in 0..25 {
        assert_eq!(causes(2).await, ["0", "1"]);
    }
    let third = broker.dead_letters(STAGE, 3).await.unwrap().pop().unwrap();
    assert!(broker.replay(STAGE, &third.id).await.unwrap());
    assert_eq!(causes(3).await, ["0", "1", "3"]);
    assert_eq!(causes(40).await.len(), 39);
    broker.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_publishers_do_not_wait_for_each_other() {
    let name = "broker::rabbitmq::many_publishers_do_not_wait_for_each_other";
    let Some(mut queues) = Queues::new(name).await else { return };
    let broker = RabbitMqBroker::connect(queues.settings()).await.unwrap();
    let sent: Vec<_> = (0..500).map(|_| envelope()).collect();
    let publishing = sent.iter().map(|envelope| broker.publish(STAGE, envelope.clone(), NOW));
    for published in futures::future::join_all(publishing).await {
        published.unwrap();
    }
    let mut missing: HashSet<_> = sent.iter().map(id).collect();
    let mut consumer = broker.consume(STAGE).await.unwrap();
    while !missing.is_empty() {
        let delivered = next(&mut consumer).await;
        assert!(missing.remove(&id(delivered.envelope())), "a message came twice");
        delivered.ack().await.unwrap();
    }
    broker.close().await;
}

#[tokio::test]
async fn a_delay_that_cannot_be_kept_is_refused() {
    let name = "broker::rabbitmq::a_delay_that_cannot_be_kept_is_refused";
    let Some(mut queues) = Queues::new(name).await else { return };
    let broker = RabbitMqBroker::connect(queues.settings()).await.unwrap();
    broker.publish(STAGE, envelope(), RabbitMqSettings::LONGEST_DELAY).await.unwrap();
    let refused = broker.publish(STAGE, envelope(), Duration::MAX).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Invalid);
    assert_depth(&broker, |depth| depth.delayed == 1).await;
    broker.close().await;
}

#[tokio::test]
async fn a_wrong_password_is_said_at_once_and_not_printed() {
    let name = "broker::rabbitmq::a_wrong_password_is_said_at_once_and_not_printed";
    if Queues::new(name).await.is_none() {
        return;
    }
    let mut uri: lapin::uri::AMQPUri = amqp_url().parse().unwrap();
    uri.authority.userinfo.password = "hunter2".into();
    let settings = RabbitMqSettings { url: Secret::new(uri.to_string()), ..RabbitMqSettings::default() };
    let Err(refused) = RabbitMqBroker::connect(settings).await else { panic!("any password will do") };
    assert_eq!(refused.kind(), ErrorKind::Invalid, "{refused:?}");
    assert!(!format!("{refused} {refused:?}").contains("hunter2"));
}
