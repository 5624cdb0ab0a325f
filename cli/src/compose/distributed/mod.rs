//! The distributed shape: processes over PostgreSQL, RabbitMQ, Redis and Qdrant.

mod servers;
mod vectors;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use anyhow::bail;
use raglan_backends::{
    broker::RabbitMqBroker,
    cache::RedisCache,
    coordination::PostgresCoordination,
    database::PostgresDatabase,
    delivery_store::PostgresDeliveryStore,
    document_store::PostgresDocumentStore,
    event_log::{RedisEventLog, RedisEventLogSettings},
    job_store::PostgresJobStore,
    redis_client::RedisClient,
    webhook_sender::{AddressCheck, HttpWebhookSender, SenderSettings},
};
use raglan_pipeline::{
    decorators::depth::RememberedDepth,
    lifecycle::Lifecycle,
    ports::{Coordination, DocumentStore, WebhookSender},
    replication::{Fleet, Replication, report},
    secret::Secret,
    submit::Submit,
    view::Views,
};
use raglan_workers::{Role, Running};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

pub use self::servers::Problems;
use self::{
    servers::{Servers, connect, postgres_settings, rabbitmq_settings, redis_settings},
    vectors::{Vectors, vectors},
};
use super::{
    Models,
    core::{self, Core, Metrics},
    folder::{Lock, slot},
    generators::generators,
    health::{Probe, ProcessHealth},
    indexes::Indexes,
};
use crate::config::Config;

/// How old the depth of a queue may be when a job is let in by it: asking RabbitMQ costs round trips.
const DEPTH_FRESH: Duration = Duration::from_millis(250);

/// What the caller brings.
pub struct DistributedParts {
    /// The settings.
    pub config: Config,
    /// The worker roles of this process.
    pub roles: Vec<Role>,
    /// Whether it serves the API.
    pub api: bool,
    /// Renders the metrics.
    pub metrics: Metrics,
}

/// A process of the distributed shape.
pub struct Distributed {
    /// The API, or health and metrics alone.
    pub router: raglan_api::Router,
    core: Core,
    /// Of a process that serves the API.
    submit: Option<Arc<Submit>>,
    roles: Vec<Role>,
    servers: Servers,
    replication: Option<Arc<Replication>>,
    workers: Option<Running>,
    stop_workers: CancellationToken,
    stop_replication: CancellationToken,
    /// What follows the log and tells the others.
    beside: JoinSet<()>,
    _slot: Option<Lock>,
}

