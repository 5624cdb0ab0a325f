//! The embedded shape: everything in one process, with nothing beside it.

use std::{collections::BTreeMap, fs::File, path::Path, sync::Arc, time::Duration};

use anyhow::{Context, bail};
use raglan_api::{ApiKey, ApiParts, ApiSettings};
use raglan_backends::{
    blob_store::LocalBlobStore,
    broker::{BrokerSettings, InProcessBroker},
    cache::InProcessCache,
    database::SqliteDatabase,
    delivery_store::SqliteDeliveryStore,
    document_store::SqliteDocumentStore,
    event_log::{EventLogSettings, InProcessEventLog},
    generator::{
        ExtractiveGenerator, ExtractiveSettings, OpenAiGenerator, OpenAiSettings, SimulatedGenerator,
        SimulatedSettings,
    },
    job_store::SqliteJobStore,
    keyword_index::tantivy::TantivyIndex,
    parser::{DefaultParser, ParserLimits},
    vector_index::usearch::UsearchIndex,
    webhook_sender::{HttpWebhookSender, SenderSettings},
};
use raglan_pipeline::{
    decorators::breaker::{BreakerSettings, BreakerVectorIndex, CircuitBreaker},
    delivery::DeliveryStage,
    domain::Stage,
    follow::Follow,
    generation::GenerationStage,
    ingestion::{IngestionParts, IngestionStage},
    lifecycle::{Lifecycle, LifecycleSettings},
    pipelines::Pipelines,
    ports::{DeliveryStore, DocumentStore, Generator, JobStore, Replica, VectorIndex},
    replication::Replication,
    retrieval::{RetrievalStage, Retriever, RetrieverParts},
    stage::JobStage,
    submit::{Submit, SubmitSettings},
    sweeper::{Sweeper, SweeperSettings},
    view::Views,
};
use raglan_workers::{Role, Running, WorkerParts, WorkerSettings};
use tokio_util::sync::CancellationToken;
use tracing::info;

use super::{Models, health::ProcessHealth, secrets::signing_secrets};
use crate::config::{self, Config};

/// How long one side of a search, or the wait for an index, may take before the other side answers alone.
const SIDE_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a delete waits for the indexes. It is in effect already; this only keeps them from falling behind.
const DELETE_WAIT: Duration = Duration::from_secs(2);

/// What the caller brings.
pub struct EmbeddedParts {
    /// The settings.
    pub config: Config,
    /// The models, loaded.
    pub models: Models,
    /// Further keys that open the API, for the process's own use.
    pub own_keys: Vec<ApiKey>,
    /// Renders the metrics.
    pub metrics: Arc<dyn Fn() -> String + Send + Sync>,
}

/// Everything in one process, running.
pub struct Embedded {
    /// The API.
    pub router: raglan_api::Router,
    database: SqliteDatabase,
    replication: Arc<Replication>,
    workers: Running,
    stop_workers: CancellationToken,
    stop_replication: CancellationToken,
    _lock: File,
}

