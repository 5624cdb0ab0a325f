//! Ports in memory, as small as the API needs them.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt, stream::BoxStream};
use raglan_pipeline::{domain::*, ports::*};
use tokio::sync::watch;
use url::Url;

#[derive(Default)]
pub struct Jobs {
    jobs: Mutex<BTreeMap<JobId, Job>>,
    keys: Mutex<HashMap<(Tenant, String), (String, JobId)>>,
    /// What `accept` fails with, when set.
    pub broken: Mutex<Option<ErrorKind>>,
}

impl Jobs {
    fn change(&self, id: JobId, change: impl FnOnce(&mut Job)) -> Option<Job> {
        let mut jobs = self.jobs.lock().unwrap();
        let job = jobs.get_mut(&id)?;
        change(job);
        job.revision += 1;
        Some(job.clone())
    }

    fn end_now(job: &mut Job, status: JobStatus) {
        job.status = status;
        job.completed_at = Some(now());
        job.expires_at = Some(now() + chrono::TimeDelta::days(1));
    }
}

#[async_trait]
impl JobStore for Jobs {
    async fn accept(&self, new: NewJob) -> PortResult<Accepted> {
        if let Some(kind) = *self.broken.lock().unwrap() {
            return Err(PortError::new(kind, "secret detail of the store"));
        }
        if let Some(idempotency) = &new.idempotency {
            let mut keys = self.keys.lock().unwrap();
            let key = (new.tenant.clone(), idempotency.key.clone());
            if let Some((hash, id)) = keys.get(&key) {
                return Ok(if *hash == idempotency.request_hash {
                    Accepted::Existing(self.jobs.lock().unwrap()[id].clone())
                } else {
                    Accepted::KeyReused
                });
            }
            keys.insert(key, (idempotency.request_hash.clone(), new.id));
        }
        let job = Job {
            id: new.id,
            tenant: new.tenant,
            stage: new.spec.first_stage(),
            spec: new.spec,
            status: JobStatus::Queued,
            attempt: 0,
            fence: 0,
            epoch: 0,
            priority: new.priority,
            metadata: new.metadata,
            webhook: new.webhook,
            created_at: new.created_at,
            started_at: None,
            completed_at: None,
            deadline: new.deadline,
            expires_at: None,
            progress: None,
            result: None,
            error: None,
            timings: Timings::default(),
            revision: 1,
        };
        self.jobs.lock().unwrap().insert(job.id, job.clone());
        Ok(Accepted::New(job))
    }

    async fn get(&self, id: JobId) -> PortResult<Option<Job>> {
        Ok(self.jobs.lock().unwrap().get(&id).cloned())
    }

    async fn list(&self, filter: &JobFilter) -> PortResult<Vec<Job>> {
        let jobs = self.jobs.lock().unwrap();
        Ok(jobs
            .values()
            .rev()
            .filter(|job| filter.tenant.as_ref().is_none_or(|tenant| job.tenant == *tenant))
            .filter(|job| filter.status.is_none_or(|status| job.status == status))
            .filter(|job| filter.kind.is_none_or(|kind| job.kind() == kind))
            .filter(|job| filter.before.is_none_or(|before| job.id < before))
            .take(filter.limit)
            .cloned()
            .collect())
    }

    async fn take(&self, id: JobId, stage: Stage, _: Duration) -> PortResult<Taken> {
        let taken = self.change(id, |job| {
            job.status = stage.running_status();
            job.stage = stage;
            job.attempt += 1;
            job.fence += 1;
            job.started_at.get_or_insert(now());
        });
        Ok(taken.map_or(Taken::Over, |job| Taken::Yes(Box::new(job))))
    }

    async fn extend(
        &self,
        id: JobId,
        _: u64,
        _: Duration,
        status: Option<JobStatus>,
        progress: Option<Progress>,
    ) -> PortResult<Option<Job>> {
        Ok(self.change(id, |job| {
            job.status = status.unwrap_or(job.status);
            job.progress = progress.or(job.progress.take());
        }))
    }

