//! Webhooks, with receivers that fail.

use raglan_tests::{
    Api, Receiver, Response, Server, ServerOptions, Webhook, eventually, python, python_script, skip,
};
use serde_json::{Value, json};

use crate::corpus::{QUESTION, fast_question, handbook, id, slow_question};

/// Two secrets, as during a rotation: the new one first.
const SECRETS: [&str; 2] =
    ["whsec_cmFnbGFuLXRlc3RzLW5ldy1zZWNyZXQtMDE=", "whsec_cmFnbGFuLXRlc3RzLW9sZC1zZWNyZXQtMDE="];

async fn server() -> (Server, Api) {
    let secrets = json!({"webhooks": {"signing_secrets": SECRETS}});
    crate::corpus::server_with(ServerOptions::default().with(secrets)).await
}

/// The deliveries of a job when this holds for the first of them.
async fn deliveries(api: &Api, job: &str, holds: impl Fn(&Value) -> bool) -> Vec<Value> {
    eventually("a state of a delivery", async || {
        let list = api.get(&format!("/v1/jobs/{job}/deliveries")).await.expect(200);
        let list = list["deliveries"].as_array().unwrap().clone();
        list.first().is_some_and(&holds).then_some(list)
    })
    .await
}

fn tries(delivery: &Value) -> usize {
    delivery["attempts"].as_array().unwrap().len()
}

fn seconds_between(earlier: &Value, later: &Value) -> i64 {
    let parse = |time: &Value| time.as_str().unwrap().parse::<chrono::DateTime<chrono::Utc>>().unwrap();
    (parse(later) - parse(earlier)).num_seconds()
}

fn verify(secret: &str, webhook: &Webhook) -> Result<(), String> {
    let verifier = standardwebhooks::Webhook::new(secret).unwrap();
    verifier.verify(webhook.body.as_bytes(), &webhook.headers).map_err(|error| error.to_string())
}

/// The receiver fails at once and again after five seconds; the third try, which would come five minutes later, is asked for. All three carry the
/// same id and body, and a signature that other people's code accepts.
#[tokio::test]
async fn a_receiver_that_fails_twice_gets_the_same_webhook_a_third_time() {
    let receiver = Receiver::start([Response::status(500), Response::status(503)]).await;
    let (_server, api) = server().await;
    let mut body = fast_question(1);
    body["webhook"] = json!({"url": receiver.url("/hooks/raglan?a=b"), "events": ["job.succeeded"]});
    let job = id(&api.ask(&body).await);
    // Zero and five seconds.
    receiver.wait_for(2).await;
    let pending = deliveries(&api, &job, |delivery| tries(delivery) == 2).await.remove(0);
    assert_eq!(pending["status"], "pending");
    assert_eq!(pending["attempts"][0]["status"], 500);
    assert_eq!(pending["attempts"][1]["status"], 503);
    assert!(
        seconds_between(&pending["attempts"][0]["at"], &pending["attempts"][1]["at"]) >= 5,
        "{pending:#}"
    );
    let wait = seconds_between(&pending["attempts"][1]["at"], &pending["next_at"]);
    assert!((299..400).contains(&wait), "the third try comes after five minutes: {pending:#}");

    let path = format!("/v1/deliveries/{}/replay", pending["delivery_id"].as_str().unwrap());
    api.post(&path, &json!({})).await.expect(200);
    let webhooks = receiver.wait_for(3).await;
    let delivered = deliveries(&api, &job, |delivery| delivery["status"] == "delivered").await;
    assert_eq!(delivered.len(), 1);
    assert!(delivered[0]["next_at"].is_null());

    let ended = api.job(&job).await;
    for webhook in &webhooks {
        assert_eq!(webhook.path, "/hooks/raglan");
        assert_eq!(webhook.header("webhook-id"), pending["webhook_id"].as_str().unwrap());
        assert_eq!(webhook.header("content-type"), "application/json");
        assert_eq!(webhook.body, webhooks[0].body, "each try says the same");
        let said = webhook.json();
        assert_eq!(said["type"], "job.succeeded");
        assert!(said["timestamp"].as_str().unwrap().ends_with('Z'));
        assert_eq!(said["data"], ended, "the webhook carries the job as a poll answers it");
        for secret in SECRETS {
            verify(secret, webhook).unwrap_or_else(|error| panic!("{error}: {webhook:?}"));
        }
        assert!(verify("whsec_c29tZWJvZHktZWxzZS1zLXNlY3JldC0wMDE=", webhook).is_err(), "another secret");
        let forged = Webhook { body: webhook.body.replace("succeeded", "cancelled"), ..webhook.clone() };
        assert!(verify(SECRETS[0], &forged).is_err(), "another body");
    }
    verified_by_python(&webhooks[2]).await;
}

