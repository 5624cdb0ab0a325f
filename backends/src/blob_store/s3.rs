//! Blobs as objects of S3-compatible storage.

mod error;

use std::{fmt, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use object_store::{
    ClientOptions, Error, ObjectStore, ObjectStoreExt, PutPayload, RetryConfig,
    aws::{AmazonS3, AmazonS3Builder},
    list::{PaginatedListOptions, PaginatedListStore},
    path::Path,
};
use raglan_pipeline::{
    ports::{BlobStore, ErrorKind, PortError, PortResult},
    secret::Secret,
};
use url::Url;

use self::error::{Teller, bucket_is_missing};
use super::key;

/// The most bytes of an object's name in S3.
const LONGEST_NAME: usize = 1024;

/// Where the objects are, and how long to try.
#[derive(Debug, Clone)]
pub struct S3Settings {
    /// The bucket; it must exist.
    pub bucket: String,
    /// What the names of all objects begin with, as a folder: parts of letters, digits and `._-` with `/` between them.
    pub prefix: Option<String>,
    /// The region; none is that of the environment, else `us-east-1`.
    pub region: Option<String>,
    /// The server, where it is not Amazon's. With [`virtual_hosts`](Self::virtual_hosts) its host begins with the bucket's name already.
    pub endpoint: Option<Url>,
    /// With [`secret_key`](Self::secret_key), who we are. Without both, the usual environment says: the `AWS_*` variables, a web identity, or the
    /// machine's or container's role.
    pub access_key: Option<Secret>,
    /// See [`access_key`](Self::access_key).
    pub secret_key: Option<Secret>,
    /// For credentials that expire.
    pub session_token: Option<Secret>,
    /// The bucket is named by the host and not by the path. Amazon takes both; most other servers only the path.
    pub virtual_hosts: bool,
    /// Whether the endpoint may be `http`, where everyone on the way reads along.
    pub allow_http: bool,
    /// How long connecting may take.
    pub connect_timeout: Duration,
    /// How long one request may take, its body included.
    pub request_timeout: Duration,
    /// How often a request that failed in passing is made again.
    pub retries: usize,
    /// No request is made again after this time.
    pub retry_timeout: Duration,
}

impl S3Settings {
    /// A bucket of Amazon's with credentials from the environment.
    #[must_use]
    pub fn new(bucket: impl Into<String>) -> Self {
        Self {
            bucket: bucket.into(),
            prefix: None,
            region: None,
            endpoint: None,
            access_key: None,
            secret_key: None,
            session_token: None,
            virtual_hosts: false,
            allow_http: false,
            connect_timeout: Duration::from_secs(5),
            request_timeout: Duration::from_secs(120),
            retries: 4,
            retry_timeout: Duration::from_secs(30),
        }
    }

    fn check(&self) -> PortResult<()> {
        let invalid = |message: String| Err(PortError::new(ErrorKind::Invalid, message));
        if self.bucket.is_empty() {
            return invalid("the bucket has no name".to_owned());
        }
        if let Some(endpoint) = &self.endpoint {
            match endpoint.scheme() {
                "https" => {}
                "http" if self.allow_http => {}
                "http" => return invalid(format!("{endpoint} is not encrypted: allow http, or use https")),
                other => return invalid(format!("the endpoint begins with https or http, not {other}")),
            }
        }
        match (&self.access_key, &self.secret_key) {
            (Some(_), None) => invalid("there is an access key without its secret key".to_owned()),
            (None, Some(_)) => invalid("there is a secret key without its access key".to_owned()),
            _ => Ok(()),
        }
    }

    fn builder(&self) -> AmazonS3Builder {
        let mut builder = match (&self.access_key, &self.secret_key) {
            (Some(access_key), Some(secret_key)) => AmazonS3Builder::new()
                .with_access_key_id(access_key.expose())
                .with_secret_access_key(secret_key.expose()),
            _ => AmazonS3Builder::from_env(),
        };
        if let Some(token) = &self.session_token {
            builder = builder.with_token(token.expose());
        }
        if let Some(region) = &self.region {
            builder = builder.with_region(region);
        }
        if let Some(endpoint) = &self.endpoint {
            builder = builder.with_endpoint(endpoint.as_str().trim_end_matches('/'));
        }
        let options = ClientOptions::new()
            .with_connect_timeout(self.connect_timeout)
            .with_timeout(self.request_timeout)
            .with_allow_http(self.allow_http);
        let retry = RetryConfig {
            max_retries: self.retries,
            retry_timeout: self.retry_timeout,
            ..RetryConfig::default()
        };
        builder
            .with_bucket_name(&self.bucket)
            .with_virtual_hosted_style_request(self.virtual_hosts)
            .with_client_options(options)
            .with_retry(retry)
    }
}

/// Blobs as objects of one bucket.
///
/// An object is stored by one request, which takes effect as a whole and is durable when it is answered: that is S3's own promise.
pub struct S3BlobStore {
    store: AmazonS3,
    prefix: Option<String>,
    teller: Teller,
}

impl fmt::Debug for S3BlobStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "S3BlobStore({})", self.store)
    }
}

