//! A language model that the server runs itself. It is tiny and its weights are random: what it writes is nothing, how it is run is everything.

use raglan_engine::tiny::{self, Stored};
use raglan_tests::{Api, Server, ServerOptions, Shape, eventually, raglan};
use serde_json::{Value, json};

use crate::corpus::{QUESTION, id, server_with};

fn model(config: &Value) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    tiny::write(folder.path(), config, Stored::F32, 1).unwrap();
    folder
}

/// The server's usual pipelines, and one whose answers the model writes.
fn options(settings: Value) -> ServerOptions {
    let mut generator =
        json!({"name": "local", "type": "candle", "device": "cpu", "cache_blocks": 600, "seed": 1});
    raglan_tests::merge(&mut generator, settings);
    ServerOptions::default().with(json!({
        "generators": [{"name": "extractive", "type": "extractive"}, generator],
        "query_pipelines": [{"name": "default"}, {"name": "local", "generate": {"generator": "local"}}],
        "workers": {"generation": 32},
    }))
}

fn question(number: usize, tokens: usize) -> Value {
    json!({"query": format!("{QUESTION} ({number})"), "pipeline": "local",
           "generation": {"max_tokens": tokens, "temperature": 0.7}})
}

async fn metrics(api: &Api) -> String {
    String::from_utf8(api.get("/metrics").await.body.to_vec()).unwrap()
}

#[tokio::test]
async fn its_own_model_answers_many_jobs_at_once() {
    let folder = model(&tiny::config("llama", &json!({"eos_token_id": null})));
    let (server, api) = server_with(options(json!({"model": folder.path(), "max_sequences": 8}))).await;
    let asked: Vec<_> = (0..20).map(|number| question(number, 10 + number)).collect();
    let jobs = futures::future::join_all(asked.iter().map(|body| api.ask(body))).await;
    let name = folder.path().file_name().unwrap().to_str().unwrap();
    for (number, job) in jobs.iter().enumerate() {
        let job = api.ended(&id(job)).await;
        assert_eq!(job["status"], "succeeded", "{job:#}");
        let result = &job["result"];
        assert_eq!(result["model"], json!(name), "{job:#}");
        assert!(result["usage"]["prompt_tokens"].as_u64().unwrap() > 500, "{job:#}");
        assert!(result["usage"]["completion_tokens"].as_u64().unwrap() <= 10 + number as u64, "{job:#}");
    }
    // Chance is seeded: the same question has the same answer, cache or not.
    let first = api.answer(&question(3, 30)).await;
    let again = api.answer(&question(3, 30)).await;
    assert_eq!(first["result"]["answer"], again["result"]["answer"]);
    // In the distributed shape they are the worker's to tell.
    if Shape::of_this_run() == Shape::Embedded {
        let metrics = metrics(&api).await;
        assert!(metrics.contains("raglan_engine_decode_tokens_total"), "{metrics}");
    }
    drop(server);
}

#[tokio::test]
async fn a_cancelled_job_leaves_the_engine() {
    let folder = model(&tiny::config("qwen2", &json!({"eos_token_id": null})));
    // Whether the engine is idle its metrics tell, which the API has where everything is one process.
    let options = options(json!({"model": folder.path()})).embedded();
    let (_server, api) = server_with(options).await;
    let job = id(&api.ask(&question(0, 4_000)).await);
    api.job_when(&job, |job| job["status"] == "generating").await;
    api.post(&format!("/v1/jobs/{job}/cancel"), &json!({})).await;
    assert_eq!(api.ended(&job).await["status"], "cancelled");
    eventually("an idle engine", async || {
        let text = metrics(&api).await;
        text.lines()
            .any(|line| line.starts_with("raglan_engine_running{") && line.ends_with(" 0"))
            .then_some(())
    })
    .await;
}

#[tokio::test]
async fn what_cannot_be_run_ends_the_start_with_one_line() {
    let good = model(&tiny::config("llama", &json!({})));
    let foreign = model(&tiny::config("llama", &json!({})));
    std::fs::write(foreign.path().join("config.json"), json!({"model_type": "mamba"}).to_string()).unwrap();
    let cases = [
        (json!({"model": foreign.path()}), "supported are llama, mistral, qwen2, qwen3"),
        (json!({"model": "/no/such/folder"}), "there is no folder or .gguf file /no/such/folder"),
        // There is no GPU with this number, whatever the binary was built for.
        (json!({"model": good.path(), "device": "cuda:99"}), "device cuda:99"),
    ];
    for (settings, part) in cases {
        let home = tempfile::tempdir().unwrap();
        let file = home.path().join("raglan.json");
        std::fs::write(&file, options(settings).config().to_string()).unwrap();
        let file = file.to_str().unwrap();
        let output = raglan(home.path(), &[], &["serve", "--config", file, "--listen", "127.0.0.1:0"]).await;
        assert_eq!(output.code, Some(1), "{output:#?}");
        let line = output.stderr.lines().find(|line| line.contains("generators.local"));
        assert!(line.is_some_and(|line| line.contains(part)), "{output:#?}");
        let output = raglan(home.path(), &[], &["check", "--config", file]).await.expect_code(2);
        assert!(output.stdout.contains(part), "{output:#?}");
    }
}

#[tokio::test]
async fn a_model_that_is_whole_passes_the_check() {
    let folder = model(&tiny::config("qwen3", &json!({})));
    let server = Server::start(options(json!({"model": folder.path()})).embedded()).await;
    let file = server.config_file();
    let output = raglan(server.folder(), &[], &["check", "--config", file.to_str().unwrap()]).await;
    let line = output.stdout.lines().find(|line| line.contains("generator local")).unwrap_or_default();
    assert!(line.starts_with("ok") && line.contains("Qwen3") && line.contains("on cpu"), "{output:#?}");
}
