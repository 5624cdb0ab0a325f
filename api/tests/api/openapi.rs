//! The OpenAPI document in the repository is the one that the code makes.

use crate::world::World;

#[tokio::test]
async fn the_committed_document_is_up_to_date() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/openapi.json");
    let made = String::from_utf8(raglan_api::openapi_json().to_vec()).unwrap();
    if std::env::var_os("RAGLAN_BLESS").is_some_and(|bless| bless == "1") {
        std::fs::write(path, &made).unwrap();
    }
    let kept = std::fs::read_to_string(path).unwrap_or_default();
    assert!(
        kept == made,
        "api/openapi.json is not what the code makes; run this test with RAGLAN_BLESS=1 and commit it"
    );
    assert_eq!(World::new().get("/openapi.json").await.body, made.as_bytes());
}

#[test]
fn every_operation_tells_how_it_fails_and_has_a_name() {
    let document = serde_json::to_value(raglan_api::openapi()).unwrap();
    let mut names = std::collections::BTreeSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let what = format!("{method} {path}");
            assert!(names.insert(operation["operationId"].as_str().unwrap().to_owned()), "{what}");
            assert!(operation["summary"].is_string() && operation["tags"].is_array(), "{what}");
            let responses = operation["responses"].as_object().unwrap();
            assert!(responses.contains_key("default"), "{what}");
            assert!(
                responses.values().all(|response| response["headers"]["x-request-id"].is_object()),
                "{what}"
            );
            if path.starts_with("/v1/") {
                assert!(responses.contains_key("401") && responses.contains_key("400"), "{what}");
            }
        }
    }
    assert_eq!(names.len(), 26);
}
