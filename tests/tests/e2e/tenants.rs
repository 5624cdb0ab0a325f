//! Keys and tenants: nobody sees what is another's.

use raglan_tests::{Api, Server, ServerOptions, Socket};
use reqwest::Method;
use serde_json::{Value, json};

use crate::corpus::{ANSWER, QUESTION, found, handbook, id, slow_question};

const ANNA: &str = "key-of-anna-0123456789";
const BERT: &str = "key-of-bert-0123456789";

async fn server() -> (Server, Api, Api) {
    let keys = json!({"auth": {"keys": [
        {"name": "anna", "tenant": "anna", "key": ANNA},
        // The SHA-256 of Bert's key: the key itself need not be in the file.
        {"name": "bert", "tenant": "bert", "sha256": "54e1ebc57a6876c81bf932f3e6c1e65bc77a7e2b1a1d1d218d6c4f8536b21179"},
    ]}});
    let server = Server::start(ServerOptions::default().with(keys)).await;
    let (anna, bert) = (server.api_with_key(ANNA), server.api_with_key(BERT));
    (server, anna, bert)
}

#[tokio::test]
async fn without_a_key_nothing_is_answered_but_health() {
    let (server, anna, _) = server().await;
    let (nobody, stranger) = (server.api(), server.api_with_key("key-of-nobody-000000000"));
    let job = id(&anna.ask(&json!({"query": QUESTION})).await);
    for (method, path) in [
        (Method::POST, "/v1/queries".to_owned()),
        (Method::POST, "/v1/search".to_owned()),
        (Method::POST, "/v1/documents".to_owned()),
        (Method::POST, "/v1/uploads".to_owned()),
        (Method::POST, "/v1/tickets".to_owned()),
        (Method::GET, "/v1/jobs".to_owned()),
        (Method::GET, format!("/v1/jobs/{job}")),
        (Method::GET, format!("/v1/jobs/{job}/events")),
        (Method::GET, format!("/v1/jobs/{job}/ws")),
        (Method::GET, format!("/v1/jobs/{job}/passages")),
        (Method::POST, format!("/v1/jobs/{job}/cancel")),
        (Method::DELETE, format!("/v1/jobs/{job}")),
        (Method::GET, "/v1/ws".to_owned()),
        (Method::GET, "/v1/documents".to_owned()),
        (Method::GET, "/v1/collections".to_owned()),
        (Method::GET, "/metrics".to_owned()),
    ] {
        for (api, code) in [(&nobody, "unauthorized"), (&stranger, "invalid_key")] {
            let request =
                api.request(method.clone(), &path).header("content-type", "application/json").body("{}");
            let reply = api.send(request).await;
            assert!(reply.header("www-authenticate").starts_with("Bearer"), "{method} {path}: {reply:?}");
            assert_eq!(reply.expect(401)["code"], code, "{method} {path}");
        }
    }
    for open in ["/healthz", "/readyz", "/openapi.json"] {
        nobody.get(open).await.expect(200);
    }
    // Keys never show, wherever one looks.
    for key in [ANNA, BERT, "key-of-nobody"] {
        assert!(!server.stderr().contains(key), "a key is in the log");
    }
}

#[tokio::test]
async fn a_job_is_nobody_elses() {
    let (server, anna, bert) = server().await;
    anna.ingest(&handbook()).await;
    let job = id(&anna.ask(&slow_question()).await);
    anna.job_when(&job, |job| job["status"] == "generating").await;
    let path = format!("/v1/jobs/{job}");
    for hidden in ["", "/events", "/passages", "/deliveries"] {
        let problem = bert.get(&format!("{path}{hidden}")).await.expect(404);
        assert_eq!(problem["code"], "unknown_job", "{hidden}");
    }
    bert.post(&format!("{path}/cancel"), &json!({})).await.expect(404);
    bert.delete(&path).await.expect(404);
    assert_eq!(bert.get("/v1/jobs").await.expect(200)["jobs"], json!([]));
    let refused = Socket::open(server.url(), &format!("{path}/ws"), Some(BERT), None).await.err().unwrap();
    assert!(refused.to_string().contains("404"), "{refused}");
    let mut socket = Socket::connect(server.url(), "/v1/ws", Some(BERT)).await;
    for op in ["subscribe", "cancel"] {
        socket.send(&json!({"op": op, "job_id": job})).await;
        assert_eq!(socket.next().await.unwrap()["code"], "unknown_job", "{op}");
    }
    // None of it did anything to the job.
    assert_eq!(anna.job(&job).await["status"], "generating");
    // What is not there and what is another's are answered alike.
    let other = bert.get(&path).await.expect(404);
    let none = bert.get("/v1/jobs/0190c0de-0000-7000-8000-000000000000").await.expect(404);
    for part in ["code", "detail", "title", "status"] {
        assert_eq!(other[part], none[part]);
    }
}

