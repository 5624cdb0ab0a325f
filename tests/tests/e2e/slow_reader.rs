//! Readers that do not read.

use raglan_tests::{ServerEvent, ServerOptions, Socket, eventually};
use serde_json::json;

use crate::corpus::{QUESTION, id, server_with};

/// How many sockets nobody reads.
const READERS: usize = 24;
/// How many words the answer has; more than three megabytes.
const WORDS: usize = 300_000;
/// What is kept of all events together.
const KEPT: usize = 2 << 20;

/// An answer far larger than what the server keeps of its events, followed by many who read nothing of it until it is done. The
/// server's memory must not grow by what they have not read; and each of them gets, late, either everything or a snapshot that stands for it, and the
/// final event.
#[tokio::test]
async fn a_slow_reader_costs_no_memory_and_gets_the_end() {
    let settings = json!({
        "limits": {"answer_tokens": WORDS},
        // Its one answer is far larger than any other: a worker on a slow machine may be silent for longer than in other tests.
        "jobs": {"lease_s": 60},
        "memory": {"events_bytes": KEPT},
        "generators": [{"name": "flood", "type": "simulated", "tokens": WORDS, "tokens_per_s": 60_000}],
        "query_pipelines": [{"name": "default", "generate": {"generator": "flood"}}],
    });
    let (server, api) = server_with(ServerOptions::default().with(settings)).await;
    let before = server.resident_bytes();
    let id = id(&api.ask(&json!({"query": QUESTION, "generation": {"max_tokens": WORDS}})).await);
    let path = format!("/v1/jobs/{id}/ws");
    let mut sockets = Vec::new();
    for _ in 0..READERS {
        sockets.push(Socket::connect_narrow(server.url(), &path, 4096).await);
    }
    // One that keeps up shows how far the answer is.
    let mut quick = api.events(&id, None).await;
    let mut written = 0;
    while written < 2_500_000 {
        let event = quick.next().await.expect("the answer is not done");
        assert!(!event.is_final(), "the answer is too short for this test");
        written += event.data["text"].as_str().map_or(0, str::len);
    }
    if let (Some(before), Some(now)) = (before, server.resident_bytes()) {
        let (grown, unread) = (now.saturating_sub(before) >> 20, (READERS * written) as u64 >> 20);
        println!("{READERS} readers have not read {unread} MiB; the server grew by {grown} MiB");
        assert!(grown < unread / 2, "the server grew by {grown} MiB for {unread} MiB that nobody has read");
    } else {
        raglan_tests::skip("slow_reader::memory", "this system does not tell how much memory a process has");
    }
    drop(quick);
    let job = api.ended(&id).await;
    assert_eq!(job["status"], "succeeded", "{}", job["error"]);
    let answer = job["result"]["answer"].as_str().unwrap();

    for mut socket in sockets.into_iter().take(3) {
        let mut seen = read(&mut socket).await;
        // The server lets a reader go that reads nothing for too long; it comes back with the number it has.
        while !seen.last().is_some_and(ServerEvent::is_final) {
            let after = seen.last().map_or(0, |event| event.seq);
            let mut socket = Socket::connect(server.url(), &format!("{path}?after={after}"), None).await;
            seen.extend(read(&mut socket).await);
        }
        assert!(seen.windows(2).all(|pair| pair[0].seq < pair[1].seq), "numbers grow");
        assert_eq!(seen.iter().filter(|event| event.is_final()).count(), 1);
        assert_eq!(seen.last().unwrap().data["result"]["answer"].as_str(), Some(answer));
        // A snapshot stands for everything before it, and the deltas go on from there.
        let mut text = String::new();
        for event in &seen {
            match event.kind.as_str() {
                "stream.snapshot" => text = event.data["text"].as_str().unwrap().to_owned(),
                "answer.delta" => text.push_str(event.data["text"].as_str().unwrap()),
                _ => {}
            }
        }
        assert!(text == answer, "the text read is not the answer: {} of {} bytes", text.len(), answer.len());
    }
}

async fn read(socket: &mut Socket) -> Vec<ServerEvent> {
    let mut events = Vec::new();
    while let Some(event) = socket.event().await {
        let last = event.is_final();
        events.push(event);
        if last {
            break;
        }
    }
    events
}

/// Readers that come and go leave nothing behind.
#[tokio::test]
async fn readers_that_leave_are_forgotten() {
    let (server, api) = server_with(ServerOptions::default()).await;
    let id = id(&api.ask(&crate::corpus::slow_question()).await);
    for round in 0..20 {
        let mut streams = Vec::new();
        let mut sockets = Vec::new();
        for _ in 0..5 {
            streams.push(api.events(&id, None).await);
            sockets.push(server.socket(&format!("/v1/jobs/{id}/ws")).await);
        }
        if round % 2 == 0 {
            for stream in &mut streams {
                stream.until(|event| event.kind == "answer.delta").await;
            }
        }
    }
    // The gauge of open sockets goes back to none.
    eventually("all sockets closed", async || {
        let metrics = api.get("/metrics").await;
        let text = String::from_utf8(metrics.body.to_vec()).unwrap();
        let open = text.lines().find_map(|line| line.strip_prefix("raglan_sockets "))?;
        (open == "0").then_some(())
    })
    .await;
    assert_eq!(api.job(&id).await["status"], "generating");
}
