//! Requests that are wrong in every way: each is answered with a problem that names what is wrong, and none with a 500.

use axum::{
    body::Body,
    http::{HeaderValue, Method, StatusCode},
};
use serde_json::{Value, json};

use crate::world::{World, request};

const ID: &str = "0198f0c2-a7d1-7b6e-9b0e-0c5d1f2a3b4c";

/// What is sent, and what must come back.
struct Case {
    name: String,
    method: Method,
    path: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    status: u16,
    code: &'static str,
    field: Option<&'static str>,
}

fn case(
    name: &str,
    (method, path, kind): (Method, &str, &str),
    body: impl Into<Vec<u8>>,
    (status, code, field): (u16, &'static str, Option<&'static str>),
) -> Case {
    let headers =
        if kind.is_empty() { Vec::new() } else { vec![("content-type".to_owned(), kind.to_owned())] };
    Case {
        name: name.to_owned(),
        method,
        path: path.to_owned(),
        headers,
        body: body.into(),
        status,
        code,
        field,
    }
}

const JSON: &str = "application/json";
const NDJSON: &str = "application/x-ndjson";
const FORM: &str = "multipart/form-data; boundary=b";

/// A body of `POST /v1/queries` that is wrong in one field.
fn query(body: Value, field: &'static str) -> Case {
    case(
        &body.to_string(),
        (Method::POST, "/v1/queries", JSON),
        body.to_string(),
        (422, "invalid_field", Some(field)),
    )
}

fn document(body: Value, field: &'static str) -> Case {
    case(
        &body.to_string(),
        (Method::POST, "/v1/documents", JSON),
        body.to_string(),
        (422, "invalid_field", Some(field)),
    )
}

fn search(body: Value, field: &'static str) -> Case {
    case(
        &body.to_string(),
        (Method::POST, "/v1/search", JSON),
        body.to_string(),
        (422, "invalid_field", Some(field)),
    )
}

fn get(path: &str, status: u16, code: &'static str, field: Option<&'static str>) -> Case {
    case(path, (Method::GET, path, ""), "", (status, code, field))
}

fn with_header(name: &'static str, value: &str, field: &'static str) -> Case {
    let body = json!({"query": "q"}).to_string();
    let mut case =
        case(name, (Method::POST, "/v1/queries", JSON), body, (400, "invalid_header", Some(field)));
    case.headers.push((name.to_owned(), value.to_owned()));
    case
}

fn form(name: &str, parts: &[(&str, &str)], expected: (u16, &'static str, Option<&'static str>)) -> Case {
    let mut body = String::new();
    for (disposition, content) in parts {
        body.push_str(&format!("--b\r\nContent-Disposition: form-data; {disposition}\r\n\r\n{content}\r\n"));
    }
    body.push_str("--b--\r\n");
    case(name, (Method::POST, "/v1/documents", FORM), body, expected)
}

fn nested(levels: usize) -> Value {
    (0..levels).fold(json!(1), |inner, _| json!({ "a": inner }))
}

fn cases() -> Vec<Case> {
    let mut cases = queries();
    cases.extend(bodies());
    cases.extend(documents());
    cases.extend(searches());
    cases.extend(addresses());
    cases
}

