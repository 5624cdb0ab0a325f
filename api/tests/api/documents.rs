//! Sending, listing and removing documents, and searching them.

use axum::http::{Method, StatusCode};
use raglan_api::{ApiSettings, Limits};
use raglan_pipeline::{
    domain::*,
    ingestion::manifest::{ManifestContent, ManifestItem, file_key, manifest_key},
    ports::*,
};
use serde_json::json;

use crate::world::{Answer, World, request};

async fn manifest(world: &World, answer: &Answer) -> (JobId, Vec<ManifestItem>) {
    assert_eq!(answer.status, StatusCode::ACCEPTED, "{answer:?}");
    let id: JobId = answer.json()["job_id"].as_str().unwrap().parse().unwrap();
    let job = world.jobs.get(id).await.unwrap().unwrap();
    let JobSpec::Ingestion(spec) = job.spec else { panic!() };
    assert_eq!(spec.manifest, manifest_key(id));
    let lines = world.blobs.blobs.lock().unwrap()[&spec.manifest].clone();
    let items: Vec<ManifestItem> = std::str::from_utf8(&lines)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(spec.documents, items.len() as u64);
    (id, items)
}

#[tokio::test]
async fn one_document_as_json() {
    let world = World::new();
    let body = json!({"external_id": "a", "title": "A", "text": "# x", "media_type": "text/markdown", "uri": "https://a.example",
        "collection": "c", "metadata": {"lang": "en"}, "priority": "batch"});
    let answer = world.post("/v1/documents", &body).await;
    assert_eq!(answer.json()["kind"], "ingestion");
    let (id, items) = manifest(&world, &answer).await;
    assert_eq!(world.jobs.get(id).await.unwrap().unwrap().priority, Priority::Batch);
    let [item] = &items[..] else { panic!() };
    assert_eq!((item.external_id.as_str(), item.collection.as_str()), ("a", "c"));
    assert_eq!(item.uri.as_deref(), Some("https://a.example"));
    let content =
        ManifestContent::Text { text: "# x".to_owned(), media_type: Some("text/markdown".to_owned()) };
    assert_eq!(item.content, content);
}

#[tokio::test]
async fn many_documents_as_json_and_as_lines() {
    let world = World::new();
    let body =
        json!({"documents": [{"text": "a"}, {"text": "b", "collection": "own"}], "collection": "shared"});
    let (_, items) = manifest(&world, &world.post("/v1/documents", &body).await).await;
    let names: Vec<&str> = items.iter().map(|item| item.collection.as_str()).collect();
    assert_eq!(names, ["shared", "own"]);
    assert_ne!(items[0].external_id, items[1].external_id, "made up");

    let lines = "\u{feff}{\"text\":\"a\"}\r\n\r\n{\"text\":\"b\",\"collection\":\"own\"}";
    let headers = [("content-type", "application/x-ndjson")];
    let answer = world.send(request(Method::POST, "/v1/documents?collection=shared", &headers, lines)).await;
    let (_, items) = manifest(&world, &answer).await;
    assert_eq!(items.iter().map(|item| item.collection.as_str()).collect::<Vec<_>>(), ["shared", "own"]);
}

#[tokio::test]
async fn lines_are_found_wherever_the_body_is_cut() {
    let world = World::new();
    let text = "{\"external_id\":\"ä\",\"text\":\"one\"}\n{\"external_id\":\"b\",\"text\":\"two\"}\n";
    for size in [1, 2, 7, 33, 200] {
        let pieces: Vec<Result<Vec<u8>, std::io::Error>> =
            text.as_bytes().chunks(size).map(|piece| Ok(piece.to_vec())).collect();
        let body = axum::body::Body::from_stream(futures::stream::iter(pieces));
        let headers = [("content-type", "application/x-ndjson")];
        let answer = world.send(request(Method::POST, "/v1/documents", &headers, body)).await;
        let (_, items) = manifest(&world, &answer).await;
        assert_eq!(items.iter().map(|item| item.external_id.as_str()).collect::<Vec<_>>(), ["ä", "b"]);
    }
}

fn form(parts: &[(&str, &[u8])]) -> Vec<u8> {
    let mut body = Vec::new();
    for (head, content) in parts {
        body.extend_from_slice(format!("--b\r\nContent-Disposition: form-data; {head}\r\n\r\n").as_bytes());
        body.extend_from_slice(content);
        body.extend_from_slice(b"\r\n");
    }
    body.extend_from_slice(b"--b--\r\n");
    body
}

const FORM: [(&str, &str); 1] = [("content-type", "multipart/form-data; boundary=b")];

