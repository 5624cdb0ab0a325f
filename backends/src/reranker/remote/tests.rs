//! Against a server of our own that answers as real ones do, or misbehaves on demand.

use std::{sync::Mutex, time::Duration};

use axum::{body::Body, http::Response};
use raglan_pipeline::contract;
use serde_json::{Value, json};
use tokio::sync::oneshot;

use super::*;
use crate::model_server::testing::{KEY, TestServer, hanging, hashed, json as good, respond};

/// How well a text answers a question, as this server sees it: by its first characters.
fn score(query: &str, text: &str) -> f32 {
    let beginning: String = text.chars().take(100).collect();
    hashed(&format!("{query}\n{beginning}"))
}

fn texts(body: &Value) -> Vec<&str> {
    let texts = body.get("texts").or_else(|| body.get("documents")).unwrap();
    texts.as_array().unwrap().iter().map(|text| text.as_str().unwrap()).collect()
}

/// The answer of a server that works, in either dialect: the best first, as they all do.
fn works(body: &Value) -> Response<Body> {
    let query = body["query"].as_str().unwrap();
    let mut scored: Vec<(usize, f32)> =
        texts(body).into_iter().map(|text| score(query, text)).enumerate().collect();
    scored.sort_by(|a, b| b.1.total_cmp(&a.1));
    let named = |name: &str| -> Vec<Value> {
        scored.iter().map(|(index, score)| json!({"index": index, name: score})).collect()
    };
    if body.get("texts").is_some() {
        return good(&json!(named("score")));
    }
    good(&json!({"id": "1", "results": named("relevance_score"), "meta": {}}))
}

fn reranker(server: ServerSettings, dialect: RerankDialect) -> RemoteReranker {
    RemoteReranker::new(RemoteRerankerSettings::new(server, dialect, "test-model")).unwrap()
}

/// An answer that never comes, and tells when its connection is gone.
fn silent(gone: Option<oneshot::Sender<()>>) -> Response<Body> {
    respond(200, &[("content-type", "application/json")], hanging("", gone))
}

async fn ask(reranker: &RemoteReranker, texts: &[&str]) -> Result<Vec<f32>, ModelError> {
    reranker.score("which", texts.iter().map(|text| (*text).to_owned()).collect()).await
}

#[tokio::test]
async fn it_keeps_the_contract_in_both_dialects() {
    for dialect in [RerankDialect::Tei, RerankDialect::Cohere] {
        let (_server, address) = TestServer::start(|_, body| works(body)).await;
        contract::models::reranker::run_all(std::sync::Arc::new(reranker(address, dialect))).await;
    }
}

#[tokio::test]
async fn each_dialect_is_spoken_as_its_servers_want_it() {
    let (server, address) = TestServer::start(|_, body| works(body)).await;
    let found = ask(&reranker(address.clone(), RerankDialect::Tei), &["one", " "]).await.unwrap();
    assert_eq!(found, [score("which", "one"), score("which", ".")]);
    ask(&reranker(address, RerankDialect::Cohere), &["one", "two"]).await.unwrap();
    let [tei, cohere] = &server.take()[..] else { panic!("two requests") };
    assert_eq!((tei.path.as_str(), cohere.path.as_str()), ("/v1/rerank", "/v1/rerank"));
    assert_eq!(tei.headers["authorization"], format!("Bearer {KEY}"));
    let expected = json!({"query": "which", "texts": ["one", "."], "raw_scores": true, "truncate": true});
    assert_eq!(tei.body, expected, "no server is sent an empty text");
    let expected = json!({"model": "test-model", "query": "which", "documents": ["one", "two"], "top_n": 2});
    assert_eq!(cohere.body, expected);
}

#[tokio::test]
async fn nothing_is_asked_about_nothing() {
    let (server, address) = TestServer::start(|_, body| works(body)).await;
    assert!(ask(&reranker(address, RerankDialect::Cohere), &[]).await.unwrap().is_empty());
    assert_eq!(server.requests(), 0);
}

#[tokio::test]
async fn requests_are_of_bounded_size_and_scores_keep_their_places() {
    let (server, address) = TestServer::start(|_, body| works(body)).await;
    let mut settings = RemoteRerankerSettings::new(address, RerankDialect::Tei, "test-model");
    settings.batch_texts = 4;
    let reranker = RemoteReranker::new(settings).unwrap();
    let given: Vec<String> = (0..10).map(|number| format!("text {number}")).collect();
    let huge = "x".repeat(1 << 20);
    let given: Vec<&str> = given.iter().map(String::as_str).chain([huge.as_str()]).collect();
    let found = ask(&reranker, &given).await.unwrap();
    let expected: Vec<f32> = given.iter().map(|text| score("which", text)).collect();
    assert_eq!(found, expected);
    let asked = server.take();
    let mut sizes: Vec<usize> = asked.iter().map(|asked| texts(&asked.body).len()).collect();
    sizes.sort_unstable();
    assert_eq!(sizes, [3, 4, 4]);
    assert!(
        asked.iter().all(|asked| asked.body.to_string().len() < 40_000),
        "what no model reads is not sent"
    );
}

