//! Signs webhooks as Standard Webhooks 1.0.0 says and sends them over HTTP.

use std::{error::Error as _, fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use ipnet::IpNet;
use raglan_pipeline::{
    ports::{WebhookError, WebhookRequest, WebhookResponse, WebhookSender},
    secret::Secret,
};
use reqwest::{Client, header::CONTENT_TYPE, redirect::Policy};
use standardwebhooks::{HEADER_WEBHOOK_ID, HEADER_WEBHOOK_SIGNATURE, HEADER_WEBHOOK_TIMESTAMP, Webhook};
use url::Url;

use super::address::{AddressGuard, GuardedResolver, Lookup, Refused, SystemLookup};
use crate::http_client::{USER_AGENT, describe, retry_after};

/// How webhooks are sent.
#[derive(Debug, Clone)]
pub struct SenderSettings {
    /// The signing secrets (`whsec_…`): one, or two while the old one is being replaced.
    pub secrets: Vec<Secret>,
    /// Address ranges that may be called although they are not public.
    pub allowed: Vec<IpNet>,
    /// When a receiver has had its time, from the name's resolution to the answer's headers.
    pub timeout: Duration,
}

impl SenderSettings {
    /// Signs with these secrets, calls public addresses only, and waits 15 s.
    #[must_use]
    pub fn new(secrets: Vec<Secret>) -> Self {
        Self { secrets, allowed: Vec::new(), timeout: Duration::from_secs(15) }
    }
}

/// Why a sender cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// None would leave receivers unable to tell a webhook from a forgery; more than two are no rotation.
    #[error("webhooks are signed with one secret or two, not {0}")]
    SecretCount(usize),
    /// The secret's number, from 1, and what is wrong with it.
    #[error("webhook secret {0} is not usable: {1}")]
    Secret(usize, &'static str),
    /// The HTTP client could not be built.
    #[error("the HTTP client for webhooks could not be built: {0}")]
    Client(String),
}

/// Sends webhooks. Redirects are answers like any other, proxies of the environment are not used, connections are not kept (each
/// is made to an address that was just checked), and nothing of the response but its status and `Retry-After` is read.
pub struct HttpWebhookSender {
    client: Client,
    signers: Vec<Webhook>,
    guard: AddressGuard,
}

impl HttpWebhookSender {
    /// Checks the settings and builds the client.
    ///
    /// # Errors
    /// [`SetupError`] with what is wrong with the settings.
    pub fn new(settings: SenderSettings) -> Result<Self, SetupError> {
        Self::with_lookup(settings, Arc::new(SystemLookup))
    }

    fn with_lookup(settings: SenderSettings, lookup: Arc<dyn Lookup>) -> Result<Self, SetupError> {
        if !(1..=2).contains(&settings.secrets.len()) {
            return Err(SetupError::SecretCount(settings.secrets.len()));
        }
        let signers = settings.secrets.iter().enumerate().map(|(index, secret)| signer(index + 1, secret));
        let signers = signers.collect::<Result<_, _>>()?;
        let guard = AddressGuard::new(settings.allowed);
        let client = Client::builder()
            .user_agent(USER_AGENT)
            .redirect(Policy::none())
            .no_proxy()
            .pool_max_idle_per_host(0)
            .timeout(settings.timeout)
            .dns_resolver(Arc::new(GuardedResolver { guard: guard.clone(), lookup }))
            .build()
            .map_err(|error| SetupError::Client(describe(error)))?;
        Ok(Self { client, signers, guard })
    }

    fn signatures(&self, request: &WebhookRequest) -> Result<String, WebhookError> {
        let sign = |signer: &Webhook| signer.sign(&request.id, request.timestamp, request.body.as_bytes());
        let signatures: Result<Vec<String>, _> = self.signers.iter().map(sign).collect();
        signatures
            .map(|signatures| signatures.join(" "))
            .map_err(|error| WebhookError::Failed(format!("it could not be signed: {error}")))
    }
}

impl fmt::Debug for HttpWebhookSender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpWebhookSender").field("guard", &self.guard).finish_non_exhaustive()
    }
}

/// Reads a secret: `whsec_` and 24 to 64 bytes in base64, as the standard wants.
fn signer(number: usize, secret: &Secret) -> Result<Webhook, SetupError> {
    use base64::{Engine, engine::general_purpose::STANDARD};
    let text = secret.expose().strip_prefix("whsec_").unwrap_or(secret.expose());
    let key =
        STANDARD.decode(text).map_err(|_| SetupError::Secret(number, "it is not base64 after whsec_"))?;
    if !(24..=64).contains(&key.len()) {
        return Err(SetupError::Secret(number, "it does not hold 24 to 64 bytes"));
    }
    Webhook::from_bytes(key).map_err(|_| SetupError::Secret(number, "it cannot be used as a key"))
}

#[async_trait]
impl WebhookSender for HttpWebhookSender {
    fn check(&self, url: &Url) -> Result<(), WebhookError> {
        Ok(self.guard.check_url(url)?)
    }

