//! The life of the process: start, stop, crash, and start again.

use raglan_tests::{Server, ServerOptions, is_final, raglan};
use serde_json::{Value, json};

use crate::{
    corpus::{ANSWER, QUESTION, fast_question, id, server, slow_question},
    streaming::check_whole,
};

/// Generators of which none is slow.
fn all_quick() -> Value {
    json!({"generators": [
        {"name": "extractive", "type": "extractive"},
        {"name": "fast", "type": "simulated", "tokens": 20, "tokens_per_s": 0},
        {"name": "slow", "type": "simulated", "tokens": 5, "tokens_per_s": 0},
    ]})
}

#[tokio::test]
async fn a_stop_hands_running_jobs_back_and_they_finish_after_the_restart() {
    let (mut server, api) = server().await;
    let mut jobs = Vec::new();
    // More than there are workers: some run, some wait.
    for _ in 0..24 {
        jobs.push(id(&api.ask(&slow_question()).await));
    }
    let documents: Vec<Value> = (0..3_000)
        .map(|n| json!({"external_id": format!("note-{n}"), "text": format!("Note {n} is about box number{n}.")}))
        .collect();
    let ingestion = id(&api.post("/v1/documents", &json!({"documents": documents})).await.expect(202));
    api.job_when(&jobs[0], |job| job["status"] == "generating").await;
    let status = server.terminate().await;
    assert_eq!(status.code(), Some(0), "{status}");

    server.restart_with(all_quick()).await;
    let api = server.api();
    for job in &jobs {
        let job = api.ended(job).await;
        assert_eq!(job["status"], "succeeded", "{job:#}");
        assert_eq!(job["result"]["answer"], "token1 token2 token3 token4 token5 [1]");
        let events = api.events(&id(&job), None).await.rest().await;
        check_whole(&events, &id(&job));
    }
    let job = api.ended(&ingestion).await;
    assert_eq!(job["status"], "succeeded", "{job:#}");
    let counts = &job["result"]["documents"];
    let taken_in = counts["created"].as_u64().unwrap() + counts["unchanged"].as_u64().unwrap();
    assert_eq!(taken_in, 3_000, "{job:#}");
    let collection = api.get("/v1/collections/default").await.expect(200);
    assert_eq!(collection["documents"], 3_003);
}

/// A job has its answer before it is on its queue; a stop sees to that it gets there. Here nothing else would bring it there in time.
#[tokio::test]
async fn what_is_accepted_just_before_a_stop_is_on_its_queue_after_it() {
    let (mut server, api) = crate::corpus::server_with(ServerOptions::default().with(json!({
        "jobs": {"republish_after_s": 3_600},
    })))
    .await;
    let questions: Vec<_> = (0..100).map(fast_question).collect();
    let asked = futures::future::join_all(questions.iter().map(|question| api.ask(question))).await;
    let status = server.terminate().await;
    assert!(status.success(), "{status}");
    server.restart().await;
    let api = server.api();
    for job in &asked {
        assert_eq!(api.ended(&id(job)).await["status"], "succeeded");
    }
}

#[tokio::test]
async fn a_stop_lets_finish_what_can_and_refuses_what_is_new() {
    // Two words a second for ten words: within the drain time.
    let (mut server, api) = crate::corpus::server_with(ServerOptions::default().with(json!({
        "generators": [
            {"name": "extractive", "type": "extractive"},
            {"name": "fast", "type": "simulated", "tokens": 1, "tokens_per_s": 1},
            {"name": "slow", "type": "simulated", "tokens": 10, "tokens_per_s": 5},
        ],
        "shutdown": {"drain_s": 60},
    })))
    .await;
    let job = id(&api.ask(&slow_question()).await);
    let mut stream = api.events(&job, None).await;
    stream.until(|event| event.kind == "answer.delta").await;
    assert!(server.terminate().await.success());
    server.restart().await;
    let job = server.api().job(&job).await;
    assert_eq!(job["status"], "succeeded", "it was let finish before the end: {job:#}");
    assert_eq!(job["attempt"], 1);
}

#[tokio::test]
async fn after_a_crash_every_job_ends_and_finished_ones_can_still_be_followed() {
    let (mut server, api) = server().await;
    let done = api.answer(&json!({"query": QUESTION})).await;
    let running = id(&api.ask(&slow_question()).await);
    api.job_when(&running, |job| job["status"] == "generating").await;
    let waiting: Vec<String> = {
        let mut ids = Vec::new();
        for number in 0..5 {
            ids.push(id(&api.ask(&fast_question(number)).await));
        }
        ids
    };
    server.kill9();
    server.restart_with(all_quick()).await;
    let api = server.api();
    // The finished one is as it was, on every transport, although its events are gone.
    assert_eq!(api.job(&id(&done)).await, done);
    let events = api.events(&id(&done), None).await.rest().await;
    check_whole(&events, &id(&done));
    assert_eq!(events.last().unwrap().data, done);
    let mut socket = server.socket(&format!("/v1/jobs/{}/ws", id(&done))).await;
    assert_eq!(socket.events().await.last().unwrap().data, done);
    assert_eq!(socket.closed, Some(1000));
    // A reader of before the crash, with its number of then.
    let resumed = api.events(&id(&done), Some(3)).await.rest().await;
    assert_eq!(resumed.last().unwrap().data, done);
    let mut many = server.socket("/v1/ws").await;
    many.send(&json!({"op": "subscribe", "job_id": id(&done), "after": 2})).await;
    let mut last = Value::Null;
    loop {
        let message = many.next().await.unwrap();
        if message["op"] == "done" {
            break;
        }
        last = message;
    }
    assert_eq!(last["data"], done);

    let job = api.ended(&running).await;
    assert_eq!(job["status"], "succeeded", "{job:#}");
    for id in &waiting {
        assert_eq!(api.ended(id).await["status"], "succeeded");
    }
    let answered = api.answer(&json!({"query": QUESTION})).await;
    assert!(answered["result"]["answer"].as_str().unwrap().contains(ANSWER));
}