#[tokio::test]
async fn documents_and_answers_are_nobody_elses() {
    let (_server, anna, bert) = server().await;
    anna.ingest(&handbook()).await;
    let mine = anna.document("default", "handbook/returns.md").await.unwrap();
    let path = format!("/v1/documents/{}", mine["document_id"].as_str().unwrap());

    assert_eq!(bert.get("/v1/documents").await.expect(200)["documents"], json!([]));
    assert_eq!(bert.get("/v1/collections").await.expect(200)["collections"], json!([]));
    bert.get("/v1/collections/default").await.expect(404);
    bert.delete("/v1/collections/default").await.expect(404);
    bert.get(&path).await.expect(404);
    bert.get(&format!("{path}?include=text")).await.expect(404);
    bert.delete(&path).await.expect(404);

    // Bert has documents of his own, under the same names.
    let text = "Goods may be sent back within ninety days.";
    bert.ingest(&json!({"external_id": "handbook/returns.md", "text": text})).await;
    let answered = anna.answer(&json!({"query": QUESTION})).await;
    assert!(answered["result"]["answer"].as_str().unwrap().contains(ANSWER), "{answered:#}");
    // The same question, which the cache knows by now, but not for Bert.
    let answered = bert.answer(&json!({"query": QUESTION})).await;
    assert_eq!(answered["result"]["cached"], false);
    let answer = answered["result"]["answer"].as_str().unwrap();
    assert!(answer.contains("ninety") && !answer.contains("thirty"), "{answered:#}");
    for mode in ["hybrid", "keyword", "vector"] {
        let all =
            bert.search(&json!({"query": "goods warranty Pakete parcels", "top_k": 50, "mode": mode})).await;
        assert!(found(&all).iter().all(|id| id == "handbook/returns.md"), "{mode}: {all:#}");
        assert!(!all.to_string().contains("thirty"), "{mode}: {all:#}");
    }
    // Anna's document is as it was.
    assert_eq!(anna.get(&path).await.expect(200), mine);
    bert.delete("/v1/collections/default").await.expect(204);
    assert_eq!(anna.get("/v1/collections/default").await.expect(200)["documents"], 3);
    assert!(!found(&anna.search(&json!({"query": QUESTION})).await).is_empty());
}

#[tokio::test]
async fn keys_of_idempotency_and_uploads_are_nobody_elses() {
    let (_server, anna, bert) = server().await;
    let body = json!({"query": QUESTION});
    let first = anna.post_with("/v1/queries", "idempotency-key", "k", &body).await.expect(202);
    let other = bert.post_with("/v1/queries", "idempotency-key", "k", &body).await;
    assert!(other.header("idempotent-replayed").is_empty());
    assert_ne!(id(&other.expect(202)), id(&first));

    let upload = anna.request(Method::POST, "/v1/uploads?file_name=a.txt").body("The lamp is green.");
    let upload: Value = anna.send(upload).await.expect(201);
    let body = json!({"external_id": "a", "uri": upload["uri"]});
    assert_eq!(bert.post("/v1/documents", &body).await.expect(422)["field"], "uri");
    assert_eq!(anna.ingest(&body).await["documents"]["created"], 1);
}
