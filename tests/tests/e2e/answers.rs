//! Passages, citations, and what is said when something is missing.

use raglan_tests::{ServerOptions, Shape, eventually};
use serde_json::{Value, json};

use crate::corpus::{ANSWER, QUESTION, found, id, server, server_with, slice};

#[tokio::test]
async fn citations_point_at_the_right_place() {
    let (_server, api) = server().await;
    let mut cited = 0;
    for question in [
        QUESTION,
        "How long does the warranty of kettles last?",
        "How many weeks do Pakete nach Norwegen brauchen?",
        "Who is happy about the Rückgabe?",
        "Who pays the postage of parcels?",
    ] {
        let job = api.answer(&json!({"query": question})).await;
        let result = &job["result"];
        let answer = result["answer"].as_str().unwrap();
        for citation in result["citations"].as_array().unwrap() {
            assert!(answer.contains(&format!("[{}]", citation["marker"])), "{question}: {result:#}");
            let path = format!("/v1/documents/{}?include=text", citation["document_id"].as_str().unwrap());
            let document = api.get(&path).await.expect(200);
            let text = slice(document["text"].as_str().unwrap(), &citation["start"], &citation["end"]);
            assert_eq!(text, citation["text"].as_str().unwrap(), "{question}: {citation:#}");
            assert!(!text.trim().is_empty());
            for same in ["external_id", "title", "uri"] {
                assert_eq!(citation[same], document[same], "{same} of {citation:#}");
            }
            cited += 1;
        }
        // What is in brackets is cited.
        for marker in (1..=9).filter(|n| answer.contains(&format!("[{n}]"))) {
            let citations = result["citations"].as_array().unwrap();
            assert!(
                citations.iter().any(|citation| citation["marker"] == marker),
                "[{marker}] leads nowhere: {result:#}"
            );
        }
    }
    assert!(cited >= 4, "only {cited} citations");
    let job = api.answer(&json!({"query": QUESTION})).await;
    let citation = &job["result"]["citations"][0];
    assert_eq!(citation["external_id"], "handbook/returns.md");
    assert_eq!(citation["uri"], "https://shop.example/handbook/returns");
    assert!(citation["text"].as_str().unwrap().contains(ANSWER), "{citation:#}");
}

#[tokio::test]
async fn what_no_document_says_is_not_found() {
    let (_server, api) = server().await;
    let job = api.answer(&json!({"query": "What is the melting point of tungsten?"})).await;
    assert_eq!(job["status"], "succeeded");
    assert_eq!(job["result"]["found"], false, "{job:#}");
    assert_eq!(job["result"]["citations"], json!([]));
    assert!(!job["result"]["answer"].as_str().unwrap().is_empty());
    // A collection without documents is no error either.
    let job = api.answer(&json!({"query": QUESTION, "collection": "empty"})).await;
    assert_eq!(job["status"], "succeeded", "{job:#}");
    assert_eq!(job["result"]["found"], false);
}

#[tokio::test]
async fn passages_can_be_had_for_a_while() {
    let options = ServerOptions::default().with(json!({"jobs": {"passages_ttl_s": 10}}));
    let (_server, api) = server_with(options).await;
    let job = id(&api.ask(&json!({"query": QUESTION, "top_k": 2})).await);
    let path = format!("/v1/jobs/{job}/passages");
    let passages = eventually("the passages", async || {
        let reply = api.get(&path).await;
        match reply.status.as_u16() {
            409 => {
                assert_eq!(reply.json()["code"], "not_retrieved");
                None
            }
            _ => Some(reply.expect(200)),
        }
    })
    .await;
    assert_eq!(found(&passages)[0], "handbook/returns.md");
    assert!(passages["passages"].as_array().unwrap().len() <= 2);
    assert_eq!(passages["degraded"], json!([]));
    let best = &passages["passages"][0];
    assert_eq!(best["heading_path"][0], "Returns", "{best:#}");
    assert_eq!(best["ranks"]["keyword"], 1);
    assert!(best["score"].is_number());
    assert_eq!(best["metadata"]["lang"], "en");
    // They are what the event told.
    let events = api.events(&job, None).await.rest().await;
    let told = events.iter().find(|event| event.kind == "job.retrieved").unwrap();
    assert_eq!(told.data["passages"], passages["passages"]);

    let gone = eventually("the end of the passages", async || {
        let reply = api.get(&path).await;
        (reply.status != 200).then_some(reply)
    })
    .await;
    assert_eq!(gone.expect(410)["code"], "passages_gone");
    // The answer stays.
    assert!(api.job(&job).await["result"]["answer"].as_str().unwrap().contains(ANSWER));
    // An ingestion has none.
    let jobs = api.get("/v1/jobs?kind=ingestion").await.expect(200);
    api.get(&format!("/v1/jobs/{}/passages", id(&jobs["jobs"][0]))).await.expect(404);
}