    async fn finish(&self, id: JobId, _: u64, outcome: Outcome) -> PortResult<Option<Job>> {
        Ok(self.change(id, |job| match outcome {
            Outcome::Advance { to, took_ms, .. } => {
                job.stage = to;
                job.timings.retrieval_ms = Some(took_ms);
            }
            Outcome::Succeed { result, .. } => {
                job.result = Some(*result);
                Self::end_now(job, JobStatus::Succeeded);
            }
            Outcome::Fail(error) => {
                job.error = Some(error);
                Self::end_now(job, JobStatus::Failed);
            }
            Outcome::Retry { .. } | Outcome::HandBack { .. } => {}
        }))
    }

    async fn end(&self, id: JobId, _: Ending) -> PortResult<Ended> {
        match self.get(id).await? {
            None => Ok(Ended::Missing),
            Some(job) if job.status.is_final() => Ok(Ended::Before(Box::new(job))),
            Some(_) => Ok(self
                .change(id, |job| Self::end_now(job, JobStatus::Cancelled))
                .map_or(Ended::Missing, |job| Ended::Now(Box::new(job)))),
        }
    }

    async fn due(&self, _: usize, _: Duration) -> PortResult<Vec<Job>> {
        Ok(Vec::new())
    }

    async fn overdue(&self, _: usize) -> PortResult<Vec<Job>> {
        Ok(Vec::new())
    }

    async fn recover(&self) -> PortResult<u64> {
        Ok(0)
    }

    async fn remove(&self, id: JobId) -> PortResult<bool> {
        Ok(self.jobs.lock().unwrap().remove(&id).is_some())
    }

    async fn remove_expired(&self, _: usize) -> PortResult<Vec<Job>> {
        Ok(Vec::new())
    }

    async fn waiting(&self) -> PortResult<Vec<(Stage, u64)>> {
        Ok(Vec::new())
    }
}

/// Events, with a number that tells followers that there are more.
pub struct Events {
    events: Mutex<HashMap<JobId, Vec<Event>>>,
    changed: watch::Sender<()>,
}

impl Default for Events {
    fn default() -> Self {
        Self { events: Mutex::default(), changed: watch::Sender::new(()) }
    }
}

#[derive(Clone, Default)]
pub struct EventsHandle(pub Arc<Events>);

#[async_trait]
impl EventLog for EventsHandle {
    async fn append(&self, job: JobId, floor: u64, event: NewEvent) -> PortResult<u64> {
        let mut events = self.0.events.lock().unwrap();
        let kept = events.entry(job).or_default();
        let seq = kept.last().map_or(floor, |last| last.seq.max(floor)) + 1;
        kept.push(Event { seq, job_id: job, kind: event.kind, at: event.at, data: event.data });
        self.0.changed.send_replace(());
        Ok(seq)
    }

    async fn follow(&self, job: JobId, after: u64) -> PortResult<BoxStream<'static, Followed>> {
        let events = self.0.clone();
        let changes = self.0.changed.subscribe();
        let stream = futures::stream::unfold(
            (events, changes, after),
            move |(events, mut changes, last)| async move {
                loop {
                    changes.borrow_and_update();
                    let next = events
                        .events
                        .lock()
                        .unwrap()
                        .get(&job)
                        .and_then(|kept| kept.iter().find(|event| event.seq > last).cloned());
                    if let Some(event) = next {
                        let last = event.seq;
                        return Some((Followed::Event(event), (events, changes, last)));
                    }
                    changes.changed().await.ok()?;
                }
            },
        );
        Ok(stream.boxed())
    }

    async fn read(&self, job: JobId) -> PortResult<Vec<Event>> {
        Ok(self.0.events.lock().unwrap().get(&job).cloned().unwrap_or_default())
    }

    async fn forget(&self, job: JobId, delay: Duration) -> PortResult<()> {
        if delay.is_zero() {
            self.0.events.lock().unwrap().remove(&job);
        }
        Ok(())
    }
}

#[derive(Default)]
pub struct Queues {
    pub ready: Mutex<u64>,
    pub published: Mutex<Vec<(Stage, Envelope)>>,
}

#[async_trait]
impl Broker for Queues {
    async fn publish(&self, stage: Stage, envelope: Envelope, _: Duration) -> PortResult<()> {
        self.published.lock().unwrap().push((stage, envelope));
        Ok(())
    }

