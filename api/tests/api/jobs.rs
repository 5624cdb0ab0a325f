//! Submitting, polling, listing, cancelling.

use std::time::Duration;

use axum::http::{Method, StatusCode};
use raglan_pipeline::{domain::*, ports::*};
use serde_json::{Value, json};

use crate::world::{World, request};

#[tokio::test]
async fn a_question_is_accepted_with_its_links() {
    let world = World::new();
    *world.queues.ready.lock().unwrap() = 4;
    let answer = world.post("/v1/queries", &json!({"query": "why?", "metadata": {"ticket": "42"}})).await;
    assert_eq!(answer.status, StatusCode::ACCEPTED);
    let job = answer.json();
    let id = job["job_id"].as_str().unwrap();
    assert_eq!(answer.header("location"), Some(format!("/v1/jobs/{id}").as_str()));
    assert_eq!(answer.header("retry-after"), Some("1"));
    assert_eq!(answer.header("etag"), Some("\"1\""));
    assert_eq!(job["status"], "queued");
    assert_eq!(job["queue_position"], 3);
    assert_eq!(job["metadata"], json!({"ticket": "42"}));
    assert_eq!(job["urls"]["events"], format!("/v1/jobs/{id}/events"));
    world.submit.published().await;
    assert_eq!(world.queues.published.lock().unwrap().len(), 1);
    let stored = world.jobs.get(id.parse().unwrap()).await.unwrap().unwrap();
    let JobSpec::Query(spec) = stored.spec else { panic!() };
    assert_eq!(spec.top_k, 5, "the pipeline's own");
}

#[tokio::test]
async fn polling_by_entity_tag() {
    let world = World::new();
    let id = world.ask().await;
    let path = format!("/v1/jobs/{id}");
    let answer = world.get(&path).await;
    let tag = answer.header("etag").unwrap().to_owned();
    let again = async || world.send(request(Method::GET, &path, &[("if-none-match", &tag)], "")).await;
    let unchanged = again().await;
    assert_eq!(unchanged.status, StatusCode::NOT_MODIFIED);
    assert!(unchanged.body.is_empty());
    assert_eq!(unchanged.header("etag"), Some(tag.as_str()));
    assert_eq!(unchanged.header("retry-after"), Some("1"));
    world.finish(id, "an answer").await;
    let changed = again().await;
    assert_eq!(changed.status, StatusCode::OK);
    assert_ne!(changed.header("etag"), Some(tag.as_str()));
    assert_eq!(changed.header("retry-after"), None);
    assert_eq!(changed.json()["result"]["answer"], "an answer");
}

#[tokio::test(start_paused = true)]
async fn a_long_poll_returns_at_the_end_and_no_sooner() {
    let world = World::new();
    let id = world.ask().await;
    let path = format!("/v1/jobs/{id}?wait=60");
    let (answer, ()) = tokio::join!(world.get(&path), async {
        let Taken::Yes(job) = world.jobs.take(id, Stage::Retrieval, Duration::ZERO).await.unwrap() else {
            panic!()
        };
        world.lifecycle.announce(&job, EventType::Retrieving, Value::Null).await;
        tokio::time::sleep(Duration::from_secs(20)).await;
        world.finish(id, "done").await;
    });
    assert_eq!(answer.json()["status"], "succeeded");

    let id = world.ask().await;
    let begun = tokio::time::Instant::now();
    let answer = world.get(&format!("/v1/jobs/{id}?wait=7")).await;
    assert_eq!(answer.json()["status"], "queued");
    assert_eq!(begun.elapsed().as_secs(), 7);
}

#[tokio::test(start_paused = true)]
async fn a_long_poll_with_a_tag_returns_at_the_first_change() {
    let world = World::new();
    let id = world.ask().await;
    let path = format!("/v1/jobs/{id}?wait=60");
    let poll = || world.send(request(Method::GET, &path, &[("if-none-match", "\"1\"")], ""));
    let (answer, ()) = tokio::join!(poll(), async {
        let Taken::Yes(job) = world.jobs.take(id, Stage::Retrieval, Duration::ZERO).await.unwrap() else {
            panic!()
        };
        world.lifecycle.announce(&job, EventType::Retrieving, Value::Null).await;
    });
    assert_eq!((answer.status, &answer.json()["status"]), (StatusCode::OK, &json!("retrieving")));
    let stale = world.send(request(Method::GET, &path, &[("if-none-match", "\"0\"")], "")).await;
    assert_eq!(stale.status, StatusCode::OK, "what is new already is not waited for");
    let fresh = [("if-none-match", answer.header("etag").unwrap())];
    let unchanged = world.send(request(Method::GET, &path, &fresh, "")).await;
    assert_eq!(unchanged.status, StatusCode::NOT_MODIFIED, "after the wait");
}

