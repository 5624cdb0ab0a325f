//! The commands that talk to a server, and those that need none.

use std::{fs, path::Path};

use raglan_tests::{Output, Server, ServerOptions, eventually, raglan};
use serde_json::{Value, json};

use crate::corpus::{ANSWER, QUESTION, found, id, server, server_with, slow_question};

async fn run(server: &Server, arguments: &[&str]) -> Output {
    raglan(server.folder(), &[("RAGLAN_URL", server.url())], arguments).await
}

#[tokio::test]
async fn ask_prints_the_stages_the_answer_and_the_sources() {
    let (server, _api) = server().await;
    let output = run(&server, &["ask", QUESTION]).await.expect_code(0);
    let (answer, sources) = output.stdout.split_once("\nSources\n").unwrap_or_else(|| panic!("{output:#?}"));
    assert!(answer.contains(ANSWER), "{output:#?}");
    assert!(
        sources.contains("[1] Returns · https://shop.example/handbook/returns · characters "),
        "{output:#?}"
    );
    for stage in ["queued", "retrieving", "retrieved", "generating with extractive"] {
        assert!(output.stderr.contains(stage), "{stage}: {output:#?}");
    }
    assert!(
        !output.stderr.contains('\u{1b}') && !output.stdout.contains('\u{1b}'),
        "no colours in a pipe: {output:#?}"
    );

    let output =
        run(&server, &["ask", "--json", "--no-cache", "--filter", "lang=en", "--top-k", "2", QUESTION])
            .await
            .expect_code(0);
    let job = output.json();
    assert_eq!((&job["status"], &job["kind"]), (&json!("succeeded"), &json!("query")));
    assert!(job["result"]["answer"].as_str().unwrap().contains(ANSWER));
    assert!(output.stderr.is_empty(), "{output:#?}");

    // The key may stand anywhere, and the address too.
    let output =
        raglan(server.folder(), &[], &["--url", server.url(), "ask", QUESTION, "--key", "any"]).await;
    assert_eq!(output.code, Some(0), "{output:#?}");
}

#[tokio::test]
async fn ask_says_what_went_wrong() {
    let (server, api) = server().await;
    let output = run(&server, &["ask", "--pipeline", "nope", QUESTION]).await.expect_code(1);
    assert!(output.stderr.contains("pipeline") && output.stdout.is_empty(), "{output:#?}");
    let output = run(&server, &["ask", "--filter", "nonsense", QUESTION]).await.expect_code(1);
    assert!(output.stderr.contains("KEY=VALUE"), "{output:#?}");
    let gone =
        raglan(server.folder(), &[], &["--url", "http://127.0.0.1:9", "ask", QUESTION]).await.expect_code(1);
    assert!(gone.stderr.contains("Is the server running?"), "{gone:#?}");
    assert_eq!(raglan(server.folder(), &[], &["ask"]).await.code, Some(2), "a question is missing");

    // A job that is cancelled from elsewhere while it is followed.
    let asked = tokio::spawn({
        let (folder, url) = (server.folder().to_owned(), server.url().to_owned());
        async move { raglan(&folder, &[("RAGLAN_URL", &url)], &["ask", "--pipeline", "slow", QUESTION]).await }
    });
    let job = eventually("the job of the command", async || {
        let jobs = api.get("/v1/jobs?status=generating").await.expect(200);
        jobs["jobs"].as_array().unwrap().first().map(id)
    })
    .await;
    let output = run(&server, &["cancel", &job]).await.expect_code(0);
    assert!(output.stdout.contains("cancelled"), "{output:#?}");
    let output = asked.await.unwrap().expect_code(1);
    assert!(output.stderr.contains("cancelled"), "{output:#?}");
}

