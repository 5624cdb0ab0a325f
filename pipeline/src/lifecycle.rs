//! What belongs to every change of a job: the write to the store, then its event, the message to the next stage, the webhook, and the
//! clearing up. Every caller that moves a job goes through here, so that no step is forgotten; what a crash cuts off between two steps is made good
//! by the sweeper and by followers, which read the store.

use std::{sync::Arc, time::Duration};

use serde_json::{Value, json};
use tracing::warn;

use crate::{
    domain::{Delivery, EventType, Job, JobId, JobSpec, NewEvent, Priority, Stage},
    message::Message,
    ports::{
        BlobStore, Broker, Cache, DeliveryStore, Ended, Ending, Envelope, EventLog, JobStore, Namespace,
        Outcome, PortResult,
    },
    view::Views,
};

/// How long a delivery that was put on the queue is left alone before it is put there again, if nobody has begun to try it. Whoever took it may have died before it
/// got there.
const DELIVERY_LEASE: Duration = Duration::from_secs(5);

/// So many deliveries are published by one caller; the sweeper comes for the rest.
const DELIVERIES_AT_ONCE: usize = 500;

/// How long things are kept and how soon the sweeper steps in.
#[derive(Debug, Clone, PartialEq)]
pub struct LifecycleSettings {
    /// How long after a publish the sweeper publishes again, if nobody has taken the job.
    pub republish_after: Duration,
    /// How long a worker's lease on a job lasts without a heartbeat.
    pub lease: Duration,
    /// How long passages are kept for `GET …/passages` and for generation.
    pub passages_ttl: Duration,
}

impl Default for LifecycleSettings {
    fn default() -> Self {
        Self {
            republish_after: Duration::from_secs(30),
            lease: Duration::from_secs(30),
            passages_ttl: Duration::from_secs(3_600),
        }
    }
}

/// The ports that a job's changes touch.
pub struct Lifecycle {
    /// The record.
    pub jobs: Arc<dyn JobStore>,
    /// The record of webhooks.
    pub deliveries: Arc<dyn DeliveryStore>,
    /// The queues.
    pub broker: Arc<dyn Broker>,
    /// What followers read.
    pub events: Arc<dyn EventLog>,
    /// Where passages wait.
    pub cache: Arc<dyn Cache>,
    /// Where manifests lie.
    pub blobs: Arc<dyn BlobStore>,
    /// Public forms.
    pub views: Views,
    /// Times.
    pub settings: LifecycleSettings,
}

impl Lifecycle {
    /// Adds an event to a job's log.
    pub async fn announce(&self, job: &Job, kind: EventType, data: Value) {
        self.log(job, vec![NewEvent::now(kind, data)]).await;
    }

    /// Adds events to a job's log, if there are any. A log that is down costs followers events, never the job its work.
    pub async fn log(&self, job: &Job, events: Vec<NewEvent>) {
        let Some(last) = events.last().map(|event| event.kind) else { return };
        if let Err(error) = self.events.append_all(job.id, job.event_floor(), events).await {
            warn!(job_id = %job.id, event = last.as_str(), %error, "events not logged");
        }
    }

    /// Puts a job on its stage's queue, visible after `delay`. A queue that refuses is no error: the sweeper tries again.
    pub async fn enqueue(&self, job: &Job, delay: Duration) -> bool {
        let envelope = Envelope {
            message: Message::Job { job_id: job.id, stage: job.stage },
            priority: job.priority,
            tenant: job.tenant.clone(),
        };
        match self.broker.publish(job.stage, envelope, delay).await {
            Ok(()) => true,
            Err(error) => {
                warn!(job_id = %job.id, stage = job.stage.as_str(), %error, "job not published; the sweeper will");
                false
            }
        }
    }

    /// Leaves a job that the caller took, with what follows from it; `said` is what its followers are told before that. False when the job was no
    /// longer the caller's: then nothing happened.
    pub async fn finish(&self, job: &Job, outcome: Outcome, said: Vec<NewEvent>) -> PortResult<bool> {
        let Some(after) = self.jobs.finish(job.id, job.fence, outcome).await? else {
            return Ok(false);
        };
        if after.status.is_final() {
            self.ended(&after, said).await;
            return Ok(true);
        }
        self.log(&after, said).await;
        if after.stage != job.stage {
            self.enqueue(&after, Duration::ZERO).await;
        }
        Ok(true)
    }

