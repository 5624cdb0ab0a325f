//! The API over fakes, and what tests do with it.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use axum::{
    Router,
    body::Body,
    http::{HeaderMap, Method, Request, Response, StatusCode, header},
};
use http_body_util::BodyExt;
use raglan_api::{ApiParts, ApiSettings, Health, HealthReport, PartHealth, PartState, Visibility, router};
use raglan_pipeline::{
    domain::*,
    follow::Follow,
    lifecycle::{Lifecycle, LifecycleSettings},
    pipelines::{IndexingPipeline, Pipelines, QueryPipeline},
    ports::*,
    retrieval::{EmbedderSlot, Retriever, RetrieverParts},
    submit::{Submit, SubmitSettings},
    view::Views,
};
use serde_json::Value;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use crate::{fake_documents::*, fakes::*};

/// The API with everything behind it.
pub struct World {
    pub router: Router,
    pub submit: Arc<Submit>,
    pub lifecycle: Arc<Lifecycle>,
    pub jobs: Arc<Jobs>,
    pub queues: Arc<Queues>,
    pub blobs: Arc<Blobs>,
    pub deliveries: Arc<Deliveries>,
    pub documents: Arc<Documents>,
    pub shutdown: CancellationToken,
    /// Makes `GET /metrics` panic.
    pub panics: Arc<AtomicBool>,
}

struct Now;

#[async_trait]
impl Visibility for Now {
    async fn wait_for(&self, _: LogPosition) -> PortResult<()> {
        Ok(())
    }
}

#[async_trait]
impl Health for Now {
    async fn report(&self) -> HealthReport {
        let part = PartHealth {
            name: "embedder".to_owned(),
            state: PartState::Degraded,
            detail: "missing".to_owned(),
        };
        HealthReport { ready: true, parts: vec![part] }
    }
}

/// What came back.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&self.body)))
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    /// The code and field of a problem, which it must be, whole and true to its status.
    #[track_caller]
    pub fn problem(&self) -> (String, Option<String>) {
        assert_eq!(self.header("content-type"), Some("application/problem+json"), "{self:?}");
        let body = self.json();
        assert_eq!(body["status"], self.status.as_u16());
        assert_eq!(body["request_id"].as_str(), self.header("x-request-id"));
        assert!(!body["title"].as_str().unwrap().is_empty() && !body["detail"].as_str().unwrap().is_empty());
        let code = body["code"].as_str().unwrap().to_owned();
        assert_eq!(body["type"], format!("urn:raglan:problem:{code}"));
        (code, body["field"].as_str().map(ToOwned::to_owned))
    }
}

impl World {
    pub fn new() -> Self {
        Self::with(ApiSettings::default())
    }

    pub fn with(settings: ApiSettings) -> Self {
        let jobs = Arc::new(Jobs::default());
        let events = Arc::new(EventsHandle::default());
        let queues = Arc::new(Queues::default());
        let blobs = Arc::new(Blobs::default());
        let deliveries = Arc::new(Deliveries::default());
        let documents = Arc::new(Documents::default());
        let views = Views::default();
        let lifecycle = Arc::new(Lifecycle {
            jobs: jobs.clone(),
            deliveries: deliveries.clone(),
            broker: queues.clone(),
            events: events.clone(),
            cache: Arc::new(Values::default()),
            blobs: blobs.clone(),
            views: views.clone(),
            settings: LifecycleSettings::default(),
        });
        let query: QueryPipeline = serde_json::from_value(serde_json::json!({"name": "default"})).unwrap();
        let indexing: IndexingPipeline =
            serde_json::from_value(serde_json::json!({"name": "default"})).unwrap();
        let pipelines = Arc::new(Pipelines {
            query: BTreeMap::from([(query.name.clone(), query)]),
            indexing: BTreeMap::from([(indexing.name.clone(), indexing)]),
        });
        let submit = Arc::new(Submit::new(
            lifecycle.clone(),
            pipelines.clone(),
            Arc::new(Webhooks),
            SubmitSettings { max_waiting: 10, ..SubmitSettings::default() },
        ));
        let retriever = Retriever::new(RetrieverParts {
            documents: documents.clone(),
            embedder: EmbedderSlot::Off,
            vectors: None,
            keywords: Arc::new(Words(documents.clone())),
            reranker: None,
            side_timeout: Duration::from_secs(5),
        });
        let shutdown = CancellationToken::new();
        let panics = Arc::new(AtomicBool::new(false));
        let router = router(ApiParts {
            submit: submit.clone(),
            follow: Follow::new(jobs.clone(), events, views),
            lifecycle: lifecycle.clone(),
            retriever: Arc::new(retriever),
            documents: documents.clone(),
            pipelines,
            visibility: Arc::new(Now),
            health: Arc::new(Now),
            metrics: {
                let panics = panics.clone();
                Arc::new(move || {
                    assert!(!panics.load(Ordering::Relaxed), "a secret cause");
                    "raglan_up 1\n".to_owned()
                })
            },
            settings,
            shutdown: shutdown.clone(),
        });
        Self { router, submit, lifecycle, jobs, queues, blobs, deliveries, documents, shutdown, panics }
    }

