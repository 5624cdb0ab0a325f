//! What both shapes are made of once their engines are chosen: the workers and the API over the ports.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use raglan_api::{ApiKey, ApiParts, ApiSettings};
use raglan_backends::parser::{DefaultParser, ParserLimits};
use raglan_pipeline::{
    decorators::breaker::{BreakerSettings, BreakerVectorIndex, CircuitBreaker},
    delivery::DeliveryStage,
    domain::{LogPosition, Stage},
    follow::Follow,
    generation::GenerationStage,
    ingestion::{IngestionParts, IngestionStage},
    lifecycle::{Lifecycle, LifecycleSettings},
    pipelines::Pipelines,
    ports::{DocumentStore, Generator, KeywordIndex, PortResult, VectorIndex, WebhookSender},
    replication::Searchers,
    retrieval::{RetrievalStage, Retriever, RetrieverParts},
    stage::JobStage,
    submit::{Submit, SubmitSettings},
    sweeper::{Sweeper, SweeperSettings},
};
use raglan_workers::{Role, Running, WorkerParts, WorkerSettings};
use tokio_util::sync::CancellationToken;

use super::Models;
use crate::config::{self, Config};

/// How long one side of a search, or the wait for an index, may take before the other side answers alone.
const SIDE_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a delete waits for the indexes. It is in effect already; this only keeps them from falling behind.
const DELETE_WAIT: Duration = Duration::from_secs(2);

/// Renders the metrics.
pub type Metrics = Arc<dyn Fn() -> String + Send + Sync>;

/// The ports with their engines, and the settings.
pub(super) struct Core {
    pub config: Config,
    pub models: Models,
    /// By their names; none in a process that generates nothing.
    pub generators: BTreeMap<String, Arc<dyn Generator>>,
    pub lifecycle: Arc<Lifecycle>,
    pub documents: Arc<dyn DocumentStore>,
    pub pipelines: Arc<Pipelines>,
    /// None in a process that searches nothing.
    pub retriever: Option<Arc<Retriever>>,
    pub searchers: Arc<dyn Searchers>,
    pub sender: Arc<dyn WebhookSender>,
}

impl Core {
    /// Starts these roles; they work until `stop`.
    pub fn workers(&self, roles: &[Role], stop: &CancellationToken) -> Running {
        let config = &self.config;
        raglan_workers::start(
            roles,
            &WorkerParts {
                lifecycle: self.lifecycle.clone(),
                stages: self.stages(),
                delivery: Arc::new(DeliveryStage::new(self.lifecycle.clone(), self.sender.clone())),
                sweeper: Arc::new(Sweeper::new(
                    self.lifecycle.clone(),
                    self.documents.clone(),
                    SweeperSettings::default(),
                )),
                concurrency: concurrency(&config.workers),
                settings: WorkerSettings {
                    max_attempts: config.jobs.max_attempts,
                    ..WorkerSettings::default()
                },
                drain: Duration::from_secs(config.shutdown.drain_s),
            },
            stop,
        )
    }

    /// The door of the API.
    pub fn submit(&self) -> Arc<Submit> {
        Arc::new(Submit::new(
            self.lifecycle.clone(),
            self.pipelines.clone(),
            self.sender.clone(),
            submit_settings(&self.config),
        ))
    }

    /// The API. `stop` ends its waits and streams. `own_keys` open it beside the configured ones.
    pub fn router(
        &self,
        submit: Arc<Submit>,
        retriever: Arc<Retriever>,
        health: Arc<dyn raglan_api::Health>,
        metrics: Metrics,
        own_keys: Vec<ApiKey>,
        stop: CancellationToken,
    ) -> raglan_api::Router {
        let lifecycle = &self.lifecycle;
        tokio::spawn(raglan_api::sweep_uploads(lifecycle.blobs.clone(), stop.clone()));
        raglan_api::router(ApiParts {
            submit,
            follow: Follow::new(lifecycle.jobs.clone(), lifecycle.events.clone(), lifecycle.views.clone()),
            lifecycle: lifecycle.clone(),
            retriever,
            documents: self.documents.clone(),
            pipelines: self.pipelines.clone(),
            visibility: Arc::new(Visible(self.searchers.clone())),
            health,
            metrics,
            settings: api_settings(&self.config, own_keys),
            shutdown: stop,
        })
    }

