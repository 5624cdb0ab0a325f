//! The one connection on which a process hears of all jobs that are followed in it.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use metrics::{Counter, Gauge, counter, gauge};
use raglan_pipeline::{
    decorators::retry::Backoff,
    domain::JobId,
    ports::{ErrorKind, PortError, PortResult},
};
use redis::{PushInfo, PushKind, RedisResult, Value, aio::MultiplexedConnection};
use tokio::{
    sync::{Notify, broadcast},
    time::{Instant, MissedTickBehavior, interval_at, sleep_until, timeout},
};
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::{debug, warn};

use super::wire::{self, Linked};
use crate::redis_client::RedisClient;

/// How many events wait for the slowest reader of a job; who is further behind reads the stream.
const BUFFER: usize = 32;
/// How many jobs are asked for in one command.
const AT_ONCE: usize = 500;
/// Jobs that nobody follows any more are told to Redis together, the first of them after so long at most.
const LEAVE_WITHIN: Duration = Duration::from_millis(500);
/// How often a silent connection is tried.
const PING_EVERY: Duration = Duration::from_secs(5);
/// How long Redis may take to confirm; the messages of all jobs come on the same connection.
const CONFIRMED_WITHIN: Duration = Duration::from_secs(5);
/// How long to wait before connecting again.
const BACKOFF: Backoff =
    Backoff { base: Duration::from_millis(50), factor: 2.0, max: Duration::from_secs(2) };
/// After a connection that lasted for so long, waiting begins anew.
const LASTING: Duration = Duration::from_secs(10);

/// What a reader hears.
#[derive(Debug, Clone)]
pub(super) enum Signal {
    /// An event.
    Event(Arc<Linked>),
    /// There may have been some that were not heard: read the stream.
    Reread,
}

/// Brings the events of the jobs that are followed to their readers. Ends with the last of its owners.
pub(super) struct Hub {
    shared: Arc<Shared>,
    _stop: DropGuard,
}

struct Shared {
    client: Arc<RedisClient>,
    channels: Mutex<Channels>,
    /// Somebody has come or gone.
    changed: Notify,
    followed: Gauge,
    reconnects: Counter,
}

#[derive(Default)]
struct Channels {
    jobs: HashMap<JobId, Channel>,
    /// The jobs that have got their first reader or lost their last one.
    changed: HashSet<JobId>,
}

struct Channel {
    sender: broadcast::Sender<Signal>,
    readers: usize,
    /// Whether Redis sends its events.
    heard: bool,
}

/// What Redis sends on the present connection.
#[derive(Default)]
struct Heard {
    jobs: HashSet<JobId>,
    /// Those of them that nobody follows any more.
    leaving: HashSet<JobId>,
    /// When these are to be told at the latest.
    leave_at: Option<Instant>,
}

/// A reader's place at a job.
pub(super) struct Member {
    hub: Arc<Hub>,
    job: JobId,
    receiver: broadcast::Receiver<Signal>,
    /// Whether events were heard already when it came.
    pub(super) heard: bool,
}

impl Hub {
    /// A hub that connects when the first reader comes.
    pub(super) fn start(client: Arc<RedisClient>) -> Arc<Self> {
        let shared = Arc::new(Shared {
            client,
            channels: Mutex::default(),
            changed: Notify::new(),
            followed: gauge!("raglan_event_log_followed_jobs"),
            reconnects: counter!("raglan_event_log_reconnects_total"),
        });
        let stop = CancellationToken::new();
        let (ended, running) = (stop.clone(), Arc::clone(&shared));
        tokio::spawn(async move {
            tokio::select! {
                () = ended.cancelled() => {}
                () = running.run() => {}
            }
        });
        Arc::new(Self { shared, _stop: stop.drop_guard() })
    }

    /// A reader comes.
    pub(super) fn join(self: &Arc<Self>, job: JobId) -> Member {
        let (receiver, heard, first) = {
            let mut channels = self.shared.channels();
            let channel = channels.jobs.entry(job).or_insert_with(|| Channel {
                sender: broadcast::channel(BUFFER).0,
                readers: 0,
                heard: false,
            });
            channel.readers += 1;
            let joined = (channel.sender.subscribe(), channel.heard, channel.readers == 1);
            if joined.2 {
                channels.changed.insert(job);
            }
            joined
        };
        if first {
            self.shared.followed.increment(1);
            self.shared.changed.notify_one();
        }
        Member { hub: Arc::clone(self), job, receiver, heard }
    }
}

