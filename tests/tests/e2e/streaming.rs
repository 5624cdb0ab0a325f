//! Following a job by Server-Sent Events.

use raglan_tests::{ServerEvent, ServerOptions, SseItem, within};
use serde_json::{Value, json};

use crate::corpus::{QUESTION, fast_question, id, server, server_with, slow_question};

/// What must hold for the events of one job, read from the first to the last.
pub fn check_whole(events: &[ServerEvent], job_id: &str) {
    let kinds: Vec<&str> = events.iter().map(|event| event.kind.as_str()).collect();
    assert!(events.iter().all(|event| event.job_id == job_id), "{kinds:?}");
    assert!(events.windows(2).all(|pair| pair[0].seq < pair[1].seq), "numbers grow: {events:#?}");
    let finals = events.iter().filter(|event| event.is_final()).count();
    assert_eq!(finals, 1, "one final event: {kinds:?}");
    assert!(events.last().unwrap().is_final(), "it comes last: {kinds:?}");
}

/// The text of all deltas.
pub fn text(events: &[ServerEvent]) -> String {
    let deltas = events.iter().filter(|event| event.kind == "answer.delta");
    deltas.map(|event| event.data["text"].as_str().unwrap()).collect()
}

fn wholes(events: &[ServerEvent]) -> Vec<&Value> {
    events.iter().map(|event| &event.whole).collect()
}

#[tokio::test]
async fn a_stream_tells_every_stage_and_ends_with_the_result() {
    let (_server, api) = server().await;
    let id = id(&api.ask(&json!({"query": QUESTION, "cache": "bypass"})).await);
    let mut stream = api.events(&id, None).await;
    let events = stream.rest().await;
    check_whole(&events, &id);
    let mut kinds: Vec<&str> = events.iter().map(|event| event.kind.as_str()).collect();
    kinds.dedup();
    assert_eq!(
        kinds,
        ["job.queued", "job.retrieving", "job.retrieved", "job.generating", "answer.delta", "job.succeeded"]
    );
    let retrieved = events.iter().find(|event| event.kind == "job.retrieved").unwrap();
    assert_eq!(retrieved.data["passages"][0]["external_id"], "handbook/returns.md");
    let last = events.last().unwrap();
    assert_eq!(last.data["status"], "succeeded");
    assert_eq!(text(&events), last.data["result"]["answer"].as_str().unwrap());
    // The event holds what a poll answers.
    assert_eq!(last.data, api.job(&id).await);
}

#[tokio::test]
async fn a_cut_stream_is_resumed_without_a_gap_or_a_repetition() {
    let (_server, api) = server().await;
    // At twenty words a second, so that the cuts fall into the answer.
    let body = json!({"query": QUESTION, "pipeline": "slow", "generation": {"max_tokens": 60}});
    let id = id(&api.ask(&body).await);
    let mut events: Vec<ServerEvent> = Vec::new();
    for deltas in [3, 1, 12] {
        let mut stream = api.events(&id, events.last().map(|event| event.seq)).await;
        for _ in 0..deltas {
            events.extend(stream.until(|event| event.kind == "answer.delta").await);
        }
        // Dropped in the middle of the answer: the connection is cut.
        drop(stream);
    }
    let running = api.job(&id).await;
    assert_eq!(running["status"], "generating", "a reader that leaves ends nothing: {running:#}");
    let mut stream = api.events(&id, events.last().map(|event| event.seq)).await;
    events.extend(stream.rest().await);

    check_whole(&events, &id);
    assert!(events.iter().all(|event| event.kind != "stream.snapshot"), "nothing was lost: {events:#?}");
    let all = api.events(&id, None).await.rest().await;
    assert_eq!(wholes(&events), wholes(&all), "the pieces are the whole");
    let answer = all.last().unwrap().data["result"]["answer"].as_str().unwrap().to_owned();
    assert_eq!(text(&events), answer);
    assert!(answer.starts_with("token1 token2 ") && answer.contains("token60"), "{answer}");

    // The query parameter does as well as the header.
    let middle = all[all.len() / 2].seq;
    let request = api.request(reqwest::Method::GET, &format!("/v1/jobs/{id}/events?after={middle}"));
    let rest = raglan_tests::Sse::open(request).await.rest().await;
    assert_eq!(wholes(&rest), wholes(&all[all.len() / 2 + 1..]));
}

