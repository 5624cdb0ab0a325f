//! The description of the API.

use std::collections::BTreeSet;

use raglan_tests::{Server, python, python_script, raglan, repository, skip};
use serde_json::Value;

fn committed() -> Value {
    let path = repository().join("api/openapi.json");
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).unwrap()
}

#[tokio::test]
async fn the_served_the_printed_and_the_committed_description_are_one() {
    let server = Server::plain().await;
    let served = server.api().get("/openapi.json").await;
    assert_eq!(served.header("content-type"), "application/json");
    assert_eq!(served.expect(200), committed(), "write it anew: `raglan openapi > api/openapi.json`");
    let printed = raglan(server.folder(), &[], &["openapi"]).await.expect_code(0);
    assert_eq!(printed.json(), committed());
    // The page that shows it.
    let page = server.api().get("/docs").await;
    let page = if page.status.is_redirection() { server.api().get("/docs/").await } else { page };
    assert!(page.status.is_success(), "{page:?}");
    assert!(page.header("content-type").starts_with("text/html"), "{page:?}");
}

#[tokio::test]
async fn others_take_it_for_valid() {
    let Some(python) = python() else {
        return skip(
            "openapi::others_take_it_for_valid",
            "RAGLAN_TEST_PYTHON names no Python with `openapi-spec-validator`",
        );
    };
    let path = repository().join("api/openapi.json");
    let output = python_script(&python, "validate_openapi.py", &[path.as_os_str()], "").await.expect_code(0);
    assert!(output.stdout.starts_with("valid: OpenAPI 3."), "{output:?}");
    // And it can tell: a reference that leads nowhere is found.
    let folder = tempfile::tempdir().unwrap();
    let broken = folder.path().join("broken.json");
    std::fs::write(
        &broken,
        committed().to_string().replace("#/components/schemas/JobView\"", "#/components/schemas/Nothing\""),
    )
    .unwrap();
    python_script(&python, "validate_openapi.py", &[broken.as_os_str()], "").await.expect_code(1);
}

#[tokio::test]
async fn every_route_is_described_and_every_described_route_is_there() {
    let server = Server::plain().await;
    let api = server.api();
    let mut operations = BTreeSet::new();
    for (path, methods) in committed()["paths"].as_object().unwrap() {
        let concrete = path
            .replace("{name}", "default")
            .split('/')
            .map(|part| if part.starts_with('{') { "0190c0de-0000-7000-8000-000000000000" } else { part })
            .collect::<Vec<_>>()
            .join("/");
        for (method, operation) in methods.as_object().unwrap() {
            let id = operation["operationId"]
                .as_str()
                .unwrap_or_else(|| panic!("{method} {path} has no operationId"));
            assert!(operations.insert(id.to_owned()), "{id} is there twice");
            assert!(
                operation["summary"].as_str().is_some_and(|text| !text.is_empty()),
                "{method} {path} has no summary"
            );
            let method = method.to_uppercase().parse().unwrap();
            let reply = api.send(api.request(method, &concrete)).await;
            assert_ne!(reply.status, 405, "{id}");
            assert!(reply.status != 404 || reply.json()["code"] != "not_found", "{id}: {reply:?}");
        }
    }
    for known in [
        "submit_query",
        "get_job",
        "cancel_job",
        "follow_job",
        "follow_job_ws",
        "follow_jobs_ws",
        "submit_documents",
        "search",
        "readyz",
    ] {
        assert!(operations.contains(known), "{known} is not described: {operations:?}");
    }
}
