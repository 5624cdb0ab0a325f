use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
    sync::{Arc, OnceLock},
};

use axum::http::StatusCode;
use futures::{TryStreamExt, stream};
use raglan_pipeline::contract::blob_store as contract;
use tokio::net::TcpListener;
use uuid::Uuid;

use super::*;
use crate::test_servers;

/// A server on this machine. moto's, of `s3_server.py`, takes any credentials.
fn local_settings(port: u16) -> S3Settings {
    S3Settings {
        region: Some("us-east-1".to_owned()),
        endpoint: Some(Url::parse(&format!("http://127.0.0.1:{port}")).unwrap()),
        access_key: Some(Secret::new("AKIA-of-the-test")),
        secret_key: Some(Secret::new("secret-of-the-test")),
        allow_http: true,
        retries: 0,
        ..S3Settings::new("raglan")
    }
}

/// `http://access_key:secret_key@host:port/bucket`
fn settings_of(url: &str) -> S3Settings {
    let mut url = Url::parse(url).unwrap();
    let secret = |text: &str| (!text.is_empty()).then(|| Secret::new(text));
    let (access_key, secret_key) = (secret(url.username()), secret(url.password().unwrap_or_default()));
    let bucket = url.path().trim_matches('/').to_owned();
    url.set_username("").unwrap();
    url.set_password(None).unwrap();
    url.set_path("");
    S3Settings { endpoint: Some(url), access_key, secret_key, allow_http: true, ..S3Settings::new(bucket) }
}

/// Starts moto. It ends with this process, which holds the other end of its standard input.
fn start_moto() -> Result<(Child, u16), String> {
    let python = test_servers::python().ok_or("neither RAGLAN_TEST_S3_URL nor RAGLAN_TEST_PYTHON is set")?;
    let mut child = Command::new(&python)
        .args(["-c", include_str!("s3_server.py")])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| format!("{} cannot be started: {error}", python.display()))?;
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let port = line.trim().parse().map_err(|_| format!("{} says: {}", python.display(), line.trim()))?;
    Ok((child, port))
}

/// The storage to test with, and a prefix that is this test's own; none where there is no storage.
fn settings(test: &str) -> Option<S3Settings> {
    static MOTO: OnceLock<Result<(Child, u16), String>> = OnceLock::new();
    let settings = match test_servers::s3_url() {
        Some(url) => settings_of(&url),
        None => match MOTO.get_or_init(start_moto) {
            Ok((_, port)) => local_settings(*port),
            Err(reason) => {
                test_servers::skipped(test, reason);
                return None;
            }
        },
    };
    Some(S3Settings { prefix: Some(format!("raglan-test/{}", Uuid::new_v4())), ..settings })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keeps_the_contract() {
    let Some(settings) = settings("blob_store::s3::keeps_the_contract") else { return };
    contract::run_all(async || {
        let prefix = format!("{}/{}", settings.prefix.as_deref().unwrap(), Uuid::new_v4());
        let settings = S3Settings { prefix: Some(prefix), ..settings.clone() };
        Arc::new(S3BlobStore::open(&settings).unwrap()) as Arc<dyn BlobStore>
    })
    .await;
    let (parent, own) = settings.prefix.as_deref().unwrap().rsplit_once('/').unwrap();
    let all = S3Settings { prefix: Some(parent.to_owned()), ..settings.clone() };
    S3BlobStore::open(&all).unwrap().remove_all(own).await.unwrap();
}

#[tokio::test]
async fn a_folder_of_more_objects_than_one_answer_lists_is_removed_whole() {
    let Some(settings) = settings("blob_store::s3::a_folder_of_more_objects") else { return };
    let store = S3BlobStore::open(&settings).unwrap();
    store.check().await.unwrap();
    let puts = (0..1_050).map(|n| Ok(format!("jobs/1/{n}")));
    let put = |key: String| {
        let store = &store;
        async move { store.put(&key, Bytes::from_static(b"x")).await }
    };
    stream::iter(puts).try_for_each_concurrent(16, put).await.unwrap();
    store.put("jobs/2/0", Bytes::from_static(b"kept")).await.unwrap();
    store.remove_all("jobs/1").await.unwrap();
    for key in ["jobs/1/0", "jobs/1/999", "jobs/1/1000", "jobs/1/1049"] {
        assert_eq!(store.get(key).await.unwrap(), None, "{key}");
    }
    assert_eq!(store.get("jobs/2/0").await.unwrap().as_deref(), Some(b"kept".as_slice()));
    store.remove_all("jobs").await.unwrap();
}

#[tokio::test]
async fn a_missing_bucket_is_not_taken_for_a_missing_blob() {
    let Some(settings) = settings("blob_store::s3::a_missing_bucket") else { return };
    let settings = S3Settings { bucket: format!("raglan-missing-{}", Uuid::new_v4()), ..settings };
    let store = S3BlobStore::open(&settings).unwrap();
    for refused in [
        store.check().await.unwrap_err(),
        store.get("a").await.unwrap_err(),
        store.put("a", Bytes::new()).await.unwrap_err(),
        store.remove_all("a").await.unwrap_err(),
    ] {
        assert_eq!(refused.kind(), ErrorKind::Unavailable, "{refused}");
        assert!(refused.to_string().contains("NoSuchBucket"), "{refused}");
    }
}

#[tokio::test]
async fn what_does_not_answer_is_unavailable_or_late() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let settings = S3Settings { request_timeout: Duration::from_millis(200), ..local_settings(port) };
    let store = S3BlobStore::open(&settings).unwrap();
    // Its connections are taken by the system, and nobody reads from them.
    assert_eq!(store.get("a").await.unwrap_err().kind(), ErrorKind::Timeout);
    drop(listener);
    assert_eq!(store.put("a", Bytes::new()).await.unwrap_err().kind(), ErrorKind::Unavailable);
}

