//! Following jobs by WebSocket: one job, and many on one socket.

use std::collections::BTreeMap;

use raglan_tests::{ServerEvent, ServerOptions, Socket};
use serde_json::{Value, json};

use crate::{
    corpus::{fast_question, id, server, server_with, slow_question},
    streaming::{check_whole, text},
};

#[tokio::test]
async fn a_socket_carries_the_same_events_and_closes_with_1000() {
    let (server, api) = server().await;
    let id = id(&api.ask(&fast_question(1)).await);
    let mut socket = server.socket(&format!("/v1/jobs/{id}/ws")).await;
    let events = socket.events().await;
    assert_eq!(socket.closed, Some(1000));
    check_whole(&events, &id);
    let streamed = api.events(&id, None).await.rest().await;
    let wholes = |events: &[ServerEvent]| events.iter().map(|event| event.whole.clone()).collect::<Vec<_>>();
    assert_eq!(wholes(&events), wholes(&streamed));
    assert_eq!(text(&events), events.last().unwrap().data["result"]["answer"].as_str().unwrap());

    // Resumed from the middle.
    let after = events[2].seq;
    let mut socket = server.socket(&format!("/v1/jobs/{id}/ws?after={after}")).await;
    assert_eq!(wholes(&socket.events().await), wholes(&events[3..]));
}

#[tokio::test]
async fn a_hundred_jobs_on_one_socket_each_get_their_final_event() {
    const JOBS: usize = 100;
    let (server, api) = server().await;
    let mut socket = server.socket("/v1/ws").await;
    let mut jobs = Vec::new();
    for number in 0..JOBS {
        let job = id(&api.ask(&fast_question(number)).await);
        socket.send(&json!({"op": "subscribe", "job_id": job, "after": 0})).await;
        jobs.push(job);
    }
    let mut events: BTreeMap<String, Vec<ServerEvent>> = BTreeMap::new();
    let mut done = Vec::new();
    while done.len() < JOBS {
        let message = socket.next().await.expect("the socket stays open");
        match message["op"].as_str() {
            None => {
                let event = ServerEvent::read(message);
                assert!(!done.contains(&event.job_id), "an event after the last: {event:?}");
                events.entry(event.job_id.clone()).or_default().push(event);
            }
            Some("done") => done.push(id(&message)),
            Some(_) => panic!("{message}"),
        }
    }
    assert_eq!(events.len(), JOBS);
    for job in &jobs {
        check_whole(&events[job], job);
        assert_eq!(events[job].last().unwrap().kind, "job.succeeded");
    }

    // The socket is as good as new: a job can be followed again, from the middle, and unfollowed.
    let (job, seen) = events.iter().next().unwrap();
    socket.send(&json!({"op": "subscribe", "job_id": job, "after": seen[1].seq})).await;
    for event in &seen[2..] {
        assert_eq!(socket.next().await.unwrap(), event.whole);
    }
    assert_eq!(socket.next().await.unwrap(), json!({"op": "done", "job_id": job}));
}

#[tokio::test]
async fn a_job_is_cancelled_and_unfollowed_over_the_socket() {
    let (server, api) = server().await;
    let mut socket = server.socket("/v1/ws").await;
    let (one, other) = (id(&api.ask(&slow_question()).await), id(&api.ask(&slow_question()).await));
    socket.send(&json!({"op": "subscribe", "job_id": one})).await;
    loop {
        if socket.event().await.unwrap().kind == "answer.delta" {
            break;
        }
    }
    socket.send(&json!({"op": "unsubscribe", "job_id": one})).await;
    // What was on the way may come still; the answer to the next command comes after it, and nothing of that job after that.
    socket.send(&json!({"op": "cancel", "job_id": other})).await;
    let mut reply = socket.next().await.unwrap();
    while reply["op"] == Value::Null {
        assert_eq!(reply["job_id"], one);
        reply = socket.next().await.unwrap();
    }
    assert_eq!(reply, json!({"op": "cancel", "job_id": other, "status": "cancelled"}));
    assert_eq!(api.job(&other).await["status"], "cancelled");
    // Unfollowing ends nothing. The record says so when the worker has held the job for a moment, the events before that.
    raglan_tests::eventually("the job that is not followed any more under way", async || {
        (api.job(&one).await["status"] == "generating").then_some(())
    })
    .await;
    socket.send(&json!({"op": "cancel", "job_id": one})).await;
    assert_eq!(socket.next().await.unwrap()["op"], "cancel", "nothing of a job that is not followed");
}

