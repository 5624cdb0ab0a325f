//! Against a server of our own that answers as real ones do, or misbehaves on demand.

use axum::{body::Body, http::Response};
use raglan_pipeline::{contract, ingestion::word_tokenizer::WordTokenizer};
use serde_json::{Value, json};

use super::*;
use crate::model_server::testing::{KEY, TestServer, hashed, json as good, respond};

const DIMENSION: usize = 16;

/// A vector for each text: the sum of its words', not of unit length.
fn vector(text: &str) -> Vec<f32> {
    let of_word = |word: &str| (0..DIMENSION).map(move |place| hashed(&format!("{place} {word}"))).collect();
    let words = text.split_whitespace().map(of_word);
    words.fold(vec![0.0; DIMENSION], |sum, word: Vec<f32>| sum.iter().zip(word).map(|(a, b)| a + b).collect())
}

fn texts(body: &Value) -> Vec<&str> {
    let texts = body.get("input").or_else(|| body.get("inputs")).unwrap();
    texts.as_array().unwrap().iter().map(|text| text.as_str().unwrap()).collect()
}

/// The answer of a server that works, in either dialect, the last text first where it has a choice.
fn works(body: &Value) -> Response<Body> {
    let vectors = texts(body).into_iter().map(vector);
    if body.get("inputs").is_some() {
        return good(&json!(vectors.collect::<Vec<_>>()));
    }
    let data: Vec<Value> = vectors
        .enumerate()
        .map(|(index, vector)| json!({"index": index, "embedding": vector}))
        .rev()
        .collect();
    good(&json!({"object": "list", "data": data, "usage": {"prompt_tokens": 1, "total_tokens": 1}}))
}

fn settings(server: ServerSettings, dialect: EmbedDialect) -> RemoteEmbedderSettings {
    RemoteEmbedderSettings { max_tokens: 48, ..RemoteEmbedderSettings::new(server, dialect, "test-model") }
}

async fn open(settings: RemoteEmbedderSettings) -> Result<RemoteEmbedder, ModelError> {
    RemoteEmbedder::open(settings, Arc::new(WordTokenizer)).await
}

/// An embedder whose server works, with what was asked so far forgotten.
async fn working(dialect: EmbedDialect) -> (Arc<TestServer>, RemoteEmbedder) {
    let (server, address) = TestServer::start(|_, body| works(body)).await;
    let embedder = open(settings(address, dialect)).await.unwrap();
    server.take();
    (server, embedder)
}

async fn embed(embedder: &RemoteEmbedder, texts: &[&str]) -> Result<Vec<Embedding>, ModelError> {
    embedder.embed(texts.iter().map(|text| (*text).to_owned()).collect(), EmbedPurpose::Passage).await
}

fn cosine(a: &[f32], b: &[f32]) -> f32 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

#[tokio::test]
async fn it_keeps_the_contract_in_both_dialects() {
    for dialect in [EmbedDialect::OpenAi, EmbedDialect::Tei] {
        let (_server, embedder) = working(dialect).await;
        contract::models::embedder::run_all(Arc::new(embedder)).await;
    }
}

#[tokio::test]
async fn each_dialect_is_spoken_as_its_servers_want_it() {
    let (server, embedder) = working(EmbedDialect::OpenAi).await;
    let found = embed(&embedder, &["one two", "three"]).await.unwrap();
    assert!(
        cosine(&found[0].vector, &vector("one two")) > 0.9999,
        "the order is the texts', not the answer's"
    );
    let asked = server.take().remove(0);
    assert_eq!(asked.path, "/v1/embeddings");
    assert_eq!(asked.headers["authorization"], format!("Bearer {KEY}"));
    let expected = json!({"model": "test-model", "input": ["one two", "three"], "encoding_format": "float"});
    assert_eq!(asked.body, expected);

    let (server, embedder) = working(EmbedDialect::Tei).await;
    embed(&embedder, &["one two", ""]).await.unwrap();
    let asked = server.take().remove(0);
    assert_eq!(asked.path, "/v1/embed");
    let expected = json!({"inputs": ["one two", "."], "normalize": true, "truncate": true});
    assert_eq!(asked.body, expected, "no server is sent an empty text");
}

#[tokio::test]
async fn a_question_and_a_passage_get_their_prefixes_and_the_name_tells() {
    let (server, address) = TestServer::start(|_, body| works(body)).await;
    let plain = open(settings(address.clone(), EmbedDialect::OpenAi)).await.unwrap();
    assert_eq!(plain.info().model, "test-model-16-48");
    let mut with = settings(address, EmbedDialect::OpenAi);
    (with.query_prefix, with.passage_prefix) = ("query: ".to_owned(), "passage: ".to_owned());
    let embedder = open(with).await.unwrap();
    assert!(embedder.info().model.starts_with("test-model-16-48-"), "{}", embedder.info().model);
    server.take();
    for (purpose, sent) in [
        (EmbedPurpose::Query, "query: harvest"),
        (EmbedPurpose::Passage, "passage: harvest"),
        (EmbedPurpose::Candidate, "passage: harvest"),
    ] {
        embedder.embed(vec!["harvest".to_owned()], purpose).await.unwrap();
        assert_eq!(texts(&server.take()[0].body), [sent], "{purpose:?}");
    }
}

