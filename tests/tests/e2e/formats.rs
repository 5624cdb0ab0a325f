//! Files of every format, and files that cannot be read.

use raglan_tests::{Api, ServerOptions};
use reqwest::{Method, multipart};
use serde_json::{Value, json};

use crate::{
    corpus::{found, id, server, server_with},
    files::{File, bad, good},
};

/// Sends files in one form and waits for the end of the job.
async fn send(api: &Api, files: impl IntoIterator<Item = File>) -> Value {
    let mut form = multipart::Form::new().text("metadata", r#"{"source": "upload"}"#);
    for file in files {
        form = form.part("file", multipart::Part::bytes(file.bytes).file_name(file.name));
    }
    let job = api.send(api.request(Method::POST, "/v1/documents").multipart(form)).await.expect(202);
    let job = api.ended(&id(&job)).await;
    assert_eq!(job["status"], "succeeded", "{job:#}");
    job["result"].clone()
}

async fn assert_found(api: &Api, file: &File, word: &str) {
    let hits = api.search(&json!({"query": word, "filter": {"source": "upload"}})).await;
    assert_eq!(found(&hits), [file.name], "{word}: {hits:#}");
    assert!(hits["passages"][0]["text"].as_str().unwrap().to_lowercase().contains(word), "{hits:#}");
}

#[tokio::test]
async fn each_format_is_read() {
    let (_server, api) = server().await;
    let files = good();
    let result = send(&api, files.iter().map(|(file, _)| file.clone())).await;
    assert_eq!(result["documents"]["created"], json!(files.len()), "{result:#}");
    assert_eq!(result["failures"], json!([]));
    for (file, word) in &files {
        assert_found(&api, file, word).await;
    }
    for (name, kind) in [
        ("plain.txt", "text/plain"),
        ("notes.md", "text/markdown"),
        ("page.html", "text/html"),
        ("report.pdf", "application/pdf"),
        ("letter.docx", "application/vnd.openxmlformats-officedocument.wordprocessingml.document"),
        ("table.csv", "text/csv"),
        ("data.json", "application/json"),
    ] {
        let document = api.document("default", name).await.unwrap();
        assert_eq!(document["media_type"], kind, "{name}");
    }
    // Of a page, what it says and not how one gets about.
    let page = api.document("default", "page.html").await.unwrap();
    assert_eq!(page["title"], "Dippers");
    let path = format!("/v1/documents/{}?include=text", page["document_id"].as_str().unwrap());
    let text = api.get(&path).await.expect(200)["text"].as_str().unwrap().to_owned();
    assert!(!text.contains("Navigationword") && !text.contains("scriptword"), "{text}");
    // Whatever the bytes were, the text is right.
    let path = format!(
        "/v1/documents/{}?include=text",
        api.document("default", "latin.txt").await.unwrap()["document_id"].as_str().unwrap()
    );
    assert!(api.get(&path).await.expect(200)["text"].as_str().unwrap().contains("république"));
}

#[tokio::test]
async fn broken_files_fail_alone_each_with_its_reason() {
    let options = ServerOptions::default().with(json!({"limits": {"file_bytes": 100_000}}));
    let (_server, api) = server_with(options).await;
    let (good, bad) = (good(), bad());
    // Mixed, so that each bad one has good ones before and after it.
    let mut files = Vec::new();
    let (mut goods, mut bads) = (good.iter().map(|(file, _)| file), bad.iter().map(|(file, _)| file));
    loop {
        let (one, other) = (goods.next(), bads.next());
        if one.is_none() && other.is_none() {
            break;
        }
        // The two tables have one name; one of them goes elsewhere.
        files.extend(other.filter(|file| file.name != "table.csv").cloned());
        files.extend(one.cloned());
    }
    files.push(File { name: "huge.txt", bytes: b"A huge file. ".repeat(20_000) });
    let result = send(&api, files).await;
    for (file, word) in &good {
        assert_found(&api, file, word).await;
    }
    assert_eq!(result["documents"]["created"], json!(good.len()), "{result:#}");
    assert_eq!(result["documents"]["failed"], json!(bad.len()), "{result:#}");
    let reason = |result: &Value, name: &str| {
        let failures = result["failures"].as_array().unwrap();
        failures.iter().find(|failure| failure["external_id"] == name).cloned()
    };
    let mut wrong = Vec::new();
    for (file, codes) in bad.iter().filter(|(file, _)| file.name != "table.csv") {
        let Some(failure) = reason(&result, file.name) else {
            wrong.push(format!("{} has no reason", file.name));
            continue;
        };
        let (code, message) = (failure["code"].as_str().unwrap(), failure["message"].as_str().unwrap());
        println!("{}: {code}: {message}", file.name);
        if !codes.contains(&code) || message.is_empty() {
            wrong.push(format!("{}: {code}, not {codes:?}: {message}", file.name));
        }
        assert!(api.document("default", file.name).await.is_none(), "{} is there", file.name);
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert_eq!(reason(&result, "huge.txt").unwrap()["code"], "too_large");

    // A good document that becomes unreadable stays as it was.
    let table = bad.into_iter().find(|(file, _)| file.name == "table.csv").unwrap().0;
    let result = send(&api, [table]).await;
    assert_eq!(result["documents"]["failed"], 1, "{result:#}");
    assert!(reason(&result, "table.csv").is_some());
    assert_found(&api, &good[7].0, "goldfinch").await;
}

#[tokio::test]
async fn ndjson_takes_in_many() {
    let (_server, api) = server().await;
    let lines: String = (0..200)
        .map(|n| {
            let document = json!({
                "external_id": format!("line-{n}"),
                "title": format!("Line {n}"),
                "text": format!("The drawer number{n} holds {n} spoons."),
                "metadata": {"drawer": n},
            });
            format!("{document}\r\n")
        })
        .collect();
    let request = api.request(Method::POST, "/v1/documents?collection=drawers&priority=batch");
    let job = api
        .send(request.header("content-type", "application/x-ndjson").body(format!("\u{feff}{lines}\n")))
        .await;
    let job = api.ended(&id(&job.expect(202))).await;
    assert_eq!(
        job["result"]["documents"],
        json!({"created": 200, "updated": 0, "unchanged": 0, "failed": 0}),
        "{job:#}"
    );
    assert_eq!(api.get("/v1/collections/drawers").await.expect(200)["documents"], 200);
    let hits = api.search(&json!({"query": "spoons number77", "collection": "drawers", "top_k": 1})).await;
    assert_eq!(found(&hits), ["line-77"]);
    let hits =
        api.search(&json!({"query": "spoons", "collection": "drawers", "filter": {"drawer": 3}})).await;
    assert_eq!(found(&hits), ["line-3"]);
}

#[tokio::test]
async fn a_form_may_name_what_holds_for_its_file() {
    let (_server, api) = server().await;
    let part = multipart::Part::bytes(b"The quail hides in the corn.".to_vec()).file_name("whatever.txt");
    let form = multipart::Form::new()
        .text("collection", "birds")
        .text("external_id", "birds/quail")
        .text("title", "Quail")
        .text("metadata", r#"{"kind": "bird"}"#)
        .part("file", part);
    let job = api.send(api.request(Method::POST, "/v1/documents").multipart(form)).await.expect(202);
    assert_eq!(api.ended(&id(&job)).await["status"], "succeeded");
    let document = api.document("birds", "birds/quail").await.unwrap();
    assert_eq!((&document["title"], &document["metadata"]), (&json!("Quail"), &json!({"kind": "bird"})));
}
