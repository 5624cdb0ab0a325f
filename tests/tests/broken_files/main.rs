//! Broken files among good ones: the good ones are taken in, and each bad one is told of with its own reason.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)] // tests fail by panicking

mod bad;
#[path = "../e2e/files.rs"]
#[allow(dead_code)] // the end-to-end tests use more of it
mod files;

use raglan_tests::{Api, Server, ServerOptions};
use reqwest::{Method, multipart};
use serde_json::{Value, json};

use crate::{
    bad::{Bad, bad},
    files::{File, good},
};

/// So that a huge file need not be huge.
const FILE_BYTES: usize = 200_000;

async fn send(api: &Api, files: &[File]) -> Value {
    let form = files.iter().fold(multipart::Form::new(), |form, file| {
        form.part("file", multipart::Part::bytes(file.bytes.clone()).file_name(file.name))
    });
    let job = api.send(api.request(Method::POST, "/v1/documents").multipart(form)).await.expect(202);
    api.ended(job["job_id"].as_str().unwrap()).await
}

#[tokio::test]
async fn each_bad_file_fails_alone_with_its_own_reason() {
    let options = ServerOptions::default().with(json!({"limits": {"file_bytes": FILE_BYTES}}));
    let server = Server::start(options).await;
    let api = server.api();
    let (good, bad) = (good(), bad(FILE_BYTES));
    // Good ones before, between and after bad ones.
    let mut files: Vec<File> = bad.iter().map(|bad| bad.file.clone()).collect();
    for (n, (file, _)) in good.iter().enumerate() {
        files.insert((n * 2).min(files.len()), file.clone());
    }
    let job = send(&api, &files).await;
    assert_eq!(job["status"], "succeeded", "bad files are no failure of the job: {job:#}");
    let result = &job["result"];
    assert_eq!(
        result["documents"],
        json!({"created": good.len(), "updated": 0, "unchanged": 0, "failed": bad.len()}),
        "{result:#}"
    );
    assert_eq!(job["progress"]["done"], files.len(), "{job:#}");

    for (file, word) in &good {
        let found = api.search(&json!({"query": word})).await;
        let passages = found["passages"].as_array().unwrap();
        assert_eq!(passages.len(), 1, "{word}: {found:#}");
        assert_eq!(passages[0]["external_id"], file.name);
    }
    let mut wrong = Vec::new();
    for Bad { file, code, says } in &bad {
        let mut failures = result["failures"].as_array().unwrap().iter();
        let failure = failures.find(|failure| failure["external_id"] == file.name);
        let (was, message) = failure.map_or(("no failure", ""), |failure| {
            (failure["code"].as_str().unwrap(), failure["message"].as_str().unwrap())
        });
        println!("{:<20} {was:<12} {message}", file.name);
        if was != *code || !message.contains(says) {
            wrong.push(format!("{}: {was}, {message:?}, not {code}, {says:?}", file.name));
        }
        assert!(api.document("default", file.name).await.is_none(), "{} is there", file.name);
    }
    assert!(wrong.is_empty(), "{wrong:#?}");

    // Nothing is left of them but their reasons: the same files again change nothing.
    let again = send(&api, &files).await;
    assert_eq!(
        again["result"]["documents"],
        json!({"created": 0, "updated": 0, "unchanged": good.len(), "failed": bad.len()}),
        "{again:#}"
    );
    api.get("/readyz").await.expect(200);
}

#[tokio::test]
async fn a_job_of_bad_files_alone_succeeds_and_tells_of_each() {
    let server =
        Server::start(ServerOptions::default().with(json!({"limits": {"file_bytes": FILE_BYTES}}))).await;
    let bad = bad(FILE_BYTES);
    let files: Vec<File> = bad.iter().map(|bad| bad.file.clone()).collect();
    let job = send(&server.api(), &files).await;
    assert_eq!(job["status"], "succeeded", "{job:#}");
    assert_eq!(job["result"]["failures"].as_array().unwrap().len(), bad.len(), "{job:#}");
}