#[tokio::test]
async fn readers_may_come_at_any_time_and_as_often_as_they_like() {
    let (_server, api) = server().await;
    let id = id(&api.ask(&fast_question(1)).await);
    let first = api.events(&id, None).await.rest().await;
    check_whole(&first, &id);
    // Long after the end, many at once.
    let readers = (0..20).map(|_| async { api.events(&id, None).await.rest().await });
    for events in futures::future::join_all(readers).await {
        assert_eq!(wholes(&events), wholes(&first));
    }
    // One that has all but the last gets the last; one that has that, too, is told that nothing will come.
    let before_last = first[first.len() - 2].seq;
    let rest = api.events(&id, Some(before_last)).await.rest().await;
    assert_eq!(wholes(&rest), [&first.last().unwrap().whole]);
    assert_eq!(api.events(&id, Some(first.last().unwrap().seq)).await.status, 204);
}

#[tokio::test]
async fn a_quiet_stream_is_kept_open_by_comments() {
    let silent = json!({
        "generators": [{"name": "silent", "type": "simulated", "tokens": 1, "tokens_per_s": 1, "first_token_ms": 3_600_000}],
        "query_pipelines": [{"name": "default", "generate": {"generator": "silent"}}],
    });
    let (_server, api) = server_with(ServerOptions::default().with(silent)).await;
    let id = id(&api.ask(&json!({"query": QUESTION})).await);
    let mut stream = api.events(&id, None).await;
    stream.until(|event| event.kind == "job.generating").await;
    let item = within("a comment", stream.item()).await.unwrap();
    assert!(matches!(item, SseItem::Comment(_)), "{item:?}");
    api.post(&format!("/v1/jobs/{id}/cancel"), &json!({})).await.expect(200);
    assert_eq!(stream.rest().await.last().unwrap().kind, "job.cancelled");
}

#[tokio::test]
async fn an_ingestion_can_be_followed_too() {
    let (_server, api) = server().await;
    let documents: Vec<Value> = (0..150)
        .map(|n| json!({"external_id": format!("note-{n}"), "text": format!("Note number {n} is about the colour of box {n}.")}))
        .collect();
    let id = id(&api.post("/v1/documents", &json!({"documents": documents})).await.expect(202));
    let events = api.events(&id, None).await.rest().await;
    check_whole(&events, &id);
    assert!(events.iter().any(|event| event.kind == "document.progress"), "{events:#?}");
    let last = events.last().unwrap();
    assert_eq!(last.kind, "job.succeeded");
    assert_eq!(last.data["result"]["documents"]["created"], 150);
    assert_eq!(last.data["progress"]["done"], 150);
    assert_eq!(last.data["progress"]["unit"], "documents");
}

#[tokio::test]
async fn a_stopping_server_ends_its_streams_and_they_go_on_after_the_restart() {
    let (mut server, api) = server().await;
    let id = id(&api.ask(&slow_question()).await);
    let mut stream = api.events(&id, None).await;
    let mut seen = stream.until(|event| event.kind == "answer.delta").await;
    assert!(server.terminate().await.success());
    seen.extend(stream.rest().await);
    assert!(seen.iter().all(|event| !event.is_final()), "it has not ended: {seen:#?}");

    server
        .restart_with(json!({"generators": [
            {"name": "extractive", "type": "extractive"},
            {"name": "fast", "type": "simulated", "tokens": 20, "tokens_per_s": 0},
            {"name": "slow", "type": "simulated", "tokens": 5, "tokens_per_s": 0},
        ]}))
        .await;
    let api = server.api();
    let rest = api.events(&id, seen.last().map(|event| event.seq)).await.rest().await;
    let last = rest.last().expect("the stream goes on");
    assert_eq!(last.kind, "job.succeeded", "{rest:#?}");
    assert_eq!(last.data["result"]["answer"], "token1 token2 token3 token4 token5 [1]");
    seen.extend(rest);
    check_whole(&seen, &id);
}