    async fn consume(&self, _: Stage) -> PortResult<Box<dyn Consumer>> {
        Err(PortError::new(ErrorKind::Unavailable, "nothing is consumed in these tests"))
    }

    async fn depth(&self, _: Stage) -> PortResult<Depth> {
        Ok(Depth { ready: *self.ready.lock().unwrap(), ..Depth::default() })
    }

    async fn dead_letters(&self, _: Stage, _: usize) -> PortResult<Vec<DeadLetter>> {
        Ok(Vec::new())
    }

    async fn replay(&self, _: Stage, _: &str) -> PortResult<bool> {
        Ok(false)
    }

    async fn purge_dead_letters(&self, _: Stage) -> PortResult<u64> {
        Ok(0)
    }
}

#[derive(Default)]
pub struct Values(Mutex<HashMap<String, Bytes>>);

#[async_trait]
impl Cache for Values {
    async fn get(&self, namespace: Namespace, key: &str) -> PortResult<Option<Bytes>> {
        Ok(self.0.lock().unwrap().get(&format!("{}/{key}", namespace.as_str())).cloned())
    }

    async fn put(&self, namespace: Namespace, key: &str, value: Bytes, _: Duration) -> PortResult<()> {
        self.0.lock().unwrap().insert(format!("{}/{key}", namespace.as_str()), value);
        Ok(())
    }

    async fn remove(&self, namespace: Namespace, key: &str) -> PortResult<()> {
        self.0.lock().unwrap().remove(&format!("{}/{key}", namespace.as_str()));
        Ok(())
    }
}

#[derive(Default)]
pub struct Blobs {
    pub blobs: Mutex<BTreeMap<String, Bytes>>,
    /// How many times something was removed.
    pub removals: watch::Sender<u64>,
}

#[async_trait]
impl BlobStore for Blobs {
    async fn put(&self, key: &str, data: Bytes) -> PortResult<()> {
        self.blobs.lock().unwrap().insert(key.to_owned(), data);
        Ok(())
    }

    async fn get(&self, key: &str) -> PortResult<Option<Bytes>> {
        Ok(self.blobs.lock().unwrap().get(key).cloned())
    }

    async fn remove(&self, key: &str) -> PortResult<()> {
        self.blobs.lock().unwrap().remove(key);
        Ok(())
    }

    async fn remove_all(&self, prefix: &str) -> PortResult<()> {
        self.blobs.lock().unwrap().retain(|key, _| !key.starts_with(&format!("{prefix}/")));
        self.removals.send_modify(|count| *count += 1);
        Ok(())
    }
}

#[derive(Default)]
pub struct Deliveries(pub Mutex<Vec<Delivery>>);

#[async_trait]
impl DeliveryStore for Deliveries {
    async fn get(&self, id: DeliveryId) -> PortResult<Option<Delivery>> {
        Ok(self.0.lock().unwrap().iter().find(|delivery| delivery.id == id).cloned())
    }

    async fn of_job(&self, job: JobId) -> PortResult<Vec<Delivery>> {
        Ok(self.0.lock().unwrap().iter().filter(|delivery| delivery.job_id == job).cloned().collect())
    }

    async fn due(&self, _: usize, _: Duration) -> PortResult<Vec<Delivery>> {
        Ok(Vec::new())
    }

    async fn next_due(&self) -> PortResult<Option<Timestamp>> {
        Ok(None)
    }

    async fn record(
        &self,
        _: DeliveryId,
        _: DeliveryAttempt,
        _: DeliveryStatus,
        _: Option<Timestamp>,
    ) -> PortResult<Option<Delivery>> {
        Ok(None)
    }

    async fn replay(&self, id: DeliveryId) -> PortResult<Option<Delivery>> {
        let mut deliveries = self.0.lock().unwrap();
        Ok(deliveries.iter_mut().find(|delivery| delivery.id == id).map(|delivery| {
            delivery.status = DeliveryStatus::Pending;
            delivery.clone()
        }))
    }
}

