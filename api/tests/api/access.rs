//! Keys, tickets, tenants, and the guards while there are no keys; request ids, pages, health.

use axum::http::{Method, StatusCode};
use raglan_api::{ApiKey, ApiSettings};
use raglan_pipeline::domain::Tenant;
use serde_json::json;

use crate::world::{World, request};

fn keys() -> ApiSettings {
    let key = |name: &str| ApiKey::from_plain(name, Tenant::new(name).unwrap(), &format!("{name}-key"));
    ApiSettings { keys: vec![key("red"), key("blue")], ..ApiSettings::default() }
}

const RED: (&str, &str) = ("authorization", "Bearer red-key");
const BLUE: (&str, &str) = ("authorization", "bearer blue-key");

#[tokio::test]
async fn without_a_good_key_nothing_opens() {
    let world = World::with(keys());
    let wrong = [
        vec![],
        vec![("authorization", "Bearer wrong")],
        vec![("authorization", "Bearer ")],
        vec![("authorization", "Basic cmVkOnJlZA==")],
        vec![("authorization", "red-key")],
    ];
    for headers in &wrong {
        for path in ["/v1/jobs", "/v1/collections", "/metrics", "/v1/ws"] {
            let answer = world.send(request(Method::GET, path, headers, "")).await;
            assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{path} {headers:?}");
            answer.problem();
            assert!(answer.header("www-authenticate").unwrap().starts_with("Bearer"));
        }
    }
    for path in ["/healthz", "/readyz", "/openapi.json", "/docs/", "/"] {
        assert_eq!(world.get(path).await.status, StatusCode::OK, "{path}");
    }
    assert_eq!(world.send(request(Method::GET, "/metrics", &[RED], "")).await.body, b"raglan_up 1\n");
}