impl S3BlobStore {
    /// A store of these settings. Nothing is asked of the server yet: see [`check`](Self::check).
    ///
    /// # Errors
    /// `Invalid` with what is wrong with the settings.
    pub fn open(settings: &S3Settings) -> PortResult<Self> {
        settings.check()?;
        if let Some(prefix) = &settings.prefix {
            key::check(prefix)?;
        }
        let teller = Teller::new(settings);
        let store = settings.builder().build().map_err(|error| {
            PortError::new(ErrorKind::Invalid, teller.words("blob store cannot be used", &error))
        })?;
        Ok(Self { store, prefix: settings.prefix.clone(), teller })
    }

    /// Asks whether the bucket can be read.
    ///
    /// # Errors
    /// `Invalid` when the server refuses the credentials, `Unavailable` when it cannot be reached or there is no such bucket.
    pub async fn check(&self) -> PortResult<()> {
        let prefix = self.prefix.as_ref().map(|prefix| format!("{prefix}/"));
        let one = PaginatedListOptions { max_keys: Some(1), ..PaginatedListOptions::default() };
        self.store
            .list_paginated(prefix.as_deref(), one)
            .await
            .map(drop)
            .map_err(|error| self.teller.error("list", &error))
    }

    fn name(&self, key: &str) -> PortResult<Path> {
        key::check(key)?;
        let name = match &self.prefix {
            Some(prefix) => format!("{prefix}/{key}"),
            None => key.to_owned(),
        };
        if name.len() > LONGEST_NAME {
            return Err(PortError::new(
                ErrorKind::Invalid,
                format!(
                    "an object's name has at most {LONGEST_NAME} bytes, this one would have {}",
                    name.len()
                ),
            ));
        }
        Path::parse(&name).map_err(|error| {
            PortError::new(ErrorKind::Invalid, "the blob's key is no object's name").with_source(error)
        })
    }
}

#[async_trait]
impl BlobStore for S3BlobStore {
    async fn put(&self, key: &str, data: Bytes) -> PortResult<()> {
        let name = self.name(key)?;
        let put = self.store.put(&name, PutPayload::from_bytes(data)).await;
        put.map(drop).map_err(|error| self.teller.error("write", &error))
    }

    async fn get(&self, key: &str) -> PortResult<Option<Bytes>> {
        let name = self.name(key)?;
        let read = async { self.store.get(&name).await?.bytes().await };
        match read.await {
            Ok(data) => Ok(Some(data)),
            Err(error @ Error::NotFound { .. }) if !bucket_is_missing(&error) => Ok(None),
            Err(error) => Err(self.teller.error("read", &error)),
        }
    }

    async fn remove(&self, key: &str) -> PortResult<()> {
        let name = self.name(key)?;
        match self.store.delete(&name).await {
            Ok(()) => Ok(()),
            Err(error @ Error::NotFound { .. }) if !bucket_is_missing(&error) => Ok(()),
            Err(error) => Err(self.teller.error("remove", &error)),
        }
    }

    async fn remove_all(&self, prefix: &str) -> PortResult<()> {
        let folder = self.name(prefix)?;
        let names = self.store.list(Some(&folder)).map_ok(|object| object.location).boxed();
        let removed = self.store.delete_stream(names).try_for_each(|_| async { Ok(()) });
        removed.await.map_err(|error| self.teller.error("remove", &error))
    }
}

#[cfg(test)]
mod tests;