    /// Follows the same jobs as the API, and has seen none of them accepted.
    pub fn follow(&self) -> Follow {
        let Lifecycle { jobs, events, views, .. } = &*self.lifecycle;
        Follow::new(jobs.clone(), events.clone(), views.clone())
    }

    /// Sends a request; the response with its body still to come.
    pub async fn open(&self, mut request: Request<Body>) -> Response<Body> {
        request.headers_mut().entry(header::HOST).or_insert("localhost:8080".parse().unwrap());
        self.router.clone().oneshot(request).await.unwrap()
    }

    /// Sends a request.
    pub async fn send(&self, request: Request<Body>) -> Answer {
        let (parts, body) = self.open(request).await.into_parts();
        let body = body.collect().await.unwrap().to_bytes().to_vec();
        Answer { status: parts.status, headers: parts.headers, body }
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.send(request(Method::GET, path, &[], "")).await
    }

    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        self.post_with(path, body, &[]).await
    }

    pub async fn post_with(&self, path: &str, body: &Value, headers: &[(&str, &str)]) -> Answer {
        let headers = [&[("content-type", "application/json")], headers].concat();
        self.send(request(Method::POST, path, &headers, body.to_string())).await
    }

    pub async fn delete(&self, path: &str) -> Answer {
        self.send(request(Method::DELETE, path, &[], "")).await
    }

    /// Submits a question; its id.
    pub async fn ask(&self) -> JobId {
        let answer = self.post("/v1/queries", &serde_json::json!({"query": "why?"})).await;
        assert_eq!(answer.status, StatusCode::ACCEPTED, "{answer:?}");
        answer.json()["job_id"].as_str().unwrap().parse().unwrap()
    }

    /// Takes a job to the end, as workers would.
    pub async fn finish(&self, id: JobId, text: &str) {
        let lifecycle = &self.lifecycle;
        let lease = Duration::from_secs(30);
        let Taken::Yes(job) = self.jobs.take(id, Stage::Retrieval, lease).await.unwrap() else { panic!() };
        lifecycle.announce(&job, EventType::Retrieving, Value::Null).await;
        let outcome = Outcome::Advance { to: Stage::Generation, due_at: now(), took_ms: 3 };
        assert!(lifecycle.finish(&job, outcome, Vec::new()).await.unwrap());
        let Taken::Yes(job) = self.jobs.take(id, Stage::Generation, lease).await.unwrap() else { panic!() };
        lifecycle.announce(&job, EventType::Generating, Value::Null).await;
        for piece in text.split_inclusive(' ') {
            lifecycle.announce(&job, EventType::AnswerDelta, serde_json::json!({"text": piece})).await;
        }
        let result = QueryResult {
            answer: text.to_owned(),
            found: true,
            citations: Vec::new(),
            usage: Usage::default(),
            model: "fake".to_owned(),
            finish_reason: FinishReason::Stop,
            index_generation: "1".to_owned(),
            cached: false,
            degraded: Vec::new(),
        };
        let outcome = Outcome::Succeed { result: Box::new(JobResult::Query(result)), took_ms: Some(5) };
        assert!(lifecycle.finish(&job, outcome, Vec::new()).await.unwrap());
    }

    /// Serves on a port of this machine, until the test ends.
    pub async fn serve(&self) -> std::net::SocketAddr {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = self.router.clone();
        tokio::spawn(async move { axum::serve(listener, router).await });
        address
    }
}

pub fn request(method: Method, path: &str, headers: &[(&str, &str)], body: impl Into<Body>) -> Request<Body> {
    let mut request = Request::builder().method(method).uri(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(body.into()).unwrap()
}
