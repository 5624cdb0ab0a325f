//! Documents and collections.

use std::sync::atomic::{AtomicBool, Ordering};

use raglan_tests::{Api, Shape, eventually};
use serde_json::{Value, json};

use crate::corpus::{QUESTION, found, handbook, server};

/// A text of sections, each long enough for a chunk of its own, and each with words that no other has.
fn manual(marks: &[&str]) -> String {
    let mut text = "# Manual\n\n".to_owned();
    for mark in marks {
        text += &format!("## Section {mark}\n\n");
        for sentence in 0..16 {
            text += &format!(
                "Sentence {sentence} of the part {mark} tells about the {mark} wheel and its {mark}{sentence} bolt. "
            );
        }
        text += "\n\n";
    }
    text
}

fn document(text: &str) -> Value {
    json!({"external_id": "manual.md", "title": "Manual", "media_type": "text/markdown", "text": text})
}

fn id(document: &Value) -> String {
    document["document_id"].as_str().unwrap_or_else(|| panic!("not a document: {document:#}")).to_owned()
}

fn count(result: &Value, name: &str) -> u64 {
    result["chunks"][name].as_u64().unwrap_or_else(|| panic!("no chunks.{name}: {result:#}"))
}

#[tokio::test]
async fn an_update_embeds_what_is_new_and_removes_what_is_gone() {
    let (_server, api) = server().await;
    let marks = ["alder", "birch", "cedar", "dogwood", "elm", "fir"];
    let created = api.ingest(&document(&manual(&marks))).await;
    assert_eq!(created["documents"], json!({"created": 1, "updated": 0, "unchanged": 0, "failed": 0}));
    let chunks = count(&created, "embedded");
    assert!(chunks >= 6, "{created:#}");
    assert_eq!((count(&created, "unchanged"), count(&created, "deleted")), (0, 0));
    let first = api.document("default", "manual.md").await.unwrap();
    assert_eq!((&first["version"], &first["chunks"]), (&json!(1), &json!(chunks)));

    // The same again: nothing is done.
    let same = api.ingest(&document(&manual(&marks))).await;
    assert_eq!(same["documents"], json!({"created": 0, "updated": 0, "unchanged": 1, "failed": 0}));
    assert_eq!((count(&same, "embedded"), count(&same, "deleted")), (0, 0));
    assert_eq!(count(&same, "unchanged"), chunks);
    assert_eq!(api.document("default", "manual.md").await.unwrap()["version"], 1);

    // One section in the middle is another now.
    let changed = api.ingest(&document(&manual(&["alder", "birch", "gorse", "dogwood", "elm", "fir"]))).await;
    assert_eq!(changed["documents"]["updated"], 1);
    let (embedded, unchanged, deleted) =
        (count(&changed, "embedded"), count(&changed, "unchanged"), count(&changed, "deleted"));
    let second = api.document("default", "manual.md").await.unwrap();
    assert_eq!(id(&second), id(&first), "it is the same document");
    assert_eq!(second["version"], 2);
    assert_eq!(second["created_at"], first["created_at"]);
    assert_eq!(second["chunks"], json!(embedded + unchanged));
    assert_eq!(unchanged + deleted, chunks, "each old chunk was kept or removed: {changed:#}");
    assert!((1..=3).contains(&embedded) && unchanged >= 4, "only the section was embedded: {changed:#}");
    assert!(found(&api.search(&json!({"query": "gorse wheel"})).await).contains(&"manual.md".to_owned()));
    let gone = api.search(&json!({"query": "cedar"})).await;
    assert!(!gone.to_string().contains("cedar"), "{gone:#}");

    // A section less.
    let shorter = api.ingest(&document(&manual(&["alder", "birch", "gorse", "dogwood", "elm"]))).await;
    assert!(count(&shorter, "deleted") >= 1, "{shorter:#}");
    assert_eq!(count(&shorter, "embedded"), 0, "{shorter:#}");

    // Only the metadata: it can be filtered by, and nothing is embedded.
    let mut body = document(&manual(&["alder", "birch", "gorse", "dogwood", "elm"]));
    body["metadata"] = json!({"shelf": 7});
    let tagged = api.ingest(&body).await;
    assert_eq!(tagged["documents"]["updated"], 1, "{tagged:#}");
    assert_eq!(count(&tagged, "embedded"), 0, "{tagged:#}");
    let hits = api.search(&json!({"query": "alder wheel", "filter": {"shelf": 7}})).await;
    assert!(found(&hits).contains(&"manual.md".to_owned()), "{hits:#}");
}

