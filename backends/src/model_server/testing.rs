//! A model server of the tests: it answers as it is told to, and keeps what it was asked.

use std::{
    convert::Infallible,
    sync::{Arc, Mutex},
    task::Poll,
};

use axum::{
    Router,
    body::Body,
    extract::State,
    http::{HeaderMap, Response, Uri},
};
use bytes::Bytes;
use futures::StreamExt;
use raglan_pipeline::secret::Secret;
use serde_json::Value;
use tokio::{net::TcpListener, sync::oneshot};
use url::Url;

use super::ServerSettings;

/// The key that it is asked with.
pub(crate) const KEY: &str = "sk-very-secret-key";

/// What it was asked.
pub(crate) struct Asked {
    pub(crate) path: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Value,
}

type Answer = Box<dyn Fn(usize, &Value) -> Response<Body> + Send + Sync>;

/// Answers each request by its number, from 0, and its body.
pub(crate) struct TestServer {
    answer: Answer,
    asked: Mutex<Vec<Asked>>,
}

impl TestServer {
    /// Starts one at `http://…/v1`, with settings to reach it, which wait for nothing between tries.
    pub(crate) async fn start(
        answer: impl Fn(usize, &Value) -> Response<Body> + Send + Sync + 'static,
    ) -> (Arc<Self>, ServerSettings) {
        let server = Arc::new(Self { answer: Box::new(answer), asked: Mutex::default() });
        let handler = |State(server): State<Arc<Self>>, uri: Uri, headers: HeaderMap, body: String| async move {
            let body: Value = serde_json::from_str(&body).unwrap();
            let asked = Asked { path: uri.path().to_owned(), headers, body: body.clone() };
            let number = {
                let mut all = server.asked.lock().unwrap();
                all.push(asked);
                all.len() - 1
            };
            (server.answer)(number, &body)
        };
        let limit = axum::extract::DefaultBodyLimit::disable();
        let app = Router::new().fallback(handler).layer(limit).with_state(Arc::clone(&server));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/v1", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        let mut settings = ServerSettings::new(Url::parse(&url).unwrap());
        settings.api_key = Some(Secret::new(KEY));
        settings.tries.backoff.base = std::time::Duration::ZERO;
        (server, settings)
    }

    /// How often it was asked.
    pub(crate) fn requests(&self) -> usize {
        self.asked.lock().unwrap().len()
    }

    /// What it was asked since the last time.
    pub(crate) fn take(&self) -> Vec<Asked> {
        std::mem::take(&mut self.asked.lock().unwrap())
    }
}

/// An answer of this status.
pub(crate) fn respond(status: u16, headers: &[(&str, &str)], body: impl Into<Body>) -> Response<Body> {
    let mut response = Response::builder().status(status);
    for (name, value) in headers {
        response = response.header(*name, *value);
    }
    response.body(body.into()).unwrap()
}

/// A good answer.
pub(crate) fn json(body: &Value) -> Response<Body> {
    respond(200, &[("content-type", "application/json")], body.to_string())
}

/// A body that writes this and then nothing more, and tells when its connection is gone.
pub(crate) fn hanging(written: impl Into<Bytes>, gone: Option<oneshot::Sender<()>>) -> Body {
    struct Tell(Option<oneshot::Sender<()>>);
    impl Drop for Tell {
        fn drop(&mut self) {
            // Nobody may listen any more.
            let _ = self.0.take().map(|gone| gone.send(()));
        }
    }
    let (written, tell) = (futures::stream::iter([Ok(written.into())]), Tell(gone));
    let rest = futures::stream::poll_fn(move |_| {
        let _held = &tell;
        Poll::<Option<Result<Bytes, Infallible>>>::Pending
    });
    Body::from_stream(written.chain(rest))
}

/// A number from -1 to 1 that is always the same for the same text.
pub(crate) fn hashed(text: &str) -> f32 {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    (hasher.finish() % 2_000_001) as f32 / 1e6 - 1.0
}