impl Member {
    /// The next signal. Cancel-safe.
    pub(super) async fn recv(&mut self) -> Signal {
        match self.receiver.recv().await {
            Ok(signal) => signal,
            Err(broadcast::error::RecvError::Lagged(_)) => Signal::Reread,
            // Not while this member is one: the hub has the other end.
            Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
        }
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        let last = {
            let mut channels = self.hub.shared.channels();
            let Some(channel) = channels.jobs.get_mut(&self.job) else { return };
            channel.readers -= 1;
            let last = channel.readers == 0;
            if last {
                channels.jobs.remove(&self.job);
                channels.changed.insert(self.job);
            }
            last
        };
        if last {
            self.hub.shared.followed.decrement(1);
            self.hub.shared.changed.notify_one();
        }
    }
}

impl Shared {
    fn channels(&self) -> std::sync::MutexGuard<'_, Channels> {
        self.channels.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn run(self: Arc<Self>) {
        let (mut tries, mut failures) = (0, 0);
        loop {
            self.until_followed().await;
            let begun = Instant::now();
            let error = match self.serve(tries).await {
                Ok(never) => match never {},
                Err(error) => error,
            };
            for channel in self.channels().jobs.values_mut() {
                channel.heard = false;
            }
            self.reconnects.increment(1);
            tries += 1;
            failures = if begun.elapsed() >= LASTING { 1 } else { failures + 1 };
            // Said once for each time that events were heard before; the tries to get there again are many.
            if failures == 1 {
                warn!(%error, "events are not heard; connecting again");
            } else {
                debug!(%error, failures, "events are still not heard");
            }
            let delay = BACKOFF.delay(failures, &mut rand::rng());
            tokio::time::sleep(delay).await;
        }
    }

    /// No connection is held for nobody.
    async fn until_followed(&self) {
        loop {
            let changed = self.changed.notified();
            if !self.channels().jobs.is_empty() {
                return;
            }
            changed.await;
        }
    }

    /// Listens until the connection is lost.
    async fn serve(self: &Arc<Self>, attempt: usize) -> PortResult<std::convert::Infallible> {
        let lost = CancellationToken::new();
        let (hearing, disconnected) = (Arc::clone(self), lost.clone());
        let pushes = move |push: PushInfo| -> Result<(), std::convert::Infallible> {
            match push.kind {
                PushKind::Message => hearing.hear(&push.data),
                PushKind::Disconnection => disconnected.cancel(),
                _ => {}
            }
            Ok(())
        };
        let mut connection = self.client.subscriber(attempt, pushes).await?;
        // On this connection nothing is heard yet.
        let mut heard = Heard::default();
        {
            let mut channels = self.channels();
            channels.changed = channels.jobs.keys().copied().collect();
        }
        let mut ping = interval_at(Instant::now() + PING_EVERY, PING_EVERY);
        ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            self.settle(&mut connection, &mut heard).await?;
            let leave_at = heard.leave_at.unwrap_or_else(Instant::now);
            tokio::select! {
                () = self.changed.notified() => {}
                () = sleep_until(leave_at), if heard.leave_at.is_some() => {}
                () = lost.cancelled() => return Err(silent("the connection for events was lost")),
                _ = ping.tick() => {
                    in_time(redis::cmd("PING").query_async::<Value>(&mut connection)).await?;
                }
            }
        }
    }

    /// Makes Redis send the events of the jobs that are followed, at once, and soon of no others.
    async fn settle(&self, connection: &mut MultiplexedConnection, heard: &mut Heard) -> PortResult<()> {
        let subscribe = self.changes(heard);
        for jobs in subscribe.chunks(AT_ONCE) {
            in_time(connection.subscribe(self.names(jobs))).await?;
            heard.jobs.extend(jobs);
            self.confirm(jobs);
        }
        for jobs in heard.those_to_leave(Instant::now()).chunks(AT_ONCE) {
            in_time(connection.unsubscribe(self.names(jobs))).await?;
        }
        Ok(())
    }

    /// Takes what has changed since the last call; the jobs that are to be heard and are not.
    fn changes(&self, heard: &mut Heard) -> Vec<JobId> {
        let mut channels = self.channels();
        let changed = std::mem::take(&mut channels.changed);
        let mut subscribe = Vec::new();
        for job in changed {
            match (channels.jobs.get_mut(&job), heard.jobs.contains(&job)) {
                (Some(_), false) => subscribe.push(job),
                // All had left, and somebody came before Redis was told.
                (Some(channel), true) => {
                    heard.leaving.remove(&job);
                    channel.confirm();
                }
                (None, true) => {
                    heard.leaving.insert(job);
                }
                (None, false) => {}
            }
        }
        subscribe
    }

    fn confirm(&self, jobs: &[JobId]) {
        let mut channels = self.channels();
        for job in jobs {
            if let Some(channel) = channels.jobs.get_mut(job) {
                channel.confirm();
            }
        }
    }

    fn names(&self, jobs: &[JobId]) -> Vec<String> {
        jobs.iter().map(|job| wire::key(self.client.prefix(), *job)).collect()
    }

    /// A message has come: `[channel, text]`.
    fn hear(&self, data: &[Value]) {
        let [Value::BulkString(channel), Value::BulkString(text)] = data else { return };
        let Some(job) = wire::job_of(self.client.prefix(), channel) else { return };
        let sender = self.channels().jobs.get(&job).map(|channel| channel.sender.clone());
        let Some(sender) = sender else { return };
        // An error of sending means that all readers have gone.
        let Some(events) = wire::message(job, text) else {
            let _ = sender.send(Signal::Reread);
            return;
        };
        for linked in events {
            let _ = sender.send(Signal::Event(Arc::new(linked)));
        }
    }
}

