//! `Idempotency-Key`: one request, one job.

use std::collections::BTreeSet;

use futures::future::join_all;
use raglan_tests::{Api, Reply};
use reqwest::{Method, multipart};
use serde_json::{Value, json};

use crate::corpus::{QUESTION, id, server};

async fn ask(api: &Api, key: &str, body: &Value) -> Reply {
    api.post_with("/v1/queries", "idempotency-key", key, body).await
}

#[tokio::test]
async fn the_same_key_and_request_give_the_first_job_and_another_request_409() {
    let (mut server, api) = server().await;
    let body = json!({"query": QUESTION, "top_k": 3});
    let first = ask(&api, "order-1", &body).await;
    assert!(first.header("idempotent-replayed").is_empty());
    let job = id(&first.expect(202));

    // The order of the fields and the white space are not the request.
    let request = api
        .request(Method::POST, "/v1/queries")
        .header("idempotency-key", "order-1")
        .header("content-type", "application/json")
        .body(format!("{{ \"top_k\": 3,\n \"query\": {} }}", json!(QUESTION)));
    let again = api.send(request).await;
    assert!(again.status.is_success(), "{again:?}");
    assert_eq!(again.header("idempotent-replayed"), "true");
    assert_eq!(id(&again.json()), job);

    for other in [json!({"query": QUESTION, "top_k": 4}), json!({"query": "Something else?", "top_k": 3})] {
        let problem = ask(&api, "order-1", &other).await.expect(409);
        assert_eq!(problem["code"], "idempotency_key_reused");
        assert_eq!(problem["field"], "Idempotency-Key");
    }
    // The same key on another route is another request.
    let document = json!({"external_id": "a", "text": "b"});
    api.post_with("/v1/documents", "idempotency-key", "order-1", &document).await.expect(409);
    // Another key is another job.
    assert_ne!(id(&ask(&api, "order-2", &body).await.expect(202)), job);

    // Once the job has ended, the answer is the finished job; after a crash, too.
    api.ended(&job).await;
    let done = ask(&api, "order-1", &body).await.expect(200);
    assert_eq!((id(&done), &done["status"]), (job.clone(), &json!("succeeded")));
    server.kill9();
    server.restart().await;
    let done = ask(&server.api(), "order-1", &body).await.expect(200);
    assert_eq!(id(&done), job);
    ask(&server.api(), "order-1", &json!({"query": "Something else?"})).await.expect(409);
}

#[tokio::test]
async fn twenty_at_once_with_one_key_make_one_job() {
    let (_server, api) = server().await;
    let body = json!({"query": QUESTION});
    let replies = join_all((0..20).map(|_| ask(&api, "all-at-once", &body))).await;
    let jobs: BTreeSet<String> = replies.iter().map(|reply| id(&reply.json())).collect();
    assert_eq!(jobs.len(), 1, "{jobs:?}");
    let new = replies.iter().filter(|reply| reply.header("idempotent-replayed").is_empty()).count();
    assert_eq!(new, 1, "one of them is the first");
    let listed = api.get("/v1/jobs?kind=query").await.expect(200);
    assert_eq!(listed["jobs"].as_array().unwrap().len(), 1);
    assert_eq!(api.ended(jobs.first().unwrap()).await["status"], "succeeded");
}

#[tokio::test]
async fn files_are_the_same_request_whatever_their_boundary_is() {
    let (_server, api) = server().await;
    let upload = async |text: &str| {
        let part = multipart::Part::bytes(text.as_bytes().to_vec()).file_name("a.txt");
        let form = multipart::Form::new().part("file", part);
        let request = api.request(Method::POST, "/v1/documents").header("idempotency-key", "upload-1");
        api.send(request.multipart(form)).await
    };
    let first = upload("The lamp is green.").await.expect(202);
    let again = upload("The lamp is green.").await;
    assert_eq!(again.header("idempotent-replayed"), "true");
    assert_eq!(id(&again.json()), id(&first));
    assert_eq!(upload("The lamp is blue.").await.expect(409)["code"], "idempotency_key_reused");
    let job = api.ended(&id(&first)).await;
    assert_eq!(job["result"]["documents"]["created"], 1, "{job:#}");
}