#[tokio::test]
async fn a_tenant_sees_its_own_jobs_only() {
    let world = World::with(keys());
    let job = world.post_with("/v1/queries", &json!({"query": "q"}), &[RED]).await.json();
    let path = format!("/v1/jobs/{}", job["job_id"].as_str().unwrap());
    let send = async |method: Method, path: &str, key| world.send(request(method, path, &[key], "")).await;
    assert_eq!(send(Method::GET, &path, RED).await.status, StatusCode::OK);
    for (method, below) in [
        (Method::GET, ""),
        (Method::DELETE, ""),
        (Method::POST, "/cancel"),
        (Method::GET, "/passages"),
        (Method::GET, "/events"),
        (Method::GET, "/deliveries"),
    ] {
        let answer = send(method, &format!("{path}{below}"), BLUE).await;
        assert_eq!(answer.problem().0, "unknown_job", "{below}");
    }
    assert_eq!(send(Method::GET, "/v1/jobs", BLUE).await.json()["jobs"], json!([]));
    assert_eq!(send(Method::GET, "/v1/jobs", RED).await.json()["jobs"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn an_upload_is_not_found_by_another_tenant() {
    let world = World::with(keys());
    let upload = world.send(request(Method::POST, "/v1/uploads", &[RED], "x")).await.json();
    let body = json!({"uri": upload["uri"]});
    assert_eq!(world.post_with("/v1/documents", &body, &[BLUE]).await.problem().1.as_deref(), Some("uri"));
    assert_eq!(world.post_with("/v1/documents", &body, &[RED]).await.status, StatusCode::ACCEPTED);
}

#[tokio::test]
async fn a_ticket_opens_sockets_only_and_once() {
    let world = World::with(keys());
    let ticket = async || {
        let answer = world.send(request(Method::POST, "/v1/tickets", &[RED], "")).await;
        assert_eq!(answer.status, StatusCode::CREATED);
        answer.json()["ticket"].as_str().unwrap().to_owned()
    };
    let one = ticket().await;
    let elsewhere = world.get(&format!("/v1/jobs?ticket={one}")).await;
    assert_eq!(elsewhere.status, StatusCode::UNAUTHORIZED);
    // Past the door; what is missing is the handshake.
    assert_eq!(world.get(&format!("/v1/ws?ticket={one}")).await.problem().0, "websocket_required");
    assert_eq!(world.get(&format!("/v1/ws?ticket={one}")).await.problem().0, "invalid_ticket");
}

#[tokio::test]
async fn without_keys_foreign_hosts_and_origins_are_refused() {
    let settings = ApiSettings {
        hosts: vec!["raglan.internal:8080".to_owned()],
        cors_origins: vec!["https://app.example".to_owned()],
        ..ApiSettings::default()
    };
    let world = World::with(settings);
    let with = async |method: Method, path: &str, headers: &[(&str, &str)]| {
        let headers = [headers, &[("content-type", "application/json")]].concat();
        world.send(request(method, path, &headers, r#"{"query":"q"}"#)).await
    };
    for host in ["evil.example", "localhost.evil.example:8080", "10.0.0.1"] {
        let answer = with(Method::GET, "/v1/jobs", &[("host", host)]).await;
        assert_eq!(answer.problem(), ("host_not_allowed".to_owned(), Some("Host".to_owned())), "{host}");
    }
    assert_eq!(with(Method::GET, "/healthz", &[("host", "10.0.0.1")]).await.status, StatusCode::OK);
    for host in ["localhost", "127.0.0.1:8080", "[::1]:8080", "raglan.internal"] {
        assert_eq!(with(Method::GET, "/v1/jobs", &[("host", host)]).await.status, StatusCode::OK, "{host}");
    }
    for headers in [
        vec![("origin", "https://evil.example")],
        vec![("origin", "null")],
        vec![("origin", "http://localhost:3000")],
        vec![("sec-fetch-site", "cross-site")],
    ] {
        let answer = with(Method::POST, "/v1/queries", &headers).await;
        assert_eq!(answer.problem().0, "origin_not_allowed", "{headers:?}");
    }
    let socket = [("origin", "https://evil.example"), ("upgrade", "websocket")];
    assert_eq!(with(Method::GET, "/v1/ws", &socket).await.problem().0, "origin_not_allowed");
    for origin in ["http://localhost:8080", "https://app.example"] {
        let answer = with(Method::POST, "/v1/queries", &[("origin", origin)]).await;
        assert_eq!(answer.status, StatusCode::ACCEPTED, "{origin}");
    }
}

#[tokio::test]
async fn cors_only_for_the_origins_named() {
    let preflight = |origin| {
        let headers = [("origin", origin), ("access-control-request-method", "POST")];
        request(Method::OPTIONS, "/v1/queries", &headers, "")
    };
    let settings = ApiSettings { cors_origins: vec!["https://app.example".to_owned()], ..keys() };
    let world = World::with(settings);
    let allowed = world.send(preflight("https://app.example")).await;
    assert_eq!(allowed.header("access-control-allow-origin"), Some("https://app.example"));
    assert_eq!(
        world.send(preflight("https://evil.example")).await.header("access-control-allow-origin"),
        None
    );
    // A page must be able to read errors, too.
    let refused =
        world.send(request(Method::GET, "/v1/jobs", &[("origin", "https://app.example")], "")).await;
    assert_eq!(refused.header("access-control-allow-origin"), Some("https://app.example"));
    refused.problem();
    assert_eq!(
        World::new().send(preflight("https://app.example")).await.header("access-control-allow-origin"),
        None
    );
}

#[tokio::test]
async fn every_answer_has_a_request_id() {
    let world = World::new();
    for path in ["/healthz", "/v1/jobs", "/nothing", "/docs/"] {
        assert_eq!(world.get(path).await.header("x-request-id").unwrap().len(), 36, "{path}");
        let answer = world.send(request(Method::GET, path, &[("x-request-id", "mine-1")], "")).await;
        assert_eq!(answer.header("x-request-id"), Some("mine-1"), "{path}");
    }
}

#[tokio::test]
async fn health_pages_and_their_policies() {
    let world = World::new();
    assert_eq!(world.get("/healthz").await.json(), json!({"status": "ok"}));
    let ready = world.get("/readyz").await.json();
    assert_eq!(ready["parts"][0], json!({"name": "embedder", "state": "degraded", "detail": "missing"}));
    let page = world.get("/").await;
    let policy = page.header("content-security-policy").unwrap();
    assert!(policy.contains("script-src 'sha256-") && policy.contains("style-src 'sha256-"), "{policy}");
    let html = String::from_utf8(page.body).unwrap();
    assert_eq!(
        (html.matches("<script>").count(), html.matches("<style>").count()),
        (1, 1),
        "the policy knows one of each"
    );
    assert!(!html.contains(" style=") && !html.contains(" onclick="), "inline, so the policy would stop it");
    let docs = world.get("/docs").await;
    assert_eq!(docs.status, StatusCode::SEE_OTHER);
    let docs = world.get("/docs/").await;
    assert!(docs.header("content-security-policy").is_some());
    assert!(String::from_utf8(docs.body).unwrap().contains("swagger-ui"));
    let script = world.get("/docs/swagger-initializer.js").await;
    assert!(String::from_utf8(script.body).unwrap().contains("/openapi.json"));
}