#[tokio::test(start_paused = true)]
async fn prefer_wait_answers_with_the_finished_job_or_the_running_one() {
    let world = World::new();
    let body = json!({"query": "q"});
    let (answer, ()) = tokio::join!(
        world.post_with("/v1/queries", &body, &[("prefer", "respond-async, wait=600")]),
        async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            let jobs = world.jobs.list(&JobFilter { limit: 1, ..JobFilter::default() }).await.unwrap();
            world.finish(jobs[0].id, "done").await;
        }
    );
    assert_eq!(answer.status, StatusCode::OK);
    assert_eq!(answer.header("preference-applied"), Some("wait=60"), "cut to the longest");
    assert_eq!(answer.json()["result"]["answer"], "done");
    let answer = world.post_with("/v1/queries", &body, &[("prefer", "wait=2")]).await;
    assert_eq!(answer.status, StatusCode::ACCEPTED);
    assert_eq!(answer.json()["status"], "queued");
}

#[tokio::test(start_paused = true)]
async fn waits_end_when_the_server_stops() {
    let world = World::new();
    let id = world.ask().await;
    let begun = tokio::time::Instant::now();
    let path = format!("/v1/jobs/{id}?wait=60");
    let (answer, ()) = tokio::join!(world.get(&path), async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        world.shutdown.cancel();
    });
    assert_eq!(answer.json()["status"], "queued");
    assert_eq!(begun.elapsed().as_secs(), 1);
    assert_eq!(world.get("/readyz").await.status, StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test]