impl Embedded {
    /// Opens everything and starts the roles. `stop_api` ends waits and streams of the API.
    pub async fn start(parts: EmbeddedParts, stop_api: CancellationToken) -> anyhow::Result<Self> {
        let EmbeddedParts { config, models, own_keys, metrics } = parts;
        let lock = lock(&config.data_dir)?;
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
        let indexes = Indexes::open(data, &models).await?;
        let replication = Replication::start(documents.clone(), indexes.replicas(), stop_replication.clone());

        let lifecycle = Arc::new(lifecycle(&config, jobs, &database).await?);
        let sender = Arc::new(HttpWebhookSender::new(SenderSettings {
            allowed: config.webhooks.allowed_ranges.clone(),
            ..SenderSettings::new(signing_secrets(&config.webhooks.signing_secrets, data)?)
        })?);
        let pipelines = Arc::new(pipelines(&config));
        let retriever = Arc::new(Retriever::new(RetrieverParts {
            documents: documents.clone(),
            embedder: models.embedder.clone(),
            vectors: indexes.vectors.clone().map(|index| {
                let settings =
                    BreakerSettings { call_timeout: Some(SIDE_TIMEOUT), ..BreakerSettings::default() };
                let breaker = CircuitBreaker::new("vector_index", settings);
                Arc::new(BreakerVectorIndex::new(index, breaker)) as Arc<dyn VectorIndex>
            }),
            keywords: indexes.keywords.clone(),
            reranker: models.reranker.clone(),
            side_timeout: SIDE_TIMEOUT,
        }));
        let stages = stages(&config, &models, &lifecycle, &retriever, &pipelines, &documents, &replication)?;

        let stop_workers = CancellationToken::new();
        let workers = raglan_workers::start(
            &Role::ALL,
            &WorkerParts {
                lifecycle: lifecycle.clone(),
                stages,
                delivery: Arc::new(DeliveryStage::new(lifecycle.clone(), sender.clone())),
                sweeper: Arc::new(Sweeper::new(
                    lifecycle.clone(),
                    documents.clone(),
                    SweeperSettings::default(),
                )),
                concurrency: concurrency(&config.workers),
                settings: WorkerSettings {
                    max_attempts: config.jobs.max_attempts,
                    ..WorkerSettings::default()
                },
                drain: Duration::from_secs(config.shutdown.drain_s),
            },
            &stop_workers,
        );
        tokio::spawn(raglan_api::sweep_uploads(lifecycle.blobs.clone(), stop_api.clone()));
        let health = ProcessHealth::new(replication.clone(), documents.clone(), models.embedder.clone());
        let router = raglan_api::router(ApiParts {
            submit: Arc::new(Submit::new(
                lifecycle.clone(),
                pipelines.clone(),
                sender,
                submit_settings(&config),
            )),
            follow: Follow::new(lifecycle.jobs.clone(), lifecycle.events.clone(), lifecycle.views.clone()),
            lifecycle,
            retriever,
            documents,
            pipelines,
            visibility: Arc::new(Visible(replication.clone())),
            health: Arc::new(health),
            metrics,
            settings: api_settings(&config, own_keys),
            shutdown: stop_api,
        });
        Ok(Self { router, database, replication, workers, stop_workers, stop_replication, _lock: lock })
    }

    /// Waits until searches see all that the store holds, which they do not while an index catches up after the start.
    pub async fn caught_up(&self) {
        self.replication.caught_up().await;
    }

    /// Drains the workers, saves the indexes, closes the database.
    pub async fn stop(self) {
        self.stop_workers.cancel();
        self.workers.join().await;
        self.stop_replication.cancel();
        self.replication.join().await;
        if let Err(error) = self.database.close().await {
            tracing::warn!(%error, "database not closed cleanly; it is recovered at the next start");
        }
    }
}