#[tokio::test]
async fn mistakes_on_the_socket_are_told_and_harm_nobody() {
    let (server, api) = server().await;
    let mut socket = server.socket("/v1/ws").await;
    let unknown = "0190c0de-0000-7000-8000-000000000000";
    for (text, code) in [
        ("{".to_owned(), "invalid_json"),
        ("[]".to_owned(), "invalid_json"),
        (String::new(), "invalid_json"),
        (json!({"op": "dance", "job_id": unknown}).to_string(), "unknown_op"),
        (json!({"op": "subscribe"}).to_string(), "invalid_field"),
        (json!({"op": "subscribe", "job_id": "x"}).to_string(), "invalid_field"),
        (json!({"op": "subscribe", "job_id": unknown, "after": -1}).to_string(), "invalid_field"),
        (json!({"op": "subscribe", "job_id": unknown, "colour": 1}).to_string(), "invalid_field"),
        (json!({"op": "subscribe", "job_id": unknown}).to_string(), "unknown_job"),
        (json!({"op": "cancel", "job_id": unknown}).to_string(), "unknown_job"),
        (json!({"op": "unsubscribe", "job_id": unknown}).to_string(), "not_subscribed"),
    ] {
        socket.send_text(&text).await;
        let reply = socket.next().await.unwrap_or_else(|| panic!("closed after {text:?}"));
        assert_eq!(reply["op"], "error", "{text:?}: {reply}");
        assert_eq!(reply["code"], code, "{text:?}: {reply}");
        assert!(!reply["message"].as_str().unwrap().is_empty());
    }
    let job = id(&api.ask(&slow_question()).await);
    socket.send(&json!({"op": "subscribe", "job_id": job})).await;
    assert_eq!(socket.event().await.unwrap().kind, "job.queued");
    socket.send(&json!({"op": "subscribe", "job_id": job})).await;
    loop {
        let message = socket.next().await.unwrap();
        if message["op"] == "error" {
            assert_eq!(message["code"], "already_subscribed");
            break;
        }
    }
}

#[tokio::test]
async fn a_ticket_opens_one_socket() {
    const KEY: &str = "a-key-of-the-tests-0001";
    let keys = json!({"auth": {"keys": [{"name": "tests", "key": KEY}]}});
    let server = raglan_tests::Server::start(ServerOptions::default().with(keys)).await;
    let api = server.api_with_key(KEY);
    let ticket = api.post("/v1/tickets", &json!({})).await.expect(201);
    assert!(ticket["expires_at"].as_str().unwrap().ends_with('Z'));
    let path = format!("/v1/ws?ticket={}", ticket["ticket"].as_str().unwrap());
    let mut socket = Socket::open(server.url(), &path, None, None).await.unwrap();
    socket.send_text("{").await;
    assert_eq!(socket.next().await.unwrap()["code"], "invalid_json");
    for refused in [path.as_str(), "/v1/ws", "/v1/ws?ticket=made-up"] {
        let error = Socket::open(server.url(), refused, None, None).await.err().expect(refused);
        assert!(error.to_string().contains("401"), "{refused}: {error}");
    }
    // A ticket is for sockets alone.
    let ticket = api.post("/v1/tickets", &json!({})).await.expect(201);
    let path = format!("/v1/jobs?ticket={}", ticket["ticket"].as_str().unwrap());
    assert_eq!(server.api().get(&path).await.status, 401);
}

#[tokio::test]
async fn a_stopping_server_closes_its_sockets_with_1001() {
    let (mut server, api) = server_with(ServerOptions::default()).await;
    let job = id(&api.ask(&slow_question()).await);
    let mut one = server.socket(&format!("/v1/jobs/{job}/ws")).await;
    let mut many = server.socket("/v1/ws").await;
    assert_eq!(one.event().await.unwrap().kind, "job.queued");
    many.send_text("{").await;
    many.next().await.unwrap();
    let reading = tokio::spawn(async move {
        while one.next().await.is_some() {}
        while many.next().await.is_some() {}
        (one.closed, many.closed)
    });
    assert!(server.terminate().await.success());
    assert_eq!(reading.await.unwrap(), (Some(1001), Some(1001)));
}
