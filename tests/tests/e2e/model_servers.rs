//! An embedder and a re-ranker on a server of the test's own.

use std::sync::{Arc, Mutex};

use axum::{
    Json, Router,
    extract::State,
    http::{HeaderMap, StatusCode, Uri},
    response::{IntoResponse, Response},
};
use raglan_tests::{Server, ServerOptions, raglan};
use serde_json::{Value, json};

use crate::corpus::{QUESTION, found, handbook, server_with};

const KEY: &str = "sk-only-the-server-may-see";
const DIMENSION: usize = 64;

/// Answers `/v1/embeddings` and `/rerank`, while it is well, to whoever has the key.
#[derive(Default)]
struct Models {
    /// The calls that it refuses.
    down: Mutex<Vec<&'static str>>,
    asked: Mutex<Vec<(String, Value)>>,
}

impl Models {
    /// Starts one; its address.
    async fn start() -> (Arc<Self>, String) {
        let models = Arc::new(Self::default());
        let app = Router::new().fallback(answer).with_state(models.clone());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        (models, address)
    }

    fn set_down(&self, calls: &[&'static str]) {
        *self.down.lock().unwrap() = calls.to_vec();
    }

    /// The texts that were embedded, of all requests.
    fn embedded(&self) -> Vec<String> {
        let asked = self.asked.lock().unwrap();
        let inputs = asked.iter().filter_map(|(_, body)| body.get("input")?.as_array());
        inputs.flatten().map(|text| text.as_str().unwrap().to_owned()).collect()
    }
}

async fn answer(
    State(models): State<Arc<Models>>,
    uri: Uri,
    headers: HeaderMap,
    Json(body): Json<Value>,
) -> Response {
    models.asked.lock().unwrap().push((uri.path().to_owned(), body.clone()));
    if headers.get("authorization").is_none_or(|key| key.as_bytes() != format!("Bearer {KEY}").as_bytes()) {
        return (StatusCode::UNAUTHORIZED, "who are you?").into_response();
    }
    if models.down.lock().unwrap().contains(&uri.path()) {
        return (StatusCode::SERVICE_UNAVAILABLE, "starting").into_response();
    }
    match uri.path() {
        "/v1/embeddings" => {
            let texts = body["input"].as_array().unwrap().iter().map(|text| text.as_str().unwrap());
            let data: Vec<Value> = (0..)
                .zip(texts)
                .map(|(at, text): (usize, _)| json!({"index": at, "embedding": vector(text)}))
                .collect();
            Json(json!({"object": "list", "data": data})).into_response()
        }
        // Prefers what is said about kettles, whatever the question.
        "/rerank" => {
            let texts = body["texts"].as_array().unwrap().iter().map(|text| text.as_str().unwrap());
            let score = |text: &str| if text.contains("kettles") { 7.5 } else { -1.0 - text.len() as f64 };
            let mut scores: Vec<(usize, f64)> = texts.map(score).enumerate().collect();
            scores.sort_by(|a, b| b.1.total_cmp(&a.1));
            let scores: Vec<Value> =
                scores.into_iter().map(|(index, score)| json!({"index": index, "score": score})).collect();
            Json(scores).into_response()
        }
        _ => StatusCode::NOT_FOUND.into_response(),
    }
}

/// Equal words make near vectors.
fn vector(text: &str) -> Vec<f32> {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut vector = vec![0.01; DIMENSION];
    for word in text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()) {
        let mut hasher = DefaultHasher::new();
        word.to_lowercase().hash(&mut hasher);
        vector[usize::try_from(hasher.finish() % DIMENSION as u64).unwrap()] += 1.0;
    }
    vector
}

fn config(address: &str) -> Value {
    json!({
        "models": {
            "embedding": {
                "type": "openai", "base_url": format!("{address}/v1"), "model": "test", "api_key": KEY,
                "query_prefix": "query: ", "passage_prefix": "passage: ",
            },
            "reranker": {"type": "tei", "base_url": address, "model": "test", "api_key": KEY, "timeout_ms": 20_000},
        },
        "query_pipelines": [
            {"name": "default"},
            {"name": "reranked", "rerank": {"candidates": 10, "deadline_ms": 30_000}},
        ],
    })
}

