//! Submitting, polling, and waiting.

use raglan_tests::{eventually, is_final};
use serde_json::{Value, json};

use crate::corpus::{ANSWER, QUESTION, fast_question, id, server, slow_question};

#[tokio::test]
async fn a_question_is_accepted_with_a_job_and_its_links() {
    let (server, api) = server().await;
    let reply = api.post("/v1/queries", &json!({"query": QUESTION, "metadata": {"ticket": "42"}})).await;
    let job = reply.expect(202);
    let id = id(&job);
    assert_eq!(id.as_bytes()[14], b'7', "a UUID of version 7: {id}");
    assert!(reply.header("location").ends_with(&format!("/v1/jobs/{id}")), "{reply:?}");
    assert!(!reply.header("etag").is_empty());
    assert!(reply.header("retry-after").parse::<u64>().unwrap() >= 1);
    assert!(!reply.header("x-request-id").is_empty());
    assert_eq!(job["kind"], "query");
    assert_eq!(job["metadata"], json!({"ticket": "42"}));
    for (name, end) in
        [("self", ""), ("events", "/events"), ("ws", "/ws"), ("cancel", "/cancel"), ("passages", "/passages")]
    {
        let url = job["urls"][name].as_str().unwrap();
        assert!(url.ends_with(&format!("/v1/jobs/{id}{end}")), "{url}");
    }

    let job = api.ended(&id).await;
    assert_eq!(job["status"], "succeeded", "{job:#}");
    assert_eq!(job["error"], Value::Null);
    let result = &job["result"];
    assert!(result["answer"].as_str().unwrap().contains(ANSWER), "{result:#}");
    assert_eq!(result["found"], true);
    assert_eq!(result["model"], "extractive");
    for time in ["created_at", "started_at", "completed_at", "deadline", "expires_at"] {
        assert!(job[time].as_str().unwrap().ends_with('Z'), "{time}: {}", job[time]);
    }
    for timing in ["queued_ms", "retrieval_ms", "generation_ms"] {
        assert!(result["timings"][timing].is_u64(), "{timing}: {result:#}");
    }
    drop(server);
}

#[tokio::test]
async fn a_poll_with_the_etag_costs_nothing_until_the_job_changes() {
    let (_server, api) = server().await;
    let id = id(&api.ask(&slow_question()).await);
    let path = format!("/v1/jobs/{id}");
    api.job_when(&id, |job| job["status"] == "generating").await;

    // The job may change between the two requests; when it does not, the second is answered with 304.
    let tag = eventually("an unchanged job", async || {
        let first = api.get(&path).await;
        let tag = first.header("etag").to_owned();
        let second = api.get_with(&path, "if-none-match", &tag).await;
        if second.status == 304 {
            assert!(second.body.is_empty());
            assert_eq!(second.header("etag"), tag);
            assert!(!second.header("retry-after").is_empty(), "it runs still");
            return Some(tag);
        }
        assert_ne!(second.expect(200)["revision"], tag);
        None
    })
    .await;

    api.post(&format!("{path}/cancel"), &json!({})).await.expect(200);
    let changed = api.get_with(&path, "if-none-match", &tag).await;
    assert_eq!(changed.expect(200)["status"], "cancelled");
    assert_ne!(changed.header("etag"), tag);
    assert!(changed.header("retry-after").is_empty(), "it has ended");
    let same = api.get_with(&path, "if-none-match", &format!("\"0\", W/{}", changed.header("etag"))).await;
    assert_eq!(same.status, 304);
}

#[tokio::test]
async fn a_long_poll_ends_with_the_job_and_not_before() {
    let (_server, api) = server().await;
    // One that runs on: the wait is over, the job is not.
    let slow = id(&api.ask(&slow_question()).await);
    let job = api.get(&format!("/v1/jobs/{slow}?wait=1")).await.expect(200);
    assert!(!is_final(&job), "{job:#}");

    // A poll that is held while the job is cancelled is answered with the end of it.
    let waiting = tokio::spawn({
        let (api, path) = (api.clone(), format!("/v1/jobs/{slow}?wait=60"));
        async move { api.get(&path).await.expect(200) }
    });
    api.post(&format!("/v1/jobs/{slow}/cancel"), &json!({})).await.expect(200);
    assert_eq!(waiting.await.unwrap()["status"], "cancelled");

    // With the tag of the present state, a long poll of an ended job is answered at once.
    let tag = api.get(&format!("/v1/jobs/{slow}")).await.header("etag").to_owned();
    let reply = api.get_with(&format!("/v1/jobs/{slow}?wait=60"), "if-none-match", &tag).await;
    assert_eq!(reply.status, 304);

    let fast = id(&api.ask(&fast_question(1)).await);
    let job = api.get(&format!("/v1/jobs/{fast}?wait=60")).await.expect(200);
    assert_eq!(job["status"], "succeeded", "{job:#}");
}