#[tokio::test]
async fn a_document_is_replaced_whole_for_every_search() {
    let (_server, api) = server().await;
    let version = |mark: &str| {
        let marks: Vec<String> = (0..8).map(|section| format!("{mark}{section}")).collect();
        manual(&marks.iter().map(String::as_str).collect::<Vec<_>>())
    };
    api.ingest(&document(&version("red"))).await;
    let id = id(&api.document("default", "manual.md").await.unwrap());
    let done = AtomicBool::new(false);
    let watch = async {
        let mut looks = 0;
        while !done.load(Ordering::Relaxed) {
            let hits = api.search(&json!({"query": "wheel bolt sentence part", "top_k": 50})).await;
            let texts: Vec<&str> = hits["passages"]
                .as_array()
                .unwrap()
                .iter()
                .filter(|passage| passage["external_id"] == "manual.md")
                .map(|passage| passage["text"].as_str().unwrap())
                .collect();
            let (red, blue) =
                (texts.iter().any(|t| t.contains("red")), texts.iter().any(|t| t.contains("blue")));
            assert!(
                red != blue,
                "a search saw {} of red and blue: {texts:#?}",
                if red { "both" } else { "none" }
            );
            let whole = api.get(&format!("/v1/documents/{id}?include=text")).await.expect(200);
            let text = whole["text"].as_str().unwrap();
            assert!(text.contains("red") != text.contains("blue"));
            looks += 1;
        }
        looks
    };
    let change = async {
        for mark in ["blue", "red", "blue", "red", "blue", "red"] {
            let result = api.ingest(&document(&version(mark))).await;
            assert_eq!(result["documents"]["updated"], 1);
            // Done means visible.
            let hits = api.search(&json!({"query": format!("{mark}3 wheel"), "top_k": 1})).await;
            assert!(
                hits["passages"][0]["text"].as_str().is_some_and(|text| text.contains(mark)),
                "{mark}: {hits:#}"
            );
        }
        done.store(true, Ordering::Relaxed);
    };
    let (looks, ()) = tokio::join!(watch, change);
    assert!(looks > 0);
}

#[tokio::test]
async fn a_deleted_document_is_found_by_no_search_after_the_answer() {
    let (_server, api) = server().await;
    let documents: Vec<Value> = (0..20)
        .map(|n| json!({"external_id": format!("box-{n}"), "text": format!("The box number word{n} holds a lantern.")}))
        .collect();
    api.ingest(&json!({"documents": documents})).await;
    for n in 0..20 {
        let name = format!("box-{n}");
        let query = json!({"query": format!("lantern word{n}"), "top_k": 50});
        assert!(found(&api.search(&query).await).contains(&name));
        let path = format!("/v1/documents/{}", id(&api.document("default", &name).await.unwrap()));
        api.delete(&path).await.expect(204);
        assert!(!found(&api.search(&query).await).contains(&name), "{name} is found after its removal");
        api.get(&path).await.expect(404);
        api.delete(&path).await.expect(404);
    }
    assert_eq!(api.get("/v1/collections/default").await.expect(200)["documents"], 3);
    // It can come back, as another document.
    let result =
        api.ingest(&json!({"external_id": "box-1", "text": "The box number word1 holds a lantern."})).await;
    assert_eq!(result["documents"]["created"], 1);
    assert_eq!(found(&api.search(&json!({"query": "lantern"})).await), ["box-1"]);
}

