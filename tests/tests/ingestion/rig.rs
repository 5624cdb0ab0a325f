//! The ingestion stage with everything that it needs.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use raglan_backends::{
    blob_store::LocalBlobStore,
    broker::{BrokerSettings, InProcessBroker},
    cache::InProcessCache,
    database::SqliteDatabase,
    delivery_store::SqliteDeliveryStore,
    document_store::SqliteDocumentStore,
    event_log::{EventLogSettings, InProcessEventLog},
    job_store::SqliteJobStore,
};
use raglan_pipeline::{
    domain::{
        Collection, Document, EventType, IngestionResult, IngestionSpec, Job, JobId, JobResult, JobSpec,
        Metadata, PipelineName, Priority, Stage, Tenant, now,
    },
    ingestion::{
        IngestionLimits, IngestionParts, IngestionStage,
        manifest::{ManifestContent, ManifestItem, manifest_key},
    },
    lifecycle::{Lifecycle, LifecycleSettings},
    pipelines::{IndexingPipeline, Pipelines},
    ports::{Accepted, DocumentFilter, DocumentStore, NewJob, Outcome, Replica, Taken},
    replication::Replication,
    retrieval::EmbedderSlot,
    stage::{JobStage, Report, StageContext, StageError},
    view::Views,
};
use tempfile::TempDir;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::parts::{PATIENCE, TestEmbedder, TestParser, TestReplica, TestStore};

const HOUR: Duration = Duration::from_secs(3_600);

pub struct Rig {
    pub embedder: Arc<TestEmbedder>,
    pub parser: Arc<TestParser>,
    pub replica: Arc<TestReplica>,
    pub documents: Arc<TestStore>,
    pub lifecycle: Arc<Lifecycle>,
    pub stage: Arc<IngestionStage>,
    stop: CancellationToken,
    _folder: TempDir,
}

/// A job that runs in a task of its own.
pub struct RunningJob {
    pub cancel: CancellationToken,
    pub reports: watch::Receiver<Report>,
    task: tokio::task::JoinHandle<Result<Outcome, StageError>>,
}

impl RunningJob {
    pub async fn end(self) -> Result<IngestionResult, StageError> {
        let ended = tokio::time::timeout(PATIENCE, self.task).await.expect("the job does not end").unwrap();
        ended.map(|outcome| match outcome {
            Outcome::Succeed { result, .. } => match *result {
                JobResult::Ingestion(result) => result,
                JobResult::Query(_) => panic!("not a query"),
            },
            other => panic!("{other:?}"),
        })
    }
}

impl Rig {
    pub async fn new() -> Self {
        Self::with(IngestionLimits::default()).await
    }