#[tokio::test]
async fn a_long_poll_with_the_etag_ends_with_the_next_change() {
    let (_server, api) = server().await;
    let id = id(&api.ask(&slow_question()).await);
    let path = format!("/v1/jobs/{id}");
    api.job_when(&id, |job| job["status"] == "generating").await;
    let tag = api.get(&path).await.header("etag").to_owned();
    let waiting = tokio::spawn({
        let (api, path, tag) = (api.clone(), format!("{path}?wait=60"), tag.clone());
        async move { api.get_with(&path, "if-none-match", &tag).await }
    });
    api.post(&format!("{path}/cancel"), &json!({})).await.expect(200);
    let reply = waiting.await.unwrap();
    assert_ne!(reply.header("etag"), tag);
    reply.expect(200);
}

#[tokio::test]
async fn a_client_that_prefers_to_wait_gets_the_finished_job() {
    let (_server, api) = server().await;
    let body = json!({"query": QUESTION});
    let reply = api.post_with("/v1/queries", "prefer", "respond-async, wait=60", &body).await;
    assert_eq!(reply.header("preference-applied"), "wait=60");
    let job = reply.expect(200);
    assert_eq!(job["status"], "succeeded");
    assert!(job["result"]["answer"].as_str().unwrap().contains(ANSWER), "{job:#}");

    // One that takes longer is accepted all the same, and never lost.
    let reply = api.post_with("/v1/queries", "prefer", "wait=1", &slow_question()).await;
    let job = reply.expect(202);
    assert!(!is_final(&job));
    assert!(!is_final(&api.job(&id(&job)).await));

    // Documents know the preference too.
    let body = json!({"external_id": "a", "text": "A text of some words."});
    let job = api.post_with("/v1/documents", "prefer", "wait=60", &body).await.expect(200);
    assert_eq!(job["result"]["documents"]["created"], 1, "{job:#}");
}

#[tokio::test]
async fn an_equal_question_is_answered_from_the_cache_until_the_documents_change() {
    let (_server, api) = server().await;
    let body = json!({"query": QUESTION});
    let first = api.answer(&body).await;
    assert_eq!(first["result"]["cached"], false);
    let second = api.answer(&body).await;
    assert_eq!(second["result"]["cached"], true, "{second:#}");
    assert_eq!(second["result"]["answer"], first["result"]["answer"]);
    assert_eq!(second["result"]["citations"], first["result"]["citations"]);
    let bypassed = api.answer(&json!({"query": QUESTION, "cache": "bypass"})).await;
    assert_eq!(bypassed["result"]["cached"], false);

    api.ingest(&json!({"external_id": "new.md", "text": "Gift cards are valid for ever."})).await;
    let third = api.answer(&body).await;
    assert_eq!(third["result"]["cached"], false, "the documents have changed");
    assert_ne!(third["result"]["index_generation"], first["result"]["index_generation"]);
}

#[tokio::test]
async fn jobs_are_listed_newest_first_in_pages_that_miss_none() {
    let (_server, api) = server().await;
    let mut asked = Vec::new();
    for number in 0..7 {
        asked.push(id(&api.ask(&fast_question(number)).await));
    }
    for id in &asked {
        api.ended(id).await;
    }
    asked.reverse();
    let mut listed = Vec::new();
    let mut path = "/v1/jobs?kind=query&limit=3".to_owned();
    loop {
        let page = api.get(&path).await.expect(200);
        let jobs = page["jobs"].as_array().unwrap();
        assert!(jobs.len() <= 3);
        listed.extend(jobs.iter().map(id));
        // New jobs do not shift the pages.
        api.ended(&id(&api.ask(&fast_question(100)).await)).await;
        let Some(cursor) = page["next_cursor"].as_str() else { break };
        path = format!("/v1/jobs?kind=query&limit=3&cursor={cursor}");
    }
    assert_eq!(listed, asked);

    let failed = api.get("/v1/jobs?status=failed").await.expect(200);
    assert_eq!(failed["jobs"], json!([]));
    let ingestions = api.get("/v1/jobs?kind=ingestion").await.expect(200);
    assert_eq!(ingestions["jobs"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn a_removed_job_is_gone_with_its_data() {
    let (_server, api) = server().await;
    let job = api.answer(&fast_question(1)).await;
    let path = format!("/v1/jobs/{}", id(&job));
    api.delete(&path).await.expect(204);
    for gone in
        [path.clone(), format!("{path}/events"), format!("{path}/passages"), format!("{path}/deliveries")]
    {
        assert_eq!(api.get(&gone).await.expect(404)["code"], "unknown_job", "{gone}");
    }
    api.delete(&path).await.expect(404);
}