#[tokio::test]
async fn passages_point_at_the_right_place_too() {
    let (_server, api) = server().await;
    let hits =
        api.search(&json!({"query": "Rückgabe freut niemand goods warranty Pakete", "top_k": 50})).await;
    assert!(found(&hits).len() >= 3);
    for passage in hits["passages"].as_array().unwrap() {
        let path = format!("/v1/documents/{}?include=text", passage["document_id"].as_str().unwrap());
        let document = api.get(&path).await.expect(200);
        let text = slice(document["text"].as_str().unwrap(), &passage["start"], &passage["end"]);
        assert_eq!(text, passage["text"].as_str().unwrap());
    }
    let scores: Vec<f64> =
        hits["passages"].as_array().unwrap().iter().map(|one| one["score"].as_f64().unwrap()).collect();
    assert!(scores.windows(2).all(|pair| pair[0] >= pair[1]), "the best first: {scores:?}");
}

#[tokio::test]
async fn without_its_embedding_model_the_answer_comes_from_the_words_and_says_so() {
    let cache = tempfile::tempdir().unwrap();
    let options = ServerOptions::default().with(json!({
        "models": {"embedding": {"name": "all-MiniLM-L6-v2"}, "offline": true, "cache_dir": cache.path()},
    }));
    let (_server, api) = server_with(options).await;
    let job = api.answer(&json!({"query": QUESTION})).await;
    assert_eq!(job["status"], "succeeded");
    assert_eq!(job["result"]["degraded"], json!(["embedder"]), "{job:#}");
    assert!(job["result"]["answer"].as_str().unwrap().contains(ANSWER), "{job:#}");
    let hits = api.search(&json!({"query": QUESTION})).await;
    assert_eq!(hits["degraded"], json!(["embedder"]));
    assert_eq!(found(&hits)[0], "handbook/returns.md");
    // What asks for words alone misses nothing.
    let hits = api.search(&json!({"query": QUESTION, "mode": "keyword"})).await;
    assert_eq!(hits["degraded"], json!([]));
    let ready = api.get("/readyz").await.expect(200);
    assert_eq!(ready["ready"], true);
    let parts = ready["parts"].as_array().unwrap();
    let embedder = parts.iter().find(|part| part["name"].as_str().unwrap().contains("embed")).unwrap();
    assert_eq!(embedder["state"], "degraded", "{ready:#}");
}

#[tokio::test]
async fn metrics_and_health_are_told() {
    let (_server, api) = server().await;
    api.answer(&json!({"query": QUESTION})).await;
    assert_eq!(api.get("/healthz").await.expect(200), json!({"status": "ok"}));
    let ready: Value = api.get("/readyz").await.expect(200);
    assert_eq!(ready["ready"], true, "{ready:#}");
    assert!(ready["parts"].as_array().unwrap().len() >= 3, "{ready:#}");
    let metrics = api.get("/metrics").await;
    assert!(metrics.header("content-type").starts_with("text/plain"));
    let text = String::from_utf8(metrics.body.to_vec()).unwrap();
    let mut names = vec!["raglan_http_requests_total", "raglan_jobs_accepted_total"];
    // The workers' own in the distributed shape.
    if Shape::of_this_run() == Shape::Embedded {
        names.push("raglan_stage_seconds");
    }
    for name in names {
        assert!(text.contains(name), "{name} is not among the metrics:\n{text}");
    }
}
