//! The commands that need no server, through the real binary. (That these tests are here also makes cargo build the
//! binary for the end-to-end tests of the workspace.)
#![allow(clippy::unwrap_used)]

use std::process::{Command, Output};

fn raglan(arguments: &[&str]) -> Output {
    let folder = tempfile::tempdir().unwrap();
    Command::new(env!("CARGO_BIN_EXE_raglan")).args(arguments).current_dir(&folder).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn the_defaults_it_prints_are_a_valid_configuration() {
    let printed = raglan(&["config"]);
    assert!(printed.status.success());
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("raglan.yaml");
    let without_model = text(&printed.stdout).replace("name: all-MiniLM-L6-v2", "name: none");
    let without_folder = without_model
        .replace("./raglan-data", folder.path().join("data").to_str().unwrap())
        .replace("127.0.0.1:8765", "127.0.0.1:0");
    std::fs::write(&path, without_folder).unwrap();
    let checked = raglan(&["--config", path.to_str().unwrap(), "check", "--json"]);
    let report: serde_json::Value = serde_json::from_slice(&checked.stdout).unwrap();
    assert_eq!(report["ok"], true, "{report:#}");
    assert!(checked.status.success());
    assert!(!folder.path().join("data").exists(), "a check leaves nothing behind");
}

#[test]
fn what_is_wrong_is_told_at_once_and_the_exit_code_is_2() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bad.yaml");
    std::fs::write(&path, "server: {listn: x}\nworkers: {retrieval: many}\n").unwrap();
    for command in ["check", "serve"] {
        let ended = raglan(&["--config", path.to_str().unwrap(), command]);
        assert_eq!(ended.status.code(), Some(2), "{command}");
        let told = text(&ended.stdout) + &text(&ended.stderr);
        assert!(told.contains("did you mean \"listen\"?"), "{told}");
        assert!(told.contains("workers.retrieval"), "{told}");
    }
}

#[test]
fn what_keeps_a_worker_from_starting_is_told_in_one_report() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("raglan.yaml");
    // Nothing listens on port 1, and a file is no folder.
    let settings = serde_json::json!({
        "data_dir": path,
        "models": {"embedding": {"path": folder.path().join("no-model")}},
        "postgres": {"url": "postgres://postgres@127.0.0.1:1/postgres"},
        "redis": {"url": "redis://127.0.0.1:1"},
        "startup": {"wait_s": 0},
        "workers": {"listen": null},
    });
    std::fs::write(&path, settings.to_string()).unwrap();
    let ended = raglan(&["--config", path.to_str().unwrap(), "worker", "retrieval", "webhook"]);
    assert_eq!(ended.status.code(), Some(2));
    let told = text(&ended.stderr);
    for problem in [
        "7 problems",
        "webhooks.signing_secrets: ",
        "data_dir: ",
        "postgres: ",
        "rabbitmq.url: ",
        "redis: ",
        "blobs.path: ",
        "models: ",
    ] {
        assert!(told.contains(problem), "{problem:?} is not told: {told}");
    }
    assert!(ended.stdout.is_empty());
}

#[test]
fn a_command_that_finds_no_server_says_what_to_do() {
    let ended = raglan(&["--url", "http://127.0.0.1:1", "search", "x"]);
    assert_eq!(ended.status.code(), Some(1));
    assert!(text(&ended.stderr).contains("raglan serve"), "{}", text(&ended.stderr));
    assert!(ended.stdout.is_empty());
}

#[test]
fn completions_name_the_commands() {
    for shell in ["bash", "zsh", "fish"] {
        let printed = text(&raglan(&["completions", shell]).stdout);
        for command in ["serve", "ingest", "cancel"] {
            assert!(printed.contains(command), "{shell} has no {command}");
        }
    }
}