    async fn send(&self, request: &WebhookRequest) -> Result<WebhookResponse, WebhookError> {
        // A host that is an address is never resolved, so this is its only check.
        self.check(&request.url)?;
        let sent = self
            .client
            .post(request.url.clone())
            .header(CONTENT_TYPE, "application/json")
            .header(HEADER_WEBHOOK_ID, &request.id)
            .header(HEADER_WEBHOOK_TIMESTAMP, request.timestamp)
            .header(HEADER_WEBHOOK_SIGNATURE, self.signatures(request)?)
            .body(request.body.clone())
            .send()
            .await;
        match sent {
            Ok(response) => Ok(WebhookResponse {
                status: response.status().as_u16(),
                retry_after: retry_after(response.headers()),
            }),
            Err(error) => Err(failure(error)),
        }
    }
}

fn failure(error: reqwest::Error) -> WebhookError {
    let mut cause = error.source();
    while let Some(inner) = cause {
        if let Some(refused) = inner.downcast_ref::<Refused>() {
            return WebhookError::Forbidden(refused.to_string());
        }
        cause = inner.source();
    }
    if error.is_timeout() {
        return WebhookError::Failed("the receiver did not answer in time".to_owned());
    }
    WebhookError::Failed(describe(error))
}

#[cfg(test)]
mod tests {
    use std::{
        io,
        net::IpAddr,
        sync::{
            Mutex,
            atomic::{AtomicUsize, Ordering},
        },
    };

    use axum::{Router, body::Body, http::HeaderMap, http::StatusCode, routing::post};
    use tokio::{net::TcpListener, sync::mpsc};

    use super::*;

    const OLD: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    const NEW: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";

    /// A receiver on loopback. `/hook` reports what it got; the others answer as they are named.
    async fn receiver() -> (u16, mpsc::UnboundedReceiver<(HeaderMap, String)>) {
        let (sender, received) = mpsc::unbounded_channel();
        let seen = sender.clone();
        let app = Router::new()
            .route(
                "/hook",
                post(move |headers: HeaderMap, body: String| async move {
                    seen.send((headers, body)).unwrap();
                    StatusCode::NO_CONTENT
                }),
            )
            .route("/redirect", post(|| async { (StatusCode::FOUND, [("location", "/hook")]) }))
            .route("/busy", post(|| async { (StatusCode::SERVICE_UNAVAILABLE, [("retry-after", "30")]) }))
            .route("/silent", post(std::future::pending::<()>))
            .route(
                "/endless",
                post(|| async {
                    Body::from_stream(futures::stream::repeat_with(|| Ok::<_, io::Error>(vec![b'x'; 65_536])))
                }),
            );
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        (port, received)
    }

    fn settings(secrets: &[&str], allowed: &str) -> SenderSettings {
        let secrets = secrets.iter().map(|text| Secret::new(*text)).collect();
        SenderSettings { allowed: vec![allowed.parse().unwrap()], ..SenderSettings::new(secrets) }
    }

    fn request(url: &str) -> WebhookRequest {
        WebhookRequest {
            url: Url::parse(url).unwrap(),
            id: "msg_1".to_owned(),
            timestamp: chrono::Utc::now().timestamp(),
            body: r#"{"type":"job.succeeded","data":"é"}"#.to_owned(),
        }
    }

    #[tokio::test]
    async fn a_receiver_can_verify_it_with_either_secret_during_rotation() {
        let (port, mut received) = receiver().await;
        let sender = HttpWebhookSender::new(settings(&[NEW, OLD], "127.0.0.0/8")).unwrap();
        let request = request(&format!("http://127.0.0.1:{port}/hook"));
        let response = sender.send(&request).await.unwrap();
        assert_eq!(response, WebhookResponse { status: 204, retry_after: None });
        let (headers, body) = received.recv().await.unwrap();
        assert_eq!(body, request.body);
        assert_eq!(headers["content-type"], "application/json");
        assert_eq!(headers["webhook-id"], "msg_1");
        assert!(headers["user-agent"].to_str().unwrap().starts_with("raglan/"));
        for secret in [OLD, NEW] {
            Webhook::new(secret).unwrap().verify(body.as_bytes(), &headers).unwrap();
        }
        let other = Webhook::new("whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA").unwrap();
        assert!(other.verify(body.as_bytes(), &headers).is_err());
        assert!(Webhook::new(OLD).unwrap().verify(b"{}", &headers).is_err());
    }

    #[tokio::test]
    async fn redirects_are_not_followed_and_retry_after_is_read() {
        let (port, mut received) = receiver().await;
        let sender = HttpWebhookSender::new(settings(&[OLD], "127.0.0.0/8")).unwrap();
        let response = sender.send(&request(&format!("http://127.0.0.1:{port}/redirect"))).await.unwrap();
        assert_eq!(response.status, 302);
        assert!(received.try_recv().is_err(), "the redirect was followed");
        let response = sender.send(&request(&format!("http://127.0.0.1:{port}/busy"))).await.unwrap();
        assert_eq!(response, WebhookResponse { status: 503, retry_after: Some(Duration::from_secs(30)) });
    }

