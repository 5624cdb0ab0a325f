//! A receiver of webhooks.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
};

use axum::{
    Router,
    extract::State,
    http::{HeaderMap, StatusCode, Uri},
    response::IntoResponse,
};
use serde_json::Value;
use tokio::{net::TcpListener, sync::Notify, task::JoinHandle};

use crate::within;

/// A request that came.
#[derive(Debug, Clone)]
pub struct Webhook {
    /// The path.
    pub path: String,
    /// The headers, by lower-case name.
    pub headers: HeaderMap,
    /// The body, verbatim.
    pub body: String,
}

impl Webhook {
    /// A header.
    ///
    /// # Panics
    /// Where it is not there.
    #[must_use]
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).unwrap_or_else(|| panic!("no {name} in {self:?}")).to_str().unwrap()
    }

    /// The body as JSON.
    ///
    /// # Panics
    /// Where it is not.
    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }
}

/// What a receiver answers.
#[derive(Debug, Clone)]
pub struct Response {
    /// The status.
    pub status: u16,
    /// Headers.
    pub headers: Vec<(&'static str, String)>,
}

impl Response {
    /// Just a status.
    #[must_use]
    pub fn status(status: u16) -> Self {
        Self { status, headers: Vec::new() }
    }

    /// Adds a header.
    #[must_use]
    pub fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }
}

#[derive(Default)]
struct Shared {
    script: Mutex<VecDeque<Response>>,
    came: Mutex<Vec<Webhook>>,
    news: Notify,
}

/// A server that records what comes and answers from a script; `204` once the script is over.
pub struct Receiver {
    url: String,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

impl Receiver {
    /// Starts one on a free port of 127.0.0.1.
    ///
    /// # Panics
    /// Where it cannot listen.
    pub async fn start(script: impl IntoIterator<Item = Response>) -> Self {
        let shared =
            Arc::new(Shared { script: Mutex::new(script.into_iter().collect()), ..Shared::default() });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let router = Router::new().fallback(receive).with_state(shared.clone());
        let task = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { url, shared, task }
    }

    /// The address of a path.
    #[must_use]
    pub fn url(&self, path: &str) -> String {
        format!("{}{path}", self.url)
    }

    /// What has come so far.
    ///
    /// # Panics
    /// Where the receiver has panicked.
    #[must_use]
    pub fn received(&self) -> Vec<Webhook> {
        self.shared.came.lock().unwrap().clone()
    }

    /// Waits until so many have come; all that have.
    pub async fn wait_for(&self, count: usize) -> Vec<Webhook> {
        within(&format!("{count} webhooks"), async {
            loop {
                let news = self.shared.news.notified();
                let came = self.received();
                if came.len() >= count {
                    return came;
                }
                news.await;
            }
        })
        .await
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn receive(
    State(shared): State<Arc<Shared>>,
    uri: Uri,
    headers: HeaderMap,
    body: String,
) -> impl IntoResponse {
    let answer = shared.script.lock().unwrap().pop_front().unwrap_or_else(|| Response::status(204));
    shared.came.lock().unwrap().push(Webhook { path: uri.path().to_owned(), headers, body });
    // A permit is left for one that is about to wait.
    shared.news.notify_one();
    let mut response = StatusCode::from_u16(answer.status).unwrap().into_response();
    for (name, value) in answer.headers {
        response.headers_mut().insert(name, value.parse().unwrap());
    }
    response
}