/// Documents of one chunk each.
#[derive(Default)]
pub struct Documents {
    pub documents: Mutex<BTreeMap<DocumentId, (Document, String)>>,
    collections: Mutex<BTreeMap<(Tenant, Collection), String>>,
}

impl Documents {
    /// Adds a document whose chunk has its id.
    pub fn add(&self, tenant: &Tenant, external_id: &str, text: &str) -> DocumentId {
        let id = DocumentId::generate();
        let document = Document {
            id,
            tenant: tenant.clone(),
            collection: Collection::default(),
            external_id: external_id.to_owned(),
            title: "A title".to_owned(),
            uri: None,
            media_type: "text/plain".to_owned(),
            metadata: serde_json::json!({"lang": "en"}).as_object().unwrap().clone(),
            fingerprint: String::new(),
            version: 1,
            chunks: 1,
            bytes: text.len() as u64,
            created_at: now(),
            updated_at: now(),
        };
        self.collections.lock().unwrap().entry((tenant.clone(), Collection::default())).or_default();
        self.documents.lock().unwrap().insert(id, (document, text.to_owned()));
        id
    }

    fn info(&self, tenant: &Tenant, name: &Collection) -> Option<CollectionInfo> {
        let description = self.collections.lock().unwrap().get(&(tenant.clone(), name.clone()))?.clone();
        let documents = self.documents.lock().unwrap();
        let count =
            documents.values().filter(|(d, _)| d.tenant == *tenant && d.collection == *name).count() as u64;
        Some(CollectionInfo {
            name: name.clone(),
            description,
            documents: count,
            chunks: count,
            created_at: now(),
        })
    }
}

fn not_used<T>() -> PortResult<T> {
    Err(PortError::new(ErrorKind::Internal, "not used by the API"))
}

#[async_trait]
impl DocumentStore for Documents {
    async fn resolve(&self, _: &Tenant, _: &Collection, _: &str) -> PortResult<DocumentId> {
        not_used()
    }

    async fn get(&self, tenant: &Tenant, id: DocumentId) -> PortResult<Option<Document>> {
        let documents = self.documents.lock().unwrap();
        Ok(documents.get(&id).filter(|(d, _)| d.tenant == *tenant).map(|(d, _)| d.clone()))
    }

    async fn text(&self, tenant: &Tenant, id: DocumentId) -> PortResult<Option<String>> {
        let documents = self.documents.lock().unwrap();
        Ok(documents.get(&id).filter(|(d, _)| d.tenant == *tenant).map(|(_, text)| text.clone()))
    }

    async fn chunk_ids(&self, _: DocumentId) -> PortResult<Vec<(ChunkId, Option<String>)>> {
        not_used()
    }

    async fn list(&self, tenant: &Tenant, filter: &DocumentFilter) -> PortResult<Vec<Document>> {
        let documents = self.documents.lock().unwrap();
        Ok(documents
            .values()
            .map(|(document, _)| document)
            .filter(|d| d.tenant == *tenant)
            .filter(|d| filter.collection.as_ref().is_none_or(|wanted| d.collection == *wanted))
            .filter(|d| filter.external_id_prefix.as_ref().is_none_or(|p| d.external_id.starts_with(p)))
            .filter(|d| filter.metadata.matches(&d.metadata))
            .filter(|d| filter.after.is_none_or(|after| d.id > after))
            .take(filter.limit)
            .cloned()
            .collect())
    }

    async fn stage(&self, _: Vec<StagedDocument>) -> PortResult<Vec<Staged>> {
        not_used()
    }

    async fn publish(&self, _: &[Staged]) -> PortResult<Vec<Published>> {
        not_used()
    }

    async fn delete(&self, tenant: &Tenant, id: DocumentId) -> PortResult<Option<LogPosition>> {
        let mut documents = self.documents.lock().unwrap();
        if documents.get(&id).is_none_or(|(document, _)| document.tenant != *tenant) {
            return Ok(None);
        }
        documents.remove(&id);
        Ok(Some(7))
    }

