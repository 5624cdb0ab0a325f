//! Following a job: its events from the log, and, where the log has lost some, the job itself.

use std::{sync::Arc, time::Duration};

use async_stream::stream;
use futures::{Stream, StreamExt, stream::BoxStream};
use moka::{policy::EvictionPolicy, sync::Cache};
use serde_json::Value;
use tokio::time::{Instant, interval_at};
use tracing::warn;

use crate::{
    apart::apart,
    domain::{Event, EventType, Job, JobId, Tenant, now},
    ports::{self, EventLog, JobStore, PortResult},
    submit::delta,
    view::Views,
};

/// How often a follower that hears nothing looks whether the job has ended without an event.
const RECHECK: Duration = Duration::from_secs(5);

/// A job that was accepted so short a while ago is followed without asking the store for it.
const JUST_NOW: Duration = Duration::from_secs(10);
/// So many jobs are remembered for that.
const REMEMBERED: u64 = 10_000;

/// A job that is followed.
pub struct Followed {
    /// Whether it had ended when it was looked at.
    pub ended: bool,
    /// What its reader has not had yet.
    pub events: BoxStream<'static, Event>,
}

/// Follows jobs.
#[derive(Clone)]
pub struct Follow {
    jobs: Arc<dyn JobStore>,
    events: Arc<dyn EventLog>,
    views: Views,
    /// Jobs as they were accepted here.
    accepted: Cache<JobId, Arc<Job>>,
}

impl Follow {
    /// Follows jobs of this store through this log.
    #[must_use]
    pub fn new(jobs: Arc<dyn JobStore>, events: Arc<dyn EventLog>, views: Views) -> Self {
        let accepted = Cache::builder()
            .max_capacity(REMEMBERED)
            // When it is full the oldest goes, and not the one that is about to be followed.
            .eviction_policy(EvictionPolicy::lru())
            .time_to_live(JUST_NOW)
            .build();
        Self { jobs, events, views, accepted }
    }

    /// A job was accepted: most clients follow it at once.
    pub fn accepted(&self, job: &Job) {
        self.accepted.insert(job.id, Arc::new(job.clone()));
    }

    /// A job is not there any more.
    pub fn removed(&self, id: JobId) {
        self.accepted.invalidate(&id);
    }

    /// The events of a job after `after`, ending with its final event.
    ///
    /// Numbers are strictly increasing. What the log no longer has is replaced by a `stream.snapshot`; a final event that was lost is made
    /// anew from the store. A reader that has had the final event already gets an empty stream. While the log cannot be had, the store alone tells: a snapshot now,
    /// and the end within [`RECHECK`] of it.
    ///
    /// None where the tenant has no such job.
    pub async fn follow(&self, tenant: &Tenant, id: JobId, after: u64) -> PortResult<Option<Followed>> {
        // First listen, then look: what happens between the two is heard.
        let live = match self.events.follow(id, after).await {
            Ok(live) => Some(live),
            Err(error) if error.is_transient() => {
                warn!(job_id = %id, %error, "events cannot be followed; following the store alone");
                None
            }
            Err(error) => return Err(error),
        };
        // The log alone tells all that came since.
        let accepted = self.accepted.get(&id).filter(|_| after == 0 && live.is_some());
        let job = match accepted {
            Some(job) => Some(Arc::unwrap_or_clone(job)),
            None => self.jobs.get(id).await?,
        };
        let Some(job) = job.filter(|job| job.tenant == *tenant) else { return Ok(None) };
        let ended = job.status.is_final();
        let events = if after > 0 && self.has_had_the_end(id, after).await {
            futures::stream::empty().boxed()
        } else {
            self.clone().stream(job, after, live).boxed()
        };
        Ok(Some(Followed { ended, events }))
    }

    /// Reads a job. Apart, as all that a stream asks for: it may be left alone at any point.
    async fn job(&self, id: JobId) -> PortResult<Option<Job>> {
        let jobs = Arc::clone(&self.jobs);
        apart(async move { jobs.get(id).await }).await
    }

    /// The events of a job that are kept.
    async fn kept(&self, id: JobId) -> PortResult<Vec<Event>> {
        let events = Arc::clone(&self.events);
        apart(async move { events.read(id).await }).await
    }

    /// Whether the number that a reader has last is that of the final event.
    async fn has_had_the_end(&self, id: JobId, after: u64) -> bool {
        // A log that is down is as one that has lost everything: the job itself tells how it ends.
        let kept = self.kept(id).await.unwrap_or_else(|error| {
            warn!(job_id = %id, %error, "events not read; following the job itself");
            Vec::new()
        });
        kept.last().is_some_and(|last| last.kind.is_final() && last.seq == after)
    }