fn queries() -> Vec<Case> {
    let with = |name: &str, value: Value| {
        let mut body = json!({"query": "q"});
        body[name] = value;
        body
    };
    vec![
        query(json!({}), "query"),
        query(json!({"query": 5}), "query"),
        query(json!({"query": null}), "query"),
        query(json!({"query": ["q"]}), "query"),
        query(json!({"query": ""}), "query"),
        query(json!({"query": " \n "}), "query"),
        query(json!({"query": "x".repeat(8_001)}), "query"),
        query(json!({"qurey": "q"}), "qurey"),
        query(with("collection", json!("../etc")), "collection"),
        query(with("collection", json!("")), "collection"),
        query(with("collection", json!(7)), "collection"),
        query(with("pipeline", json!("nope")), "pipeline"),
        query(with("pipeline", json!("a b")), "pipeline"),
        query(with("top_k", json!(0)), "top_k"),
        query(with("top_k", json!(101)), "top_k"),
        query(with("top_k", json!(-1)), "top_k"),
        query(with("top_k", json!(1.5)), "top_k"),
        query(with("top_k", json!("5")), "top_k"),
        query(with("filter", json!("lang=en")), "filter"),
        query(with("filter", json!({"a": {"b": 1}})), "filter"),
        query(with("filter", json!({"a": []})), "filter"),
        query(with("filter", json!({"a": null})), "filter"),
        query(with("generation", json!(5)), "generation"),
        query(with("generation", json!({"max_tokens": 0})), "generation.max_tokens"),
        query(with("generation", json!({"max_tokens": 1_000_000})), "generation.max_tokens"),
        query(with("generation", json!({"max_tokens": "512"})), "generation.max_tokens"),
        query(with("generation", json!({"temperature": 3})), "generation.temperature"),
        query(with("generation", json!({"temperature": 1e300})), "generation.temperature"),
        query(with("generation", json!({"max_token": 5})), "generation.max_token"),
        query(with("priority", json!("urgent")), "priority"),
        query(with("cache", json!(true)), "cache"),
        query(with("deadline_s", json!(0)), "deadline_s"),
        query(with("deadline_s", json!(u64::MAX)), "deadline_s"),
        query(with("deadline_s", json!(-5)), "deadline_s"),
        query(with("webhook", json!("https://example.com")), "webhook"),
        query(with("webhook", json!({})), "webhook.url"),
        query(with("webhook", json!({"url": "not a url"})), "webhook.url"),
        query(with("webhook", json!({"url": "http://169.254.169.254/"})), "webhook.url"),
        query(
            with("webhook", json!({"url": "https://example.com", "events": ["job.done"]})),
            "webhook.events[0]",
        ),
        query(
            with("webhook", json!({"url": "https://example.com", "events": ["answer.delta"]})),
            "webhook.events",
        ),
        query(with("metadata", json!([1])), "metadata"),
        query(with("metadata", json!({"a": "x".repeat(20_000)})), "metadata"),
        query(with("metadata", nested(40)), "metadata"),
        with_header("idempotency-key", "", "Idempotency-Key"),
        with_header("idempotency-key", "has space", "Idempotency-Key"),
        with_header("idempotency-key", &"x".repeat(256), "Idempotency-Key"),
        with_header("prefer", "wait=soon", "Prefer"),
        with_header("prefer", "respond-async, wait=-1", "Prefer"),
    ]
}

