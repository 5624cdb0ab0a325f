//! Server-Sent Events and WebSockets.

use std::time::Duration;

use axum::http::{Method, StatusCode};
use futures::{SinkExt, StreamExt};
use http_body_util::BodyExt;
use raglan_api::{ApiSettings, StreamSettings};
use raglan_pipeline::{domain::*, ports::*};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, connect_async,
    tungstenite::{Error, Message, protocol::frame::coding::CloseCode},
};

use crate::world::{World, request};

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// The events of a stream's text: id, type, data.
fn events(text: &str) -> Vec<(u64, String, Value)> {
    text.split("\n\n")
        .filter_map(|block| {
            let line = |name: &str| block.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
            let id = line("id:")?.parse().unwrap();
            Some((id, line("event:")?.to_owned(), serde_json::from_str(line("data:")?).unwrap()))
        })
        .collect()
}

fn types(events: &[(u64, String, Value)]) -> Vec<&str> {
    events.iter().map(|(_, kind, _)| kind.as_str()).collect()
}

#[tokio::test]
async fn the_whole_stream_and_then_its_rest() {
    let world = World::new();
    let id = world.ask().await;
    let path = format!("/v1/jobs/{id}/events");
    let (answer, ()) = tokio::join!(world.get(&path), world.finish(id, "one two"));
    assert_eq!(answer.header("content-type"), Some("text/event-stream"));
    let all = events(&String::from_utf8(answer.body).unwrap());
    let expected =
        ["job.queued", "job.retrieving", "job.generating", "answer.delta", "answer.delta", "job.succeeded"];
    assert_eq!(types(&all), expected);
    assert!(all.windows(2).all(|pair| pair[0].0 < pair[1].0));
    assert_eq!(all[3].2["data"]["text"], "one ");
    assert_eq!(all[5].2["data"]["result"]["answer"], "one two");

    let after = all[3].0.to_string();
    let resumed = world.send(request(Method::GET, &path, &[("last-event-id", &after)], "")).await;
    let rest = events(&String::from_utf8(resumed.body).unwrap());
    assert_eq!(rest, all[4..]);
    let header_first =
        world.send(request(Method::GET, &format!("{path}?after=0"), &[("last-event-id", &after)], "")).await;
    assert_eq!(events(&String::from_utf8(header_first.body).unwrap()), rest);
    let nothing_more = world.get(&format!("{path}?after={}", all[5].0)).await;
    assert_eq!(nothing_more.status, StatusCode::NO_CONTENT);
}

/// A log that comes back from a crash as it was some time ago gives numbers out again that readers have had.
#[tokio::test(start_paused = true)]
async fn a_reader_hears_of_the_end_from_a_log_that_went_back() {
    let world = World::new();
    let id = world.ask().await;
    let path = format!("/v1/jobs/{id}/events?after=50");
    let (answer, ()) = tokio::join!(world.get(&path), world.finish(id, "one two"));
    let all = events(&String::from_utf8(answer.body).unwrap());
    assert_eq!(types(&all), ["stream.snapshot", "job.succeeded"]);
    assert!(50 < all[0].0 && all[0].0 < all[1].0);
    assert_eq!(all[0].2["data"]["text"], "one two");
    assert_eq!(all[1].2["data"]["result"]["answer"], "one two");
}

#[tokio::test(start_paused = true)]
async fn an_end_that_the_log_has_lost_comes_after_all_that_it_kept() {
    let world = World::new();
    let id = world.ask().await;
    let lease = Duration::from_secs(30);
    let Taken::Yes(job) = world.jobs.take(id, Stage::Retrieval, lease).await.unwrap() else { panic!() };
    world.lifecycle.announce(&job, EventType::Retrieving, Value::Null).await;
    // Past the lifecycle, which would log it.
    let error = JobError::permanent("lost", "its event was lost");
    world.jobs.finish(id, job.fence, Outcome::Fail(error)).await.unwrap().unwrap();
    let answer = world.get(&format!("/v1/jobs/{id}/events")).await;
    let all = events(&String::from_utf8(answer.body).unwrap());
    assert_eq!(types(&all), ["job.queued", "job.retrieving", "job.failed"]);
    assert!(all.windows(2).all(|pair| pair[0].0 < pair[1].0));
}