#[tokio::test]
async fn questions_are_embedded_and_passages_re_ranked_by_a_server() {
    let (models, address) = Models::start().await;
    let (server, api) = server_with(ServerOptions::default().with(config(&address))).await;
    let embedded = models.embedded();
    for document in handbook()["documents"].as_array().unwrap() {
        let title = document["title"].as_str().unwrap();
        assert!(
            embedded.iter().any(|text| text.starts_with("passage: ") && text.contains(title)),
            "{title} was not embedded: {embedded:#?}"
        );
    }

    let question = json!({"query": QUESTION, "mode": "vector"});
    let fused = api.search(&question).await;
    assert_eq!(fused["degraded"], json!([]), "{fused:#}");
    assert_eq!(found(&fused)[0], "handbook/returns.md");
    assert!(fused["passages"][0]["ranks"]["vector"].is_number(), "{fused:#}");
    assert!(models.embedded().contains(&format!("query: {QUESTION}")));

    let by_reranker = json!({"query": QUESTION, "mode": "vector", "pipeline": "reranked"});
    let reranked = api.search(&by_reranker).await;
    assert_eq!(reranked["degraded"], json!([]), "{reranked:#}");
    assert_eq!(found(&reranked)[0], "handbook/warranty.md");
    assert_eq!(reranked["passages"][0]["score"], 7.5);
    assert_eq!(reranked["passages"][0]["ranks"]["rerank"], 1);
    assert!(reranked["timings"]["rerank_ms"].is_number(), "{reranked:#}");

    // Without its re-ranker a search is as good as one that wanted none, and says so.
    models.set_down(&["/rerank"]);
    let without = api.search(&by_reranker).await;
    assert_eq!(without["degraded"], json!(["reranker"]), "{without:#}");
    assert_eq!(found(&without), found(&fused));
    let job = api.answer(&json!({"query": QUESTION, "pipeline": "reranked"})).await;
    assert_eq!((&job["status"], &job["result"]["degraded"]), (&json!("succeeded"), &json!(["reranker"])));
    models.set_down(&["/rerank", "/v1/embeddings"]);
    let words = api.search(&by_reranker).await;
    assert_eq!(words["degraded"], json!(["embedder", "reranker"]), "{words:#}");
    assert_eq!(found(&words)[0], "handbook/returns.md");

    models.set_down(&[]);
    let config = server.config_file();
    let check = ["check", "--json", "--config", config.to_str().unwrap()];
    let output = raglan(server.folder(), &[], &check).await.expect_code(0);
    let report = output.json();
    for (part, detail) in
        [("models.embedding", "64 numbers a vector"), ("models.reranker", "test answers in")]
    {
        let findings = report["findings"].as_array().unwrap();
        let finding = findings.iter().find(|finding| finding["part"] == part).unwrap();
        assert_eq!(finding["state"], "ok", "{finding:#}");
        assert!(finding["detail"].as_str().unwrap().contains(detail), "{finding:#}");
    }
    assert!(!format!("{output:?} {}", server.stderr()).contains(KEY), "the key was printed");
}

#[tokio::test]
async fn a_server_that_does_not_fit_is_found_out_before_ready() {
    let (models, address) = Models::start().await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("raglan.yaml");
    let with = |dimension: Value, key: &str| {
        let mut settings = config(&address);
        settings["models"]["embedding"]["dimension"] = dimension;
        settings["models"]["embedding"]["api_key"] = json!(key);
        settings["startup"] = json!({"wait_s": 1});
        std::fs::write(&file, settings.to_string()).unwrap();
    };
    let serve = ["serve", "--listen", "127.0.0.1:0", "--data-dir", "data"];
    with(json!(384), KEY);
    let output = raglan(folder.path(), &[], &serve).await;
    assert!(output.code.is_some_and(|code| code != 0), "{output:#?}");
    assert!(
        output.stderr.contains("models.embedding") && output.stderr.contains("64 numbers, not 384"),
        "{output:#?}"
    );
    let output = raglan(folder.path(), &[], &["check"]).await.expect_code(2);
    assert!(output.stdout.contains("64 numbers, not 384"), "{output:#?}");

    with(Value::Null, "sk-another-key");
    let output = raglan(folder.path(), &[], &["check"]).await.expect_code(2);
    assert!(output.stdout.contains("401") && !output.stdout.contains("sk-another-key"), "{output:#?}");

    // Down: without a dimension nothing can start; with it everything does, and vectors come when the server is back.
    models.set_down(&["/v1/embeddings"]);
    with(Value::Null, KEY);
    let output = raglan(folder.path(), &[], &serve).await;
    assert!(output.code.is_some_and(|code| code != 0), "{output:#?}");
    assert!(output.stderr.contains("models.embedding") && output.stderr.contains("503"), "{output:#?}");
    let options = ServerOptions::default()
        .with(config(&address))
        .with(json!({"models": {"embedding": {"dimension": DIMENSION}}}));
    let server = Server::start(options).await;
    models.set_down(&[]);
    server.api().ingest(&handbook()).await;
    let question = json!({"query": QUESTION, "mode": "vector"});
    let hits = server.api().search(&question).await;
    assert_eq!(
        (&hits["degraded"], found(&hits)[0].as_str()),
        (&json!([]), "handbook/returns.md"),
        "{hits:#}"
    );
    models.set_down(&["/v1/embeddings"]);
    assert_eq!(server.api().search(&question).await["degraded"], json!(["embedder"]));
}