#[tokio::test]
async fn everything_that_is_wrong_with_the_configuration_is_told_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("wrong.yaml");
    std::fs::write(
        &path,
        "servr: {}\nserver: {listen: nowhere}\nlimits: {top_k: many}\nworkers: {retrieval: 0}\n\
         query_pipelines: [{name: default, generate: {generator: llm}}]\n\
         auth: {keys: [{name: a, key: tooshort-secret}]}\nwebhooks: {signing_secrets: [not-a-secret-at-all]}\n",
    )
    .unwrap();
    let path = path.to_str().unwrap();
    let data = folder.path().join("data");
    let env = [("RAGLAN__JOBS__LEASE", "5")];
    let serve = ["serve", "--config", path, "--data-dir", data.to_str().unwrap()];
    let output = raglan(folder.path(), &env, &serve).await.expect_code(2);
    // What cannot be read is told first; the rest once it can be.
    for part in [
        "servr: there is no such key; did you mean \"server\"?",
        "server.listen: ",
        "limits.top_k: ",
        "RAGLAN__JOBS__LEASE: jobs.lease: there is no such key; did you mean \"lease_s\"?",
    ] {
        assert!(output.stderr.contains(part), "{part:?} is not told: {output:#?}");
    }
    assert!(output.stdout.is_empty(), "{output:#?}");
    assert!(!data.exists(), "nothing was begun");

    std::fs::write(
        path,
        "workers: {retrieval: 0}\nquery_pipelines: [{name: default, generate: {generator: llm}}]\n\
         auth: {keys: [{name: a, key: tooshort-secret}]}\nwebhooks: {signing_secrets: [not-a-secret-at-all]}\n",
    )
    .unwrap();
    let output = raglan(folder.path(), &[], &serve).await.expect_code(2);
    for part in [
        "4 problem",
        "workers.retrieval: ",
        "generate.generator: ",
        "auth.keys[0].key: ",
        "webhooks.signing_secrets[0]: ",
    ] {
        assert!(output.stderr.contains(part), "{part:?} is not told: {output:#?}");
    }
    for secret in ["tooshort-secret", "not-a-secret-at-all"] {
        assert!(!output.stderr.contains(secret), "a secret is told: {output:#?}");
    }
    // `check` tells the same.
    let check = raglan(folder.path(), &[], &["check", "--json", "--config", path]).await.expect_code(2);
    let report = check.json();
    assert_eq!(report["ok"], false);
    let problems =
        report["findings"].as_array().unwrap().iter().filter(|finding| finding["state"] == "problem").count();
    assert_eq!(problems, 4, "{report:#}");
    assert!(!check.stdout.contains("tooshort-secret") && !check.stdout.contains("not-a-secret-at-all"));
}

#[tokio::test]
async fn a_file_or_an_address_that_cannot_be_had_is_told() {
    let server = Server::start(ServerOptions::default().embedded()).await;
    let folder = server.folder();
    let missing = raglan(folder, &[], &["serve", "--config", "nowhere.yaml"]).await.expect_code(2);
    assert!(missing.stderr.contains("nowhere.yaml"), "{missing:#?}");
    // A data folder belongs to one process.
    let data = server.data_dir();
    let config = server.config_file();
    let (data, config) = (data.to_str().unwrap(), config.to_str().unwrap());
    let second = ["serve", "--config", config, "--data-dir", data, "--listen", "127.0.0.1:0"];
    let second = raglan(folder, &[], &second).await;
    assert!(second.code.is_some_and(|code| code != 0), "{second:#?}");
    assert!(second.stderr.contains("another raglan process"), "{second:#?}");
    // So does an address.
    let address = server.url().strip_prefix("http://").unwrap();
    let other = folder.join("other");
    let taken = ["serve", "--config", config, "--data-dir", other.to_str().unwrap(), "--listen", address];
    let taken = raglan(folder, &[], &taken).await;
    assert!(taken.code.is_some_and(|code| code != 0), "{taken:#?}");
    assert!(taken.stderr.contains(address), "{taken:#?}");
    server.api().get("/healthz").await.expect(200);
    // Without keys, only this machine.
    let open = ["serve", "--config", config, "--data-dir", other.to_str().unwrap(), "--listen", "0.0.0.0:0"];
    let open = raglan(folder, &[], &open).await.expect_code(2);
    assert!(open.stderr.contains("auth.keys"), "{open:#?}");
}

#[tokio::test]
async fn retention_forgets_ended_jobs() {
    let options = ServerOptions::default().with(json!({"jobs": {"retention_s": 1}}));
    let (server, api) = crate::corpus::server_with(options).await;
    let job = id(&api.ask(&fast_question(1)).await);
    // It ends, and a while after that it is forgotten.
    let path = format!("/v1/jobs/{job}");
    let seen = raglan_tests::eventually("the end of the job", async || {
        let reply = api.get(&path).await;
        (reply.status == 404 || is_final(&reply.json())).then_some(reply)
    })
    .await;
    if seen.status == 200 {
        assert!(seen.json()["expires_at"].is_string());
    }
    raglan_tests::eventually("the job forgotten", async || {
        (api.get(&path).await.status == 404).then_some(())
    })
    .await;
    assert_eq!(api.get("/v1/collections/default").await.expect(200)["documents"], 3, "its documents are not");
    drop(server);
}