#[tokio::test(start_paused = true)]
async fn a_quiet_stream_is_kept_open_and_ends_with_the_server() {
    let world = World::new();
    let id = world.ask().await;
    let response = world.open(request(Method::GET, &format!("/v1/jobs/{id}/events"), &[], "")).await;
    let mut body = response.into_body().into_data_stream();
    let first = body.next().await.unwrap().unwrap();
    assert!(std::str::from_utf8(&first).unwrap().contains("job.queued"));
    let begun = tokio::time::Instant::now();
    let comment = body.next().await.unwrap().unwrap();
    assert!(comment.starts_with(b":"));
    assert_eq!(begun.elapsed().as_secs(), 10);
    world.shutdown.cancel();
    assert!(body.next().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_does_not_read_is_let_go() {
    let world = World::new();
    let id = world.ask().await;
    let response = world.open(request(Method::GET, &format!("/v1/jobs/{id}/events"), &[], "")).await;
    let job = world.jobs.get(id).await.unwrap().unwrap();
    for n in 0..200 {
        world.lifecycle.announce(&job, EventType::AnswerDelta, json!({"text": n.to_string()})).await;
    }
    tokio::time::sleep(Duration::from_secs(60)).await;
    // What was buffered, and then the end: no final event, so the client resumes.
    let text = String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap();
    let got = events(&text);
    assert!(got.len() < 30, "{}", got.len());
    assert!(!text.contains("job.succeeded"));
}

async fn connect(world: &World, path: &str) -> Socket {
    let address = world.serve().await;
    connect_async(format!("ws://{address}{path}")).await.unwrap().0
}

/// The next text frame, or the close code.
async fn next(socket: &mut Socket) -> Result<Value, CloseCode> {
    loop {
        let message = tokio::time::timeout(Duration::from_secs(30), socket.next()).await.unwrap();
        match message.unwrap().unwrap() {
            Message::Text(text) => return Ok(serde_json::from_str(&text).unwrap()),
            Message::Close(frame) => return Err(frame.unwrap().code),
            _ => {}
        }
    }
}

async fn say(socket: &mut Socket, command: Value) {
    socket.send(Message::text(command.to_string())).await.unwrap();
}

#[tokio::test]
async fn a_socket_of_one_job_closes_after_the_last_event() {
    let world = World::new();
    let id = world.ask().await;
    let mut socket = connect(&world, &format!("/v1/jobs/{id}/ws")).await;
    let queued = next(&mut socket).await.unwrap();
    assert_eq!(queued["type"], "job.queued");
    world.finish(id, "one two").await;
    let mut seen = Vec::new();
    let code = loop {
        match next(&mut socket).await {
            Ok(event) => seen.push(event),
            Err(code) => break code,
        }
    };
    assert_eq!(code, CloseCode::Normal);
    assert_eq!(seen.last().unwrap()["type"], "job.succeeded");
    let after = seen[1]["seq"].as_u64().unwrap();
    let mut resumed = connect(&world, &format!("/v1/jobs/{id}/ws?after={after}")).await;
    assert_eq!(next(&mut resumed).await.unwrap(), seen[2]);
}

#[tokio::test]
async fn a_socket_is_refused_as_http_before_it_is_opened() {
    let settings = ApiSettings {
        streams: StreamSettings { sockets: 1, ..StreamSettings::default() },
        ..ApiSettings::default()
    };
    let world = World::with(settings);
    let address = world.serve().await;
    let status = async |path: String| match connect_async(format!("ws://{address}{path}")).await {
        Err(Error::Http(response)) => response.status().as_u16(),
        other => panic!("{other:?}"),
    };
    assert_eq!(status(format!("/v1/jobs/{}/ws", JobId::generate())).await, 404);
    assert_eq!(status("/v1/jobs/x/ws".to_owned()).await, 400);
    let (_open, _) = connect_async(format!("ws://{address}/v1/ws")).await.unwrap();
    assert_eq!(status("/v1/ws".to_owned()).await, 503, "there is room for one");
}

#[tokio::test]
async fn many_jobs_on_one_socket() {
    let world = World::new();
    let (a, b) = (world.ask().await, world.ask().await);
    let mut socket = connect(&world, "/v1/ws").await;
    for id in [a, b] {
        say(&mut socket, json!({"op": "subscribe", "job_id": id, "after": 0})).await;
    }
    tokio::join!(world.finish(a, "one"), world.finish(b, "two"));
    let mut done = Vec::new();
    let mut ended = Vec::new();
    while done.len() < 2 {
        let frame = next(&mut socket).await.unwrap();
        let id = frame["job_id"].as_str().unwrap().to_owned();
        if frame["op"] == "done" {
            assert!(ended.contains(&id), "after its last event");
            done.push(id);
        } else if frame["type"] == "job.succeeded" {
            ended.push(id);
        }
    }
    done.sort();
    let mut expected = [a.to_string(), b.to_string()];
    expected.sort();
    assert_eq!(done, expected);
    // An ended job may be subscribed to again.
    say(&mut socket, json!({"op": "subscribe", "job_id": a, "after": 1})).await;
    assert_eq!(next(&mut socket).await.unwrap()["type"], "job.retrieving");
    world.shutdown.cancel();
    let code = loop {
        if let Err(code) = next(&mut socket).await {
            break code;
        }
    };
    assert_eq!(code, CloseCode::Away);
}

/// Most clients follow a job as soon as it was accepted; the record is not asked for each of them, also where there are more than are remembered.
#[tokio::test]
async fn the_newest_jobs_are_followed_without_the_record() {
    let world = World::new();
    let follow = world.follow();
    let mut job = world.jobs.get(world.ask().await).await.unwrap().unwrap();
    let mut ids = Vec::new();
    for _ in 0..12_000 {
        // The record has none of these.
        job.id = JobId::generate();
        follow.accepted(&job);
        ids.push(job.id);
    }
    for id in &ids[ids.len() - 500..] {
        assert!(follow.follow(&job.tenant, *id, 0).await.unwrap().is_some(), "the record was asked for {id}");
    }
}

/// A socket does not ask for what its jobs say while it does something else: what is being looked up for one of them meanwhile must not keep the
/// turn that the next one waits for.
#[tokio::test(start_paused = true)]
async fn a_job_that_is_looked_up_for_a_reader_who_is_busy_holds_up_no_other() {
    let world = World::new();
    let (follow, id) = (world.follow(), world.ask().await);
    let tenant = world.jobs.get(id).await.unwrap().unwrap().tenant;
    let mut left_alone = follow.follow(&tenant, id, 0).await.unwrap().unwrap().events;
    assert_eq!(left_alone.next().await.unwrap().kind, EventType::Queued);
    // It is polled as long as nothing comes, and last when it has just begun to look whether the job has ended.
    assert!(futures::poll!(left_alone.next()).is_pending());
    tokio::time::advance(Duration::from_secs(10)).await;
    assert!(futures::poll!(left_alone.next()).is_pending());
    let other = tokio::time::timeout(Duration::from_secs(10), follow.follow(&tenant, id, 1)).await;
    assert!(other.expect("its turn does not come").unwrap().is_some());
}

#[tokio::test]
async fn mistakes_on_a_socket_are_told_and_it_lives() {
    let streams = StreamSettings { subscriptions: 1, ..StreamSettings::default() };
    let world = World::with(ApiSettings { streams, ..ApiSettings::default() });
    let (id, other, unknown) = (world.ask().await, world.ask().await, JobId::generate());
    let mut socket = connect(&world, "/v1/ws").await;
    let mistakes = [
        (json!("hello").to_string(), "invalid_field"),
        ("{".to_owned(), "invalid_json"),
        (json!([]).to_string(), "invalid_json"),
        (json!({"op": "dance", "job_id": id}).to_string(), "unknown_op"),
        (json!({"job_id": id}).to_string(), "unknown_op"),
        (json!({"op": "subscribe"}).to_string(), "invalid_field"),
        (json!({"op": "subscribe", "job_id": "x"}).to_string(), "invalid_field"),
        (json!({"op": "subscribe", "job_id": id, "after": -1}).to_string(), "invalid_field"),
        (json!({"op": "subscribe", "job_id": id, "from": 1}).to_string(), "invalid_field"),
        (json!({"op": "subscribe", "job_id": unknown}).to_string(), "unknown_job"),
        (json!({"op": "unsubscribe", "job_id": id}).to_string(), "not_subscribed"),
        (json!({"op": "cancel", "job_id": unknown}).to_string(), "unknown_job"),
    ];
    for (text, code) in mistakes {
        socket.send(Message::text(text.clone())).await.unwrap();
        let reply = next(&mut socket).await.unwrap();
        assert_eq!((&reply["op"], &reply["code"]), (&json!("error"), &json!(code)), "{text}: {reply}");
        assert!(reply["message"].is_string());
    }
    socket.send(Message::binary(vec![1, 2])).await.unwrap();
    assert_eq!(next(&mut socket).await.unwrap()["code"], "text_only");
    say(&mut socket, json!({"op": "subscribe", "job_id": id})).await;
    assert_eq!(next(&mut socket).await.unwrap()["type"], "job.queued");
    say(&mut socket, json!({"op": "subscribe", "job_id": id})).await;
    assert_eq!(next(&mut socket).await.unwrap()["code"], "already_subscribed");
    say(&mut socket, json!({"op": "subscribe", "job_id": other})).await;
    let refused = next(&mut socket).await.unwrap();
    assert_eq!((&refused["code"], &refused["job_id"]), (&json!("too_many_subscriptions"), &json!(other)));
    say(&mut socket, json!({"op": "unsubscribe", "job_id": id})).await;
    say(&mut socket, json!({"op": "cancel", "job_id": id})).await;
    // No event of a job that is not followed any more.
    assert_eq!(
        next(&mut socket).await.unwrap(),
        json!({"op": "cancel", "job_id": id, "status": "cancelled"})
    );
}

#[tokio::test]
async fn a_message_that_is_too_large_ends_the_socket() {
    let world = World::new();
    let mut socket = connect(&world, "/v1/ws").await;
    socket.send(Message::text("x".repeat(70_000))).await.unwrap();
    let ended = tokio::time::timeout(Duration::from_secs(30), async {
        while let Some(Ok(message)) = socket.next().await {
            if message.is_close() {
                return;
            }
        }
    });
    ended.await.expect("the socket ends");
}