#[tokio::test]
async fn filters_hold_for_searches_answers_and_lists() {
    let (_server, api) = server().await;
    let query = "goods warranty Pakete Bestellungen parcels kettles";
    for (filter, expected) in [
        (json!({}), vec!["handbook/returns.md", "handbook/warranty.md", "handbuch/versand.txt"]),
        (json!({"lang": "en"}), vec!["handbook/returns.md", "handbook/warranty.md"]),
        (json!({"lang": ["de", "fr"]}), vec!["handbuch/versand.txt"]),
        (json!({"lang": ["de", "en"], "year": 2025}), vec!["handbook/returns.md", "handbuch/versand.txt"]),
        (json!({"year": 2024}), vec!["handbook/warranty.md"]),
        (json!({"year": "2024"}), vec![]),
        (json!({"public": true}), vec!["handbook/returns.md"]),
        (json!({"public": false}), vec!["handbook/warranty.md"]),
        (json!({"topics": "parcels"}), vec!["handbook/returns.md"]),
        (json!({"lang": "xx"}), vec![]),
        (json!({"missing": 1}), vec![]),
    ] {
        let hits = api.search(&json!({"query": query, "top_k": 50, "filter": filter})).await;
        let mut names = found(&hits);
        names.sort();
        names.dedup();
        assert_eq!(names, expected, "search with {filter}");
        let request =
            api.request(reqwest::Method::GET, "/v1/documents").query(&[("filter", filter.to_string())]);
        let page = api.send(request).await.expect(200);
        let mut names: Vec<&str> = page["documents"]
            .as_array()
            .unwrap()
            .iter()
            .map(|one| one["external_id"].as_str().unwrap())
            .collect();
        names.sort_unstable();
        assert_eq!(names, expected, "list with {filter}");
    }
    let answered = api.answer(&json!({"query": QUESTION, "filter": {"lang": "de"}})).await;
    assert_eq!(answered["status"], "succeeded");
    assert!(!answered["result"]["answer"].as_str().unwrap().contains("thirty"), "{answered:#}");
}

#[tokio::test]
async fn documents_are_listed_in_pages_that_miss_none() {
    let (_server, api) = server().await;
    let documents: Vec<Value> = (0..25)
        .map(|n| json!({"external_id": format!("list/{n:02}"), "text": format!("Entry {n}.")}))
        .collect();
    api.ingest(&json!({"documents": documents})).await;
    let mut listed = Vec::new();
    let mut path = "/v1/documents?external_id_prefix=list/&limit=10".to_owned();
    loop {
        let page = api.get(&path).await.expect(200);
        listed.extend(
            page["documents"]
                .as_array()
                .unwrap()
                .iter()
                .map(|one| one["external_id"].as_str().unwrap().to_owned()),
        );
        let Some(cursor) = page["next_cursor"].as_str() else { break };
        path = format!("/v1/documents?external_id_prefix=list/&limit=10&cursor={cursor}");
    }
    listed.sort();
    assert_eq!(listed, (0..25).map(|n| format!("list/{n:02}")).collect::<Vec<_>>());
}

#[tokio::test]
async fn collections_are_apart_and_go_with_their_documents() {
    let (_server, api) = server().await;
    let put = |description: &str| {
        let request = api.request(reqwest::Method::PUT, "/v1/collections/recipes");
        api.send(request.json(&json!({"description": description})))
    };
    assert_eq!(put("For cooks").await.expect(201)["description"], "For cooks");
    assert_eq!(put("For all cooks").await.expect(200)["description"], "For all cooks");
    let soup = json!({"external_id": "handbook/returns.md", "collection": "recipes", "text": "A soup of leeks is cooked for an hour."});
    assert_eq!(api.ingest(&soup).await["documents"]["created"], 1);
    let recipes = api.get("/v1/collections/recipes").await.expect(200);
    assert_eq!((&recipes["documents"], &recipes["chunks"]), (&json!(1), &json!(1)), "{recipes:#}");
    assert_eq!(recipes["description"], "For all cooks", "an ingestion does not change it");
    let names: Vec<Value> = api.get("/v1/collections").await.expect(200)["collections"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["name"].clone())
        .collect();
    assert_eq!(names, ["default", "recipes"]);

    let in_recipes = json!({"query": "goods leeks soup warranty", "collection": "recipes", "top_k": 50});
    let hits = api.search(&in_recipes).await;
    assert_eq!(found(&hits), ["handbook/returns.md"]);
    assert!(hits["passages"][0]["text"].as_str().unwrap().contains("leeks"));
    let hits = api.search(&json!({"query": "leeks", "top_k": 50})).await;
    assert!(!hits.to_string().contains("leeks"), "{hits:#}");

    api.delete("/v1/collections/recipes").await.expect(204);
    api.get("/v1/collections/recipes").await.expect(404);
    let problem = api.post("/v1/search", &in_recipes).await.expect(404);
    assert_eq!(problem["code"], "unknown_collection");
    assert_eq!(api.get("/v1/documents").await.expect(200)["documents"].as_array().unwrap().len(), 3);
    // Taken in again, it is as new.
    assert_eq!(api.ingest(&soup).await["chunks"]["embedded"], 1);
    assert_eq!(found(&api.search(&in_recipes).await), ["handbook/returns.md"]);
}