    /// Ends a job that the caller did not take: cancel, deadline, or failure found outside a worker.
    pub async fn end(&self, id: JobId, ending: Ending) -> PortResult<Ended> {
        let ended = self.jobs.end(id, ending).await?;
        if let Ended::Now(job) = &ended {
            self.ended(job, Vec::new()).await;
        }
        Ok(ended)
    }

    /// What follows from a job's end, however it ended. `said` comes before its last event.
    async fn ended(&self, job: &Job, mut said: Vec<NewEvent>) {
        metrics::counter!("raglan_jobs_ended_total", "status" => job.status.as_str(), "stage" => job.stage.as_str())
            .increment(1);
        if let Some(kind) = EventType::ending(job.status) {
            said.push(NewEvent::now(kind, self.views.job_json(job)));
        }
        self.log(job, said).await;
        if job.webhook.is_some()
            && let Err(error) = self.publish_deliveries().await
        {
            warn!(job_id = %job.id, %error, "webhook not published; the sweeper will");
        }
        if let JobSpec::Ingestion(_) = &job.spec {
            self.remove_blobs(job).await;
        }
    }

    /// Puts the webhooks that are due on their queue. Whoever makes one due calls this, and the sweeper does for those that are due by time: the
    /// lease that the store gives with each keeps two callers from publishing the same one. What the queue does not take is due again at once.
    pub async fn publish_deliveries(&self) -> PortResult<()> {
        let due = self.deliveries.due(DELIVERIES_AT_ONCE, DELIVERY_LEASE).await?;
        for (number, delivery) in due.iter().enumerate() {
            if let Err(error) = self.publish_delivery(delivery).await {
                let left: Vec<_> = due[number..].iter().map(|delivery| delivery.id).collect();
                if let Err(error) = self.deliveries.release(&left).await {
                    warn!(%error, "deliveries that were not published wait until their leases end");
                }
                return Err(error);
            }
        }
        Ok(())
    }

    async fn publish_delivery(&self, delivery: &Delivery) -> PortResult<()> {
        let envelope = Envelope {
            message: Message::Delivery { delivery_id: delivery.id },
            priority: Priority::Normal,
            tenant: delivery.tenant.clone(),
        };
        self.broker.publish(Stage::Webhook, envelope, Duration::ZERO).await
    }

    /// Removes the uploads and the manifest of an ingestion. What a crash leaves is removed with the job.
    async fn remove_blobs(&self, job: &Job) {
        if let Err(error) = self.blobs.remove_all(&job_blobs(job.id)).await {
            warn!(job_id = %job.id, %error, "uploads of a finished job not removed");
        }
    }

    /// Removes an ended job with everything kept for it. False when there is none or it has not ended.
    pub async fn remove(&self, job: &Job) -> PortResult<bool> {
        if !self.jobs.remove(job.id).await? {
            return Ok(false);
        }
        self.clear(job).await;
        Ok(true)
    }

    /// Removes what other ports keep for a job that has gone from the store.
    pub async fn clear(&self, job: &Job) {
        if let Err(error) = self.cache.remove(Namespace::Passages, &job.id.to_string()).await {
            warn!(job_id = %job.id, %error, "passages of a removed job not removed");
        }
        if let Err(error) = self.events.forget(job.id).await {
            warn!(job_id = %job.id, %error, "events of a removed job not removed");
        }
        if let JobSpec::Ingestion(_) = &job.spec {
            self.remove_blobs(job).await;
        }
    }
}

/// What followers are told of a stage that failed and will be tried again.
#[must_use]
pub fn retrying(job: &Job, cause: &str, delay: Duration) -> Value {
    json!({
        "stage": job.stage,
        "attempt": job.attempt,
        "cause": cause,
        "retry_in_ms": u64::try_from(delay.as_millis()).unwrap_or(u64::MAX),
    })
}

/// The folder of blobs that belong to one job.
#[must_use]
pub fn job_blobs(id: JobId) -> String {
    format!("jobs/{id}")
}