#[tokio::test]
async fn files_go_to_blobs_and_one_that_is_too_large_is_refused_alone() {
    let limits = Limits { file_bytes: 10, ..Limits::default() };
    let world = World::with(ApiSettings { limits, ..ApiSettings::default() });
    let body = form(&[
        ("name=\"file\"; filename=\"a.md\"\r\nContent-Type: text/markdown; charset=utf-8", b"# a"),
        ("name=\"file\"; filename=\"big.pdf\"", b"12345678901"),
        ("name=\"other\"; filename=\"ä.txt\"", b""),
        ("name=\"metadata\"", br#"{"lang":"de"}"#),
        ("name=\"collection\"", b"c"),
    ]);
    let answer = world.send(request(Method::POST, "/v1/documents", &FORM, body)).await;
    let (id, items) = manifest(&world, &answer).await;
    let [a, big, empty] = &items[..] else { panic!("{items:?}") };
    let key = file_key(id, 0);
    assert_eq!(world.blobs.blobs.lock().unwrap()[&key].as_ref(), b"# a");
    let content = ManifestContent::Blob {
        key,
        file_name: "a.md".to_owned(),
        media_type: Some("text/markdown".to_owned()),
        bytes: Some(3),
    };
    assert_eq!((a.external_id.as_str(), &a.content), ("a.md", &content));
    assert_eq!((a.collection.as_str(), &a.metadata["lang"]), ("c", &json!("de")));
    assert!(matches!(&big.content, ManifestContent::Refused { code, .. } if code == "too_large"));
    assert!(
        matches!(&empty.content, ManifestContent::Blob { .. }),
        "an empty file is the parser's to tell of"
    );
}

#[tokio::test]
async fn a_request_that_is_refused_leaves_no_blobs() {
    let world = World::new();
    let mut removals = world.blobs.removals.subscribe();
    let good: (&str, &[u8]) = ("name=\"f\"; filename=\"a\"", b"x");
    let bad: (&str, &[u8]) = ("name=\"nonsense\"", b"x");
    let answer = world.send(request(Method::POST, "/v1/documents", &FORM, form(&[good, bad]))).await;
    assert_eq!(answer.problem().0, "invalid_field");
    removals.changed().await.unwrap();
    assert!(world.blobs.blobs.lock().unwrap().is_empty());
    // Refused by the door, after everything was stored.
    let body = form(&[good, ("name=\"pipeline\"", b"nope")]);
    let answer = world.send(request(Method::POST, "/v1/documents", &FORM, body)).await;
    assert_eq!(answer.problem().1.as_deref(), Some("pipeline"));
    removals.changed().await.unwrap();
    assert!(world.blobs.blobs.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_repeated_form_is_the_same_request_under_another_boundary() {
    let world = World::new();
    let mut removals = world.blobs.removals.subscribe();
    let send = async |boundary: &str, content: &str| {
        let body = format!(
            "--{boundary}\r\nContent-Disposition: form-data; name=\"f\"; filename=\"a\"\r\n\r\n{content}\r\n--{boundary}--\r\n"
        );
        let kind = format!("multipart/form-data; boundary={boundary}");
        let headers = [("content-type", kind.as_str()), ("idempotency-key", "k")];
        world.send(request(Method::POST, "/v1/documents", &headers, body)).await
    };
    let (first, again) = (send("one", "x").await, send("two", "x").await);
    assert_eq!(first.json()["job_id"], again.json()["job_id"]);
    assert_eq!(again.header("idempotent-replayed"), Some("true"));
    removals.changed().await.unwrap();
    assert_eq!(world.blobs.blobs.lock().unwrap().len(), 2, "only the first one's file and manifest");
    assert_eq!(send("one", "y").await.problem().0, "idempotency_key_reused");
}

#[tokio::test]
async fn requests_are_bounded() {
    let limits =
        Limits { documents: 2, files: 1, documents_bytes: 200, files_bytes: 400, ..Limits::default() };
    let world = World::with(ApiSettings { limits, ..ApiSettings::default() });
    let too_large = async |headers: &[(&str, &str)], body: Vec<u8>| {
        let answer = world.send(request(Method::POST, "/v1/documents", headers, body)).await;
        assert_eq!(
            (answer.status, answer.problem().0.as_str()),
            (StatusCode::PAYLOAD_TOO_LARGE, "too_large")
        );
    };
    let lines = [("content-type", "application/x-ndjson")];
    too_large(&lines, b"{\"text\":\"a\"}\n".repeat(3)).await;
    too_large(&lines, vec![b' '; 201]).await;
    too_large(&[("content-type", "application/json")], vec![b' '; 201]).await;
    too_large(&FORM, form(&[("name=\"f\"; filename=\"a\"", b"x"), ("name=\"f\"; filename=\"b\"", b"x")]))
        .await;
    too_large(&FORM, form(&[("name=\"f\"; filename=\"a\"", &[b'x'; 401])])).await;
}

#[tokio::test]
async fn an_upload_is_named_by_a_document() {
    let world = World::new();
    let headers = [("content-type", "application/pdf")];
    let answer = world.send(request(Method::POST, "/v1/uploads?file_name=a.pdf", &headers, "%PDF")).await;
    assert_eq!(answer.status, StatusCode::CREATED);
    assert_eq!(answer.json()["bytes"], 4);
    let uri = answer.json()["uri"].as_str().unwrap().to_owned();
    let (_, items) = manifest(&world, &world.post("/v1/documents", &json!({"uri": uri})).await).await;
    let ManifestContent::Blob { key, file_name, media_type, bytes } = &items[0].content else { panic!() };
    assert_eq!((file_name.as_str(), media_type.as_deref()), ("a.pdf", Some("application/pdf")));
    assert_eq!(*bytes, Some(4));
    assert_eq!(items[0].external_id, "a.pdf");
    assert_eq!(world.blobs.blobs.lock().unwrap()[key].as_ref(), b"%PDF");
    raglan_api::remove_old_uploads(world.blobs.as_ref()).await.unwrap();
    assert!(world.blobs.blobs.lock().unwrap().contains_key(key), "it is of today");
    world.blobs.put("uploads/2020-01-01/default/x", "x".into()).await.unwrap();
    let days_ago = chrono::Utc::now().date_naive() - chrono::Days::new(3);
    let old = format!("uploads/{days_ago}/default/x");
    world.blobs.put(&old, "x".into()).await.unwrap();
    raglan_api::remove_old_uploads(world.blobs.as_ref()).await.unwrap();
    assert!(!world.blobs.blobs.lock().unwrap().contains_key(&old));
}

#[tokio::test]
async fn documents_are_listed_read_and_removed() {
    let world = World::new();
    let tenant = Tenant::default();
    let ids: Vec<DocumentId> =
        ["a/1", "a/2", "b/1"].iter().map(|id| world.documents.add(&tenant, id, "words of it")).collect();
    let page = world
        .get("/v1/documents?external_id_prefix=a/&limit=1&filter=%7B%22lang%22:%22en%22%7D")
        .await
        .json();
    assert_eq!(page["documents"][0]["external_id"], "a/1");
    let next = format!(
        "/v1/documents?external_id_prefix=a/&limit=1&cursor={}",
        page["next_cursor"].as_str().unwrap()
    );
    let page = world.get(&next).await.json();
    assert_eq!((&page["documents"][0]["external_id"], &page["next_cursor"]), (&json!("a/2"), &json!(null)));

    let path = format!("/v1/documents/{}", ids[0]);
    assert_eq!(world.get(&path).await.json()["text"], json!(null));
    assert_eq!(world.get(&format!("{path}?include=text")).await.json()["text"], "words of it");
    assert_eq!(world.delete(&path).await.status, StatusCode::NO_CONTENT);
    assert_eq!(world.delete(&path).await.problem().0, "unknown_document");
}

#[tokio::test]
async fn collections_are_made_changed_and_removed() {
    let world = World::new();
    let put = async |body: &'static str| {
        let headers = [("content-type", "application/json")];
        world.send(request(Method::PUT, "/v1/collections/c", &headers, body)).await
    };
    assert_eq!(put(r#"{"description":"d"}"#).await.status, StatusCode::CREATED);
    assert_eq!(put(r#"{"description":"e"}"#).await.status, StatusCode::OK);
    assert_eq!(world.get("/v1/collections/c").await.json()["description"], "e");
    assert_eq!(world.get("/v1/collections").await.json()["collections"][0]["name"], "c");
    assert_eq!(world.delete("/v1/collections/c").await.status, StatusCode::NO_CONTENT);
    assert_eq!(world.get("/v1/collections/c").await.status, StatusCode::NOT_FOUND);
    assert_eq!(
        world.send(request(Method::PUT, "/v1/collections/d", &[], "")).await.status,
        StatusCode::CREATED
    );
}

#[tokio::test]
async fn a_search_is_answered_at_once() {
    let world = World::new();
    world.documents.add(&Tenant::default(), "a", "events are kept an hour");
    world.documents.add(&Tenant::new("other").unwrap(), "b", "events of others");
    let found = world.post("/v1/search", &json!({"query": "events", "mode": "keyword"})).await.json();
    assert_eq!(found["passages"].as_array().unwrap().len(), 1);
    assert_eq!(found["passages"][0]["external_id"], "a");
    assert_eq!(found["passages"][0]["ranks"], json!({"keyword": 1}));
    assert_eq!(found["degraded"], json!([]));
    assert!(found["timings"]["total_ms"].is_f64());
}