    pub async fn with(limits: IngestionLimits) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path();
        let database = SqliteDatabase::open(&data.join("raglan.db")).await.unwrap();
        let documents = Arc::new(TestStore::new(SqliteDocumentStore::new(database.clone())));
        let (embedder, replica) = (Arc::new(TestEmbedder::default()), Arc::new(TestReplica::default()));
        let stop = CancellationToken::new();
        let replicas: Vec<Arc<dyn Replica>> = vec![replica.clone()];
        let replication = Replication::start(documents.clone(), replicas, stop.clone());
        let lifecycle = Arc::new(Lifecycle {
            jobs: Arc::new(SqliteJobStore::new(database.clone(), HOUR)),
            deliveries: Arc::new(SqliteDeliveryStore::new(database)),
            broker: InProcessBroker::new(BrokerSettings::default()),
            events: InProcessEventLog::new(EventLogSettings::default()),
            cache: InProcessCache::new(1 << 20),
            blobs: Arc::new(LocalBlobStore::open(data.join("blobs")).await.unwrap()),
            views: Views::default(),
            settings: LifecycleSettings::default(),
        });
        // Small chunks: a few sentences make several.
        let pipeline: IndexingPipeline = serde_json::from_value(serde_json::json!({
            "name": "default",
            "chunk": {"max_tokens": 32, "target_tokens": 16, "overlap_tokens": 0, "min_tokens": 4},
        }))
        .unwrap();
        let indexing = BTreeMap::from([(PipelineName::default(), pipeline)]);
        let parser = Arc::new(TestParser::default());
        let parts = IngestionParts {
            lifecycle: lifecycle.clone(),
            documents: documents.clone(),
            searchers: replication,
            parser: parser.clone(),
            embedder: EmbedderSlot::Ready(embedder.clone()),
            pipelines: Arc::new(Pipelines { query: BTreeMap::new(), indexing }),
        };
        let stage = Arc::new(IngestionStage::with_limits(parts, limits));
        Self { embedder, parser, replica, documents, lifecycle, stage, stop, _folder: folder }
    }

    /// A job that was accepted, not begun.
    pub async fn accept(&self, documents: &[(String, String)]) -> JobId {
        let id = JobId::generate();
        let lines: Vec<String> = documents
            .iter()
            .map(|(external_id, text)| {
                let item = ManifestItem {
                    external_id: external_id.clone(),
                    collection: Collection::default(),
                    title: Some(format!("Title of {external_id}")),
                    uri: None,
                    metadata: Metadata::new(),
                    content: ManifestContent::Text { text: text.clone(), media_type: None },
                };
                serde_json::to_string(&item).unwrap()
            })
            .collect();
        let manifest = manifest_key(id);
        self.lifecycle.blobs.put(&manifest, Bytes::from(lines.join("\n"))).await.unwrap();
        let documents = documents.len() as u64;
        let at = now();
        let job = NewJob {
            id,
            tenant: Tenant::default(),
            spec: JobSpec::Ingestion(IngestionSpec {
                pipeline: PipelineName::default(),
                manifest,
                documents,
            }),
            priority: Priority::Normal,
            metadata: Metadata::new(),
            webhook: None,
            created_at: at,
            deadline: at + HOUR,
            due_at: at + HOUR,
            idempotency: None,
        };
        assert!(matches!(self.lifecycle.jobs.accept(job).await.unwrap(), Accepted::New(_)));
        id
    }

    /// Takes a job as a worker does, and runs it. A lease of an earlier run has ended.
    pub async fn run(&self, id: JobId) -> RunningJob {
        self.lifecycle.jobs.recover().await.unwrap();
        let job = match self.lifecycle.jobs.take(id, Stage::Ingestion, HOUR).await.unwrap() {
            Taken::Yes(job) => *job,
            other => panic!("{other:?}"),
        };
        self.run_taken(job)
    }

    pub fn run_taken(&self, job: Job) -> RunningJob {
        let (report, reports) = watch::channel(Report::default());
        let cancel = CancellationToken::new();
        let context =
            StageContext { cancel: cancel.clone(), report: Arc::new(report), events: Arc::default() };
        let stage = self.stage.clone();
        let task = tokio::spawn(async move { stage.run(&job, &context).await });
        RunningJob { cancel, reports, task }
    }

    pub async fn begin(&self, documents: &[(String, String)]) -> RunningJob {
        let id = self.accept(documents).await;
        self.run(id).await
    }

    pub async fn ingest(&self, documents: &[(String, String)]) -> IngestionResult {
        self.begin(documents).await.end().await.unwrap()
    }

    /// What the job's `document.progress` events said.
    pub async fn events(&self, id: JobId) -> Vec<serde_json::Value> {
        let events = self.lifecycle.events.read(id).await.unwrap();
        let told = events.into_iter().filter(|event| event.kind == EventType::DocumentProgress);
        told.map(|event| event.data).collect()
    }

    /// All live documents, by external id.
    pub async fn live(&self) -> BTreeMap<String, Document> {
        let filter = DocumentFilter { limit: 1_000_000, ..DocumentFilter::default() };
        let listed = self.documents.list(&Tenant::default(), &filter).await.unwrap();
        listed.into_iter().map(|document| (document.external_id.clone(), document)).collect()
    }

    pub async fn text(&self, external_id: &str) -> Option<String> {
        let document = self.live().await.remove(external_id)?;
        self.documents.text(&Tenant::default(), document.id).await.unwrap()
    }

    /// What the index holds is what the store has live, no less and no more.
    pub async fn check_index(&self) {
        let mut live = std::collections::BTreeSet::new();
        for document in self.live().await.values() {
            let ids = self.documents.chunk_ids(document.id).await.unwrap();
            assert_eq!(ids.len() as u64, document.chunks, "{document:?}");
            assert!(ids.iter().all(|(_, model)| model.as_deref() == Some("test")), "{ids:?}");
            live.extend(ids.into_iter().map(|(id, _)| id));
        }
        let held: std::collections::BTreeSet<_> =
            self.replica.chunks.lock().unwrap().keys().copied().collect();
        let (missing, too_many) = (live.difference(&held).count(), held.difference(&live).count());
        assert_eq!((missing, too_many), (0, 0), "chunks that the index lacks, and that it has too many");
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.stop.cancel();
        // Threads that wait here would keep the runtime from ending.
        self.parser.release();
    }
}

/// So many documents of one chunk.
pub fn small(range: std::ops::Range<usize>) -> Vec<(String, String)> {
    range.map(|n| (format!("doc-{n}"), format!("Box number {n} is green."))).collect()
}

/// A document of about so many chunks, of which each says its number and the edition.
pub fn long(external_id: &str, chunks: usize, edition: usize) -> (String, String) {
    let text: String = (0..chunks)
        .map(|n| {
            format!(
                "Paragraph number {n} of the edition {edition} says that all of it is one and the same.\n\n"
            )
        })
        .collect();
    (external_id.to_owned(), text)
}