impl Distributed {
    /// Connects and opens everything. `stop_api` ends waits and streams of the API. Work is taken from [`begin`](Self::begin) on.
    pub async fn start(parts: DistributedParts, stop_api: CancellationToken) -> anyhow::Result<Self> {
        let DistributedParts { config, roles, api, metrics } = parts;
        let searches = api || roles.iter().any(|role| matches!(role, Role::Retrieval | Role::Generation));
        let embeds = searches || roles.contains(&Role::Ingestion);
        let secrets = signing_secrets(&config, &roles);
        let own_folder = searches.then(|| slot(&config.data_dir)).transpose();
        let own_folder = own_folder.map_err(|error| format!("data_dir: {error:#}"));
        let wait_s = config.startup.wait_s;
        let models =
            async { if embeds { Models::load(&config.models, wait_s).await } else { Ok(Models::none()) } };
        let (servers, models) = tokio::join!(connect(&config), models);
        let own_problems = [secrets.as_ref().err(), own_folder.as_ref().err()];
        let (servers, models) = together(servers, models, own_problems)?;
        let vectors = vectors(&config, &models).await?;
        let generators = if roles.contains(&Role::Generation) {
            generators(&config, &models).await?
        } else {
            BTreeMap::new()
        };

        let instance = Uuid::now_v7();
        let coordination: Arc<dyn Coordination> =
            Arc::new(PostgresCoordination::new(servers.postgres.clone()));
        let documents: Arc<dyn DocumentStore> =
            Arc::new(PostgresDocumentStore::new(servers.postgres.clone()));
        let stop_replication = CancellationToken::new();
        let mut beside = JoinSet::new();

        let mut own = None;
        let mut lock = None;
        if let Some((folder, taken)) = own_folder.unwrap_or_default() {
            lock = Some(taken);
            let indexes = Indexes::open(&folder, &models, vectors.is_local()).await?;
            let replication =
                Replication::start(documents.clone(), indexes.replicas(), stop_replication.clone());
            beside.spawn(report(
                replication.clone(),
                coordination.clone(),
                instance,
                stop_replication.clone(),
            ));
            beside.spawn(follow_hints(
                servers.postgres.clone(),
                replication.clone(),
                stop_replication.clone(),
            ));
            let searched = vectors.searched(&indexes);
            let retriever = core::retriever(documents.clone(), &models, searched, indexes.keywords.clone());
            own = Some((replication, retriever));
        }
        let (replication, retriever) = own.unzip();
        vectors.spawn(&mut beside, &roles, &documents, &coordination, &stop_replication);

        let embedder = embeds.then(|| models.embedder.clone());
        let health = ProcessHealth::new(replication.clone(), documents.clone(), embedder)
            .with_servers(probes(&servers, &vectors));
        let core = Core {
            lifecycle: Arc::new(lifecycle(&config, &servers)),
            sender: sender(&config, secrets.unwrap_or_default())?,
            pipelines: core::pipelines(&config),
            searchers: Arc::new(Fleet::new(coordination, replication.clone(), vectors.shared())),
            documents,
            retriever: retriever.clone(),
            generators,
            models,
            config,
        };
        let mut submit = None;
        let router = match retriever.filter(|_| api) {
            Some(retriever) => {
                let door = submit.insert(core.submit()).clone();
                core.router(door, retriever, Arc::new(health), metrics, Vec::new(), stop_api)
            }
            None => raglan_api::operations_router(Arc::new(health), metrics, stop_api),
        };
        Ok(Self {
            router,
            core,
            submit,
            roles,
            servers,
            replication,
            workers: None,
            stop_workers: CancellationToken::new(),
            stop_replication,
            beside,
            _slot: lock,
        })
    }

    /// Waits until searches see all that the store holds, and takes work.
    pub async fn begin(&mut self) -> anyhow::Result<()> {
        if let Some(replication) = &self.replication {
            replication.caught_up().await;
        }
        if !self.roles.is_empty() {
            self.workers = Some(self.core.workers(&self.roles, &self.stop_workers));
        }
        Ok(())
    }

    /// Takes no more work, and waits until what was begun is done or handed back.
    pub async fn drain(&mut self) {
        self.stop_workers.cancel();
        if let Some(workers) = &mut self.workers {
            workers.join().await;
        }
    }

    /// Saves the indexes and leaves the servers. The API must answer no more, and the workers have been drained.
    pub async fn stop(mut self) {
        if let Some(submit) = &self.submit {
            submit.published().await;
        }
        self.stop_replication.cancel();
        if let Some(replication) = &self.replication {
            replication.join().await;
        }
        while self.beside.join_next().await.is_some() {}
        self.servers.broker.close().await;
        self.servers.postgres.close().await;
    }
}

/// Brings the tables up to date.
pub async fn migrate(config: &Config) -> anyhow::Result<()> {
    let settings = problem("postgres", postgres_settings(&config.postgres))?;
    Ok(PostgresDatabase::migrate(&settings).await?)
}

/// Removes everything that the processes of this configuration keep on the servers.
pub async fn destroy(config: &Config) -> anyhow::Result<()> {
    let postgres = problem("postgres", postgres_settings(&config.postgres))?;
    let rabbitmq = problem("rabbitmq", rabbitmq_settings(config))?;
    let redis = problem("redis", redis_settings(&config.redis))?;
    RabbitMqBroker::remove_queues(&rabbitmq).await?;
    RedisClient::new(&redis)?.remove_keys().await?;
    Ok(PostgresDatabase::drop_schema(&postgres).await?)
}

