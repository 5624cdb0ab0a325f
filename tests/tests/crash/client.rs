//! A client that outlives its server: whatever fails because the process died is tried again once there is another.

use std::time::Duration;

use raglan_tests::within;
use reqwest::{RequestBuilder, StatusCode, redirect::Policy};
use serde_json::Value;
use tokio::sync::watch;

/// Between two tries against a server that does not answer, as any client would wait.
const BACK_OFF: Duration = Duration::from_millis(10);

/// Talks to whichever process serves at the moment.
#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    address: watch::Receiver<Option<String>>,
}

impl Client {
    pub fn new(address: watch::Receiver<Option<String>>) -> Self {
        Self { http: reqwest::Client::builder().redirect(Policy::none()).build().unwrap(), address }
    }

    /// One try. None where the process was not there, or died before it had answered.
    pub async fn try_send(
        &self,
        build: impl FnOnce(&reqwest::Client, &str) -> RequestBuilder,
    ) -> Option<(StatusCode, Value)> {
        let url = self.address.borrow().clone()?;
        let response = build(&self.http, &url).send().await.ok()?;
        let status = response.status();
        // Another server that it needs is away; it says so, and asks to be tried again.
        if status == StatusCode::SERVICE_UNAVAILABLE {
            return None;
        }
        let body = response.bytes().await.ok()?;
        let body =
            serde_json::from_slice(&body).unwrap_or_else(|error| panic!("{status}: {error}: {body:?}"));
        Some((status, body))
    }

    /// Tries until there is an answer. How many tries were cut off, too.
    pub async fn send(
        &self,
        build: impl Fn(&reqwest::Client, &str) -> RequestBuilder,
    ) -> (StatusCode, Value, usize) {
        within("an answer of one of the processes", async {
            let mut cut_off = 0;
            loop {
                let there = self.address.borrow().is_some();
                if let Some((status, body)) = self.try_send(&build).await {
                    return (status, body, cut_off);
                }
                cut_off += usize::from(there);
                tokio::time::sleep(BACK_OFF).await;
            }
        })
        .await
    }

    /// GET, which must be answered with 200.
    pub async fn get(&self, path: &str) -> Value {
        let (status, body, _) = self.send(|http, url| http.get(format!("{url}{path}"))).await;
        assert_eq!(status, 200, "{path}: {body:#}");
        body
    }
}
