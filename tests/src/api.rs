//! A client of the HTTP API that shows all of an answer.

use bytes::Bytes;
use reqwest::{
    Method, RequestBuilder, StatusCode,
    header::{HeaderMap, HeaderName},
};
use serde_json::Value;

use crate::{Sse, eventually, within};

/// An answer, whatever it says.
#[derive(Debug, Clone)]
pub struct Reply {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

impl Reply {
    /// The body as JSON.
    ///
    /// # Panics
    /// Where it is not.
    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("not JSON: {error}: {self:?}"))
    }

    /// The body as JSON, where the status is this.
    ///
    /// # Panics
    /// Where it is another.
    #[track_caller]
    pub fn expect(&self, status: u16) -> Value {
        assert_eq!(self.status.as_u16(), status, "{self:?}");
        if self.body.is_empty() { Value::Null } else { self.json() }
    }

    /// A header; empty where it is not there.
    #[must_use]
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }
}

/// Whether a job has ended.
#[must_use]
pub fn is_final(job: &Value) -> bool {
    matches!(job["status"].as_str(), Some("succeeded" | "failed" | "cancelled" | "expired"))
}

/// Talks to one server.
#[derive(Debug, Clone)]
pub struct Api {
    http: reqwest::Client,
    url: String,
    key: Option<String>,
}

impl Api {
    /// A client of this server.
    ///
    /// # Panics
    /// Where no client can be made.
    #[must_use]
    pub fn new(url: &str, key: Option<&str>) -> Self {
        let http = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build().unwrap();
        Self { http, url: url.to_owned(), key: key.map(ToOwned::to_owned) }
    }

    /// A request to a path.
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self.http.request(method, format!("{}{path}", self.url));
        match &self.key {
            Some(key) => request.bearer_auth(key),
            None => request,
        }
    }

    /// Sends a request and reads all of the answer.
    pub async fn send(&self, request: RequestBuilder) -> Reply {
        let exchange = async {
            let response = request.send().await?;
            let (status, headers) = (response.status(), response.headers().clone());
            Ok::<_, reqwest::Error>(Reply { status, headers, body: response.bytes().await? })
        };
        within("the answer to a request", exchange).await.unwrap_or_else(|error| panic!("{error:?}"))
    }

    /// GET.
    pub async fn get(&self, path: &str) -> Reply {
        self.send(self.request(Method::GET, path)).await
    }

    /// GET with a header.
    pub async fn get_with(&self, path: &str, name: &str, value: &str) -> Reply {
        self.send(self.request(Method::GET, path).header(header(name), value)).await
    }

    /// POST of JSON.
    pub async fn post(&self, path: &str, body: &Value) -> Reply {
        self.send(self.request(Method::POST, path).json(body)).await
    }

    /// POST of JSON with a header.
    pub async fn post_with(&self, path: &str, name: &str, value: &str, body: &Value) -> Reply {
        self.send(self.request(Method::POST, path).header(header(name), value).json(body)).await
    }

    /// DELETE.
    pub async fn delete(&self, path: &str) -> Reply {
        self.send(self.request(Method::DELETE, path)).await
    }

    /// Submits a question; the job as it was accepted.
    pub async fn ask(&self, body: &Value) -> Value {
        self.post("/v1/queries", body).await.expect(202)
    }

    /// A job as it is now.
    pub async fn job(&self, id: &str) -> Value {
        self.get(&format!("/v1/jobs/{id}")).await.expect(200)
    }

    /// A job when it has ended.
    pub async fn ended(&self, id: &str) -> Value {
        eventually(&format!("the end of job {id}"), async || {
            let reply = self.get(&format!("/v1/jobs/{id}?wait=20")).await;
            // A server that is full for a moment is asked again, as any client would.
            if reply.status == 503 && reply.headers.contains_key("retry-after") {
                return None;
            }
            let job = reply.expect(200);
            is_final(&job).then_some(job)
        })
        .await
    }

    /// A job when this holds for it.
    pub async fn job_when(&self, id: &str, holds: impl Fn(&Value) -> bool) -> Value {
        eventually(&format!("a state of job {id}"), async || {
            let job = self.job(id).await;
            holds(&job).then_some(job)
        })
        .await
    }

    /// Asks and waits for the end.
    pub async fn answer(&self, body: &Value) -> Value {
        let job = self.ask(body).await;
        self.ended(id_of(&job)).await
    }

    /// Takes documents in (one, or `{"documents": […]}`) and waits for the end, which must be a success; its result.
    ///
    /// # Panics
    /// Where the job does not succeed.
    pub async fn ingest(&self, body: &Value) -> Value {
        let job = self.post("/v1/documents", body).await.expect(202);
        let job = self.ended(id_of(&job)).await;
        assert_eq!(job["status"], "succeeded", "{job:#}");
        job["result"].clone()
    }

    /// What a search finds; the whole answer.
    pub async fn search(&self, body: &Value) -> Value {
        self.post("/v1/search", body).await.expect(200)
    }

    /// The document with this `external_id` in a collection.
    pub async fn document(&self, collection: &str, external_id: &str) -> Option<Value> {
        let request = self.request(Method::GET, "/v1/documents");
        let request = request.query(&[("collection", collection), ("external_id_prefix", external_id)]);
        let page = self.send(request).await.expect(200);
        page["documents"].as_array().unwrap().iter().find(|one| one["external_id"] == external_id).cloned()
    }

    /// Follows a job by Server-Sent Events from the one after `after`.
    pub async fn events(&self, id: &str, after: Option<u64>) -> Sse {
        let mut request = self.request(Method::GET, &format!("/v1/jobs/{id}/events"));
        if let Some(after) = after {
            request = request.header("last-event-id", after);
        }
        Sse::open(request).await
    }
}

/// The id of a job.
pub(crate) fn id_of(job: &Value) -> &str {
    job["job_id"].as_str().unwrap_or_else(|| panic!("not a job: {job:#}"))
}

fn header(name: &str) -> HeaderName {
    name.parse().unwrap()
}