#[tokio::test]
async fn requests_are_bounded_by_texts_and_by_tokens() {
    let (server, address) = TestServer::start(|_, body| works(body)).await;
    let mut bounded = settings(address, EmbedDialect::Tei);
    (bounded.batch_texts, bounded.batch_tokens) = (3, 12);
    let embedder = open(bounded).await.unwrap();
    server.take();
    // With the special tokens: 3 each, then 8 and 8, then one that is too long for any batch.
    let long = "w ".repeat(40);
    let given = ["a", "b", "c", "d", "1 2 3 4 5 6", "6 5 4 3 2 1", &long, "e"];
    let found = embed(&embedder, &given).await.unwrap();
    for (text, embedding) in given.iter().zip(&found) {
        assert!(cosine(&embedding.vector, &vector(text)) > 0.9999, "{text:?}");
    }
    let mut sizes: Vec<Vec<usize>> = server
        .take()
        .iter()
        .map(|asked| texts(&asked.body).iter().map(|text| text.split_whitespace().count()).collect())
        .collect();
    sizes.sort();
    assert_eq!(sizes, [vec![1], vec![1, 1, 1], vec![1, 6], vec![6], vec![40]]);
}

#[tokio::test]
async fn what_the_server_finds_too_much_is_sent_in_halves_and_told() {
    // Takes two texts at once, and of each 100 bytes.
    let (server, address) = TestServer::start(|_, body| {
        let texts = texts(body);
        if texts.len() > 2 {
            return respond(
                422,
                &[],
                r#"{"error":"batch size 3 > maximum allowed batch size 2","error_type":"Validation"}"#,
            );
        }
        if texts.iter().any(|text| text.len() > 100) {
            return respond(413, &[], r#"{"error":"`inputs` must have less than 512 tokens. Given: 600"}"#);
        }
        works(body)
    })
    .await;
    let embedder = open(settings(address, EmbedDialect::Tei)).await.unwrap();
    server.take();
    let long = "überlang ".repeat(20);
    let found = embed(&embedder, &["a", "b", &long, "c", "d"]).await.unwrap();
    let told: Vec<bool> = found.iter().map(|embedding| embedding.truncated).collect();
    assert_eq!(told, [false, false, true, false, false]);
    assert!(cosine(&found[4].vector, &vector("d")) > 0.9999, "each half keeps its place");
    // What no cut makes short enough is the caller's.
    let (_server, address) = TestServer::start(|number, body| match number {
        0 => works(body),
        _ => respond(413, &[], ""),
    })
    .await;
    let embedder = open(settings(address, EmbedDialect::OpenAi)).await.unwrap();
    assert!(matches!(embed(&embedder, &[&long]).await, Err(ModelError::TooLong(_))));
}

#[tokio::test]
async fn the_dimension_is_checked_at_start_and_with_every_answer() {
    let (_server, address) = TestServer::start(|_, body| works(body)).await;
    let wrong = RemoteEmbedderSettings { dimension: Some(384), ..settings(address, EmbedDialect::OpenAi) };
    let error = open(wrong).await.err().unwrap();
    assert!(
        matches!(&error, ModelError::Permanent(words) if words.contains("16 numbers, not 384")),
        "{error}"
    );

    // The server is replaced by one with another model.
    let (_server, address) = TestServer::start(|number, body| match number {
        0 => works(body),
        _ => good(&json!([[1.0, 2.0]])),
    })
    .await;
    let embedder = open(settings(address, EmbedDialect::Tei)).await.unwrap();
    let error = embed(&embedder, &["a"]).await.err().unwrap();
    assert!(matches!(&error, ModelError::Permanent(words) if words.contains("2 numbers, not 16")), "{error}");
}

#[tokio::test]
async fn a_server_that_is_down_at_start_is_no_error_where_the_dimension_is_known() {
    let (server, mut address) = TestServer::start(|number, body| match number {
        0 | 1 => respond(503, &[], "starting"),
        _ => works(body),
    })
    .await;
    address.tries.attempts = 1;
    let unknown = open(settings(address.clone(), EmbedDialect::OpenAi)).await;
    assert!(matches!(unknown.err(), Some(ModelError::TryLater { .. })));
    let known =
        RemoteEmbedderSettings { dimension: Some(DIMENSION), ..settings(address, EmbedDialect::OpenAi) };
    let embedder = open(known).await.unwrap();
    assert_eq!((embedder.info().dimension, server.requests()), (DIMENSION, 2));
    assert_eq!(embed(&embedder, &["a"]).await.unwrap().len(), 1);
}

#[tokio::test]
async fn answers_that_do_not_fit_the_texts_are_refused() {
    for (dialect, answer) in [
        (EmbedDialect::OpenAi, json!({"data": []})),
        (EmbedDialect::OpenAi, json!({"data": [{"index": 1, "embedding": vector("a")}]})),
        (EmbedDialect::OpenAi, json!({"data": [{"index": 0, "embedding": null}]})),
        (EmbedDialect::Tei, json!([])),
        (EmbedDialect::Tei, json!([vector("a"), vector("b")])),
        (EmbedDialect::Tei, json!({"vectors": []})),
    ] {
        let told = answer.to_string();
        let (_server, address) = TestServer::start(move |number, body| match number {
            0 => works(body),
            _ => good(&answer),
        })
        .await;
        let embedder = open(settings(address, dialect)).await.unwrap();
        let error = embed(&embedder, &["a"]).await.err().unwrap();
        assert!(matches!(error, ModelError::Permanent(_)), "{told}: {error:?}");
    }
}
