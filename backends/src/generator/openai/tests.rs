//! Against a small server of our own that misbehaves on demand.

use std::{convert::Infallible, io, sync::Mutex};

use axum::{body::Body, http::Response};
use raglan_pipeline::{contract::generator as contract, generation::prompt::NOT_FOUND};
use serde_json::{Value, json};
use tokio::sync::oneshot;

use super::*;
use crate::model_server::testing::{Asked, KEY, TestServer, hanging, respond};

/// Starts a server that answers each request by its number, from 0, with settings to reach it.
async fn start(
    answer: impl Fn(usize) -> Response<Body> + Send + Sync + 'static,
) -> (Arc<TestServer>, OpenAiSettings) {
    let (server, address) = TestServer::start(move |number, _| answer(number)).await;
    let mut settings = OpenAiSettings::new(address.base_url, "test-model");
    settings.api_key = address.api_key;
    settings.backoff = Duration::ZERO;
    (server, settings)
}

fn event(value: &Value) -> String {
    format!("data: {value}\n\n")
}

fn delta(text: &str) -> String {
    event(&json!({"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": null}]}))
}

/// A whole answer as it goes over the wire.
fn script(texts: &[&str], finish: &str) -> String {
    let mut wire = ": hello\n\n".to_owned();
    wire += &event(&json!({"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]}));
    texts.iter().for_each(|text| wire += &delta(text));
    wire += &event(&json!({"choices": [{"index": 0, "delta": {}, "finish_reason": finish}]}));
    wire += &event(&json!({"choices": [], "usage": {"prompt_tokens": 11, "completion_tokens": 3}}));
    wire + "data: [DONE]\n\n"
}

fn events(body: impl Into<Body>) -> Response<Body> {
    respond(200, &[("content-type", "text/event-stream")], body)
}

async fn run(generator: &OpenAiGenerator) -> Result<Vec<Result<Generated, ModelError>>, ModelError> {
    let stream = generator.generate(contract::request(), CancellationToken::new()).await?;
    Ok(contract::collect(stream).await)
}

async fn fail(generator: &OpenAiGenerator) -> ModelError {
    run(generator).await.expect_err("it should have failed")
}

#[tokio::test]
async fn it_keeps_the_contract() {
    let (_server, settings) = start(|_| events(script(&["Forty", " litres", " [1]."], "stop"))).await;
    contract::run_all(Arc::new(OpenAiGenerator::new(settings).unwrap())).await;
}

#[tokio::test]
async fn a_stream_is_passed_on_with_its_end() {
    let (server, settings) = start(|_| events(script(&["Forty", " litres"], "length"))).await;
    let generator = OpenAiGenerator::new(settings).unwrap();
    let items = run(&generator).await.unwrap();
    assert_eq!(contract::text(&items), "Forty litres");
    let usage = Usage { prompt_tokens: 11, completion_tokens: 3 };
    assert_eq!(
        items.last().unwrap().as_ref().unwrap(),
        &Generated::End { reason: FinishReason::Length, usage, found: true, degraded: Vec::new() }
    );
    let Asked { path, headers, body } = server.take().remove(0);
    assert_eq!(path, "/v1/chat/completions");
    assert_eq!(headers["authorization"], format!("Bearer {KEY}"));
    assert_eq!(headers["content-type"], "application/json");
    assert_eq!((&body["model"], &body["stream"]), (&json!("test-model"), &json!(true)));
    assert_eq!(body["stream_options"], json!({"include_usage": true}));
    assert_eq!((&body["max_tokens"], &body["temperature"]), (&json!(512), &json!(0.0)));
    assert_eq!(body.get("max_completion_tokens"), None);
    assert_eq!(body["messages"][0]["role"], "system");
    assert!(body["messages"][1]["content"].as_str().unwrap().contains("The blue pump moves 40 litres"));
}

#[tokio::test]
async fn bytes_may_come_in_any_pieces() {
    let wire = script(&["Zürich – ", "日本"], "stop").replace('\n', "\r\n");
    let (_server, settings) = start(move |_| {
        let bytes: Vec<_> = wire.bytes().map(|byte| Ok::<_, Infallible>(vec![byte])).collect();
        events(Body::from_stream(futures::stream::iter(bytes)))
    })
    .await;
    let items = run(&OpenAiGenerator::new(settings).unwrap()).await.unwrap();
    assert_eq!(contract::text(&items), "Zürich – 日本");
}

#[tokio::test]
async fn an_answer_that_says_not_found_is_not_found() {
    let (_server, settings) = start(|number| {
        events(if number == 0 {
            script(&[&NOT_FOUND[..20], &NOT_FOUND[20..]], "stop")
        } else {
            script(&[], "stop")
        })
    })
    .await;
    let generator = OpenAiGenerator::new(settings).unwrap();
    for _ in 0..2 {
        let items = run(&generator).await.unwrap();
        assert!(matches!(items.last(), Some(Ok(Generated::End { found: false, .. }))), "{items:?}");
    }
}

#[tokio::test]
async fn refusals_are_typed_and_not_repeated_and_hold_no_key() {
    let long = r#"{"error":{"message":"too much","code":"context_length_exceeded"}}"#;
    let key = format!(r#"{{"error":{{"message":"bad key {KEY}"}}}}"#);
    for (status, body, too_long) in
        [(400, long, true), (413, "", true), (401, key.as_str(), false), (404, "no", false)]
    {
        let body = body.to_owned();
        let (server, settings) = start(move |_| respond(status, &[], body.clone())).await;
        let error = fail(&OpenAiGenerator::new(settings).unwrap()).await;
        assert_eq!(matches!(error, ModelError::TooLong(_)), too_long, "{error:?}");
        assert_eq!(matches!(error, ModelError::Permanent(_)), !too_long, "{error:?}");
        assert_eq!(server.requests(), 1, "{error:?}");
        assert!(!format!("{error} {error:?}").contains(KEY), "{error}");
    }
}

#[tokio::test]
async fn a_key_repeated_in_a_stream_is_masked_and_debug_shows_none() {
    let (_server, settings) =
        start(|_| events(event(&json!({"error": {"message": format!("what is {KEY}?"), "code": 401}}))))
            .await;
    assert!(!format!("{settings:?}").contains(KEY));
    let generator = OpenAiGenerator::new(settings).unwrap();
    assert!(!format!("{generator:?}").contains(KEY));
    let error = fail(&generator).await;
    assert_eq!(error.to_string(), "the model server answered 401 Unauthorized: what is ***?");
}

#[tokio::test]
async fn a_server_that_is_busy_is_asked_again() {
    let (server, settings) = start(|number| match number {
        0 => respond(503, &[("retry-after", "0")], ""),
        1 => events(": nothing\n\n"),
        _ => events(script(&["Yes"], "stop")),
    })
    .await;
    let items = run(&OpenAiGenerator::new(settings).unwrap()).await.unwrap();
    assert_eq!((contract::text(&items).as_str(), server.requests()), ("Yes", 3));
}

#[tokio::test]
async fn a_long_wait_is_left_to_the_caller() {
    let (server, settings) = start(|_| respond(429, &[("retry-after", "120")], "slow down")).await;
    let error = fail(&OpenAiGenerator::new(settings).unwrap()).await;
    assert!(
        matches!(&error, ModelError::TryLater { after: Some(after), message } if after.as_secs() == 120 && message.contains("slow down")),
        "{error:?}"
    );
    assert_eq!(server.requests(), 1);
}

#[tokio::test]
async fn a_server_that_keeps_failing_is_left_alone() {
    let (server, mut settings) = start(|_| respond(500, &[], "")).await;
    (settings.max_retries, settings.breaker_failures) = (1, 2);
    let pause = settings.breaker_pause;
    let generator = OpenAiGenerator::new(settings).unwrap();
    for _ in 0..2 {
        assert!(matches!(fail(&generator).await, ModelError::TryLater { after: None, .. }));
    }
    assert_eq!(server.requests(), 4);
    let error = fail(&generator).await;
    assert!(matches!(error, ModelError::TryLater { after: Some(after), .. } if after <= pause), "{error:?}");
    assert_eq!(server.requests(), 4, "it was asked although it is left alone");
}

#[tokio::test]
async fn a_stream_that_is_cut_is_an_error_after_its_text_and_is_not_repeated() {
    for broken in [true, false] {
        let (cut, told) = oneshot::channel::<()>();
        let told = Mutex::new(Some(told));
        let (server, settings) = start(move |_| {
            let told = told.lock().unwrap().take().unwrap();
            let end = futures::stream::once(async move {
                told.await.unwrap();
                if broken { Err(io::Error::other("cut")) } else { Ok(Bytes::new()) }
            });
            events(Body::from_stream(futures::stream::iter([Ok(Bytes::from(delta("Forty")))]).chain(end)))
        })
        .await;
        let generator = OpenAiGenerator::new(settings).unwrap();
        let mut stream = generator.generate(contract::request(), CancellationToken::new()).await.unwrap();
        assert_eq!(stream.next().await.unwrap().unwrap(), Generated::Delta("Forty".to_owned()));
        cut.send(()).unwrap();
        let rest = contract::collect(stream).await;
        assert!(matches!(rest.as_slice(), [Err(ModelError::TryLater { .. })]), "{rest:?}");
        assert_eq!(server.requests(), 1);
    }
}

#[tokio::test]
async fn a_complete_text_without_a_proper_end_is_complete() {
    let (_server, settings) = start(|_| {
        events(event(&json!({"choices": [{"delta": {"content": "Forty"}, "finish_reason": "stop"}]})))
    })
    .await;
    let items = run(&OpenAiGenerator::new(settings).unwrap()).await.unwrap();
    let end = Generated::End {
        reason: FinishReason::Stop,
        usage: Usage::default(),
        found: true,
        degraded: Vec::new(),
    };
    assert_eq!(items.last().unwrap().as_ref().unwrap(), &end);
}

#[tokio::test]
async fn waiting_has_limits() {
    let (server, mut settings) = start(|number| {
        events(hanging(if number == 0 { delta("Forty") } else { ": wait\n\n".to_owned() }, None))
    })
    .await;
    settings.idle_timeout = Duration::from_millis(100);
    settings.max_retries = 0;
    let items = run(&OpenAiGenerator::new(settings.clone()).unwrap()).await.unwrap();
    assert!(
        matches!(items.last(), Some(Err(ModelError::TryLater { message, .. })) if message.contains("nothing more"))
    );
    settings.first_token_timeout = Duration::from_millis(100);
    settings.max_retries = 1;
    let error = fail(&OpenAiGenerator::new(settings).unwrap()).await;
    assert!(
        matches!(&error, ModelError::TryLater { message, .. } if message.contains("wrote nothing")),
        "{error:?}"
    );
    assert_eq!(server.requests(), 3);
}

#[tokio::test]
async fn cancelling_and_dropping_close_the_connection() {
    for cancelled in [true, false] {
        let (told, gone) = oneshot::channel();
        let told = Mutex::new(Some(told));
        let (_server, settings) =
            start(move |_| events(hanging(delta("Forty"), told.lock().unwrap().take()))).await;
        let generator = OpenAiGenerator::new(settings).unwrap();
        let cancel = CancellationToken::new();
        let mut stream = generator.generate(contract::request(), cancel.clone()).await.unwrap();
        assert_eq!(stream.next().await.unwrap().unwrap(), Generated::Delta("Forty".to_owned()));
        if cancelled {
            cancel.cancel();
            assert!(matches!(stream.next().await, Some(Err(ModelError::Cancelled))));
            // The stream still lives: the connection must go all the same.
            gone.await.unwrap();
            assert!(stream.next().await.is_none());
        } else {
            drop(stream);
            gone.await.unwrap();
        }
    }
}

#[tokio::test]
async fn cancelling_before_the_first_token_closes_the_connection_too() {
    let (told, gone) = oneshot::channel();
    let (arrived, asked) = oneshot::channel();
    let signals = Mutex::new(Some((told, arrived)));
    let (_server, settings) = start(move |_| {
        let (told, arrived) = signals.lock().unwrap().take().unwrap();
        arrived.send(()).unwrap();
        events(hanging(": wait\n\n".to_owned(), Some(told)))
    })
    .await;
    let generator = OpenAiGenerator::new(settings).unwrap();
    let cancel = CancellationToken::new();
    let asking = generator.generate(contract::request(), cancel.clone());
    let (result, ()) = tokio::join!(asking, async {
        asked.await.unwrap();
        cancel.cancel();
    });
    assert!(matches!(result.err(), Some(ModelError::Cancelled)));
    gone.await.unwrap();
}

#[tokio::test]
async fn a_server_that_does_not_stream_is_refused() {
    let (server, settings) = start(|_| {
        respond(
            200,
            &[("content-type", "application/json; charset=utf-8")],
            r#"{"choices":[{"message":{"content":"Hi"}}]}"#,
        )
    })
    .await;
    let error = fail(&OpenAiGenerator::new(settings).unwrap()).await;
    assert!(matches!(&error, ModelError::Permanent(words) if words.contains("event stream")), "{error:?}");
    assert_eq!(server.requests(), 1);
}

#[test]
fn a_base_url_is_checked_and_extended() {
    let make = |url: &str| OpenAiGenerator::new(OpenAiSettings::new(Url::parse(url).unwrap(), "m"));
    for (url, endpoint) in [
        ("http://h/v1", "http://h/v1/chat/completions"),
        ("http://h/v1/", "http://h/v1/chat/completions"),
        ("https://h/openai?api-version=1", "https://h/openai/chat/completions?api-version=1"),
    ] {
        assert_eq!(make(url).unwrap().server.endpoint(), endpoint);
    }
    for url in ["ftp://h/v1", "http://user:pw@h/v1", "mailto:a@b"] {
        assert!(matches!(make(url), Err(ModelError::Permanent(words)) if !words.contains("pw@")), "{url}");
    }
}
