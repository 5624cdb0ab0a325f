//! Everything but HTTP, with handles on what fails.

use std::{
    collections::BTreeMap,
    ops::Range,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use bytes::Bytes;
use raglan_backends::{
    blob_store::LocalBlobStore,
    broker::{BrokerSettings, InProcessBroker},
    cache::InProcessCache,
    database::SqliteDatabase,
    delivery_store::SqliteDeliveryStore,
    document_store::SqliteDocumentStore,
    event_log::{EventLogSettings, InProcessEventLog},
    generator::{ExtractiveGenerator, ExtractiveSettings},
    job_store::SqliteJobStore,
    keyword_index::tantivy::TantivyIndex,
    parser::DefaultParser,
    vector_index::usearch::UsearchIndex,
    webhook_sender::{HttpWebhookSender, SenderSettings},
};
use raglan_pipeline::{
    decorators::{
        breaker::{BreakerSettings, BreakerVectorIndex, CircuitBreaker},
        faults::{Faults, FaultyCache, FaultyEmbedder, FaultyKeywordIndex, FaultyVectorIndex, Injector},
    },
    delivery::DeliveryStage,
    domain::{
        CacheMode, Collection, EmbedPurpose, Embedding, GenerationOptions, IngestionSpec, Job, JobId,
        JobSpec, Metadata, PipelineName, Priority, QuerySpec, Stage, Tenant,
    },
    generation::GenerationStage,
    ingestion::{
        IngestionParts, IngestionStage,
        manifest::{ManifestContent, ManifestItem, manifest_key},
        word_tokenizer::WordTokenizer,
    },
    lifecycle::{Lifecycle, LifecycleSettings},
    pipelines::{IndexingPipeline, Pipelines, QueryPipeline},
    ports::{Embedder, EmbedderInfo, ModelError, Replica, Reranker, Tokenize},
    replication::Replication,
    retrieval::{EmbedderSlot, RetrievalStage, Retriever, RetrieverParts},
    secret::Secret,
    stage::JobStage,
    submit::{Submit, SubmitRequest, SubmitSettings},
    sweeper::{Sweeper, SweeperSettings},
    view::Views,
};
use raglan_workers::{Role, Running, WorkerParts, WorkerSettings};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

/// How long a test waits for what must come.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Vectors of hashed words: equal words make near vectors. Good enough to tell documents apart.
struct HashEmbedder(EmbedderInfo);

#[async_trait]
impl Embedder for HashEmbedder {
    fn info(&self) -> &EmbedderInfo {
        &self.0
    }

    fn tokenizer(&self) -> Arc<dyn Tokenize> {
        Arc::new(WordTokenizer)
    }

    async fn embed(&self, texts: Vec<String>, _purpose: EmbedPurpose) -> Result<Vec<Embedding>, ModelError> {
        Ok(texts.iter().map(|text| embed(text, self.0.dimension)).collect())
    }
}

fn embed(text: &str, dimension: usize) -> Embedding {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut vector = vec![0.01f32; dimension];
    let tokens: Vec<Range<usize>> = WordTokenizer.tokens(text);
    for token in &tokens {
        let mut hasher = DefaultHasher::new();
        text[token.clone()].to_lowercase().hash(&mut hasher);
        vector[usize::try_from(hasher.finish() % dimension as u64).unwrap()] += 1.0;
    }
    let length = vector.iter().map(|v| v * v).sum::<f32>().sqrt();
    vector.iter_mut().for_each(|v| *v /= length);
    Embedding { vector, tokens: tokens.len(), truncated: false }
}

/// Handles on the faults of each part.
pub struct FaultHandles {
    pub embedder: Injector,
    pub vectors: Injector,
    pub keywords: Injector,
    pub cache: Injector,
}

pub struct World {
    pub lifecycle: Arc<Lifecycle>,
    pub submit: Submit,
    pub faults: FaultHandles,
    stages: BTreeMap<Stage, Arc<dyn JobStage>>,
    delivery: Arc<DeliveryStage>,
    pub sweeper: Arc<Sweeper>,
    running: Mutex<Vec<Running>>,
    stop: CancellationToken,
    _folder: TempDir,
}

/// After so many failures in a row the vector index is left alone.
pub const FAILURES: u32 = 5;

/// How long one side of a search may take in these tests.
pub const SIDE_TIMEOUT: Duration = Duration::from_millis(500);

impl World {
    pub async fn new(times: LifecycleSettings) -> Self {
        Self::of(times, None, pipelines(&[json!({"name": "default"})])).await
    }

    /// A world with a second pipeline, `reranked`, whose re-ranker may take so long.
    pub async fn reranked(times: LifecycleSettings, reranker: Arc<dyn Reranker>, deadline: Duration) -> Self {
        let rerank = json!({"deadline_ms": deadline.as_millis()});
        let pipelines =
            pipelines(&[json!({"name": "default"}), json!({"name": "reranked", "rerank": rerank})]);
        Self::of(times, Some(reranker), pipelines).await
    }

    async fn of(times: LifecycleSettings, reranker: Option<Arc<dyn Reranker>>, pipelines: Pipelines) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path();
        let database = SqliteDatabase::open(&data.join("raglan.db")).await.unwrap();
        let documents = Arc::new(SqliteDocumentStore::new(database.clone()));
        let none = || Injector::new(Faults::none());
        let faults = FaultHandles { embedder: none(), vectors: none(), keywords: none(), cache: none() };

        let info = EmbedderInfo { model: "hash".to_owned(), dimension: 256, max_tokens: 256 };
        let embedder: Arc<dyn Embedder> =
            Arc::new(FaultyEmbedder::new(Arc::new(HashEmbedder(info)), faults.embedder.clone()));
        let vectors = Arc::new(UsearchIndex::open(&data.join("vectors"), "hash".to_owned(), 256).unwrap());
        let keywords = Arc::new(TantivyIndex::open(&data.join("keywords")).unwrap());
        let stop = CancellationToken::new();
        let replicas: Vec<Arc<dyn Replica>> = vec![vectors.clone(), keywords.clone()];
        let replication = Replication::start(documents.clone(), replicas, stop.clone());

        let lifecycle = Arc::new(Lifecycle {
            jobs: Arc::new(SqliteJobStore::new(database.clone(), Duration::from_secs(600))),
            deliveries: Arc::new(SqliteDeliveryStore::new(database)),
            broker: InProcessBroker::new(BrokerSettings::default()),
            events: InProcessEventLog::new(EventLogSettings::default()),
            cache: Arc::new(FaultyCache::new(InProcessCache::new(1 << 24), faults.cache.clone())),
            blobs: Arc::new(LocalBlobStore::open(data.join("blobs")).await.unwrap()),
            views: Views::default(),
            settings: times,
        });
        let pipelines = Arc::new(pipelines);
        let retriever = Arc::new(Retriever::new(RetrieverParts {
            documents: documents.clone(),
            embedder: EmbedderSlot::Ready(embedder.clone()),
            vectors: Some(Arc::new(BreakerVectorIndex::new(
                Arc::new(FaultyVectorIndex::new(vectors, faults.vectors.clone())),
                CircuitBreaker::new(
                    "vectors",
                    BreakerSettings { consecutive_failures: FAILURES, ..BreakerSettings::default() },
                ),
            ))),
            keywords: Arc::new(FaultyKeywordIndex::new(keywords, faults.keywords.clone())),
            reranker,
            side_timeout: SIDE_TIMEOUT,
        }));
        let secret = Secret::new("whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=");
        let sender = Arc::new(HttpWebhookSender::new(SenderSettings::new(vec![secret])).unwrap());
        let extractive = ExtractiveGenerator::new(EmbedderSlot::Off, ExtractiveSettings::default());
        let generation = GenerationStage::new(
            lifecycle.clone(),
            retriever.clone(),
            pipelines.clone(),
            BTreeMap::from([("extractive".to_owned(), Arc::new(extractive) as _)]),
        );
        let ingestion = IngestionStage::new(IngestionParts {
            lifecycle: lifecycle.clone(),
            documents: documents.clone(),
            searchers: replication,
            parser: Arc::new(DefaultParser::default()),
            embedder: EmbedderSlot::Ready(embedder),
            pipelines: pipelines.clone(),
        });
        let retrieval = RetrievalStage::new(lifecycle.clone(), retriever, pipelines.clone());
        let stages: BTreeMap<Stage, Arc<dyn JobStage>> = BTreeMap::from([
            (Stage::Retrieval, Arc::new(retrieval) as Arc<dyn JobStage>),
            (Stage::Generation, Arc::new(generation)),
            (Stage::Ingestion, Arc::new(ingestion)),
        ]);
        Self {
            submit: Submit::new(lifecycle.clone(), pipelines, sender.clone(), SubmitSettings::default()),
            delivery: Arc::new(DeliveryStage::new(lifecycle.clone(), sender)),
            sweeper: Arc::new(Sweeper::new(lifecycle.clone(), documents, SweeperSettings::default())),
            lifecycle,
            faults,
            stages,
            running: Mutex::new(Vec::new()),
            stop,
            _folder: folder,
        }
    }

    /// The usual work of a stage, replaced.
    pub fn replace(&mut self, stage: Stage, work: Arc<dyn JobStage>) {
        self.stages.insert(stage, work);
    }

    /// Starts these roles until the world is dropped.
    pub fn start(&self, roles: &[Role]) {
        let parts = WorkerParts {
            lifecycle: self.lifecycle.clone(),
            stages: self.stages.clone(),
            delivery: self.delivery.clone(),
            sweeper: self.sweeper.clone(),
            concurrency: BTreeMap::from([(Stage::Retrieval, 4), (Stage::Generation, 4)]),
            settings: WorkerSettings {
                max_attempts: 3,
                retry_base: Duration::from_millis(10),
                retry_max: Duration::from_millis(50),
            },
            drain: Duration::from_secs(1),
        };
        let running = raglan_workers::start(roles, &parts, &self.stop);
        self.running.lock().unwrap().push(running);
    }

    async fn accept(&self, id: JobId, spec: JobSpec) -> JobId {
        let request = SubmitRequest {
            id,
            tenant: Tenant::default(),
            spec,
            priority: Priority::Normal,
            deadline: Some(Duration::from_secs(600)),
            webhook: None,
            metadata: Metadata::new(),
            idempotency: None,
        };
        let id = self.submit.submit(request).await.unwrap().job.id;
        self.submit.published().await;
        id
    }

    pub async fn ask(&self, question: &str) -> JobId {
        self.ask_by("default", question).await
    }

    /// Asks by this query pipeline.
    pub async fn ask_by(&self, pipeline: &str, question: &str) -> JobId {
        let spec = QuerySpec {
            query: question.to_owned(),
            collection: Collection::default(),
            pipeline: pipeline.parse().unwrap(),
            filter: raglan_pipeline::domain::MetadataFilter::default(),
            top_k: 3,
            generation: GenerationOptions::default(),
            cache: CacheMode::Bypass,
        };
        self.accept(JobId::generate(), JobSpec::Query(spec)).await
    }

    pub async fn ingest(&self, documents: &[(&str, &str)]) -> JobId {
        let id = JobId::generate();
        let lines: Vec<String> = documents
            .iter()
            .map(|(external_id, text)| {
                let item = ManifestItem {
                    external_id: (*external_id).to_owned(),
                    collection: Collection::default(),
                    title: None,
                    uri: None,
                    metadata: Metadata::new(),
                    content: ManifestContent::Text { text: (*text).to_owned(), media_type: None },
                };
                serde_json::to_string(&item).unwrap()
            })
            .collect();
        let manifest = manifest_key(id);
        self.lifecycle.blobs.put(&manifest, Bytes::from(lines.join("\n"))).await.unwrap();
        let documents = documents.len() as u64;
        let spec = IngestionSpec { pipeline: PipelineName::default(), manifest, documents };
        self.accept(id, JobSpec::Ingestion(spec)).await
    }

    /// The job, once it has ended.
    pub async fn ended(&self, id: JobId) -> Job {
        let begun = Instant::now();
        loop {
            let job = self.lifecycle.jobs.get(id).await.unwrap().unwrap();
            if job.status.is_final() {
                return job;
            }
            assert!(begun.elapsed() < PATIENCE, "the job has not ended: {job:#?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn pipelines(query: &[Value]) -> Pipelines {
    let query =
        query.iter().map(|pipeline| serde_json::from_value::<QueryPipeline>(pipeline.clone()).unwrap());
    let indexing: IndexingPipeline = serde_json::from_value(json!({"name": "default"})).unwrap();
    Pipelines {
        query: query.map(|pipeline| (pipeline.name.clone(), pipeline)).collect(),
        indexing: BTreeMap::from([(PipelineName::default(), indexing)]),
    }
}
