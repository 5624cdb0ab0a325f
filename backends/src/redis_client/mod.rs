//! Redis, as all ports that live there share it: connections, time limits, what errors mean.
//!
//! Everything that Raglan keeps in Redis can be made again. So a Redis that does not answer must cost little: a call has one short time limit over
//! connecting, sending and waiting, and after a few failures in a row calls are refused at once until one that is let through for a try succeeds.

mod address;
mod check;
mod error;
mod lane;
mod settings;
mod target;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use raglan_pipeline::{
    decorators::breaker::{BreakerSettings, CircuitBreaker},
    ports::{ErrorKind, PortError, PortResult},
};
use redis::{
    Cmd, FromRedisValue, RedisError, RedisResult, ScriptInvocation,
    aio::{AsyncPushSender, MultiplexedConnection},
};

pub use self::{check::RedisReport, settings::RedisSettings};
use self::{
    error::{answered, lost, not_connected, refuses_writes},
    lane::{Lane, Live},
    target::Target,
};

/// After so many failures in a row calls are refused.
const FAILURES: u32 = 5;
/// How long calls are refused before one is let through to try.
const REFUSED_FOR: Duration = Duration::from_millis(500);

/// What is sent: one command, or one script over keys of one slot.
pub(crate) enum Call {
    /// A command.
    Command(Cmd),
    /// A script, sent by its digest and loaded where it is not known yet.
    Script(ScriptInvocation<'static>),
}

/// A Redis: one server, the master that sentinels name, or a cluster.
///
/// All callers share one connection or a few, on which commands follow each other without waiting for answers. Calls about the same thing take the same
/// connection, so they are carried out in the order they were made.
pub struct RedisClient {
    target: Arc<Target>,
    lanes: Vec<Arc<Lane>>,
    breaker: Arc<CircuitBreaker>,
    prefix: String,
    command_timeout: Duration,
}

impl RedisClient {
    /// A client; connections are opened when they are first needed.
    ///
    /// # Errors
    /// `Invalid` for an address or a prefix that cannot be used.
    pub fn new(settings: &RedisSettings) -> PortResult<Arc<Self>> {
        settings.check_prefix()?;
        let target = Arc::new(Target::new(settings)?);
        let lanes = (0..settings.connections.max(1)).map(|_| Lane::new(Arc::clone(&target))).collect();
        let breaker = CircuitBreaker::new(
            "redis",
            BreakerSettings {
                consecutive_failures: FAILURES,
                open_for: REFUSED_FOR,
                ..BreakerSettings::default()
            },
        );
        Ok(Arc::new(Self {
            target,
            lanes,
            breaker,
            prefix: settings.prefix.clone(),
            command_timeout: settings.command_timeout,
        }))
    }

    /// What every key and channel begins with.
    pub(crate) fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Makes a call about `about`. Should the connection go in the middle of it, it is made once more on a new one: `build` is told by `true` that the
    /// call may have been carried out already, and must build one that does no harm then.
    ///
    /// # Errors
    /// `Unavailable` and `Overloaded`: nothing was done. `Timeout`: it may have been done.
    pub(crate) async fn call<T: FromRedisValue>(
        &self,
        about: &str,
        build: impl Fn(bool) -> Call + Send + Sync,
    ) -> PortResult<T> {
        let permit = self.breaker.acquire().map_err(|retry_after| {
            PortError::new(ErrorKind::Unavailable, "redis is left alone after repeated failures")
                .with_retry_after(retry_after)
        })?;
        let lane = self.lane(about);
        let sent = AtomicBool::new(false);
        let result = match tokio::time::timeout(self.command_timeout, make(lane, &sent, build)).await {
            Ok(result) => result,
            Err(_) => {
                lane.unanswered();
                let limit_ms = self.command_timeout.as_millis();
                Err(if sent.load(Ordering::Relaxed) {
                    PortError::new(ErrorKind::Timeout, format!("redis did not answer within {limit_ms} ms"))
                } else {
                    let message = format!("redis could not be connected to within {limit_ms} ms");
                    PortError::new(ErrorKind::Unavailable, message)
                })
            }
        };
        match &result {
            // A Redis that refuses is there. Full, it still answers reads and takes deletes.
            Err(error) if matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Timeout) => {
                metrics::counter!("raglan_redis_failures_total").increment(1);
                permit.failed(None);
            }
            _ => permit.succeeded(),
        }
        result
    }

    /// Removes all keys of the prefix, for an installation that is given up. On a cluster some stay until their time has run out, as every key's does.
    ///
    /// # Errors
    /// As of any call.
    pub async fn remove_keys(&self) -> PortResult<()> {
        let pattern = format!("{}:*", self.prefix);
        let mut cursor = 0u64;
        loop {
            let scan = |_| {
                let mut scan = redis::cmd("SCAN");
                scan.arg(cursor).arg("MATCH").arg(&pattern).arg("COUNT").arg(1_000);
                Call::Command(scan)
            };
            let (next, keys): (u64, Vec<Vec<u8>>) = self.call(&pattern, scan).await?;
            for key in keys {
                let unlink = |_| Call::Command(redis::cmd("UNLINK").arg(&key).take());
                self.call::<()>(&String::from_utf8_lossy(&key), unlink).await?;
            }
            if next == 0 {
                return Ok(());
            }
            cursor = next;
        }
    }

    /// Opens a connection of its own for subscriptions, whose messages go to `pushes` as they come. `attempt` counts the tries so far.
    pub(crate) async fn subscriber(
        &self,
        attempt: usize,
        pushes: impl AsyncPushSender,
    ) -> PortResult<MultiplexedConnection> {
        self.target.subscriber(attempt, pushes).await.map_err(not_connected)
    }

    fn lane(&self, about: &str) -> &Arc<Lane> {
        let mut hasher = DefaultHasher::new();
        about.hash(&mut hasher);
        #[allow(clippy::cast_possible_truncation, reason = "any bits of a hash will do")]
        let place = hasher.finish() as usize % self.lanes.len();
        &self.lanes[place]
    }
}

/// Makes a call on a connection, and once more where that was lost. `sent` tells whether it may have been carried out.
async fn make<T: FromRedisValue>(
    lane: &Arc<Lane>,
    sent: &AtomicBool,
    build: impl Fn(bool) -> Call,
) -> PortResult<T> {
    let mut live = lane.live().await.map_err(not_connected)?;
    sent.store(true, Ordering::Relaxed);
    let first = match send(lane, &mut live, build(false)).await {
        Err(error) if is_worth_another(&error) => error,
        settled => return settled.map_err(answered),
    };
    let again = first.is_io_error();
    sent.store(again, Ordering::Relaxed);
    let mut live = match lane.live().await {
        Ok(live) => live,
        Err(_) if again => return Err(lost(first)),
        Err(error) => return Err(not_connected(error)),
    };
    sent.store(true, Ordering::Relaxed);
    send(lane, &mut live, build(again)).await.map_err(answered)
}

async fn send<T: FromRedisValue>(lane: &Lane, live: &mut Live, call: Call) -> RedisResult<T> {
    let result = match &call {
        Call::Command(command) => live.connection.command(command).await,
        Call::Script(script) => live.connection.script(script).await,
    };
    match &result {
        Err(error) if is_worth_another(error) => {
            if !live.connection.heals_itself() {
                lane.discard(live);
            }
        }
        _ => live.answered(),
    }
    result
}

/// Whether a call is to be made once more on a new connection: the old one is gone, or leads to what is no master any more.
fn is_worth_another(error: &RedisError) -> bool {
    error.is_io_error() || refuses_writes(error)
}
