//! The event log of the distributed shape: a Redis stream a job, and one published message for each call that adds events.
//!
//! Events are numbered by Redis, in one script that adds events, trims the stream, sets its time to live and publishes the events themselves. A process has
//! one connection on which it hears of all jobs that somebody there follows; a reader reads the stream once when it joins, and from then on only when it
//! cannot be sure to have heard everything: each event names the one before it, so nothing goes missing unnoticed.

mod hub;
mod reader;
#[cfg(test)]
mod tests;
mod wire;

use std::{
    sync::{Arc, LazyLock},
    time::Duration,
};

use async_trait::async_trait;
use futures::{StreamExt, stream, stream::BoxStream};
use raglan_pipeline::{
    domain::{Event, EventType, JobId, NewEvent},
    ports::{ErrorKind, EventLog, Followed, PortError, PortResult},
};
use redis::{Script, cmd};
use tokio::sync::Semaphore;
use tracing::warn;

use self::{hub::Hub, reader::Reader, wire::Listed};
use crate::redis_client::{Call, RedisClient};

/// Adds events; see there.
static APPEND: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("redis/append.lua")));

/// A larger event is left out: it would hold up everything else in Redis.
const MAX_EVENT_BYTES: usize = 8 << 20;
/// How many events are read at once, at most.
const PAGE: usize = 32;
/// How many readers read their streams at once; when a connection comes back, all want to. Their pages are all in memory, and Redis answers one after the other.
const READERS_AT_ONCE: usize = 16;
/// Among so many newest events a call that is made again looks for what it may have added before.
const LOOKED_THROUGH: usize = 64;
/// Redis refuses times that its clock cannot express.
const LONGEST_DELAY: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);

/// The bounds of a [`RedisEventLog`]. How many bytes there may be in all is Redis' own setting (`maxmemory`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RedisEventLogSettings {
    /// How many events of one job are kept. Redis drops the oldest in blocks, so there may be about a hundred more.
    pub events_per_job: usize,
    /// How long after its last event a job's events are kept.
    pub ttl: Duration,
}

impl Default for RedisEventLogSettings {
    fn default() -> Self {
        Self { events_per_job: 10_000, ttl: Duration::from_secs(3_600) }
    }
}

/// Events in Redis, under `{prefix}:events:{<job>}`, which is the name of the job's channel too.
///
/// A job's numbers go on while its stream is there. When it is gone before the job has ended (it expired, or Redis lost its data), they go on from
/// a number that is above any it can have reached, and readers are told that they may have missed something.
///
/// Following never fails: while Redis is away readers wait, and go on from where they were when it is back.
pub struct RedisEventLog {
    log: Arc<Log>,
    hub: Arc<Hub>,
}

/// What readers and the log itself need.
struct Log {
    client: Arc<RedisClient>,
    settings: RedisEventLogSettings,
    reading: Semaphore,
}

impl RedisEventLog {
    /// A log in this Redis. To be called within a Tokio runtime; the connection for readers is opened when the first of them comes.
    #[must_use]
    pub fn new(client: Arc<RedisClient>, settings: RedisEventLogSettings) -> Arc<Self> {
        let hub = Hub::start(Arc::clone(&client));
        let log = Log { client, settings, reading: Semaphore::new(READERS_AT_ONCE) };
        Arc::new(Self { log: Arc::new(log), hub })
    }
}

impl Log {
    /// The events of a job from number `from` on, at most so many of them, as Redis lists them.
    async fn page(&self, job: JobId, from: u64, most: usize) -> PortResult<Vec<Listed>> {
        let key = wire::key(self.client.prefix(), job);
        let range = |_| {
            Call::Command(
                cmd("XRANGE").arg(&key).arg(format!("{from}-0")).arg("+").arg("COUNT").arg(most).take(),
            )
        };
        self.client.call(&key, range).await
    }
}

#[async_trait]
impl EventLog for RedisEventLog {
    async fn append_all(&self, job: JobId, floor: u64, events: Vec<NewEvent>) -> PortResult<u64> {
        // Nothing comes before it.
        let is_first = events.first().is_some_and(|event| event.kind == EventType::Queued);
        let mut bodies = events.iter().map(wire::body).collect::<PortResult<Vec<_>>>()?;
        bodies.retain(|body| {
            let fits = body.len() <= MAX_EVENT_BYTES;
            if !fits {
                warn!(job_id = %job, bytes = body.len(), "event is too large for the log and is left out");
            }
            fits
        });
        if bodies.is_empty() {
            let message = "there are no events, or none small enough, to be added to the log";
            return Err(PortError::new(ErrorKind::Invalid, message));
        }
        let key = wire::key(self.log.client.prefix(), job);
        // By this they are found again, should the answer get lost on the way.
        let mark = rand::random::<[u8; 16]>();
        let append = |again| {
            let mut script = APPEND.key(&key);
            script
                .arg(floor)
                .arg(&mark[..])
                .arg(self.log.settings.events_per_job.max(1))
                .arg(millis(self.log.settings.ttl))
                .arg(u8::from(is_first))
                .arg(created_ms(job))
                .arg(if again { LOOKED_THROUGH } else { 1 })
                .arg(&bodies);
            Call::Script(script)
        };
        self.log.client.call(&key, append).await
    }

    async fn follow(&self, job: JobId, after: u64) -> PortResult<BoxStream<'static, Followed>> {
        let reader = Reader::new(Arc::clone(&self.log), self.hub.join(job), job, after);
        Ok(stream::unfold(reader, |mut reader| async move { Some((reader.next().await, reader)) }).boxed())
    }

    async fn read(&self, job: JobId) -> PortResult<Vec<Event>> {
        let (mut events, mut from) = (Vec::new(), 0);
        loop {
            let page = self.log.page(job, from, PAGE).await?;
            let (size, mut last) = (page.len(), None);
            for listed in page {
                let entry = wire::entry(job, listed)?;
                last = Some(entry.seq);
                match entry.linked {
                    Some(linked) => events.push(linked.event),
                    None => warn!(job_id = %job, seq = entry.seq, "event cannot be read"),
                }
            }
            match last {
                Some(last) if size == PAGE => from = last + 1,
                _ => return Ok(events),
            }
        }
    }

    async fn forget(&self, job: JobId) -> PortResult<()> {
        let key = wire::key(self.log.client.prefix(), job);
        self.log.client.call(&key, |_| Call::Command(cmd("UNLINK").arg(&key).take())).await
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.min(LONGEST_DELAY).as_millis()).unwrap_or(u64::MAX)
}

/// When a job was made, in milliseconds since 1970, as its id tells.
fn created_ms(job: JobId) -> u64 {
    job.0.get_timestamp().map_or(0, |made| {
        let (seconds, nanos) = made.to_unix();
        seconds.saturating_mul(1_000).saturating_add(u64::from(nanos) / 1_000_000)
    })
}