/// The same, checked by a package that nobody here wrote.
async fn verified_by_python(webhook: &Webhook) {
    let Some(python) = python() else {
        return skip(
            "webhooks::verified_by_python",
            "RAGLAN_TEST_PYTHON names no Python with `standardwebhooks`",
        );
    };
    let headers: Value = webhook
        .headers
        .iter()
        .map(|(name, value)| (name.to_string(), json!(value.to_str().unwrap())))
        .collect();
    for secret in SECRETS {
        let input = json!({"secret": secret, "headers": headers, "body": webhook.body});
        let output =
            python_script(&python, "verify_webhook.py", &[], &input.to_string()).await.expect_code(0);
        assert_eq!(output.stdout.trim(), "verified: job.succeeded");
    }
    let forged = json!({"secret": SECRETS[0], "headers": headers, "body": webhook.body.replace("succeeded", "cancelled")});
    python_script(&python, "verify_webhook.py", &[], &forged.to_string()).await.expect_code(1);
}

#[tokio::test]
async fn every_ending_has_its_webhook_and_only_what_was_asked_for_is_sent() {
    let receiver = Receiver::start([]).await;
    let (_server, api) = server().await;
    // No list of events: every ending.
    let mut body = slow_question();
    body["webhook"] = json!({"url": receiver.url("/cancelled")});
    let cancelled = id(&api.ask(&body).await);
    api.post(&format!("/v1/jobs/{cancelled}/cancel"), &json!({})).await.expect(200);
    body["webhook"] = json!({"url": receiver.url("/late"), "events": ["job.failed", "job.expired"]});
    body["deadline_s"] = json!(1);
    let late = id(&api.ask(&body).await);
    // Nobody wants to hear of this success.
    let mut body = fast_question(1);
    body["webhook"] = json!({"url": receiver.url("/unwanted"), "events": ["job.failed"]});
    let unwanted = id(&api.ask(&body).await);
    api.ended(&unwanted).await;
    // An ingestion, which names its webhook as a question does.
    let body =
        json!({"external_id": "a", "text": "Some words.", "webhook": {"url": receiver.url("/taken-in")}});
    let ingestion = id(&api.post("/v1/documents", &body).await.expect(202));

    let mut webhooks = receiver.wait_for(3).await;
    webhooks.sort_by(|a, b| a.path.cmp(&b.path));
    let told: Vec<_> =
        webhooks.iter().map(|w| (w.path.clone(), w.json()["type"].clone(), id(&w.json()["data"]))).collect();
    assert_eq!(
        told,
        [
            ("/cancelled".to_owned(), json!("job.cancelled"), cancelled),
            ("/late".to_owned(), json!("job.failed"), late),
            ("/taken-in".to_owned(), json!("job.succeeded"), ingestion),
        ]
    );
    let none = api.get(&format!("/v1/jobs/{unwanted}/deliveries")).await.expect(200);
    assert_eq!(none, json!({"deliveries": []}));
}