    async fn passages(
        &self,
        tenant: &Tenant,
        collection: &Collection,
        ids: &[ChunkId],
    ) -> PortResult<Vec<PassageRecord>> {
        let documents = self.documents.lock().unwrap();
        Ok(ids
            .iter()
            .filter_map(|id| documents.get(&DocumentId(id.0)))
            .filter(|(d, _)| d.tenant == *tenant && d.collection == *collection)
            .map(|(document, text)| PassageRecord {
                chunk_id: ChunkId(document.id.0),
                document_id: document.id,
                external_id: document.external_id.clone(),
                title: document.title.clone(),
                uri: None,
                metadata: document.metadata.clone(),
                heading_path: Vec::new(),
                text: text.clone(),
                ordinal: 0,
                start: 0,
                end: text.chars().count(),
            })
            .collect())
    }

    async fn changes(&self, _: LogPosition, _: usize) -> PortResult<Vec<Change>> {
        not_used()
    }

    async fn head(&self) -> PortResult<LogPosition> {
        Ok(7)
    }

    async fn horizon(&self) -> PortResult<LogPosition> {
        Ok(0)
    }

    async fn history(&self) -> PortResult<uuid::Uuid> {
        not_used()
    }

    async fn clean(&self, _: Duration) -> PortResult<u64> {
        Ok(0)
    }

    async fn collection(&self, tenant: &Tenant, name: &Collection) -> PortResult<Option<CollectionInfo>> {
        Ok(self.info(tenant, name))
    }

    async fn collections(&self, tenant: &Tenant) -> PortResult<Vec<CollectionInfo>> {
        let names: Vec<Collection> = self
            .collections
            .lock()
            .unwrap()
            .keys()
            .filter(|(t, _)| t == tenant)
            .map(|(_, c)| c.clone())
            .collect();
        Ok(names.iter().filter_map(|name| self.info(tenant, name)).collect())
    }

    async fn put_collection(
        &self,
        tenant: &Tenant,
        name: &Collection,
        description: &str,
    ) -> PortResult<bool> {
        let mut collections = self.collections.lock().unwrap();
        Ok(collections.insert((tenant.clone(), name.clone()), description.to_owned()).is_none())
    }

    async fn delete_collection(&self, tenant: &Tenant, name: &Collection) -> PortResult<Option<LogPosition>> {
        let removed = self.collections.lock().unwrap().remove(&(tenant.clone(), name.clone()));
        self.documents.lock().unwrap().retain(|_, (d, _)| d.tenant != *tenant || d.collection != *name);
        Ok(removed.map(|_| 7))
    }
}

/// Finds every document that has the first word of the question.
pub struct Words(pub Arc<Documents>);

#[async_trait]
impl Replica for Words {
    fn name(&self) -> &'static str {
        "words"
    }

    fn position(&self) -> LogPosition {
        7
    }

    fn history(&self) -> Option<uuid::Uuid> {
        None
    }

    async fn apply(&self, _: Vec<Change>) -> PortResult<()> {
        not_used()
    }

    async fn save(&self) -> PortResult<()> {
        Ok(())
    }

    async fn reset(&self, _: uuid::Uuid) -> PortResult<()> {
        not_used()
    }

    async fn count(&self) -> PortResult<u64> {
        Ok(self.0.documents.lock().unwrap().len() as u64)
    }
}

#[async_trait]
impl KeywordIndex for Words {
    async fn search(&self, text: &str, _: &SearchScope) -> PortResult<Vec<Hit>> {
        let word = text.split_whitespace().next().unwrap_or_default();
        let documents = self.0.documents.lock().unwrap();
        Ok(documents
            .values()
            .filter(|(_, text)| text.contains(word))
            .map(|(document, _)| Hit { chunk_id: ChunkId(document.id.0), score: 1.0 })
            .collect())
    }
}

/// Calls nobody, and allows every address but one.
pub struct Webhooks;

#[async_trait]
impl WebhookSender for Webhooks {
    fn check(&self, url: &Url) -> Result<(), WebhookError> {
        match url.host_str() {
            Some("169.254.169.254") => Err(WebhookError::Forbidden("a metadata address".to_owned())),
            _ => Ok(()),
        }
    }

    async fn send(&self, _: &WebhookRequest) -> Result<WebhookResponse, WebhookError> {
        Err(WebhookError::Failed("nothing is sent in these tests".to_owned()))
    }
}