#[tokio::test]
async fn ingest_search_and_jobs_do_as_they_say() {
    let (server, api) = server().await;
    let folder = server.folder().join("notes");
    fs::create_dir_all(folder.join("deep")).unwrap();
    fs::write(folder.join("lamps.md"), "# Lamps\n\nThe lamp in the hall is green.\n").unwrap();
    fs::write(folder.join("deep/rugs.txt"), "The rug in the kitchen is old.\n").unwrap();
    fs::write(folder.join("empty.txt"), "").unwrap();
    fs::write(folder.join("picture.png"), b"\x89PNG\r\n\x1a\n").unwrap();
    let path = folder.to_str().unwrap();

    let output = run(&server, &["ingest", path, "--collection", "home", "--json"]).await.expect_code(0);
    let outcome = output.json();
    assert_eq!((&outcome["created"], &outcome["failed"]), (&json!(2), &json!(1)), "{output:#?}");
    assert_eq!(outcome["failures"][0]["external_id"], "notes/empty.txt");
    assert_eq!(outcome["failures"][0]["code"], "empty");
    let again = run(&server, &["ingest", path, "--collection", "home", "--json"]).await.expect_code(0).json();
    assert_eq!((&again["unchanged"], &again["chunks_embedded"]), (&json!(2), &json!(0)));
    // Lines for people when piped, without a bar's control characters.
    let output = run(&server, &["ingest", path, "--collection", "home"]).await.expect_code(0);
    assert!(output.stderr.contains("2 unchanged") && !output.stderr.contains('\u{1b}'), "{output:#?}");
    assert!(output.stderr.contains("notes/empty.txt: "), "{output:#?}");

    let output = run(&server, &["search", "green lamp", "--collection", "home"]).await.expect_code(0);
    assert!(output.stdout.starts_with("1. Lamps · notes/lamps.md · "), "{output:#?}");
    assert!(output.stdout.contains("The lamp in the hall is green."));
    let output = run(&server, &["search", "rug", "--collection", "home", "--mode", "keyword", "--json"])
        .await
        .expect_code(0);
    assert_eq!(found(&output.json()), ["notes/deep/rugs.txt"]);
    let output = run(&server, &["search", "zzzz", "--collection", "home"]).await.expect_code(0);
    assert!(output.stderr.contains("nothing found"), "{output:#?}");

    let job = id(&api.ask(&slow_question()).await);
    let list = run(&server, &["jobs"]).await.expect_code(0);
    assert!(list.stdout.lines().next().unwrap().starts_with(&job), "newest first: {list:#?}");
    let list =
        run(&server, &["jobs", "--kind", "ingestion", "--json", "--limit", "2"]).await.expect_code(0).json();
    assert_eq!(list["jobs"].as_array().unwrap().len(), 2);
    let cancelled = run(&server, &["cancel", "--json", &job]).await.expect_code(0).json();
    assert_eq!(cancelled["status"], "cancelled");
    let shown = run(&server, &["jobs", &job]).await.expect_code(0);
    assert!(shown.stdout.contains(&job) && shown.stdout.contains("cancelled"), "{shown:#?}");
    let shown = run(&server, &["jobs", &job, "--json"]).await.expect_code(0).json();
    assert_eq!(id(&shown), job);
    run(&server, &["jobs", "0190c0de-0000-7000-8000-000000000000"]).await.expect_code(1);
}

#[tokio::test]
async fn check_reports_every_part_and_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("raglan.yaml");
    let settings = json!({
        "data_dir": folder.path().join("data"),
        "server": {"listen": "127.0.0.1:0"},
        "models": {"embedding": {"name": "none"}},
        "auth": {"keys": [{"name": "a", "key": "a-key-that-nobody-may-see"}]},
    });
    fs::write(&config, settings.to_string()).unwrap();
    // The file of the folder is found without being named.
    let output = raglan(folder.path(), &[], &["check"]).await.expect_code(0);
    for part in ["configuration", "data_dir", "server.listen", "models.embedding", "generator extractive"] {
        assert!(output.stdout.contains(part), "{part}: {output:#?}");
    }
    let output = raglan(folder.path(), &[], &["check", "--json"]).await.expect_code(0);
    let report = output.json();
    assert_eq!(report["ok"], true);
    assert_eq!(report["configuration"]["auth"]["keys"][0]["key"], "***");
    assert!(!output.stdout.contains("nobody-may-see"));
    assert!(!folder.path().join("data").exists(), "a check leaves nothing behind");
}