impl Heard {
    /// The jobs that are to be told to Redis as heard no more, at this time; they count as told.
    fn those_to_leave(&mut self, now: Instant) -> Vec<JobId> {
        if self.leaving.is_empty() {
            self.leave_at = None;
            return Vec::new();
        }
        let leave_at = *self.leave_at.get_or_insert(now + LEAVE_WITHIN);
        if now < leave_at && self.leaving.len() < AT_ONCE {
            return Vec::new();
        }
        self.leave_at = None;
        let leaving: Vec<_> = self.leaving.drain().collect();
        for job in &leaving {
            self.jobs.remove(job);
        }
        leaving
    }
}

impl Channel {
    /// From now on nothing escapes; what came before must be read.
    fn confirm(&mut self) {
        self.heard = true;
        let _ = self.sender.send(Signal::Reread);
    }
}

async fn in_time<T>(answer: impl Future<Output = RedisResult<T>>) -> PortResult<T> {
    match timeout(CONFIRMED_WITHIN, answer).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(silent("redis does not let events be heard").with_source(error)),
        Err(_) => Err(silent("redis has fallen silent")),
    }
}

fn silent(message: &str) -> PortError {
    PortError::new(ErrorKind::Unavailable, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jobs_that_are_left_are_told_together_after_a_while_or_when_they_are_many() {
        let jobs = |count| -> HashSet<JobId> { (0..count).map(|_| JobId::generate()).collect() };
        let (mut heard, begun) = (Heard { jobs: jobs(3), ..Heard::default() }, Instant::now());
        assert!(heard.those_to_leave(begun).is_empty());
        let mut left = heard.jobs.clone().into_iter();
        heard.leaving.extend(left.next());
        assert!(heard.those_to_leave(begun).is_empty(), "the first waits for others");
        heard.leaving.extend(left.next());
        assert!(heard.those_to_leave(begun + LEAVE_WITHIN / 2).is_empty(), "and no longer for those");
        assert_eq!(heard.those_to_leave(begun + LEAVE_WITHIN).len(), 2);
        assert_eq!((heard.jobs.len(), heard.leaving.len(), heard.leave_at), (1, 0, None));

        heard.leaving = jobs(AT_ONCE);
        assert_eq!(heard.those_to_leave(begun).len(), AT_ONCE, "many do not wait");

        // Somebody came back to the only one before its time.
        heard.leaving = jobs(1);
        assert!(heard.those_to_leave(begun).is_empty() && heard.leave_at.is_some());
        heard.leaving.clear();
        assert!(heard.those_to_leave(begun).is_empty() && heard.leave_at.is_none());
    }
}