fn bodies() -> Vec<Case> {
    let post = |kind| (Method::POST, "/v1/queries", kind);
    let bad_json = (400, "invalid_json", None);
    vec![
        case("empty", post(JSON), "", bad_json),
        case("not JSON", post(JSON), "query=q", bad_json),
        case("cut off", post(JSON), r#"{"query": "q"#, bad_json),
        case("two bodies", post(JSON), r#"{"query":"q"}{"query":"q"}"#, bad_json),
        case("a list", post(JSON), r#"["q"]"#, bad_json),
        case("not UTF-8", post(JSON), b"{\"query\": \"\xff\"}".to_vec(), bad_json),
        case("too deep", post(JSON), "[".repeat(10_000), bad_json),
        case(
            "too deep inside",
            post(JSON),
            format!(r#"{{"metadata":{}"#, r#"{"a":"#.repeat(10_000)),
            bad_json,
        ),
        case(
            "a number too large",
            post(JSON),
            r#"{"query":"q","top_k":1e999}"#,
            (422, "invalid_field", Some("top_k")),
        ),
        case("a string", post(JSON), r#""q""#, (422, "invalid_field", None)),
        case("twice", post(JSON), r#"{"query":"a","query":"b"}"#, (422, "invalid_field", Some("query"))),
        case("no type", post(""), "{}", (415, "unsupported_media_type", Some("Content-Type"))),
        case("plain text", post("text/plain"), "{}", (415, "unsupported_media_type", Some("Content-Type"))),
        case(
            "a form",
            post("application/x-www-form-urlencoded"),
            "query=q",
            (415, "unsupported_media_type", Some("Content-Type")),
        ),
        case("no type at all", post("json"), "{}", (415, "unsupported_media_type", Some("Content-Type"))),
        case("too large", post(JSON), vec![b' '; (1 << 20) + 1], (413, "too_large", None)),
        case(
            "collection body",
            (Method::PUT, "/v1/collections/c", JSON),
            r#"{"descripton":""}"#,
            (422, "invalid_field", Some("descripton")),
        ),
        case(
            "collection text",
            (Method::PUT, "/v1/collections/c", "text/plain"),
            "x",
            (415, "unsupported_media_type", Some("Content-Type")),
        ),
        case(
            "long description",
            (Method::PUT, "/v1/collections/c", JSON),
            json!({"description": "x".repeat(2_001)}).to_string(),
            (422, "invalid_field", Some("description")),
        ),
    ]
}

fn documents() -> Vec<Case> {
    let post = |kind| (Method::POST, "/v1/documents", kind);
    let bad_lines = |field| (422, "invalid_documents", Some(field));
    vec![
        document(json!({}), "text"),
        document(json!({"text": 5}), "text"),
        document(json!({"txt": "x"}), "txt"),
        document(json!({"text": "x", "external_id": ""}), "external_id"),
        document(json!({"text": "x", "external_id": "x".repeat(513)}), "external_id"),
        document(json!({"text": "x", "external_id": "a\u{0}b"}), "external_id"),
        document(json!({"text": "x", "title": "x".repeat(1_001)}), "title"),
        document(json!({"text": "x", "uri": "x".repeat(2_049)}), "uri"),
        document(json!({"text": "x", "collection": "a/b"}), "collection"),
        document(json!({"text": "x", "metadata": "m"}), "metadata"),
        document(json!({"text": "x", "metadata": {"a": "x".repeat(17_000)}}), "metadata"),
        document(json!({"text": "x", "metadata": nested(40)}), "metadata"),
        document(json!({"text": "x", "media_type": "application/pdf"}), "media_type"),
        document(json!({"uri": "https://example.com/a.pdf"}), "uri"),
        document(json!({"uri": format!("upload:{ID}")}), "uri"),
        document(json!({"uri": "upload:../../etc/passwd"}), "uri"),
        document(json!({"text": "x", "uri": format!("upload:{ID}")}), "text"),
        document(json!({"text": "x", "pipeline": "nope"}), "pipeline"),
        document(json!({"text": "x", "deadline_s": 0}), "deadline_s"),
        document(json!({"text": "x", "webhook": {"url": "http://169.254.169.254/"}}), "webhook.url"),
        document(json!({"documents": []}), "documents"),
        document(json!({"documents": {}}), "documents"),
        document(json!({"documents": [{"text": "a"}, {"title": "b"}]}), "documents[1].text"),
        document(json!({"documents": [{"text": "a"}, {"text": 1}]}), "documents[1].text"),
        document(
            json!({"documents": [{"text": "a", "external_id": "i"}, {"text": "b", "external_id": "i"}]}),
            "documents[1].external_id",
        ),
        document(json!({"documents": [{"text": "a"}], "text": "b"}), "text"),
        case(
            "unknown type",
            post("application/zip"),
            "x",
            (415, "unsupported_media_type", Some("Content-Type")),
        ),
        case("compressed", post(NDJSON), "", (400, "invalid_json", None)),
        case("bad line", post(NDJSON), "{\"text\":\"a\"}\n{\"text\":\n", (422, "invalid_documents", None)),
        case("bad field", post(NDJSON), "{\"text\":\"a\"}\n\n{\"text\":5}\n", bad_lines("text")),
        case("list in lines", post(NDJSON), "[1]\n", (422, "invalid_documents", None)),
        case("no boundary", post("multipart/form-data"), "x", (400, "invalid_form", Some("Content-Type"))),
        case("not a form", post(FORM), "x", (400, "invalid_form", None)),
        case(
            "form cut off",
            post(FORM),
            "--b\r\nContent-Disposition: form-data; name=\"f\"; filename=\"a.txt\"\r\n\r\nabc",
            (400, "invalid_form", None),
        ),
        form("no file", &[("name=\"collection\"", "c")], (422, "invalid_field", Some("file"))),
        form("file without a name", &[("name=\"file\"", "x")], (422, "invalid_field", Some("file"))),
        form("unknown field", &[("name=\"colection\"", "x")], (422, "invalid_field", Some("colection"))),
        form(
            "bad metadata",
            &[("name=\"metadata\"", "{"), ("name=\"f\"; filename=\"a\"", "x")],
            (422, "invalid_field", Some("metadata")),
        ),
        form("bad priority", &[("name=\"priority\"", "now")], (422, "invalid_field", Some("priority"))),
        form("bad deadline", &[("name=\"deadline_s\"", "soon")], (422, "invalid_field", Some("deadline_s"))),
        form("bad url", &[("name=\"webhook_url\"", "x")], (422, "invalid_field", Some("webhook_url"))),
        form(
            "one id, two files",
            &[
                ("name=\"external_id\"", "i"),
                ("name=\"f\"; filename=\"a\"", "x"),
                ("name=\"f\"; filename=\"b\"", "x"),
            ],
            (422, "invalid_field", Some("external_id")),
        ),
        form(
            "one name, two files",
            &[("name=\"f\"; filename=\"a\"", "x"), ("name=\"f\"; filename=\"a\"", "y")],
            (422, "invalid_field", Some("external_id")),
        ),
        form(
            "long name",
            &[(&format!("name=\"f\"; filename=\"{}\"", "x".repeat(600)), "x")],
            (422, "invalid_field", Some("file")),
        ),
        case(
            "bad parameter",
            (Method::POST, "/v1/documents?colection=a", NDJSON),
            "{\"text\":\"a\"}",
            (400, "invalid_parameter", Some("colection")),
        ),
        case(
            "bad upload name",
            (Method::POST, "/v1/uploads?file_name=", ""),
            "x",
            (400, "invalid_parameter", Some("file_name")),
        ),
    ]
}

fn searches() -> Vec<Case> {
    let unknown = json!({"query": "q", "collection": "nope"}).to_string();
    vec![
        search(json!({"query": "q", "mode": "fuzzy"}), "mode"),
        search(json!({"query": "q", "top_k": 1_000}), "top_k"),
        search(json!({"query": "q", "pipeline": "nope"}), "pipeline"),
        search(json!({"query": "q", "filter": {"a": {}}}), "filter"),
        search(json!({"query": "q", "max_tokens": 5}), "max_tokens"),
        search(json!({"query": "", "mode": null}), "query"),
        case(
            "no collection",
            (Method::POST, "/v1/search", JSON),
            unknown,
            (404, "unknown_collection", Some("collection")),
        ),
    ]
}

fn addresses() -> Vec<Case> {
    let parameter = |path: &str, field| get(path, 400, "invalid_parameter", Some(field));
    let mut last_event = get(&format!("/v1/jobs/{ID}/events"), 400, "invalid_header", Some("Last-Event-ID"));
    last_event.headers.push(("last-event-id".to_owned(), "latest".to_owned()));
    vec![
        get("/nothing", 404, "not_found", None),
        get("/v1/nothing", 404, "not_found", None),
        get("/docs/nothing.js", 404, "not_found", None),
        case("wrong method", (Method::DELETE, "/v1/queries", ""), "", (405, "method_not_allowed", None)),
        case("wrong method", (Method::PUT, "/healthz", ""), "", (405, "method_not_allowed", None)),
        parameter("/v1/jobs/not-a-uuid", "job_id"),
        parameter("/v1/jobs/%ff", "job_id"),
        parameter("/v1/jobs/..%2f..%2fetc", "job_id"),
        get(&format!("/v1/jobs/{ID}"), 404, "unknown_job", Some("job_id")),
        get(&format!("/v1/jobs/{ID}/events"), 404, "unknown_job", Some("job_id")),
        get(&format!("/v1/jobs/{ID}/passages"), 404, "unknown_job", Some("job_id")),
        get(&format!("/v1/jobs/{ID}/deliveries"), 404, "unknown_job", Some("job_id")),
        case(
            "cancel",
            (Method::POST, &format!("/v1/jobs/{ID}/cancel"), ""),
            "",
            (404, "unknown_job", Some("job_id")),
        ),
        case(
            "remove",
            (Method::DELETE, &format!("/v1/jobs/{ID}"), ""),
            "",
            (404, "unknown_job", Some("job_id")),
        ),
        case(
            "replay",
            (Method::POST, &format!("/v1/deliveries/{ID}/replay"), ""),
            "",
            (404, "unknown_delivery", Some("delivery_id")),
        ),
        case(
            "replay",
            (Method::POST, "/v1/deliveries/x/replay", ""),
            "",
            (400, "invalid_parameter", Some("delivery_id")),
        ),
        parameter(&format!("/v1/jobs/{ID}?wait=61"), "wait"),
        parameter(&format!("/v1/jobs/{ID}?wait=-1"), "wait"),
        parameter(&format!("/v1/jobs/{ID}?wait=long"), "wait"),
        parameter(&format!("/v1/jobs/{ID}?wiat=5"), "wiat"),
        parameter(&format!("/v1/jobs/{ID}/events?after=x"), "after"),
        last_event,
        parameter("/v1/jobs?limit=0", "limit"),
        parameter("/v1/jobs?limit=201", "limit"),
        parameter("/v1/jobs?limit=", "limit"),
        parameter("/v1/jobs?limit=5&limit=6", "limit"),
        parameter("/v1/jobs?status=done", "status"),
        parameter("/v1/jobs?kind=question", "kind"),
        parameter("/v1/jobs?cursor=zzz", "cursor"),
        parameter("/v1/jobs?cursor=%00", "cursor"),
        parameter("/v1/documents?filter={", "filter"),
        parameter("/v1/documents?filter=%7B%22a%22:%7B%7D%7D", "filter"),
        parameter("/v1/documents?collection=a%20b", "collection"),
        get("/v1/documents?collection=nope", 404, "unknown_collection", Some("collection")),
        parameter("/v1/documents/x", "document_id"),
        get(&format!("/v1/documents/{ID}"), 404, "unknown_document", Some("document_id")),
        parameter(&format!("/v1/documents/{ID}?include=vectors"), "include"),
        case(
            "remove",
            (Method::DELETE, &format!("/v1/documents/{ID}"), ""),
            "",
            (404, "unknown_document", Some("document_id")),
        ),
        get("/v1/collections/nope", 404, "unknown_collection", None),
        parameter("/v1/collections/a%2Fb", "name"),
        case("remove", (Method::DELETE, "/v1/collections/nope", ""), "", (404, "unknown_collection", None)),
        get("/v1/ws", 426, "websocket_required", None),
        get(&format!("/v1/jobs/{ID}/ws"), 426, "websocket_required", None),
    ]
}

#[tokio::test]
async fn every_malformed_request_is_a_problem_that_names_the_field() {
    let world = World::new();
    let cases = cases();
    assert!(cases.len() >= 50);
    for case in cases {
        let headers: Vec<(&str, &str)> = case.headers.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        let answer = world.send(request(case.method.clone(), &case.path, &headers, case.body)).await;
        let told = (answer.status.as_u16(), answer.problem());
        let expected = (case.status, (case.code.to_owned(), case.field.map(ToOwned::to_owned)));
        assert_eq!(told, expected, "{} {} ({}): {}", case.method, case.path, case.name, answer.json());
    }
    assert!(
        world.blobs.blobs.lock().unwrap().keys().all(|key| !key.ends_with("manifest.ndjson")),
        "nothing is stored"
    );
}

#[tokio::test]
async fn the_nearest_right_name_is_offered() {
    let world = World::new();
    let detail = async |path: &str, body: Value| {
        world.post(path, &body).await.json()["detail"].as_str().unwrap().to_owned()
    };
    assert!(detail("/v1/queries", json!({"qurey": "q"})).await.contains(r#"did you mean "query"?"#));
    assert!(
        detail("/v1/documents", json!({"externalId": "q"})).await.contains(r#"did you mean "external_id"?"#)
    );
}

#[tokio::test]
async fn headers_that_are_not_ascii_are_problems() {
    let world = World::new();
    for name in ["idempotency-key", "prefer", "content-type"] {
        let mut request =
            request(Method::POST, "/v1/queries", &[("content-type", "application/json")], r#"{"query":"q"}"#);
        request.headers_mut().insert(name, HeaderValue::from_bytes(b"\xff\xfe").unwrap());
        let answer = world.send(request).await;
        assert!(answer.status.is_client_error(), "{name}: {answer:?}");
        assert!(answer.problem().1.is_some_and(|field| field.eq_ignore_ascii_case(name)), "{name}");
    }
    let mut request = request(Method::GET, "/v1/jobs", &[], "");
    request.headers_mut().insert("x-request-id", HeaderValue::from_bytes(b"\xff").unwrap());
    let answer = world.send(request).await;
    assert_eq!(answer.status, StatusCode::OK);
    assert_eq!(answer.header("x-request-id").unwrap().len(), 36);
}

#[tokio::test]
async fn bad_lines_are_listed_by_number_and_nothing_is_stored() {
    let world = World::new();
    let body = "{\"text\":\"good\"}\nnot json\n{\"text\":\"good\"}\n{\"title\":\"no text\"}\n";
    let answer = world.send(request(Method::POST, "/v1/documents", &[("content-type", NDJSON)], body)).await;
    assert_eq!(answer.problem().0, "invalid_documents");
    let errors = answer.json()["errors"].clone();
    assert_eq!(errors[0]["line"], 2);
    assert_eq!((&errors[1]["line"], &errors[1]["field"]), (&json!(4), &json!("text")));
    assert_eq!(errors.as_array().unwrap().len(), 2);
    assert!(world.blobs.blobs.lock().unwrap().is_empty());

    let many = "x\n".repeat(500);
    let answer = world.send(request(Method::POST, "/v1/documents", &[("content-type", NDJSON)], many)).await;
    assert_eq!(answer.json()["errors"].as_array().unwrap().len(), 100);
}

#[tokio::test]
async fn compressed_bodies_are_refused() {
    let world = World::new();
    for path in ["/v1/queries", "/v1/documents", "/v1/uploads"] {
        let headers = [("content-type", "application/json"), ("content-encoding", "gzip")];
        let answer = world.send(request(Method::POST, path, &headers, "x")).await;
        assert_eq!(
            answer.problem(),
            ("unsupported_media_type".to_owned(), Some("Content-Encoding".to_owned()))
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_that_stands_still_is_given_up() {
    let world = World::new();
    let body = Body::from_stream(futures::stream::pending::<Result<bytes::Bytes, std::io::Error>>());
    let answer = world.send(request(Method::POST, "/v1/queries", &[("content-type", JSON)], body)).await;
    assert_eq!(answer.status, StatusCode::REQUEST_TIMEOUT);
    assert_eq!(answer.problem().0, "body_timeout");
}

#[tokio::test]
async fn a_store_that_fails_is_a_503_without_its_secrets() {
    let world = World::new();
    use raglan_pipeline::ports::ErrorKind;
    for (kind, status) in
        [(ErrorKind::Unavailable, 503), (ErrorKind::Timeout, 503), (ErrorKind::Internal, 500)]
    {
        *world.jobs.broken.lock().unwrap() = Some(kind);
        let answer = world.post("/v1/queries", &json!({"query": "q"})).await;
        assert_eq!(answer.status.as_u16(), status);
        answer.problem();
        assert!(!String::from_utf8_lossy(&answer.body).contains("secret"));
        assert_eq!(answer.header("retry-after").is_some(), status == 503);
    }
}

#[tokio::test]
async fn a_panic_is_a_problem_without_its_cause_and_the_next_request_is_served() {
    let world = World::new();
    world.panics.store(true, std::sync::atomic::Ordering::Relaxed);
    let answer = world.get("/metrics").await;
    assert_eq!(answer.status, StatusCode::INTERNAL_SERVER_ERROR);
    assert_eq!(answer.problem().0, "internal");
    assert!(!String::from_utf8_lossy(&answer.body).contains("secret"));
    assert_eq!(world.get("/v1/jobs").await.status, StatusCode::OK);
}