    #[tokio::test]
    async fn an_endless_body_is_not_read_and_a_silent_receiver_is_given_up() {
        let (port, _received) = receiver().await;
        let mut settings = settings(&[OLD], "127.0.0.0/8");
        let patient = HttpWebhookSender::new(settings.clone()).unwrap();
        let response = patient.send(&request(&format!("http://127.0.0.1:{port}/endless"))).await.unwrap();
        assert_eq!(response.status, 200);
        settings.timeout = Duration::from_millis(100);
        let hasty = HttpWebhookSender::new(settings).unwrap();
        let error = hasty.send(&request(&format!("http://127.0.0.1:{port}/silent"))).await.unwrap_err();
        assert_eq!(error, WebhookError::Failed("the receiver did not answer in time".to_owned()));
    }

    #[tokio::test]
    async fn a_closed_port_is_a_failure_that_may_pass() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let sender = HttpWebhookSender::new(settings(&[OLD], "127.0.0.0/8")).unwrap();
        let error =
            sender.send(&request(&format!("http://127.0.0.1:{port}/?token=hidden"))).await.unwrap_err();
        assert!(matches!(&error, WebhookError::Failed(words) if !words.contains("hidden")), "{error:?}");
    }

    /// Answers each lookup with the next address.
    struct Rebinding(Mutex<Vec<IpAddr>>, AtomicUsize);

    #[async_trait]
    impl Lookup for Rebinding {
        async fn lookup(&self, _host: &str) -> io::Result<Vec<IpAddr>> {
            self.1.fetch_add(1, Ordering::SeqCst);
            self.0.lock().unwrap().pop().map(|ip| vec![ip]).ok_or_else(|| io::Error::other("no such name"))
        }
    }

    #[tokio::test]
    async fn a_name_is_resolved_once_a_try_and_the_address_found_is_the_one_checked() {
        let (port, mut received) = receiver().await;
        // Only 127.0.0.1 may be called; the name turns to another address after the first try, then to two at a time.
        let addresses = vec!["127.0.0.2".parse().unwrap(), "127.0.0.1".parse().unwrap()];
        let lookup = Arc::new(Rebinding(Mutex::new(addresses), AtomicUsize::new(0)));
        let sender = HttpWebhookSender::with_lookup(
            settings(&[OLD], "127.0.0.1/32"),
            Arc::clone(&lookup) as Arc<dyn Lookup>,
        )
        .unwrap();
        let request = request(&format!("http://hooks.example.com:{port}/hook"));
        assert_eq!(sender.send(&request).await.unwrap().status, 204);
        assert!(received.recv().await.is_some());
        let error = sender.send(&request).await.unwrap_err();
        assert_eq!(error, WebhookError::Forbidden("127.0.0.2 is a loopback address".to_owned()));
        assert_eq!(lookup.1.load(Ordering::SeqCst), 2);
        let error = sender.send(&request).await.unwrap_err();
        assert!(matches!(&error, WebhookError::Failed(words) if words.contains("no such name")), "{error:?}");
        assert!(received.try_recv().is_err());
    }

    #[tokio::test]
    async fn a_name_with_one_bad_address_among_good_ones_is_refused() {
        struct Both;
        #[async_trait]
        impl Lookup for Both {
            async fn lookup(&self, _host: &str) -> io::Result<Vec<IpAddr>> {
                Ok(vec!["93.184.215.14".parse().unwrap(), "10.0.0.1".parse().unwrap()])
            }
        }
        let sender =
            HttpWebhookSender::with_lookup(SenderSettings::new(vec![Secret::new(OLD)]), Arc::new(Both))
                .unwrap();
        let error = sender.send(&request("https://hooks.example.com/")).await.unwrap_err();
        assert_eq!(error, WebhookError::Forbidden("10.0.0.1 is a private address".to_owned()));
        let error = sender.send(&request("http://[::1]/")).await.unwrap_err();
        assert!(matches!(error, WebhookError::Forbidden(_)), "{error:?}");
    }

    #[test]
    fn secrets_are_checked_and_never_printed() {
        let make = |secrets: &[&str]| HttpWebhookSender::new(settings(secrets, "10.0.0.0/8"));
        assert!(matches!(make(&[]), Err(SetupError::SecretCount(0))));
        assert!(matches!(make(&[OLD, OLD, NEW]), Err(SetupError::SecretCount(3))));
        for bad in ["whsec_c2hvcnQ=", "whsec_not base64 at all!"] {
            let error = make(&[OLD, bad]).unwrap_err();
            assert!(matches!(error, SetupError::Secret(2, _)));
            assert!(!error.to_string().contains(bad) && !format!("{error:?}").contains(bad));
        }
        let sender = make(&[OLD]).unwrap();
        assert!(!format!("{sender:?} {:?}", settings(&[OLD], "10.0.0.0/8")).contains("MfKQ9"));
    }
}