fn problem<T>(section: &str, settings: Result<T, String>) -> Result<T, Problems> {
    settings.map_err(|problem| Problems(vec![format!("{section}{problem}")]))
}

/// All problems of the start in one report: those with the servers, with the models, and with what this process has by itself.
fn together(
    servers: Result<Servers, Problems>,
    models: anyhow::Result<Models>,
    own: [Option<&String>; 2],
) -> anyhow::Result<(Servers, Models)> {
    let mut problems: Vec<String> = own.into_iter().flatten().cloned().collect();
    let servers = servers.map_err(|error| problems.extend(error.0)).ok();
    let models = models.map_err(|error| problems.push(format!("models: {error:#}"))).ok();
    match (servers, models) {
        (Some(servers), Some(models)) if problems.is_empty() => Ok((servers, models)),
        _ => bail!(Problems(problems)),
    }
}

/// The configured secrets. Every process that signs must have the same, so none is made up here.
fn signing_secrets(config: &Config, roles: &[Role]) -> Result<Vec<Secret>, String> {
    let configured = config.webhooks.signing_secrets.clone();
    if configured.is_empty() && roles.contains(&Role::Webhook) {
        return Err(
            "webhooks.signing_secrets: must be set, since every process that sends webhooks signs with it; \
                    `whsec_` and 32 random bytes in Base64 (openssl rand -base64 32)"
                .to_owned(),
        );
    }
    Ok(configured)
}

/// What sends webhooks, or where there is nothing to sign with, only checks their addresses.
fn sender(config: &Config, secrets: Vec<Secret>) -> anyhow::Result<Arc<dyn WebhookSender>> {
    let allowed = config.webhooks.allowed_ranges.clone();
    if secrets.is_empty() {
        return Ok(Arc::new(AddressCheck::new(allowed)));
    }
    Ok(Arc::new(HttpWebhookSender::new(SenderSettings { allowed, ..SenderSettings::new(secrets) })?))
}

fn lifecycle(config: &Config, servers: &Servers) -> Lifecycle {
    let retention = Duration::from_secs(config.jobs.retention_s);
    Lifecycle {
        jobs: Arc::new(PostgresJobStore::new(servers.postgres.clone(), retention)),
        deliveries: Arc::new(PostgresDeliveryStore::new(servers.postgres.clone())),
        broker: RememberedDepth::new(servers.broker.clone(), DEPTH_FRESH),
        events: RedisEventLog::new(
            servers.redis.clone(),
            RedisEventLogSettings {
                ttl: Duration::from_secs(config.jobs.events_ttl_s),
                ..RedisEventLogSettings::default()
            },
        ),
        cache: RedisCache::new(servers.redis.clone()),
        blobs: servers.blobs.clone(),
        views: Views::new(config.server.public_url.clone()),
        settings: core::lifecycle_settings(&config.jobs),
    }
}

fn probes(servers: &Servers, vectors: &Vectors) -> Vec<Probe> {
    let (broker, redis) = (servers.broker.clone(), servers.redis.clone());
    let mut probes = vec![
        Probe::new("rabbitmq", move || {
            let broker = broker.clone();
            async move { broker.check().await }
        }),
        Probe::new("redis", move || {
            let redis = redis.clone();
            async move { redis.check().await.map(|report| format!("{} {}", report.mode, report.version)) }
        }),
    ];
    probes.extend(vectors.probe());
    probes
}

/// Looks at the log at once when PostgreSQL says that it grew; the replicas look by themselves every now and then.
async fn follow_hints(postgres: PostgresDatabase, replication: Arc<Replication>, stop: CancellationToken) {
    use futures::StreamExt;
    let mut hints = std::pin::pin!(postgres.listen());
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            hint = hints.next() => match hint {
                Some(()) => replication.hint(),
                None => return,
            },
        }
    }
}