    fn stages(&self) -> BTreeMap<Stage, Arc<dyn JobStage>> {
        let (lifecycle, pipelines) = (&self.lifecycle, &self.pipelines);
        let ingestion = IngestionStage::new(IngestionParts {
            lifecycle: lifecycle.clone(),
            documents: self.documents.clone(),
            searchers: self.searchers.clone(),
            parser: Arc::new(DefaultParser::new(parser_limits(&self.config))),
            embedder: self.models.embedder.clone(),
            pipelines: pipelines.clone(),
        });
        let mut stages = BTreeMap::from([(Stage::Ingestion, Arc::new(ingestion) as Arc<dyn JobStage>)]);
        if let Some(retriever) = &self.retriever {
            let retrieval = RetrievalStage::new(lifecycle.clone(), retriever.clone(), pipelines.clone());
            let generation = GenerationStage::new(
                lifecycle.clone(),
                retriever.clone(),
                pipelines.clone(),
                self.generators.clone(),
            );
            stages.insert(Stage::Retrieval, Arc::new(retrieval));
            stages.insert(Stage::Generation, Arc::new(generation));
        }
        stages
    }
}

/// The search over these indexes; vectors behind a circuit breaker.
pub(super) fn retriever(
    documents: Arc<dyn DocumentStore>,
    models: &Models,
    vectors: Option<Arc<dyn VectorIndex>>,
    keywords: Arc<dyn KeywordIndex>,
) -> Arc<Retriever> {
    let vectors = vectors.map(|index| {
        // A server that is back is noticed within seconds: it is asked every two, and may take as long to answer as a side of a search may.
        let settings = BreakerSettings {
            call_timeout: Some(SIDE_TIMEOUT),
            open_for: Duration::from_secs(2),
            ..BreakerSettings::default()
        };
        let breaker = CircuitBreaker::new("vector_index", settings);
        Arc::new(BreakerVectorIndex::new(index, breaker)) as Arc<dyn VectorIndex>
    });
    Arc::new(Retriever::new(RetrieverParts {
        documents,
        embedder: models.embedder.clone(),
        vectors,
        keywords,
        reranker: models.reranker.clone(),
        side_timeout: SIDE_TIMEOUT,
    }))
}

pub(super) fn pipelines(config: &Config) -> Arc<Pipelines> {
    Arc::new(Pipelines {
        query: config.query_pipelines.iter().map(|p| (p.name.clone(), p.clone())).collect(),
        indexing: config.indexing_pipelines.iter().map(|p| (p.name.clone(), p.clone())).collect(),
    })
}

pub(super) fn lifecycle_settings(jobs: &config::Jobs) -> LifecycleSettings {
    LifecycleSettings {
        republish_after: Duration::from_secs(jobs.republish_after_s),
        lease: Duration::from_secs(jobs.lease_s),
        passages_ttl: Duration::from_secs(jobs.passages_ttl_s),
    }
}

/// How many messages a queue takes. The door refuses before it does.
pub(super) fn queue_capacity(config: &Config) -> usize {
    usize::try_from(config.limits.waiting_jobs).unwrap_or(usize::MAX).saturating_mul(2)
}

/// How often a message is delivered at most. The job's own attempts end first; this is for messages whose job cannot even be taken.
pub(super) fn most_deliveries(config: &Config) -> u32 {
    config.jobs.max_attempts.saturating_mul(2).max(10)
}

fn parser_limits(config: &Config) -> ParserLimits {
    ParserLimits {
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
struct Visible(Arc<dyn Searchers>);

#[async_trait::async_trait]
impl raglan_api::Visibility for Visible {
    async fn wait_for(&self, position: LogPosition) -> PortResult<()> {
        self.0.wait_for(position, DELETE_WAIT).await
    }
}
