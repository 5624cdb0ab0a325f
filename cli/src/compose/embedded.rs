//! The embedded shape: everything in one process, with nothing beside it.

use std::{sync::Arc, time::Duration};

use raglan_api::ApiKey;
use raglan_backends::{
    blob_store::LocalBlobStore,
    broker::{BrokerSettings, InProcessBroker},
    cache::InProcessCache,
    database::SqliteDatabase,
    delivery_store::SqliteDeliveryStore,
    document_store::SqliteDocumentStore,
    event_log::{EventLogSettings, InProcessEventLog},
    job_store::SqliteJobStore,
    webhook_sender::{HttpWebhookSender, SenderSettings},
};
use raglan_pipeline::{
    lifecycle::Lifecycle,
    ports::{DeliveryStore, DocumentStore, JobStore},
    replication::Replication,
    submit::Submit,
    view::Views,
};
use raglan_workers::{Role, Running};
use tokio_util::sync::CancellationToken;
use tracing::info;

use super::{
    Models,
    core::{self, Core, Metrics},
    folder::{Lock, lock},
    generators::generators,
    health::ProcessHealth,
    indexes::Indexes,
    secrets::signing_secrets,
};
use crate::config::Config;

/// What the caller brings.
pub struct EmbeddedParts {
    /// The settings.
    pub config: Config,
    /// The models, loaded.
    pub models: Models,
    /// Further keys that open the API, for the process's own use.
    pub own_keys: Vec<ApiKey>,
    /// Renders the metrics.
    pub metrics: Metrics,
}

/// Everything in one process, running.
pub struct Embedded {
    /// The API.
    pub router: raglan_api::Router,
    submit: Arc<Submit>,
    database: SqliteDatabase,
    replication: Arc<Replication>,
    workers: Running,
    stop_workers: CancellationToken,
    stop_replication: CancellationToken,
    _lock: Lock,
}

impl Embedded {
    /// Opens everything and starts the roles. `stop_api` ends waits and streams of the API.
    pub async fn start(parts: EmbeddedParts, stop_api: CancellationToken) -> anyhow::Result<Self> {
        let EmbeddedParts { config, models, own_keys, metrics } = parts;
        let lock = lock(&config.data_dir)?;
        let generators = generators(&config, &models).await?;
        let data = &config.data_dir;
        let database = SqliteDatabase::open(&data.join("raglan.db")).await?;
        let jobs =
            Arc::new(SqliteJobStore::new(database.clone(), Duration::from_secs(config.jobs.retention_s)));
        let documents: Arc<dyn DocumentStore> = Arc::new(SqliteDocumentStore::new(database.clone()));
        let recovered = jobs.recover().await?;
        if recovered > 0 {
            info!(jobs = recovered, "unfinished jobs of the last run go on");
        }
        SqliteDeliveryStore::new(database.clone()).recover().await?;

        let stop_replication = CancellationToken::new();
        let indexes = Indexes::open(&data.join("index"), &models, true).await?;
        let replication = Replication::start(documents.clone(), indexes.replicas(), stop_replication.clone());
        let retriever =
            core::retriever(documents.clone(), &models, indexes.vectors.clone(), indexes.keywords.clone());
        let health =
            ProcessHealth::new(Some(replication.clone()), documents.clone(), Some(models.embedder.clone()));
        let core = Core {
            lifecycle: Arc::new(lifecycle(&config, jobs, &database).await?),
            sender: Arc::new(HttpWebhookSender::new(SenderSettings {
                allowed: config.webhooks.allowed_ranges.clone(),
                ..SenderSettings::new(signing_secrets(&config.webhooks.signing_secrets, data)?)
            })?),
            pipelines: core::pipelines(&config),
            documents,
            retriever: Some(retriever.clone()),
            searchers: replication.clone(),
            generators,
            models,
            config,
        };
        let stop_workers = CancellationToken::new();
        let workers = core.workers(&Role::ALL, &stop_workers);
        let submit = core.submit();
        let router = core.router(submit.clone(), retriever, Arc::new(health), metrics, own_keys, stop_api);
        Ok(Self {
            router,
            submit,
            database,
            replication,
            workers,
            stop_workers,
            stop_replication,
            _lock: lock,
        })
    }

    /// Waits until searches see all that the store holds, which they do not while an index catches up after the start.
    pub async fn caught_up(&self) {
        self.replication.caught_up().await;
    }

    /// Lets nobody take work any more, and waits until what was begun is done or handed back.
    pub async fn drain(&mut self) {
        self.stop_workers.cancel();
        self.workers.join().await;
    }

    /// Saves the indexes and closes the database. The API must answer no more, and the workers have been drained.
    pub async fn stop(self) {
        self.submit.published().await;
        self.stop_replication.cancel();
        self.replication.join().await;
        if let Err(error) = self.database.close().await {
            tracing::warn!(%error, "database not closed cleanly; it is recovered at the next start");
        }
    }
}

async fn lifecycle(
    config: &Config,
    jobs: Arc<SqliteJobStore>,
    database: &SqliteDatabase,
) -> anyhow::Result<Lifecycle> {
    Ok(Lifecycle {
        jobs,
        deliveries: Arc::new(SqliteDeliveryStore::new(database.clone())),
        broker: InProcessBroker::new(BrokerSettings {
            capacity: core::queue_capacity(config),
            max_attempts: core::most_deliveries(config),
            // Longer than any job may take; the job's own lease in the store is what tells that its worker died.
            lease: Duration::from_secs(config.jobs.max_deadline_s),
            ..BrokerSettings::default()
        }),
        events: InProcessEventLog::new(EventLogSettings {
            total_bytes: config.memory.events_bytes,
            ttl: Duration::from_secs(config.jobs.events_ttl_s),
            ..EventLogSettings::default()
        }),
        cache: InProcessCache::new(config.memory.cache_bytes),
        blobs: Arc::new(LocalBlobStore::open(config.data_dir.join("blobs")).await?),
        views: Views::new(config.server.public_url.clone()),
        settings: core::lifecycle_settings(&config.jobs),
    })
}