    fn stream(
        self,
        job: Job,
        after: u64,
        live: Option<BoxStream<'static, ports::Followed>>,
    ) -> impl Stream<Item = Event> + Send + 'static {
        stream! {
            let id = job.id;
            let mut last = after;
            // Numbers of an earlier epoch are of a log that was lost: the reader may have missed events that nobody has any more.
            if after > 0 && after < job.event_floor() {
                last = job.event_floor();
                yield self.snapshot(&job, last).await;
            }
            let mut ended_at_last_look = false;
            // A job that has ended before is told of at once where the log cannot.
            let told_by_log = live.is_some() && !job.status.is_final();
            // How it ended is known then.
            let mut ended = job.status.is_final().then(|| job.clone());
            let first_look = if told_by_log { RECHECK } else { Duration::ZERO };
            let mut recheck = interval_at(Instant::now() + first_look, RECHECK);
            let mut live = match live {
                Some(live) => live,
                None => {
                    last = last.max(job.event_floor()) + 1;
                    yield self.snapshot(&job, last).await;
                    futures::stream::pending().boxed()
                }
            };
            loop {
                tokio::select! {
                    biased;
                    followed = live.next() => match followed {
                        Some(ports::Followed::Event(event)) => {
                            if event.seq <= last {
                                continue;
                            }
                            last = event.seq;
                            let is_final = event.kind.is_final();
                            yield event;
                            if is_final {
                                return;
                            }
                        }
                        Some(ports::Followed::Missed { up_to }) => {
                            last = last.max(up_to);
                            if let Ok(Some(job)) = self.job(id).await {
                                yield self.snapshot(&job, last).await;
                            }
                        }
                        None => {
                            warn!(job_id = %id, "event log ended a stream");
                            return;
                        }
                    },
                    _ = recheck.tick() => {
                        let looked_up = match ended.take() {
                            Some(job) => Ok(Some(job)),
                            None => self.job(id).await,
                        };
                        let job = match looked_up {
                            Ok(Some(job)) => job,
                            // Removed: nothing will come any more.
                            Ok(None) => return,
                            Err(error) => {
                                warn!(job_id = %id, %error, "follower could not read its job");
                                continue;
                            }
                        };
                        let Some(kind) = EventType::ending(job.status) else { continue };
                        // The event follows the commit by a moment; only when it has not come by the next look is it lost.
                        let long_ago = job.completed_at.is_some_and(|at| now() - at > delta(RECHECK));
                        let kept = self.kept(id).await.unwrap_or_default();
                        if !ended_at_last_look && !long_ago && !kept.is_empty() {
                            ended_at_last_look = true;
                            continue;
                        }
                        // Above what the reader has, it will come by itself. Below, the log came back from a crash as it was some time ago and
                        // has given out numbers again: what it gave out meanwhile, its end too, went past this reader.
                        // A final event of the number that the reader has is one that it was not given: it would have left.
                        let went_back = kept
                            .last()
                            .is_some_and(|event| event.seq < last || event.seq == last && event.kind.is_final());
                        if !went_back && kept.last().is_some_and(|event| event.kind.is_final()) {
                            continue;
                        }
                        let gone = kept.is_empty() || went_back;
                        // What is kept comes before the end, also where the reader was not given it yet.
                        for event in kept {
                            if event.seq > last {
                                last = event.seq;
                                yield event;
                            }
                        }
                        let floor = last.max(job.event_floor());
                        if gone {
                            yield self.snapshot(&job, floor + 1).await;
                        }
                        yield Event {
                            seq: floor + 2,
                            job_id: id,
                            kind,
                            at: job.completed_at.unwrap_or_else(now),
                            data: self.views.job_json(&job),
                        };
                        return;
                    }
                }
            }
        }
    }

    /// The job as it stands, with the text so far.
    async fn snapshot(&self, job: &Job, seq: u64) -> Event {
        let text = match &job.result {
            Some(crate::domain::JobResult::Query(result)) => result.answer.clone(),
            _ => text_so_far(&self.kept(job.id).await.unwrap_or_default()),
        };
        let mut data = self.views.job_json(job);
        if let Value::Object(fields) = &mut data {
            fields.insert("text".to_owned(), Value::String(text));
        }
        Event { seq, job_id: job.id, kind: EventType::Snapshot, at: now(), data }
    }
}

/// The answer's text as far as these events tell: all deltas since the answer was last begun.
#[must_use]
pub fn text_so_far(events: &[Event]) -> String {
    let begun = events
        .iter()
        .rposition(|event| matches!(event.kind, EventType::Generating | EventType::Retrying))
        .unwrap_or(0);
    events[begun.min(events.len())..]
        .iter()
        .filter(|event| event.kind == EventType::AnswerDelta)
        .filter_map(|event| event.data.get("text").and_then(Value::as_str))
        .collect()
}
