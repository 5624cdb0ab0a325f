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
    /// One reads a job at a time, and that takes a moment, as over a single connection.
    reading: tokio::sync::Mutex<()>,
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
        let _turn = self.reading.lock().await;
        tokio::time::sleep(Duration::from_millis(1)).await;
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
    async fn append_all(&self, job: JobId, floor: u64, new: Vec<NewEvent>) -> PortResult<u64> {
        let mut events = self.0.events.lock().unwrap();
        let kept = events.entry(job).or_default();
        for NewEvent { kind, at, data } in new {
            let seq = kept.last().map_or(floor, |last| last.seq.max(floor)) + 1;
            kept.push(Event { seq, job_id: job, kind, at, data });
        }
        self.0.changed.send_replace(());
        Ok(kept.last().unwrap().seq)
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

    async fn forget(&self, job: JobId) -> PortResult<()> {
        self.0.events.lock().unwrap().remove(&job);
        Ok(())
    }
}

#[derive(Default)]
pub struct Queues {
    pub ready: Mutex<u64>,
    pub published: Mutex<Vec<(Stage, Envelope)>>,
    /// While it is held, nothing gets onto a queue.
    pub gate: tokio::sync::Mutex<()>,
}

#[async_trait]
impl Broker for Queues {
    async fn publish(&self, stage: Stage, envelope: Envelope, _: Duration) -> PortResult<()> {
        let _gate = self.gate.lock().await;
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

    async fn take(&self, namespace: Namespace, key: &str) -> PortResult<Option<Bytes>> {
        Ok(self.0.lock().unwrap().remove(&format!("{}/{key}", namespace.as_str())))
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

    async fn due(&self, limit: usize, lease: Duration) -> PortResult<Vec<Delivery>> {
        let mut held = self.0.lock().unwrap();
        let due = held.iter_mut().filter(|delivery| delivery.next_at.is_some_and(|at| at <= now()));
        Ok(due
            .take(limit)
            .map(|delivery| {
                delivery.next_at = Some(now() + lease);
                delivery.clone()
            })
            .collect())
    }

    async fn begin(&self, id: DeliveryId, _: Duration) -> PortResult<Option<Delivery>> {
        Ok(self.get(id).await?.filter(|delivery| delivery.status == DeliveryStatus::Pending))
    }

    async fn release(&self, ids: &[DeliveryId]) -> PortResult<()> {
        for delivery in self.0.lock().unwrap().iter_mut().filter(|delivery| ids.contains(&delivery.id)) {
            delivery.next_at = Some(now());
        }
        Ok(())
    }

    async fn recover(&self) -> PortResult<u64> {
        Ok(0)
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
            delivery.next_at = Some(now());
            delivery.clone()
        }))
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
