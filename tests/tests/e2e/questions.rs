//! The questions of the example corpus, asked as a user would.

use std::time::Duration;

use raglan_tests::{Server, ServerOptions, raglan, repository, skip};
use serde_json::{Value, json};

use crate::corpus::slice;

fn collapse(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Every question of `examples/questions.jsonl` over `examples/docs`: nine in ten that can be answered must be, with the expected text in the answer or in
/// what it cites, and six in ten that cannot be must be refused. With the embedding model where it can be had, else with keywords alone.
#[tokio::test]
async fn the_example_corpus_answers_its_questions() {
    let options = ServerOptions::default()
        .with(json!({"models": {"embedding": {"name": "all-MiniLM-L6-v2"}}, "jobs": {"lease_s": 30}}))
        // The model may have to be fetched first.
        .ready_within(Duration::from_secs(900));
    let server = Server::start(options).await;
    let api = server.api();
    let ready = api.get("/readyz").await.expect(200);
    let with_model = ready["parts"].as_array().unwrap().iter().all(|part| part["state"] == "ok");
    if !with_model {
        skip(
            "questions::with_the_embedding_model",
            "the embedding model could not be had; asked by keywords alone",
        );
    }
    let docs = repository().join("examples/docs");
    let command = ["ingest", "--json", docs.to_str().unwrap()];
    let outcome =
        raglan(server.folder(), &[("RAGLAN_URL", server.url())], &command).await.expect_code(0).json();
    let files = std::fs::read_dir(&docs).unwrap().count();
    assert_eq!((&outcome["created"], &outcome["failed"]), (&json!(files), &json!(0)), "{outcome:#}");
    if with_model {
        let search = api.search(&json!({"query": "webhooks", "mode": "vector"})).await;
        assert_eq!(search["degraded"], json!([]), "the embedding model is in use");
    }

    let text = std::fs::read_to_string(repository().join("examples/questions.jsonl")).unwrap();
    let questions: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let (mut answerable, mut found, mut right_document) = (0, 0, 0);
    let (mut unanswerable, mut refused) = (0, 0);
    let mut missed = Vec::new();
    for question in &questions {
        let job = api.answer(&json!({"query": question["question"]})).await;
        assert_eq!(job["status"], "succeeded", "{job:#}");
        let result = &job["result"];
        let citations = result["citations"].as_array().unwrap();
        for citation in citations {
            let path = format!("/v1/documents/{}?include=text", citation["document_id"].as_str().unwrap());
            let document = api.get(&path).await.expect(200);
            let cited = slice(document["text"].as_str().unwrap(), &citation["start"], &citation["end"]);
            assert_eq!(
                cited,
                citation["text"].as_str().unwrap(),
                "a citation points elsewhere: {citation:#}"
            );
        }
        if question["unanswerable"] == true {
            unanswerable += 1;
            if result["found"] == false {
                refused += 1;
            } else {
                missed.push(format!("not refused: {}: {}", question["question"], result["answer"]));
            }
            continue;
        }
        answerable += 1;
        let mut said = collapse(result["answer"].as_str().unwrap());
        for citation in citations {
            said.push(' ');
            said += &collapse(citation["text"].as_str().unwrap());
        }
        let name = question["document"].as_str().unwrap();
        if citations.iter().any(|citation| citation["external_id"].as_str().unwrap().ends_with(name)) {
            right_document += 1;
        }
        if said.contains(&collapse(question["contains"].as_str().unwrap())) {
            found += 1;
        } else {
            missed.push(format!(
                "missed: {} (in {name}: {}): {}",
                question["question"], question["contains"], result["answer"]
            ));
        }
    }
    let mode = if with_model { "with the embedding model" } else { "by keywords alone" };
    println!(
        "{mode}: {found} of {answerable} answered with the expected text, {right_document} citing the expected document; \
         {refused} of {unanswerable} unanswerable refused"
    );
    for miss in &missed {
        println!("  {miss}");
    }
    assert!(found * 10 >= answerable * 9, "{mode}: only {found} of {answerable} answered");
    assert!(refused * 10 >= unanswerable * 6, "{mode}: only {refused} of {unanswerable} refused");
}