#[tokio::test]
async fn completions_and_defaults_are_printed() {
    let folder = tempfile::tempdir().unwrap();
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let output = raglan(folder.path(), &[], &["completions", shell]).await.expect_code(0);
        for word in ["raglan", "serve", "ingest"] {
            assert!(output.stdout.contains(word), "{shell}: {word}");
        }
    }
    let defaults = raglan(folder.path(), &[], &["config"]).await.expect_code(0).stdout;
    assert!(defaults.contains("query_pipelines:"));
    // They are a configuration that is accepted as it stands.
    fs::write(folder.path().join("defaults.yaml"), &defaults).unwrap();
    let env = [("RAGLAN__MODELS__OFFLINE", "true")];
    let check = raglan(folder.path(), &env, &["check", "--config", "defaults.yaml", "--json"])
        .await
        .expect_code(0)
        .json();
    assert_eq!(check["findings"][0]["state"], "ok", "{check:#}");
    let version = raglan(folder.path(), &[], &["--version"]).await.expect_code(0).stdout;
    assert_eq!(version.trim(), format!("raglan {}", env!("CARGO_PKG_VERSION")));
    let help = raglan(folder.path(), &[], &["--help"]).await.expect_code(0).stdout;
    assert!(help.contains("serve") && help.contains("Answers questions from your own documents"), "{help}");
}

/// The documents of the collection `default`, by external id.
async fn documents(server: &Server) -> Vec<String> {
    let page = server.api().get("/v1/documents").await.expect(200);
    let mut names: Vec<String> = page["documents"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["external_id"].as_str().unwrap().to_owned())
        .collect();
    names.sort();
    names
}

async fn documents_become(server: &Server, expected: &[&str]) {
    eventually(&format!("the documents {expected:?}"), async || {
        (documents(server).await == expected).then_some(())
    })
    .await;
}

#[tokio::test]
async fn serve_keeps_a_folder_and_its_collection_equal() {
    let folder = tempfile::tempdir().unwrap();
    let docs = folder.path().join("docs");
    let write = |name: &str, text: &str| fs::write(docs.join(name), text).unwrap();
    fs::create_dir(&docs).unwrap();
    write("a.md", "# A\n\nThe lamp is green.\n");
    write("b.txt", "The rug is old.\n");
    let options = ServerOptions::default().arg("--docs").arg(docs.to_str().unwrap()).arg("--watch");
    let mut server = Server::start(options).await;
    documents_become(&server, &["docs/a.md", "docs/b.txt"]).await;

    // While it runs: a new file, a changed one, a removed one.
    write("c.md", "# C\n\nThe kettle whistles.\n");
    documents_become(&server, &["docs/a.md", "docs/b.txt", "docs/c.md"]).await;
    write("a.md", "# A\n\nThe lamp is blue now.\n");
    eventually("the change of a file", async || {
        let hits = server.api().search(&json!({"query": "lamp"})).await;
        hits["passages"][0]["text"].as_str().is_some_and(|text| text.contains("blue")).then_some(())
    })
    .await;
    fs::remove_file(docs.join("b.txt")).unwrap();
    documents_become(&server, &["docs/a.md", "docs/c.md"]).await;

    // While it is off: the same.
    assert!(server.terminate().await.success());
    write("d.md", "# D\n\nThe door is open.\n");
    fs::remove_file(docs.join("c.md")).unwrap();
    server.restart().await;
    documents_become(&server, &["docs/a.md", "docs/d.md"]).await;
    let a = server.api().document("default", "docs/a.md").await.unwrap();
    assert_eq!(a["version"], 2, "what had not changed was left alone");

    // Nothing has changed: nothing is sent.
    let jobs = ingestions(&server).await;
    assert!(server.terminate().await.success());
    server.restart().await;
    eventually("the look at the folder", async || {
        server.stderr().contains("nothing has changed").then_some(())
    })
    .await;
    assert_eq!(ingestions(&server).await, jobs);
}

async fn ingestions(server: &Server) -> Vec<Value> {
    let page = server.api().get("/v1/jobs?kind=ingestion").await.expect(200);
    page["jobs"].as_array().unwrap().iter().map(|job| job["job_id"].clone()).collect()
}

#[tokio::test]
async fn the_first_lines_of_serve_say_what_to_do_next() {
    let (server, _api) = server_with(ServerOptions::default().embedded()).await;
    let log = server.stderr();
    let line = log
        .lines()
        .find(|line| line.trim_start().starts_with("curl "))
        .unwrap_or_else(|| panic!("no curl line:\n{log}"));
    if !Path::new("/usr/bin/curl").exists() {
        return raglan_tests::skip("commands::the_curl_line", "there is no curl");
    }
    // It works when pasted.
    let line = line.trim().to_owned();
    let pasted = tokio::process::Command::new("sh").arg("-c").arg(&line).output();
    let output = raglan_tests::within("curl", pasted).await.unwrap();
    let job: Value =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {line}: {output:?}"));
    assert_eq!(job["status"], "succeeded", "{job:#}");
}