#[tokio::test]
async fn what_the_receiver_answers_is_obeyed() {
    let elsewhere = Receiver::start([]).await;
    let receiver = Receiver::start([
        Response::status(410),
        Response::status(503).header("retry-after", "900"),
        Response::status(302).header("location", elsewhere.url("/elsewhere")),
    ])
    .await;
    let (mut server, api) = server().await;
    let ask = async |number: usize| {
        let mut body = fast_question(number);
        body["webhook"] = json!({"url": receiver.url("/")});
        let job = id(&api.ask(&body).await);
        let delivery = deliveries(&api, &job, |delivery| tries(delivery) == 1).await.remove(0);
        (job, delivery)
    };
    // 410: it wants no more.
    let (_, gone) = ask(1).await;
    assert_eq!((&gone["status"], &gone["next_at"]), (&json!("dead"), &Value::Null), "{gone:#}");
    // Retry-After: not before.
    let (later, asked) = ask(2).await;
    let wait = seconds_between(&asked["attempts"][0]["at"], &asked["next_at"]);
    assert!((899..1_000).contains(&wait), "{asked:#}");
    // A redirect is a failure, and is not followed.
    let (_, moved) = ask(3).await;
    assert_eq!(moved["attempts"][0]["status"], 302);
    assert_eq!(moved["status"], "pending");
    assert!(elsewhere.received().is_empty());

    // What is pending survives a crash, with its time.
    server.kill9();
    server.restart().await;
    let api = server.api();
    let kept = deliveries(&api, &later, |_| true).await.remove(0);
    assert_eq!(kept, asked);
}

#[tokio::test]
async fn a_receiver_that_is_not_there_is_tried_again() {
    let (_server, api) = server().await;
    // A port that was free a moment ago.
    let gone = Receiver::start([]).await.url("/");
    let mut body = fast_question(1);
    body["webhook"] = json!({"url": gone});
    let job = id(&api.ask(&body).await);
    let delivery = deliveries(&api, &job, |delivery| tries(delivery) >= 1).await.remove(0);
    assert_eq!(delivery["status"], "pending");
    assert!(delivery["attempts"][0]["status"].is_null(), "{delivery:#}");
    assert!(!delivery["attempts"][0]["error"].as_str().unwrap().is_empty());
    assert_eq!(api.job(&job).await["status"], "succeeded", "the job is not the webhook's");
}

#[tokio::test]
async fn forbidden_addresses_are_refused_at_the_door() {
    let options = ServerOptions::default().with(json!({"webhooks": {"allowed_ranges": []}}));
    let server = Server::start(options).await;
    let api = server.api();
    api.ingest(&handbook()).await;
    for url in [
        "http://127.0.0.1:9/",
        "http://127.1/",
        "http://0x7f000001/",
        "http://2130706433/",
        "http://localhost:9/",
        "http://sub.localhost/",
        "http://0.0.0.0/",
        "http://10.1.2.3/",
        "http://172.16.0.1/",
        "http://192.168.1.1/",
        "http://100.64.0.1/",
        "http://169.254.169.254/latest/meta-data/",
        "http://[::1]/",
        "http://[::]/",
        "http://[fe80::1]/",
        "http://[fd00::1]/",
        "http://[::ffff:127.0.0.1]/",
        "http://[::ffff:169.254.169.254]/",
        "http://[64:ff9b::7f00:1]/",
        "https://user:secret@example.org/",
        "ftp://example.org/",
        "file:///etc/passwd",
    ] {
        let body = json!({"query": QUESTION, "webhook": {"url": url}});
        let problem = api.post("/v1/queries", &body).await.expect(422);
        assert_eq!(problem["field"], "webhook.url", "{url}: {problem:#}");
        let body = json!({"text": "x", "webhook": {"url": url}});
        api.post("/v1/documents", &body).await.expect(422);
    }
    assert_eq!(api.get("/v1/jobs?kind=query").await.expect(200)["jobs"], json!([]));
    assert!(!server.stderr().contains("secret@"), "secrets are not logged");
}
