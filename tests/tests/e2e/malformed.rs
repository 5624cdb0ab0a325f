//! Requests that are wrong: each is answered with a problem that names what is wrong, and none is the server's fault.

use raglan_tests::{Api, Reply, eventually};
use reqwest::Method;
use serde_json::{Value, json};

use crate::corpus::server;

/// What is sent.
struct Case {
    method: Method,
    path: String,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
    /// What is wrong; none where no one field is.
    field: Option<&'static str>,
    status: u16,
}

/// A JSON body with one field that is wrong.
fn post(path: &str, body: &Value, field: &'static str) -> Case {
    raw(path, "application/json", body.to_string(), 422).about(field)
}

/// A body as it stands.
fn raw(path: &str, kind: &str, body: impl Into<Vec<u8>>, status: u16) -> Case {
    let headers = vec![("content-type", kind.to_owned())];
    Case { method: Method::POST, path: path.to_owned(), headers, body: body.into(), field: None, status }
}

/// A path or query string that is wrong.
fn get(path: &str, field: &'static str) -> Case {
    bare(Method::GET, path, 400).about(field)
}

fn bare(method: Method, path: &str, status: u16) -> Case {
    Case { method, path: path.to_owned(), headers: Vec::new(), body: Vec::new(), field: None, status }
}

impl Case {
    fn about(self, field: &'static str) -> Self {
        Self { field: Some(field), ..self }
    }

    fn answered(self, status: u16) -> Self {
        Self { status, ..self }
    }

    fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    fn method(self, method: Method) -> Self {
        Self { method, ..self }
    }
}

const UNKNOWN: &str = "0190c0de-0000-7000-8000-000000000000";

