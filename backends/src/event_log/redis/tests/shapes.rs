//! The same over a cluster and over sentinels.

use super::*;
use crate::redis_client::testing::{TestCluster, TestService};

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn it_keeps_the_contract_on_a_cluster() {
    let test = "event_log::redis::tests::shapes::it_keeps_the_contract_on_a_cluster";
    let Some(cluster) = TestCluster::start(test) else { return };
    keeps_the_contract(|| Corner::of(cluster.url())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn one_connection_hears_all_nodes_of_a_cluster() {
    let test = "event_log::redis::tests::shapes::one_connection_hears_all_nodes_of_a_cluster";
    let Some(cluster) = TestCluster::start(test) else { return };
    let corner = Corner::of(cluster.url());
    let log = log_of(corner.client());
    // By chance all would be one node's: 3^-99.
    let jobs: Vec<_> = (0..100).map(|_| JobId::generate()).collect();
    let mut streams = Vec::new();
    for job in &jobs {
        let mut stream = log.follow(*job, 0).await.unwrap();
        let first = add(&*log, *job, 1).await;
        assert_eq!(next_numbers(&mut stream, 1).await, first);
        streams.push(stream);
    }
    for (job, stream) in jobs.iter().zip(&mut streams) {
        let numbers = add(&*log, *job, 3).await;
        assert_eq!(next_numbers(stream, 3).await, numbers);
    }
    let name = format!("name={}:events ", corner.prefix);
    let connections: usize = (0..3)
        .map(|place| {
            let mut plain = Corner::of(cluster.node(place).url()).plain();
            let list: String = redis::cmd("CLIENT").arg("LIST").query(&mut plain).unwrap();
            list.matches(&name).count()
        })
        .sum();
    assert_eq!(connections, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn it_follows_the_master_that_sentinels_name() {
    let test = "event_log::redis::tests::shapes::it_follows_the_master_that_sentinels_name";
    let Some(mut service) = TestService::start(test) else { return };
    let log = log_of(Corner::of(service.url()).client());
    let job = JobId::generate();
    log.append(job, 0, queued()).await.unwrap();
    let mut numbers = vec![1];
    numbers.extend(add(&*log, job, 5).await);
    let mut stream = log.follow(job, 0).await.unwrap();
    assert_eq!(next_numbers(&mut stream, 6).await, numbers);
    service.kill_master();
    let begun = std::time::Instant::now();
    let after = loop {
        match log.append(job, 0, delta(6)).await {
            Ok(seq) => break seq,
            Err(error) => {
                assert!(error.is_transient() && begun.elapsed() < PATIENCE, "{error}");
                tokio::time::sleep(error.retry_after().unwrap_or(MOMENT)).await;
            }
        }
    };
    assert_eq!(after, 7, "its data is the old master's");
    assert_eq!(next_numbers(&mut stream, 1).await, [7]);
    let numbers = add(&*log, job, 3).await;
    assert_eq!(next_numbers(&mut stream, 3).await, numbers);
}