async fn an_idempotency_key_gives_the_first_job_again() {
    let world = World::new();
    let key = [("idempotency-key", "k-1")];
    let first = world.post_with("/v1/queries", &json!({"query": "q", "top_k": 3}), &key).await;
    assert_eq!(first.header("idempotent-replayed"), None);
    // The same request, written in another order.
    let headers = [("content-type", "application/json"), key[0]];
    let again =
        world.send(request(Method::POST, "/v1/queries", &headers, r#"{ "top_k":3, "query":"q" }"#)).await;
    assert_eq!(again.status, StatusCode::ACCEPTED);
    assert_eq!(again.header("idempotent-replayed"), Some("true"));
    assert_eq!(again.json()["job_id"], first.json()["job_id"]);
    let other = world.post_with("/v1/queries", &json!({"query": "other"}), &key).await;
    assert_eq!(other.status, StatusCode::CONFLICT);
    assert_eq!(other.problem(), ("idempotency_key_reused".to_owned(), Some("Idempotency-Key".to_owned())));
    world.finish(first.json()["job_id"].as_str().unwrap().parse().unwrap(), "done").await;
    let ended = world.post_with("/v1/queries", &json!({"query": "q", "top_k": 3}), &key).await;
    assert_eq!(ended.status, StatusCode::OK);
    world.submit.published().await;
    assert_eq!(
        world.queues.published.lock().unwrap().iter().filter(|(stage, _)| *stage == Stage::Retrieval).count(),
        1
    );
}

#[tokio::test]
async fn no_client_waits_for_a_slow_queue_until_too_many_jobs_are_on_their_way_to_it() {
    let world = World::new();
    let gate = world.queues.gate.lock().await;
    for _ in 0..1_024 {
        world.ask().await;
    }
    assert!(world.queues.published.lock().unwrap().is_empty());
    let one_more = world.ask();
    tokio::pin!(one_more);
    for _ in 0..100 {
        assert!(futures::poll!(&mut one_more).is_pending());
        tokio::task::yield_now().await;
    }
    drop(gate);
    one_more.await;
    world.submit.published().await;
    assert_eq!(world.queues.published.lock().unwrap().len(), 1_025);
}

#[tokio::test]
async fn too_many_waiting_jobs_are_refused_at_the_door() {
    let world = World::new();
    *world.queues.ready.lock().unwrap() = 10;
    let answer = world.post("/v1/queries", &json!({"query": "q"})).await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(answer.problem().0, "overloaded");
    assert_eq!(answer.header("retry-after"), Some("5"));
}

#[tokio::test]
async fn lists_are_paged_without_a_gap_or_a_repetition() {
    let world = World::new();
    let mut asked = Vec::new();
    for _ in 0..5 {
        asked.push(world.ask().await.to_string());
    }
    asked.sort();
    asked.reverse();
    let mut seen = Vec::new();
    let mut path = "/v1/jobs?limit=2".to_owned();
    loop {
        let page = world.get(&path).await.json();
        seen.extend(
            page["jobs"].as_array().unwrap().iter().map(|job| job["job_id"].as_str().unwrap().to_owned()),
        );
        // One more meanwhile: it is newer than all that follows.
        world.ask().await;
        match page["next_cursor"].as_str() {
            Some(cursor) => path = format!("/v1/jobs?limit=2&cursor={cursor}"),
            None => break,
        }
    }
    assert_eq!(seen, asked);
    assert_eq!(world.get("/v1/jobs?status=failed").await.json()["jobs"], json!([]));
    assert_eq!(world.get("/v1/jobs?kind=query&limit=200").await.json()["jobs"].as_array().unwrap().len(), 8);
}

#[tokio::test]
async fn cancel_is_idempotent_and_remove_wants_an_end() {
    let world = World::new();
    let id = world.ask().await;
    let job = format!("/v1/jobs/{id}");
    assert_eq!(world.delete(&job).await.problem().0, "job_running");
    let cancel = async || world.send(request(Method::POST, &format!("{job}/cancel"), &[], "")).await;
    let (first, second) = (cancel().await, cancel().await);
    assert_eq!((first.status, &first.json()["status"]), (StatusCode::OK, &json!("cancelled")));
    assert_eq!(first.json(), second.json());
    assert_eq!(world.delete(&job).await.status, StatusCode::NO_CONTENT);
    assert_eq!(world.get(&job).await.problem().0, "unknown_job");
}

#[tokio::test]
async fn passages_are_there_not_yet_or_not_any_more() {
    let world = World::new();
    let id = world.ask().await;
    let path = format!("/v1/jobs/{id}/passages");
    assert_eq!(world.get(&path).await.problem().0, "not_retrieved");
    let found = Retrieved {
        passages: Vec::new(),
        degraded: vec![Degraded::Embedder],
        index_generation: "3".to_owned(),
    };
    let bytes = serde_json::to_vec(&found).unwrap().into();
    let (cache, key) = (&world.lifecycle.cache, id.to_string());
    cache.put(Namespace::Passages, &key, bytes, Duration::from_secs(1)).await.unwrap();
    let expected = json!({"passages": [], "degraded": ["embedder"], "index_generation": "3"});
    assert_eq!(world.get(&path).await.json(), expected);
    world.finish(id, "done").await;
    cache.remove(Namespace::Passages, &key).await.unwrap();
    let gone = world.get(&path).await;
    assert_eq!((gone.status, gone.problem().0.as_str()), (StatusCode::GONE, "passages_gone"));
    let never = world.ask().await;
    world.send(request(Method::POST, &format!("/v1/jobs/{never}/cancel"), &[], "")).await;
    assert_eq!(world.get(&format!("/v1/jobs/{never}/passages")).await.problem().0, "no_passages");
}

#[tokio::test]
async fn deliveries_are_listed_and_sent_again() {
    let world = World::new();
    let job_id = world.ask().await;
    let id = DeliveryId::generate();
    world.deliveries.0.lock().unwrap().push(Delivery {
        id,
        job_id,
        tenant: Tenant::default(),
        url: "https://example.com/hook".parse().unwrap(),
        event: EventType::Succeeded,
        status: DeliveryStatus::Dead,
        attempts: vec![DeliveryAttempt { at: now(), status: Some(500), error: None, duration_ms: 12 }],
        next_at: None,
        created_at: now(),
    });
    let listed = world.get(&format!("/v1/jobs/{job_id}/deliveries")).await.json();
    assert_eq!(listed["deliveries"][0]["status"], "dead");
    assert_eq!(listed["deliveries"][0]["attempts"][0]["status"], 500);
    let again = world.send(request(Method::POST, &format!("/v1/deliveries/{id}/replay"), &[], "")).await;
    assert_eq!(again.json()["status"], "pending");
    assert_eq!(again.json()["webhook_id"], id.webhook_id());
    assert!(world.queues.published.lock().unwrap().iter().any(|(stage, _)| *stage == Stage::Webhook));
}