fn queries() -> Vec<Case> {
    let query = |change: Value, field| {
        let mut body = json!({"query": "What?"});
        raglan_tests::merge(&mut body, change);
        post("/v1/queries", &body, field)
    };
    let deep = (0..40).fold(json!(1), |inner, _| json!({"a": inner}));
    vec![
        post("/v1/queries", &json!({}), "query"),
        query(json!({"query": ""}), "query"),
        query(json!({"query": " \n\t "}), "query"),
        query(json!({"query": 5}), "query"),
        query(json!({"query": null}), "query"),
        query(json!({"query": ["x"]}), "query"),
        query(json!({"query": "x".repeat(8_001)}), "query"),
        raw("/v1/queries", "application/json", r#"{"query": "\ud800"}"#, 422).about("query"),
        raw(
            "/v1/queries",
            "application/json",
            format!("{{\"query\": {}1{}}}", "[".repeat(5_000), "]".repeat(5_000)),
            422,
        )
        .about("query"),
        raw("/v1/queries", "application/json", r#"{"query": "a", "query": "b"}"#, 422).about("query"),
        query(json!({"qery": "x"}), "qery"),
        query(json!({"collection": ""}), "collection"),
        query(json!({"collection": "a b"}), "collection"),
        query(json!({"collection": "x".repeat(65)}), "collection"),
        query(json!({"collection": "../etc"}), "collection"),
        query(json!({"collection": 7}), "collection"),
        query(json!({"pipeline": "nope"}), "pipeline"),
        query(json!({"pipeline": "a/b"}), "pipeline"),
        query(json!({"pipeline": false}), "pipeline"),
        query(json!({"filter": []}), "filter"),
        query(json!({"filter": "lang=en"}), "filter"),
        query(json!({"filter": {"a": {"b": 1}}}), "filter"),
        query(json!({"filter": {"a": []}}), "filter"),
        query(json!({"filter": {"a": null}}), "filter"),
        query(json!({"filter": {"a": [[1]]}}), "filter"),
        query(json!({"top_k": 0}), "top_k"),
        query(json!({"top_k": 101}), "top_k"),
        query(json!({"top_k": -1}), "top_k"),
        query(json!({"top_k": 1.5}), "top_k"),
        query(json!({"top_k": "5"}), "top_k"),
        raw("/v1/queries", "application/json", r#"{"query": "a", "top_k": 99999999999999999999999}"#, 422)
            .about("top_k"),
        query(json!({"generation": 1}), "generation"),
        query(json!({"generation": {"max_tokens": 0}}), "generation.max_tokens"),
        query(json!({"generation": {"max_tokens": 8_193}}), "generation.max_tokens"),
        query(json!({"generation": {"max_tokens": -1}}), "generation.max_tokens"),
        query(json!({"generation": {"max_tokens": "many"}}), "generation.max_tokens"),
        query(json!({"generation": {"temperature": -0.1}}), "generation.temperature"),
        query(json!({"generation": {"temperature": 2.5}}), "generation.temperature"),
        query(json!({"generation": {"temperature": "hot"}}), "generation.temperature"),
        query(json!({"generation": {"tempreture": 1}}), "generation.tempreture"),
        query(json!({"priority": "urgent"}), "priority"),
        query(json!({"priority": 1}), "priority"),
        query(json!({"deadline_s": 0}), "deadline_s"),
        query(json!({"deadline_s": 86_401}), "deadline_s"),
        query(json!({"deadline_s": u64::MAX}), "deadline_s"),
        query(json!({"deadline_s": -5}), "deadline_s"),
        query(json!({"deadline_s": "1m"}), "deadline_s"),
        query(json!({"webhook": "http://example.org"}), "webhook"),
        query(json!({"webhook": {}}), "webhook.url"),
        query(json!({"webhook": {"url": "not a url"}}), "webhook.url"),
        query(json!({"webhook": {"url": "ftp://example.org/"}}), "webhook.url"),
        query(json!({"webhook": {"url": "http://169.254.169.254/"}}), "webhook.url"),
        query(json!({"webhook": {"url": "https://example.org/", "events": "job.failed"}}), "webhook.events"),
        query(
            json!({"webhook": {"url": "https://example.org/", "events": ["job.done"]}}),
            "webhook.events[0]",
        ),
        query(
            json!({"webhook": {"url": "https://example.org/", "events": ["answer.delta"]}}),
            "webhook.events",
        ),
        query(json!({"webhook": {"url": "https://example.org/", "secret": "x"}}), "webhook.secret"),
        query(json!({"cache": "maybe"}), "cache"),
        query(json!({"metadata": "x"}), "metadata"),
        query(json!({"metadata": {"a": "x".repeat(20_000)}}), "metadata"),
        query(json!({"metadata": deep}), "metadata"),
    ]
}

fn headers() -> Vec<Case> {
    let good = || raw("/v1/queries", "application/json", r#"{"query": "What?"}"#, 400);
    let typed = |kind: &str| raw("/v1/queries", kind, r#"{"query": "What?"}"#, 415).about("Content-Type");
    let mut untyped = typed("");
    untyped.headers.clear();
    vec![
        good().header("idempotency-key", "").about("Idempotency-Key"),
        good().header("idempotency-key", "x".repeat(256)).about("Idempotency-Key"),
        good().header("idempotency-key", "a b").about("Idempotency-Key"),
        good().header("idempotency-key", "a").header("idempotency-key", "b").about("Idempotency-Key"),
        good().header("prefer", "wait=soon").about("Prefer"),
        good().header("prefer", "wait=-1").about("Prefer"),
        good().header("content-encoding", "gzip").about("Content-Encoding").answered(415),
        typed("text/plain"),
        typed("application/x-www-form-urlencoded"),
        typed("nonsense"),
        untyped,
    ]
}

fn paths() -> Vec<Case> {
    let job = |end: &str| format!("/v1/jobs/{UNKNOWN}{end}");
    vec![
        get("/v1/jobs?limit=0", "limit"),
        get("/v1/jobs?limit=201", "limit"),
        get("/v1/jobs?limit=x", "limit"),
        get("/v1/jobs?status=done", "status"),
        get("/v1/jobs?kind=dream", "kind"),
        get("/v1/jobs?cursor=zzz", "cursor"),
        get("/v1/jobs?colour=red", "colour"),
        get("/v1/jobs?limit=1&limit=2", "limit"),
        get("/v1/jobs/not-an-id", "job_id"),
        get("/v1/jobs/%ff", "job_id"),
        get("/v1/jobs/not-an-id/events", "job_id"),
        get("/v1/jobs/not-an-id/passages", "job_id"),
        get("/v1/jobs/not-an-id/deliveries", "job_id"),
        bare(Method::POST, "/v1/jobs/not-an-id/cancel", 400).about("job_id"),
        bare(Method::DELETE, "/v1/jobs/not-an-id", 400).about("job_id"),
        bare(Method::POST, "/v1/deliveries/not-an-id/replay", 400).about("delivery_id"),
        get(&job("?wait=61"), "wait"),
        get(&job("?wait=-1"), "wait"),
        get(&job("?wait=long"), "wait"),
        get(&job("/events?after=x"), "after"),
        get(&job("/events"), "Last-Event-ID").header("last-event-id", "x"),
        bare(Method::GET, &job(""), 404).about("job_id"),
        bare(Method::GET, &job("/events"), 404).about("job_id"),
        bare(Method::POST, &job("/cancel"), 404).about("job_id"),
        bare(Method::POST, &format!("/v1/deliveries/{UNKNOWN}/replay"), 404).about("delivery_id"),
        get("/v1/documents?limit=1000", "limit"),
        get("/v1/documents?cursor=%00", "cursor"),
        get("/v1/documents?collection=a%20b", "collection"),
        get("/v1/documents?filter=lang", "filter"),
        get("/v1/documents?filter=%7B%22a%22%3A%7B%7D%7D", "filter"),
        bare(Method::GET, "/v1/documents?collection=nowhere", 404).about("collection"),
        get("/v1/documents/not-an-id", "document_id"),
        bare(Method::DELETE, "/v1/documents/not-an-id", 400).about("document_id"),
        get(&format!("/v1/documents/{UNKNOWN}?include=chunks"), "include"),
        bare(Method::GET, &format!("/v1/documents/{UNKNOWN}"), 404).about("document_id"),
        get("/v1/collections/a%20b", "name"),
        bare(Method::PUT, "/v1/collections/-x", 400).about("name"),
        raw("/v1/collections/good", "application/json", r#"{"description": 5}"#, 422)
            .method(Method::PUT)
            .about("description"),
        raw("/v1/collections/good", "application/json", r#"{"descripton": ""}"#, 422)
            .method(Method::PUT)
            .about("descripton"),
        raw("/v1/uploads?file_name=", "text/plain", "x", 400).about("file_name"),
    ]
}

fn searches_and_documents() -> Vec<Case> {
    let document = |change: Value, field| {
        let mut body = json!({"text": "Some words."});
        raglan_tests::merge(&mut body, change);
        post("/v1/documents", &body, field)
    };
    let form = |parts: &str| {
        let body = format!("{parts}--b--\r\n").replace('\n', "\r\n").replace("\r\r", "\r");
        raw("/v1/documents", "multipart/form-data; boundary=b", body, 422)
    };
    let field = |name: &str, value: &str| {
        format!("--b\nContent-Disposition: form-data; name=\"{name}\"\n\n{value}\n")
    };
    let file = "--b\nContent-Disposition: form-data; name=\"file\"; filename=\"a.txt\"\n\nwords\n";
    vec![
        post("/v1/search", &json!({}), "query"),
        post("/v1/search", &json!({"query": "a", "mode": "fuzzy"}), "mode"),
        post("/v1/search", &json!({"query": "a", "top_k": 0}), "top_k"),
        post("/v1/search", &json!({"query": "a", "pipeline": "nope"}), "pipeline"),
        post("/v1/search", &json!({"query": "a", "filter": {"b": {}}}), "filter"),
        post("/v1/search", &json!({"query": "a", "collection": "nowhere"}), "collection").answered(404),
        post("/v1/documents", &json!({}), "text"),
        document(json!({"text": 5}), "text"),
        document(json!({"external_id": ""}), "external_id"),
        document(json!({"external_id": "x".repeat(513)}), "external_id"),
        document(json!({"external_id": "a\u{0}b"}), "external_id"),
        document(json!({"title": "x".repeat(1_001)}), "title"),
        document(json!({"collection": "a b"}), "collection"),
        document(json!({"metadata": []}), "metadata"),
        document(json!({"metadata": {"a": "x".repeat(20_000)}}), "metadata"),
        document(json!({"media_type": "application/pdf"}), "media_type"),
        document(json!({"pipeline": "nope"}), "pipeline"),
        document(json!({"deadline_s": 0}), "deadline_s"),
        document(json!({"webhook": {"url": "http://10.0.0.1/"}}), "webhook.url"),
        document(json!({"tittle": "x"}), "tittle"),
        post("/v1/documents", &json!({"uri": "https://example.org/a.pdf"}), "uri"),
        post("/v1/documents", &json!({"uri": format!("upload:{UNKNOWN}")}), "uri"),
        post("/v1/documents", &json!({"uri": "upload:../../etc/passwd"}), "uri"),
        post("/v1/documents", &json!({"documents": []}), "documents"),
        post("/v1/documents", &json!({"documents": [{"text": "a"}, {"text": 1}]}), "documents[1].text"),
        post("/v1/documents", &json!({"documents": [{"text": "a"}, {}]}), "documents[1].text"),
        post(
            "/v1/documents",
            &json!({"documents": [{"external_id": "a", "text": "a"}, {"external_id": "a", "text": "b"}]}),
            "documents[1].external_id",
        ),
        raw("/v1/documents", "application/x-ndjson", "{\"text\": \"a\"}\n{\"text\": 1}\n", 422).about("text"),
        raw("/v1/documents", "image/png", "x", 415).about("Content-Type"),
        form(&field("collection", "a b")).about("collection"),
        form(&format!("{file}{}", field("priority", "urgent"))).about("priority"),
        form(&format!("{file}{}", field("metadata", "{"))).about("metadata"),
        form(&format!("{file}{}", field("deadline_s", "soon"))).about("deadline_s"),
        form(&format!("{file}{}", field("webhook_url", "nowhere"))).about("webhook_url"),
        form(&format!("{file}{}", field("colection", "a"))).about("colection"),
        form(&format!("{file}{file}{}", field("external_id", "a"))).about("external_id"),
        form(&field("title", "no file")).about("file"),
        raw("/v1/documents", "multipart/form-data", "x", 400).about("Content-Type"),
    ]
}

/// Those in which no one field is at fault.
fn whole_bodies() -> Vec<Case> {
    let json = "application/json";
    let query = |body: &str| raw("/v1/queries", json, body, 400);
    vec![
        query(""),
        query("   "),
        query("{"),
        query("{\"query\": \"What?\""),
        query("{\"query\": \"What?\",}"),
        query("{\"query\": \"What?\"} {}"),
        query("['query']"),
        query("[]"),
        query("nonsense"),
        raw("/v1/queries", json, b"{\"query\": \"\xff\xfe\"}".to_vec(), 400),
        raw("/v1/queries", json, "5", 422),
        raw("/v1/queries", json, "null", 422),
        raw("/v1/queries", json, format!("{{\"query\": \"{}\"}}", "x".repeat(2 << 20)), 413),
        raw("/v1/documents", "application/x-ndjson", "\n\n", 400),
        raw("/v1/documents", "multipart/form-data; boundary=b", "--b\r\nbroken", 400),
        bare(Method::GET, "/v1/nothing", 404),
        bare(Method::GET, "/v1/jobs/a/b/c/d", 404),
        bare(Method::PATCH, "/v1/queries", 405),
        bare(Method::DELETE, "/v1/jobs", 405),
        bare(Method::GET, "/v1/ws", 426),
    ]
}

async fn send(api: &Api, case: &Case) -> Reply {
    let mut request = api.request(case.method.clone(), &case.path);
    for (name, value) in &case.headers {
        request = request.header(*name, value);
    }
    if case.method != Method::GET {
        request = request.body(case.body.clone());
    }
    api.send(request).await
}

/// What is not as it must be about an answer.
fn faults(case: &Case, reply: &Reply) -> Vec<String> {
    let mut faults = Vec::new();
    let mut check = |holds: bool, fault: String| {
        if !holds {
            faults.push(fault);
        }
    };
    let status = reply.status.as_u16();
    check(status < 500, "it is the server's fault".to_owned());
    check(status == case.status, format!("the status is {status}, not {}", case.status));
    let kind = reply.header("content-type");
    check(kind == "application/problem+json", format!("the content type is {kind:?}"));
    let problem: Value = serde_json::from_slice(&reply.body).unwrap_or_default();
    let field = problem["field"].as_str();
    // A JSON type error of the whole body names nothing; everything else names its field.
    check(field == case.field, format!("the field is {field:?}, not {:?}", case.field));
    check(problem["status"] == status, "the status in the body is another".to_owned());
    for text in ["type", "title", "detail", "code"] {
        check(problem[text].as_str().is_some_and(|text| !text.is_empty()), format!("there is no {text}"));
    }
    let id = problem["request_id"].as_str().unwrap_or_default();
    check(
        !id.is_empty() && id == reply.header("x-request-id"),
        "the request_id is not the header's".to_owned(),
    );
    let detail = problem["detail"].as_str().unwrap_or_default();
    for internal in ["panicked", "src/", "serde", "struct ", "sqlx", "/tmp/", "usize", "u64"] {
        check(!detail.contains(internal), format!("the detail shows its inside ({internal}): {detail}"));
    }
    check(status != 405 || !reply.header("allow").is_empty(), "there is no Allow header".to_owned());
    faults
}

#[tokio::test]
async fn each_malformed_request_is_a_problem_with_its_field() {
    let (server, api) = server().await;
    let cases: Vec<Case> = [queries(), headers(), paths(), searches_and_documents(), whole_bodies()]
        .into_iter()
        .flatten()
        .collect();
    let named = cases.iter().filter(|case| case.field.is_some()).count();
    println!("{} malformed requests, {named} of them with a field", cases.len());
    assert!(named >= 50);
    let mut report = Vec::new();
    for case in &cases {
        let reply = send(&api, case).await;
        let faults = faults(case, &reply);
        if !faults.is_empty() {
            let body = String::from_utf8_lossy(&case.body);
            let body: String = body.chars().take(200).collect();
            let answer = String::from_utf8_lossy(&reply.body);
            report.push(format!(
                "{} {} {:?} {body}\n    {}\n    {answer}",
                case.method,
                case.path,
                case.headers,
                faults.join("; ")
            ));
        }
    }
    assert!(
        report.is_empty(),
        "{} of {} are answered wrongly:\n{}",
        report.len(),
        cases.len(),
        report.join("\n")
    );
    // None of them left a job, and the server is as well as before.
    let jobs = api.get("/v1/jobs").await.expect(200);
    assert_eq!(jobs["jobs"].as_array().unwrap().len(), 1, "only the ingestion of the corpus: {jobs:#}");
    assert!(!server.stderr().contains("panicked"), "{}", server.stderr());
    api.get("/healthz").await.expect(200);
}

#[tokio::test]
async fn every_bad_line_of_ndjson_is_told() {
    let (_server, api) = server().await;
    let body = "{\"external_id\": \"a\", \"text\": \"fine\"}\n\nnonsense\n{\"external_id\": \"b\"}\n{\"external_id\": \"c\", \"text\": \"fine\"}\n{\"txt\": 1}\n";
    let reply = send(&api, &raw("/v1/documents", "application/x-ndjson", body, 422)).await;
    let problem = reply.expect(422);
    let told: Vec<_> = problem["errors"]
        .as_array()
        .unwrap()
        .iter()
        .map(|error| (error["line"].clone(), error["field"].clone()))
        .collect();
    assert_eq!(
        told,
        [(json!(3), Value::Null), (json!(4), json!("text")), (json!(6), json!("txt"))],
        "{problem:#}"
    );
    assert!(api.document("default", "a").await.is_none(), "nothing of it was taken in");
}

/// A body that nobody wants is on its way still when the request is refused: the answer comes all the same, and the connection goes on.
#[tokio::test]
async fn a_refused_body_that_is_still_on_its_way_does_not_take_the_answer_with_it() {
    let (_server, api) = server().await;
    for kind in ["image/png", "application/json"] {
        for _ in 0..20 {
            let body = vec![b'x'; 100_000];
            let path = if kind == "image/png" { "/v1/documents" } else { "/v1/queries" };
            let reply = send(&api, &raw(path, kind, body, 0).header("idempotency-key", "a b")).await;
            assert_eq!(reply.expect(400)["field"], "Idempotency-Key");
            assert!(reply.header("connection").is_empty(), "{reply:?}");
        }
    }
    for _ in 0..10 {
        let huge = send(&api, &raw("/v1/queries", "application/json", vec![b' '; 2 << 20], 413)).await;
        assert_eq!(huge.expect(413)["code"], "too_large");
    }
}

/// What holds a connection open and says nothing is let go; others are served meanwhile.
#[tokio::test]
async fn bytes_that_are_no_http_hurt_nobody() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let (server, api) = server().await;
    let address = server.url().strip_prefix("http://").unwrap();
    for bytes in [
        &b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..],
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST /v1/queries HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{\"que",
        b"POST /v1/queries HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\nZZZ\r\n",
        b"\r\n\r\n\r\n\x00\x00\x00",
    ] {
        let mut connection = tokio::net::TcpStream::connect(address).await.unwrap();
        connection.write_all(bytes).await.unwrap();
        connection.shutdown().await.unwrap();
        let mut answer = Vec::new();
        raglan_tests::within("the end of a broken connection", connection.read_to_end(&mut answer)).await.ok();
        let answer = String::from_utf8_lossy(&answer).into_owned();
        assert!(!answer.starts_with("HTTP/1.1 5") && !answer.starts_with("HTTP/1.1 2"), "{answer}");
    }
    eventually("the server's health", async || Some(api.get("/healthz").await.expect(200))).await;
}