/// A server that answers everything with this, and its port.
async fn answering(status: StatusCode, body: &'static str) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let app = axum::Router::new().fallback(move || async move { (status, body) });
    tokio::spawn(async move { axum::serve(listener, app).await });
    port
}

#[tokio::test]
async fn refusals_are_told_without_the_credentials() {
    let body =
        "<Error><Code>SignatureDoesNotMatch</Code><AWSAccessKeyId>AKIA-of-the-test</AWSAccessKeyId></Error>";
    let store = S3BlobStore::open(&local_settings(answering(StatusCode::FORBIDDEN, body).await)).unwrap();
    let refused = store.check().await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Invalid);
    let words = format!("{refused} {refused:?} {store:?} {:?}", local_settings(1));
    assert!(words.contains("SignatureDoesNotMatch") && !words.contains("of-the-test"), "{words}");

    let busy = answering(StatusCode::SERVICE_UNAVAILABLE, "<Error><Code>SlowDown</Code></Error>").await;
    let error = S3BlobStore::open(&local_settings(busy)).unwrap().get("a").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
}

#[test]
fn settings_that_cannot_work_are_refused() {
    let good = local_settings(9);
    assert!(S3BlobStore::open(&good).is_ok());
    let ftp = Url::parse("ftp://127.0.0.1").ok();
    for (wrong, why) in [
        (S3Settings { bucket: String::new(), ..good.clone() }, "no name"),
        (S3Settings { allow_http: false, ..good.clone() }, "not encrypted"),
        (S3Settings { endpoint: ftp, ..good.clone() }, "ftp"),
        (S3Settings { secret_key: None, ..good.clone() }, "without its secret key"),
        (S3Settings { access_key: None, ..good.clone() }, "without its access key"),
        (S3Settings { prefix: Some("a//b".to_owned()), ..good.clone() }, "a//b"),
    ] {
        let refused = S3BlobStore::open(&wrong).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Invalid);
        assert!(refused.to_string().contains(why), "{refused}");
    }
}

#[tokio::test]
async fn a_name_that_is_too_long_is_refused() {
    let settings = S3Settings { prefix: Some("p".repeat(100)), ..local_settings(9) };
    let key = vec!["k".repeat(200); 5].join("/");
    let refused = S3BlobStore::open(&settings).unwrap().get(&key).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Invalid);
}
