//! What the client does when Redis, or the way to it, fails.

use std::{sync::Arc, time::Duration};

use raglan_pipeline::{
    ports::{ErrorKind, PortResult},
    secret::Secret,
};
use redis::cmd;

use super::{
    Call, FAILURES, RedisClient, RedisSettings,
    testing::{Corner, PATIENCE, Proxy, TestCluster, TestServer},
};

const SHORT: Duration = Duration::from_millis(100);

async fn get(client: &RedisClient, key: &str) -> PortResult<Option<String>> {
    client.call(key, |_| Call::Command(cmd("GET").arg(key).take())).await
}

async fn until_it_answers(client: &RedisClient) {
    let begun = std::time::Instant::now();
    while let Err(error) = get(client, "key").await {
        assert!(begun.elapsed() < PATIENCE, "{error}");
        tokio::time::sleep(error.retry_after().unwrap_or(SHORT)).await;
    }
}

#[tokio::test]
async fn it_says_what_redis_is() {
    let Some(corner) = Corner::of_test_server("redis_client::tests::it_says_what_redis_is") else { return };
    let report = corner.client().check().await.unwrap();
    assert_eq!(report.mode, "standalone");
    assert!(!report.version.is_empty() && !report.eviction.is_empty(), "{report:?}");
}

#[tokio::test]
async fn it_says_what_an_operator_should_know() {
    let test = "redis_client::tests::it_says_what_an_operator_should_know";
    let expected = [
        (["--maxmemory", "0", "--maxmemory-policy", "noeviction"], "not set"),
        (["--maxmemory", "64mb", "--maxmemory-policy", "noeviction"], "noeviction"),
        (["--maxmemory", "64mb", "--maxmemory-policy", "allkeys-lru"], "any key"),
        (["--maxmemory", "64mb", "--maxmemory-policy", "volatile-ttl"], ""),
    ];
    for (settings, concern) in expected {
        let Some(server) = TestServer::start(test, &settings) else { return };
        let report = Corner::of(server.url()).client().check().await.unwrap();
        let concerns = report.concerns().join("; ");
        assert_eq!(concerns.is_empty(), concern.is_empty(), "{concerns}");
        assert!(concerns.contains(concern), "{concerns}");
    }
}

#[tokio::test]
async fn it_refuses_settings_that_cannot_be() {
    let wrong = [("redis://localhost", "a{b}"), ("redis://localhost", ""), ("localhost", "raglan")];
    for (url, prefix) in wrong {
        let settings =
            RedisSettings { url: Secret::new(url), prefix: prefix.to_owned(), ..RedisSettings::default() };
        assert_eq!(RedisClient::new(&settings).err().map(|error| error.kind()), Some(ErrorKind::Invalid));
    }
}

#[tokio::test]
async fn a_node_of_a_cluster_is_no_single_server() {
    let Some(cluster) = TestCluster::start("redis_client::tests::a_node_of_a_cluster_is_no_single_server")
    else {
        return;
    };
    let report = Corner::of(cluster.url()).client().check().await.unwrap();
    assert_eq!(report.mode, "cluster");
    // A key may be another node's, which is an error too, if of another kind.
    let as_server = Corner::of(cluster.node(0).url());
    assert!(as_server.client().check().await.is_err());
}

#[tokio::test]
async fn a_cut_connection_costs_no_call() {
    let Some(corner) = Corner::of_test_server("redis_client::tests::a_cut_connection_costs_no_call") else {
        return;
    };
    let proxy = Proxy::before(corner.address()).await;
    let client = RedisClient::new(&corner.settings_through(&proxy)).unwrap();
    for _ in 0..20 {
        for key in 0..8 {
            get(&client, &format!("{}:{key}", corner.prefix)).await.unwrap();
        }
        proxy.cut();
    }
}

#[tokio::test]
async fn calls_at_once_share_few_connections() {
    let Some(corner) = Corner::of_test_server("redis_client::tests::calls_at_once_share_few_connections")
    else {
        return;
    };
    let client = corner.client();
    let calls = (0..500).map(|n| {
        let (client, key) = (Arc::clone(&client), format!("{}:{n}", corner.prefix));
        tokio::spawn(async move { get(&client, &key).await.unwrap() })
    });
    for call in futures::future::join_all(calls).await {
        assert_eq!(call.unwrap(), None);
    }
    assert_eq!(corner.connections("commands"), 2);
}

