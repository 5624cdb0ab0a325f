//! The arrows between the crates, as `cargo metadata` knows them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)] // tests fail by panicking

use std::{collections::BTreeSet, process::Command};

use serde_json::{Value, json};

/// What each crate of the workspace may depend on of the others.
const ARROWS: [(&str, &[&str]); 10] = [
    ("raglan-pipeline", &[]),
    // Arithmetic alone.
    ("raglan-encoder", &[]),
    ("raglan-kernels", &[]),
    // A language model at work; it knows nothing of questions and documents.
    ("raglan-engine", &["raglan-kernels"]),
    ("raglan-backends", &["raglan-pipeline", "raglan-encoder", "raglan-engine"]),
    ("raglan-api", &["raglan-pipeline"]),
    ("raglan-workers", &["raglan-pipeline"]),
    ("raglan", &["raglan-pipeline", "raglan-encoder", "raglan-backends", "raglan-api", "raglan-workers"]),
    // It puts the parts together by itself, to break them on purpose; of the engine it has the tiny models.
    ("raglan-tests", &["raglan-pipeline", "raglan-backends", "raglan-engine", "raglan-workers"]),
    // It sees the product from outside, and measures by themselves the parts that a port hides: an index of a million vectors, an encoder.
    ("raglan-load-tests", &["raglan-pipeline", "raglan-backends", "raglan-encoder"]),
];

/// Engines and their drivers: what a crate begins with, and who alone may name it.
const DRIVERS: [&str; 17] = [
    "candle-",
    "cudarc",
    "deadpool-redis",
    "elasticsearch",
    "fred",
    "hf-hub",
    "lapin",
    "libsqlite3-sys",
    "object_store",
    "opensearch",
    "qdrant-client",
    "redis",
    "rusqlite",
    "sqlx",
    "tantivy",
    "tonic",
    "usearch",
];

/// The HTTP server: the API has it, and tests play servers of their own.
const HTTP_SERVERS: [&str; 4] = ["actix-web", "axum", "hyper", "warp"];
const HTTP_SERVER_USERS: [&str; 3] = ["raglan-api", "raglan-tests", "raglan-load-tests"];

/// What breaks the rules, each with what breaks it.
fn violations(metadata: &Value) -> Vec<String> {
    let packages = metadata["packages"].as_array().map(Vec::as_slice).unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let ours: BTreeSet<String> = packages.iter().map(|package| text(&package["name"])).collect();
    let mut broken = Vec::new();
    for (name, _) in ARROWS {
        if !ours.contains(name) {
            broken.push(format!("{name} is not in the workspace"));
        }
    }
    for package in packages {
        let name = text(&package["name"]);
        let Some((_, allowed)) = ARROWS.iter().find(|(known, _)| *known == name) else {
            broken.push(format!("{name} is a crate that no rule knows"));
            continue;
        };
        for dependency in package["dependencies"].as_array().into_iter().flatten() {
            // Whatever its kind (normal, build, of tests) and whether it is optional or renamed.
            let on = text(&dependency["name"]);
            let starts = |with: &str| {
                on == with.trim_end_matches('-')
                    || on.starts_with(&format!("{}-", with.trim_end_matches('-')))
            };
            if ours.contains(&on) && on != name && !allowed.contains(&on.as_str()) {
                broken.push(format!("{name} depends on {on}"));
            }
            // A test may play the server that a client of ours talks to, and compare with a reference.
            let for_tests = dependency["kind"] == "dev";
            let is_reference = starts("candle-") && for_tests && name == "raglan-encoder"
                // Operations over candle's tensors.
                || starts("candle-") && ["raglan-kernels", "raglan-engine"].contains(&name.as_str())
                || starts("candle-") && name == "raglan-load-tests"
                // The floor under the pipeline is measured past all of our code.
                || ["lapin", "redis"].contains(&on.as_str()) && name == "raglan-load-tests";
            if DRIVERS.iter().any(|driver| starts(driver)) && name != "raglan-backends" && !is_reference {
                broken.push(format!("{name} names the driver {on}"));
            }
            if HTTP_SERVERS.contains(&on.as_str())
                && !for_tests
                && !HTTP_SERVER_USERS.contains(&name.as_str())
            {
                broken.push(format!("{name} names the HTTP server {on}"));
            }
        }
    }
    broken
}

fn metadata() -> Value {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["metadata", "--no-deps", "--format-version", "1", "--offline", "--manifest-path"])
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn the_arrows_of_the_design_hold() {
    assert_eq!(violations(&metadata()), Vec::<String>::new());
}

#[test]
fn a_wrong_arrow_is_seen() {
    let package = |name: &str, dependencies: &[&str]| {
        let dependencies: Vec<Value> =
            dependencies.iter().map(|name| json!({"name": name, "kind": null})).collect();
        json!({"name": name, "dependencies": dependencies})
    };
    // A workspace that keeps the rules, with one crate's dependencies replaced.
    let workspace = |name: &str, dependencies: &[&str]| {
        let packages: Vec<Value> = ARROWS
            .iter()
            .map(
                |(known, allowed)| {
                    if *known == name { package(name, dependencies) } else { package(known, allowed) }
                },
            )
            .collect();
        json!({"packages": packages})
    };
    assert_eq!(violations(&workspace("", &[])), Vec::<String>::new());
    for (name, dependency, expected) in [
        ("raglan-pipeline", "raglan-backends", "raglan-pipeline depends on raglan-backends"),
        ("raglan-backends", "raglan-api", "raglan-backends depends on raglan-api"),
        ("raglan-encoder", "raglan-pipeline", "raglan-encoder depends on raglan-pipeline"),
        ("raglan-pipeline", "raglan-encoder", "raglan-pipeline depends on raglan-encoder"),
        ("raglan-load-tests", "raglan-api", "raglan-load-tests depends on raglan-api"),
        ("raglan-engine", "raglan-pipeline", "raglan-engine depends on raglan-pipeline"),
        ("raglan-encoder", "candle-core", "raglan-encoder names the driver candle-core"),
        ("raglan-api", "raglan-backends", "raglan-api depends on raglan-backends"),
        ("raglan-workers", "raglan-api", "raglan-workers depends on raglan-api"),
        ("raglan-backends", "raglan", "raglan-backends depends on raglan"),
        ("raglan", "raglan-tests", "raglan depends on raglan-tests"),
        ("raglan-pipeline", "sqlx", "raglan-pipeline names the driver sqlx"),
        ("raglan-pipeline", "sqlx-core", "raglan-pipeline names the driver sqlx-core"),
        ("raglan-api", "redis", "raglan-api names the driver redis"),
        ("raglan", "candle-core", "raglan names the driver candle-core"),
        ("raglan-workers", "lapin", "raglan-workers names the driver lapin"),
        ("raglan-tests", "qdrant-client", "raglan-tests names the driver qdrant-client"),
        ("raglan-pipeline", "axum", "raglan-pipeline names the HTTP server axum"),
        ("raglan-workers", "axum", "raglan-workers names the HTTP server axum"),
    ] {
        assert_eq!(violations(&workspace(name, &[dependency])), [expected]);
    }
    let mut stranger = workspace("", &[]);
    stranger["packages"].as_array_mut().unwrap().push(package("raglan-extra", &[]));
    assert_eq!(violations(&stranger), ["raglan-extra is a crate that no rule knows"]);
    let missing = json!({"packages": []});
    assert_eq!(violations(&missing).len(), ARROWS.len());
}
