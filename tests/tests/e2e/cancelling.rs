//! Jobs that end before they are done: cancelled, past their deadline, or never begun.

use raglan_tests::{ServerOptions, is_final};
use serde_json::json;

use crate::corpus::{fast_question, id, server_with, slow_question};

/// One worker for each stage, so that work that went on would be in the way of the next.
fn one_worker() -> ServerOptions {
    ServerOptions::default()
        .with(json!({"workers": {"retrieval": 1, "generation": 1, "ingestion": 1, "webhook": 1}}))
}

#[tokio::test]
async fn a_cancel_stops_the_text_and_frees_the_worker() {
    let (_server, api) = server_with(one_worker()).await;
    let job = id(&api.ask(&slow_question()).await);
    let mut stream = api.events(&job, None).await;
    for _ in 0..3 {
        stream.until(|event| event.kind == "answer.delta").await;
    }
    let path = format!("/v1/jobs/{job}/cancel");
    let cancelled = api.post(&path, &json!({})).await;
    let tag = cancelled.header("etag").to_owned();
    let cancelled = cancelled.expect(200);
    assert_eq!(cancelled["status"], "cancelled");
    assert!(cancelled["completed_at"].is_string() && cancelled["result"].is_null());

    // What was on its way when the cancel came may arrive; then comes the end, and nothing after it.
    let rest = stream.rest().await;
    let deltas = rest.iter().filter(|event| event.kind == "answer.delta").count();
    assert_eq!(rest.last().unwrap().kind, "job.cancelled", "{rest:#?}");
    assert!(deltas <= 20, "{deltas} deltas came after the cancel");
    assert_eq!(rest.iter().filter(|event| event.is_final()).count(), 1);

    // The only worker is free: the cancelled answer would have taken minutes.
    let next = api.answer(&fast_question(1)).await;
    assert_eq!(next["status"], "succeeded", "{next:#}");
    // And the cancelled job says no more.
    let again = api.events(&job, None).await.rest().await;
    assert_eq!(again.last().unwrap().seq, rest.last().unwrap().seq);

    // Cancelling is idempotent, and an ended job is answered as it is.
    let reply = api.post(&path, &json!({})).await;
    assert_eq!(reply.header("etag"), tag);
    assert_eq!(reply.expect(200)["status"], "cancelled");
    let done = format!("/v1/jobs/{}/cancel", id(&next));
    assert_eq!(api.post(&done, &json!({})).await.expect(200)["status"], "succeeded");
}

#[tokio::test]
async fn a_job_that_waits_can_be_cancelled() {
    let (_server, api) = server_with(one_worker()).await;
    let running = id(&api.ask(&slow_question()).await);
    api.job_when(&running, |job| job["status"] == "generating").await;
    let waiting = id(&api.ask(&fast_question(1)).await);
    api.post(&format!("/v1/jobs/{waiting}/cancel"), &json!({})).await.expect(200);
    let events = api.events(&waiting, None).await.rest().await;
    assert_eq!(events.last().unwrap().kind, "job.cancelled");
    assert!(events.iter().all(|event| event.kind != "answer.delta"));
    // The message that is on the queue still does no harm to the job.
    api.post(&format!("/v1/jobs/{running}/cancel"), &json!({})).await.expect(200);
    assert_eq!(api.answer(&fast_question(2)).await["status"], "succeeded");
    assert_eq!(api.job(&waiting).await["status"], "cancelled");
}

#[tokio::test]
async fn a_job_past_its_deadline_fails_and_says_so() {
    let (_server, api) = server_with(one_worker()).await;
    let mut body = slow_question();
    body["deadline_s"] = json!(1);
    let job = api.ask(&body).await;
    let events = api.events(&id(&job), None).await.rest().await;
    let last = events.last().unwrap();
    assert_eq!(last.kind, "job.failed", "{events:#?}");
    let job = api.job(&id(&job)).await;
    assert_eq!(last.data, job);
    assert_eq!(job["status"], "failed");
    assert_eq!(job["error"]["code"], "deadline", "{job:#}");
    assert_eq!(job["error"]["retryable"], true);
    assert!(job["completed_at"].as_str() >= job["deadline"].as_str(), "{job:#}");
    // The work has stopped with it.
    assert_eq!(api.answer(&fast_question(1)).await["status"], "succeeded");
}

#[tokio::test]
async fn a_job_that_nobody_began_before_its_deadline_expires() {
    let (_server, api) = server_with(one_worker()).await;
    // Far more than one worker takes in within the deadline of the next job.
    let documents: Vec<_> = (0..20_000)
        .map(|n| json!({"external_id": format!("{n}"), "text": format!("Note {n} is about box {n}.")}))
        .collect();
    let long = id(&api.post("/v1/documents", &json!({"documents": documents})).await.expect(202));
    api.job_when(&long, |job| job["status"] != "queued").await;
    let body = json!({"external_id": "late", "text": "Too late.", "deadline_s": 1});
    let late = id(&api.post("/v1/documents", &body).await.expect(202));

    let events = api.events(&late, None).await.rest().await;
    let kinds: Vec<&str> = events.iter().map(|event| event.kind.as_str()).collect();
    assert_eq!(kinds, ["job.queued", "job.expired"]);
    let job = api.job(&late).await;
    assert_eq!(job["status"], "expired", "{job:#}");
    assert!(job["started_at"].is_null());
    assert!(!is_final(&api.job(&long).await), "the worker was busy all the time");

    // Ingestions can be cancelled as well; what was published stays whole.
    api.post(&format!("/v1/jobs/{long}/cancel"), &json!({})).await.expect(200);
    let after = api.ingest(&json!({"external_id": "after", "text": "The worker is free."})).await;
    assert_eq!(after["documents"]["created"], 1);
    assert!(api.document("default", "late").await.is_none());
}