#[tokio::test]
async fn a_redis_that_is_gone_is_left_alone_and_found_again() {
    let Some(corner) =
        Corner::of_test_server("redis_client::tests::a_redis_that_is_gone_is_left_alone_and_found_again")
    else {
        return;
    };
    let proxy = Proxy::before(corner.address()).await;
    let client = RedisClient::new(&corner.settings_through(&proxy)).unwrap();
    get(&client, "key").await.unwrap();
    proxy.close().await;
    for call in 1..=FAILURES {
        let error = get(&client, "key").await.unwrap_err();
        assert!(error.is_transient(), "call {call}: {error}");
        assert_eq!(error.retry_after(), None, "call {call} was made");
    }
    let refused = get(&client, "key").await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Unavailable);
    assert!(refused.retry_after().is_some(), "it was not made: {refused}");
    proxy.open().await;
    until_it_answers(&client).await;
}

#[tokio::test]
async fn a_connection_that_swallows_everything_is_replaced() {
    let Some(corner) =
        Corner::of_test_server("redis_client::tests::a_connection_that_swallows_everything_is_replaced")
    else {
        return;
    };
    let proxy = Proxy::before(corner.address()).await;
    let settings =
        RedisSettings { command_timeout: SHORT, connections: 1, ..corner.settings_through(&proxy) };
    let client = RedisClient::new(&settings).unwrap();
    until_it_answers(&client).await;
    proxy.swallow();
    let error = get(&client, "key").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
    until_it_answers(&client).await;
}

#[tokio::test]
async fn nobody_at_the_address_is_unavailable_at_once() {
    let settings = RedisSettings { url: Secret::new("redis://127.0.0.1:1"), ..RedisSettings::default() };
    let client = RedisClient::new(&settings).unwrap();
    assert_eq!(get(&client, "key").await.unwrap_err().kind(), ErrorKind::Unavailable);
    assert_eq!(client.check().await.unwrap_err().kind(), ErrorKind::Unavailable);
}

#[tokio::test]
async fn a_full_redis_refuses_what_it_cannot_keep_and_nothing_else() {
    let test = "redis_client::tests::a_full_redis_refuses_what_it_cannot_keep_and_nothing_else";
    let Some(server) = TestServer::start(test, &["--maxmemory", "1", "--maxmemory-policy", "noeviction"])
    else {
        return;
    };
    let client = Corner::of(server.url()).client();
    for _ in 0..2 * FAILURES {
        let set = |_| Call::Command(cmd("SET").arg("key").arg("value").take());
        let error = client.call::<()>("key", set).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Overloaded, "{error}");
    }
    assert_eq!(get(&client, "key").await.unwrap(), None, "reads go on");
}

#[tokio::test]
async fn without_the_password_it_says_so() {
    let test = "redis_client::tests::without_the_password_it_says_so";
    let Some(server) = TestServer::start(test, &[]) else { return };
    let mut plain = Corner::of(server.url()).plain();
    redis::cmd("CONFIG").arg("SET").arg("requirepass").arg("s3cret").exec(&mut plain).unwrap();
    for (url, is_right) in [
        (server.url(), false),
        (server.url().replace("redis://", "redis://:wrong@"), false),
        (server.url().replace("redis://", "redis://:s3cret@"), true),
    ] {
        let settings = RedisSettings { url: Secret::new(url), ..RedisSettings::default() };
        let checked = RedisClient::new(&settings).unwrap().check().await;
        match checked {
            Ok(_) => assert!(is_right),
            Err(error) => {
                assert!(!is_right && error.kind() == ErrorKind::Invalid, "{error}");
                assert!(!error.to_string().contains("wrong@"), "{error}");
            }
        }
    }
}

#[tokio::test]
async fn what_is_about_one_thing_is_done_in_order() {
    let Some(corner) =
        Corner::of_test_server("redis_client::tests::what_is_about_one_thing_is_done_in_order")
    else {
        return;
    };
    let client = corner.client();
    let key = format!("{}:list", corner.prefix);
    // With the connection there; waiting for it, calls are woken in any order.
    get(&client, &key).await.unwrap();
    let pushes = (0..100).map(|n| {
        let key = &key;
        client.call::<u64>(key, move |_| Call::Command(cmd("RPUSH").arg(key).arg(n).take()))
    });
    futures::future::try_join_all(pushes).await.unwrap();
    let list: Vec<u32> =
        client.call(&key, |_| Call::Command(cmd("LRANGE").arg(&key).arg(0).arg(-1).take())).await.unwrap();
    assert_eq!(list, (0..100).collect::<Vec<_>>());
}
