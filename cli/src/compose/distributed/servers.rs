//! The servers of the distributed shape: connected, checked, and what is wrong with them told all at once.

use std::{fmt, future::Future, sync::Arc, time::Duration};

use raglan_backends::{
    blob_store::{LocalBlobStore, S3BlobStore, S3Settings},
    broker::{RabbitMqBroker, RabbitMqSettings},
    database::{PostgresDatabase, PostgresSettings},
    redis_client::{RedisClient, RedisSettings},
};
use raglan_pipeline::{
    ports::{BlobStore, PortError, PortResult},
    secret::Secret,
};
use tokio::time::{Instant, sleep};
use tracing::{info, warn};

use super::super::core;
use crate::config::{self, Config};

/// What keeps a process from starting, all of it.
#[derive(Debug)]
pub struct Problems(pub Vec<String>);

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_slice() {
            [one] => f.write_str(one),
            all => {
                write!(f, "{} problems:", all.len())?;
                all.iter().try_for_each(|problem| write!(f, "\n  - {problem}"))
            }
        }
    }
}

impl std::error::Error for Problems {}

/// The servers, connected.
pub(super) struct Servers {
    pub postgres: PostgresDatabase,
    pub broker: Arc<RabbitMqBroker>,
    pub redis: Arc<RedisClient>,
    pub blobs: Arc<dyn BlobStore>,
}

/// Between two tries to reach a server that does not answer yet.
const AGAIN: Duration = Duration::from_millis(500);

/// Connects all servers at once.
///
/// # Errors
/// [`Problems`] with everything that is wrong: what is missing in the configuration, and every server that refuses or could not be reached in time.
pub(super) async fn connect(config: &Config) -> Result<Servers, Problems> {
    let deadline = Instant::now() + Duration::from_secs(config.startup.wait_s);
    let (postgres, broker, redis, blobs) = tokio::join!(
        named("postgres", postgres(config, deadline)),
        named("rabbitmq", broker(config, deadline)),
        named("redis", redis(config, deadline)),
        named("blobs", blobs(config, deadline)),
    );
    let mut problems = Vec::new();
    let (postgres, broker, redis, blobs) = (
        postgres.map_err(|problem| problems.push(problem)).ok(),
        broker.map_err(|problem| problems.push(problem)).ok(),
        redis.map_err(|problem| problems.push(problem)).ok(),
        blobs.map_err(|problem| problems.push(problem)).ok(),
    );
    match (postgres, broker, redis, blobs) {
        (Some(postgres), Some(broker), Some(redis), Some(blobs)) => {
            Ok(Servers { postgres, broker, redis, blobs })
        }
        _ => Err(Problems(problems)),
    }
}

/// Adds whose problem it is.
async fn named<T>(section: &str, connecting: impl Future<Output = Result<T, String>>) -> Result<T, String> {
    connecting.await.map_err(|problem| format!("{section}{problem}"))
}

/// Tries until it works, fails for good, or the time is up.
async fn patiently<T, F>(what: &str, deadline: Instant, mut connect: impl FnMut() -> F) -> Result<T, String>
where
    F: Future<Output = PortResult<T>>,
{
    let mut told = false;
    loop {
        let error: PortError = match connect().await {
            Ok(connected) => return Ok(connected),
            Err(error) => error,
        };
        if !error.is_transient() || Instant::now() + AGAIN >= deadline {
            return Err(format!(": {error}"));
        }
        if !told {
            info!(server = what, %error, "server does not answer yet; waiting for it");
            told = true;
        }
        sleep(AGAIN).await;
    }
}

fn given(url: &Option<Secret>) -> Result<Secret, String> {
    url.clone().ok_or_else(|| ".url: must be set; raglan serve is the shape that needs no servers".to_owned())
}

pub(super) fn postgres_settings(settings: &config::Postgres) -> Result<PostgresSettings, String> {
    Ok(PostgresSettings {
        replica_url: settings.read_url.clone(),
        schema: Some(settings.schema.clone()),
        pool_size: settings.connections,
        ..PostgresSettings::new(given(&settings.url)?)
    })
}

async fn postgres(config: &Config, deadline: Instant) -> Result<PostgresDatabase, String> {
    let settings = postgres_settings(&config.postgres)?;
    let migrate = config.postgres.migrate;
    patiently("postgres", deadline, || async {
        if migrate {
            return PostgresDatabase::open(settings.clone()).await;
        }
        let database = PostgresDatabase::connect(settings.clone()).await?;
        database.check_migrated().await?;
        Ok(database)
    })
    .await
}

pub(super) fn rabbitmq_settings(config: &Config) -> Result<RabbitMqSettings, String> {
    Ok(RabbitMqSettings {
        prefix: format!("{}.", config.rabbitmq.prefix),
        lanes: config.rabbitmq.lanes,
        capacity: core::queue_capacity(config),
        max_attempts: core::most_deliveries(config),
        // A message is kept for as long as its job is worked on.
        consumer_timeout: Duration::from_secs(config.jobs.max_deadline_s + 3_600),
        url: given(&config.rabbitmq.url)?,
        ..RabbitMqSettings::default()
    })
}

async fn broker(config: &Config, deadline: Instant) -> Result<Arc<RabbitMqBroker>, String> {
    let settings = rabbitmq_settings(config)?;
    patiently("rabbitmq", deadline, || RabbitMqBroker::connect(settings.clone())).await
}

pub(super) fn redis_settings(settings: &config::Redis) -> Result<RedisSettings, String> {
    Ok(RedisSettings {
        prefix: settings.prefix.clone(),
        connections: settings.connections,
        url: given(&settings.url)?,
        ..RedisSettings::default()
    })
}

async fn redis(config: &Config, deadline: Instant) -> Result<Arc<RedisClient>, String> {
    let client = RedisClient::new(&redis_settings(&config.redis)?).map_err(|error| format!(": {error}"))?;
    let report = patiently("redis", deadline, || client.check()).await?;
    for concern in report.concerns() {
        warn!(concern, "redis is not set up as it should be");
    }
    Ok(client)
}

async fn blobs(config: &Config, deadline: Instant) -> Result<Arc<dyn BlobStore>, String> {
    let Some(s3) = &config.blobs.s3 else {
        let path = config.blobs.path.clone().unwrap_or_else(|| config.data_dir.join("blobs"));
        let store = LocalBlobStore::open(path).await.map_err(|error| format!(".path: {error}"))?;
        return Ok(Arc::new(store));
    };
    let settings = S3Settings {
        prefix: s3.prefix.clone(),
        region: s3.region.clone(),
        endpoint: s3.endpoint.clone(),
        access_key: s3.access_key.clone(),
        secret_key: s3.secret_key.clone(),
        allow_http: s3.endpoint.as_ref().is_some_and(|endpoint| endpoint.scheme() == "http"),
        ..S3Settings::new(s3.bucket.clone())
    };
    let store = S3BlobStore::open(&settings).map_err(|error| format!(".s3: {error}"))?;
    patiently("blobs", deadline, || store.check()).await.map_err(|error| format!(".s3{error}"))?;
    Ok(Arc::new(store))
}