#[tokio::test]
async fn the_same_document_from_many_jobs_at_once_ends_as_one() {
    let (_server, api) = server().await;
    let send = |n: usize| {
        let body = json!({"external_id": "shared.md", "text": format!("The shared note says number{n}.")});
        let api = &api;
        async move { api.post("/v1/documents", &body).await.expect(202) }
    };
    let jobs = futures::future::join_all((0..8).map(send)).await;
    let mut ends = Vec::new();
    for job in &jobs {
        ends.push(api.ended(job["job_id"].as_str().unwrap()).await);
    }
    assert!(ends.iter().all(|job| job["status"] == "succeeded"), "{ends:#?}");
    let only = api.document("default", "shared.md").await.unwrap();
    let text =
        api.get(&format!("/v1/documents/{}?include=text", id(&only))).await.expect(200)["text"].clone();
    let hits = api.search(&json!({"query": "shared note", "top_k": 50})).await;
    assert_eq!(found(&hits), ["shared.md"], "one document, one chunk");
    assert_eq!(hits["passages"][0]["text"].as_str().unwrap().trim(), text.as_str().unwrap().trim());
}

#[tokio::test]
async fn an_upload_becomes_a_document() {
    let (_server, api) = server().await;
    let upload = api
        .request(reqwest::Method::POST, "/v1/uploads?file_name=lamps.md")
        .header("content-type", "text/markdown")
        .body("# Lamps\n\nThe lamp in the hall is green.\n");
    let upload = api.send(upload).await.expect(201);
    assert_eq!(upload["bytes"], 40);
    let result = api
        .ingest(&json!({"external_id": "lamps", "uri": upload["uri"], "metadata": {"room": "hall"}}))
        .await;
    assert_eq!(result["documents"]["created"], 1, "{result:#}");
    let document = api.document("default", "lamps").await.unwrap();
    assert_eq!(
        (&document["title"], &document["media_type"]),
        (&json!("Lamps"), &json!("text/markdown")),
        "{document:#}"
    );
    assert_eq!(
        found(&api.search(&json!({"query": "lamp hall", "filter": {"room": "hall"}})).await),
        ["lamps"]
    );
}

/// What was taken in is there after a crash, and nothing is embedded again.
#[tokio::test]
async fn documents_survive_a_crash_and_are_not_embedded_again() {
    let (mut server, api) = server().await;
    let before = search_all(&api).await;
    server.kill9();
    server.restart().await;
    let api = server.api();
    assert_eq!(search_all(&api).await, before);
    let again = api.ingest(&handbook()).await;
    assert_eq!(again["documents"]["unchanged"], 3, "{again:#}");
    assert_eq!(count(&again, "embedded"), 0);
    // The indexes may be thrown away: they are made anew from the store.
    server.kill9();
    let index = server.data_dir().join(match Shape::of_this_run() {
        Shape::Embedded => "index",
        Shape::Distributed => "replicas",
    });
    std::fs::remove_dir_all(&index).unwrap_or_else(|error| panic!("{}: {error}", index.display()));
    server.restart().await;
    let api = server.api();
    let after = eventually("the index made anew", async || {
        Some(search_all(&api).await).filter(|hits| !hits.is_empty())
    })
    .await;
    assert_eq!(after, before);
}

async fn search_all(api: &Api) -> Vec<(String, String)> {
    let hits = api.search(&json!({"query": "goods warranty Pakete parcels kettles", "top_k": 50})).await;
    let text = |passage: &Value, name: &str| passage[name].as_str().unwrap().to_owned();
    hits["passages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|hit| (text(hit, "external_id"), text(hit, "text")))
        .collect()
}