#[tokio::test]
async fn what_the_server_finds_too_much_is_sent_in_halves() {
    // Takes two texts at once, and a question and a text of 300 bytes together.
    let (_server, address) = TestServer::start(|_, body| {
        let (query, texts) = (body["query"].as_str().unwrap(), texts(body));
        let too_long = texts.iter().any(|text| text.len() + query.len() > 300);
        if texts.len() > 2 || too_long { respond(413, &[], r#"{"error":"too much"}"#) } else { works(body) }
    })
    .await;
    let reranker = reranker(address, RerankDialect::Tei);
    let long = "ü".repeat(400);
    let given = ["a", "b", &long, "c", "d"];
    let found = ask(&reranker, &given).await.unwrap();
    assert_eq!(found, given.map(|text| score("which", text)));
    // The question is what is too long.
    let found = reranker.score(&long, vec!["a".to_owned()]).await.unwrap();
    assert_eq!(found, [score(&long[..200], "a")]);
    let (_server, address) = TestServer::start(|_, _| respond(413, &[], "")).await;
    let error = ask(&super::tests::reranker(address, RerankDialect::Tei), &[&long]).await;
    assert!(matches!(error, Err(ModelError::TooLong(_))), "{error:?}");
}

#[tokio::test]
async fn refusals_are_typed_and_not_repeated_and_hold_no_key() {
    for status in [400, 401, 404] {
        let body = format!(r#"{{"message":"no such thing as {KEY}"}}"#);
        let (server, address) = TestServer::start(move |_, _| respond(status, &[], body.clone())).await;
        assert!(!format!("{address:?}").contains(KEY));
        let reranker = reranker(address, RerankDialect::Cohere);
        let error = ask(&reranker, &["a"]).await.unwrap_err();
        assert!(matches!(error, ModelError::Permanent(_)), "{status}: {error:?}");
        assert_eq!(server.requests(), 1);
        assert!(!format!("{error} {error:?} {reranker:?}").contains(KEY), "{error}");
    }
}

#[tokio::test]
async fn a_server_that_is_busy_is_asked_again_unless_it_wants_a_long_wait() {
    let (server, address) = TestServer::start(|number, body| match number {
        0 => respond(503, &[("retry-after", "0")], ""),
        1 => respond(424, &[], r#"{"error":"out of memory","error_type":"Backend"}"#),
        _ => works(body),
    })
    .await;
    assert_eq!(ask(&reranker(address, RerankDialect::Tei), &["a"]).await.unwrap(), [score("which", "a")]);
    assert_eq!(server.requests(), 3);

    let (server, address) =
        TestServer::start(|_, _| respond(429, &[("retry-after", "120")], "slow down")).await;
    let error = ask(&reranker(address, RerankDialect::Tei), &["a"]).await.unwrap_err();
    let long = Duration::from_secs(120);
    assert!(
        matches!(&error, ModelError::TryLater { after: Some(after), message } if *after == long && message.contains("slow down")),
        "{error:?}"
    );
    assert_eq!(server.requests(), 1);
}

#[tokio::test]
async fn a_server_that_cannot_be_reached_or_does_not_answer_is_for_later() {
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let nobody = ServerSettings::new(format!("http://{closed}").parse().unwrap());
    let error = ask(&reranker(nobody, RerankDialect::Tei), &["a"]).await.unwrap_err();
    assert!(
        matches!(&error, ModelError::TryLater { message, .. } if message.contains("reached")),
        "{error:?}"
    );

    let (told, gone) = oneshot::channel();
    let told = Mutex::new(Some(told));
    let (server, mut address) = TestServer::start(move |_, _| silent(told.lock().unwrap().take())).await;
    address.timeout = Duration::from_millis(100);
    let error = ask(&reranker(address, RerankDialect::Tei), &["a"]).await.unwrap_err();
    assert!(matches!(&error, ModelError::TryLater { message, .. } if message.contains("100ms")), "{error:?}");
    gone.await.unwrap();
    assert_eq!(server.requests(), 1, "the time is that of all tries together");
}

#[tokio::test]
async fn a_caller_that_goes_closes_its_request() {
    let (told, gone) = oneshot::channel();
    let (arrived, asked) = oneshot::channel();
    let signals = Mutex::new(Some((told, arrived)));
    let (_server, address) = TestServer::start(move |_, _| {
        let (told, arrived) = signals.lock().unwrap().take().unwrap();
        arrived.send(()).unwrap();
        silent(Some(told))
    })
    .await;
    let reranker = reranker(address, RerankDialect::Tei);
    tokio::select! {
        answer = ask(&reranker, &["a"]) => panic!("it was answered: {answer:?}"),
        asked = asked => asked.unwrap(),
    }
    gone.await.unwrap();
}

#[tokio::test]
async fn scores_that_do_not_fit_the_texts_are_refused() {
    for answer in [
        json!([{"index": 0, "score": 0.5}]),
        json!([{"index": 0, "score": 0.5}, {"index": 0, "score": 0.4}]),
        json!([{"index": 0, "score": 0.5}, {"index": 2, "score": 0.4}]),
        json!([{"index": 0, "score": 0.5}, {"index": 1, "score": null}]),
        json!({"results": []}),
    ] {
        let told = answer.to_string();
        let (_server, address) = TestServer::start(move |_, _| good(&answer)).await;
        let error = ask(&reranker(address, RerankDialect::Tei), &["a", "b"]).await.unwrap_err();
        assert!(matches!(error, ModelError::Permanent(_)), "{told}: {error:?}");
    }
}

#[test]
fn an_address_is_checked() {
    for (url, words) in [("ftp://h", "neither http nor https"), ("http://user:pw@h", "belongs into api_key")]
    {
        let server = ServerSettings::new(url.parse().unwrap());
        let settings = RemoteRerankerSettings::new(server, RerankDialect::Tei, "m");
        let error = RemoteReranker::new(settings).unwrap_err().to_string();
        assert!(error.contains(words) && !error.contains("pw@"), "{error}");
    }
}