/// Takes the data folder for this process alone.
pub fn lock(data_dir: &Path) -> anyhow::Result<File> {
    std::fs::create_dir_all(data_dir).with_context(|| format!("{} cannot be made", data_dir.display()))?;
    let path = data_dir.join("lock");
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .with_context(|| format!("{} cannot be written", path.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => {
            bail!("another raglan process uses {}; stop it, or choose another --data-dir", data_dir.display())
        }
        Err(std::fs::TryLockError::Error(error)) => {
            Err(error).with_context(|| format!("{} cannot be locked", path.display()))
        }
    }
}

struct Indexes {
    vectors: Option<Arc<dyn VectorIndex>>,
    keywords: Arc<TantivyIndex>,
}

impl Indexes {
    async fn open(data: &Path, models: &Models) -> anyhow::Result<Self> {
        let folder = data.join("index");
        let model = models.embedder.get().map(|embedder| embedder.info().clone());
        let opened = tokio::task::spawn_blocking(move || {
            let keywords = TantivyIndex::open(&folder.join("keywords"))?;
            let vectors = model
                .map(|model| UsearchIndex::open(&folder.join("vectors"), model.model, model.dimension))
                .transpose()?;
            raglan_pipeline::ports::PortResult::Ok((keywords, vectors))
        });
        let (keywords, vectors) = opened.await??;
        Ok(Self {
            vectors: vectors.map(|index| Arc::new(index) as Arc<dyn VectorIndex>),
            keywords: Arc::new(keywords),
        })
    }

    fn replicas(&self) -> Vec<Arc<dyn Replica>> {
        let vectors = self.vectors.clone().map(|index| index as Arc<dyn Replica>);
        std::iter::once(self.keywords.clone() as Arc<dyn Replica>).chain(vectors).collect()
    }
}

async fn lifecycle(
    config: &Config,
    jobs: Arc<SqliteJobStore>,
    database: &SqliteDatabase,
) -> anyhow::Result<Lifecycle> {
    let config::Jobs { max_attempts, lease_s, republish_after_s, passages_ttl_s, events_ttl_s, .. } =
        config.jobs;
    let capacity = usize::try_from(config.limits.waiting_jobs).unwrap_or(usize::MAX);
    Ok(Lifecycle {
        jobs,
        deliveries: Arc::new(SqliteDeliveryStore::new(database.clone())),
        broker: InProcessBroker::new(BrokerSettings {
            // The door refuses before the queue does.
            capacity: capacity.saturating_mul(2),
            // The job's own attempts end first; this is for messages whose job cannot even be taken.
            max_attempts: max_attempts.saturating_mul(2).max(10),
            // Longer than any job may take; the job's own lease in the store is what tells that its worker died.
            lease: Duration::from_secs(config.jobs.max_deadline_s),
            ..BrokerSettings::default()
        }),
        events: InProcessEventLog::new(EventLogSettings {
            total_bytes: config.memory.events_bytes,
            ttl: Duration::from_secs(events_ttl_s),
            ..EventLogSettings::default()
        }),
        cache: InProcessCache::new(config.memory.cache_bytes),
        blobs: Arc::new(LocalBlobStore::open(config.data_dir.join("blobs")).await?),
        views: Views::new(config.server.public_url.clone()),
        settings: LifecycleSettings {
            republish_after: Duration::from_secs(republish_after_s),
            lease: Duration::from_secs(lease_s),
            passages_ttl: Duration::from_secs(passages_ttl_s),
            events_ttl: Duration::from_secs(events_ttl_s),
        },
    })
}

fn pipelines(config: &Config) -> Pipelines {
    Pipelines {
        query: config.query_pipelines.iter().map(|p| (p.name.clone(), p.clone())).collect(),
        indexing: config.indexing_pipelines.iter().map(|p| (p.name.clone(), p.clone())).collect(),
    }
}

fn concurrency(workers: &config::Workers) -> BTreeMap<Stage, usize> {
    BTreeMap::from([
        (Stage::Retrieval, workers.retrieval),
        (Stage::Generation, workers.generation),
        (Stage::Ingestion, workers.ingestion),
        (Stage::Webhook, workers.webhook),
    ])
}

fn stages(
    config: &Config,
    models: &Models,
    lifecycle: &Arc<Lifecycle>,
    retriever: &Arc<Retriever>,
    pipelines: &Arc<Pipelines>,
    documents: &Arc<dyn DocumentStore>,
    replication: &Arc<Replication>,
) -> anyhow::Result<BTreeMap<Stage, Arc<dyn JobStage>>> {
    let limits = ParserLimits {
        max_bytes: config.limits.file_bytes,
        max_unpacked_bytes: config.limits.file_bytes,
        // Each pipeline's own time ends a parse; this only keeps an abandoned thread from running on.
        max_time: config
            .indexing_pipelines
            .iter()
            .map(|pipeline| Duration::from_secs(pipeline.parse.timeout_s))
            .max()
            .unwrap_or_default(),
        ..ParserLimits::default()
    };
    let ingestion = IngestionStage::new(IngestionParts {
        lifecycle: lifecycle.clone(),
        documents: documents.clone(),
        replication: replication.clone(),
        parser: Arc::new(DefaultParser::new(limits)),
        embedder: models.embedder.clone(),
        pipelines: pipelines.clone(),
    });
    let generators = config
        .generators
        .iter()
        .map(|settings| Ok((settings.name().to_owned(), generator(settings, models)?)))
        .collect::<anyhow::Result<_>>()?;
    let retrieval = RetrievalStage::new(lifecycle.clone(), retriever.clone(), pipelines.clone());
    let generation =
        GenerationStage::new(lifecycle.clone(), retriever.clone(), pipelines.clone(), generators);
    Ok(BTreeMap::from([
        (Stage::Retrieval, Arc::new(retrieval) as Arc<dyn JobStage>),
        (Stage::Generation, Arc::new(generation)),
        (Stage::Ingestion, Arc::new(ingestion)),
    ]))
}

fn generator(settings: &config::Generator, models: &Models) -> anyhow::Result<Arc<dyn Generator>> {
    Ok(match settings {
        config::Generator::Extractive(_) => {
            Arc::new(ExtractiveGenerator::new(models.embedder.clone(), ExtractiveSettings::default()))
        }
        config::Generator::Openai(given) => {
            let mut settings = OpenAiSettings::new(given.base_url.clone(), given.model.clone());
            settings.api_key.clone_from(&given.api_key);
            settings.context_tokens = given.context_tokens.or(settings.context_tokens);
            for (slot, seconds) in [
                (&mut settings.connect_timeout, given.connect_timeout_s),
                (&mut settings.first_token_timeout, given.first_token_timeout_s),
                (&mut settings.idle_timeout, given.idle_timeout_s),
            ] {
                *slot = seconds.map_or(*slot, Duration::from_secs);
            }
            Arc::new(OpenAiGenerator::new(settings)?)
        }
        config::Generator::Simulated(given) => Arc::new(SimulatedGenerator::new(SimulatedSettings {
            tokens: given.tokens,
            tokens_per_s: given.tokens_per_s,
            first_token_ms: given.first_token_ms,
        })),
    })
}

fn submit_settings(config: &Config) -> SubmitSettings {
    SubmitSettings {
        max_query_chars: config.limits.query_chars,
        max_top_k: config.limits.top_k,
        max_answer_tokens: config.limits.answer_tokens,
        query_deadline: Duration::from_secs(config.jobs.query_deadline_s),
        ingestion_deadline: Duration::from_secs(config.jobs.ingestion_deadline_s),
        max_deadline: Duration::from_secs(config.jobs.max_deadline_s),
        max_waiting: config.limits.waiting_jobs,
        ..SubmitSettings::default()
    }
}

fn api_settings(config: &Config, own_keys: Vec<ApiKey>) -> ApiSettings {
    let configured = config.auth.keys.iter().filter_map(|key| match (&key.key, &key.sha256) {
        (Some(plain), _) => Some(ApiKey::from_plain(&key.name, key.tenant.clone(), plain.expose())),
        (None, Some(sha256)) => {
            Some(ApiKey { name: key.name.clone(), tenant: key.tenant.clone(), sha256: from_hex(sha256)? })
        }
        (None, None) => None,
    });
    let mut keys: Vec<ApiKey> = configured.collect();
    // With authentication off everybody may come in, the process itself too.
    if !keys.is_empty() {
        keys.extend(own_keys);
    }
    let limits = raglan_api::Limits {
        documents_bytes: config.limits.body_bytes,
        documents: config.limits.documents,
        file_bytes: config.limits.file_bytes,
        files: config.limits.files,
        ..raglan_api::Limits::default()
    };
    ApiSettings {
        keys,
        hosts: config.server.public_url.iter().filter_map(|url| url.host_str().map(str::to_owned)).collect(),
        cors_origins: config.server.cors_origins.clone(),
        limits,
        ..ApiSettings::default()
    }
}

fn from_hex(text: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(bytes)
}

/// Tells the API when the indexes have a change.
struct Visible(Arc<Replication>);

#[async_trait::async_trait]
impl raglan_api::Visibility for Visible {
    async fn wait_for(
        &self,
        position: raglan_pipeline::domain::LogPosition,
    ) -> raglan_pipeline::ports::PortResult<()> {
        self.0.wait_for(position, DELETE_WAIT).await
    }
}
