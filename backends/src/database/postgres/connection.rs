//! A pool of connections that outlives the loss of any of them.

use std::{
    ops::AsyncFnOnce,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use raglan_pipeline::ports::{ErrorKind, PortError, PortResult};
use sqlx::{
    Connection as _, PgConnection, PgPool, Postgres,
    pool::PoolConnection,
    postgres::{PgConnectOptions, PgPoolOptions},
};

use crate::database::error::SqlxResultExt as _;

/// A connection that was idle for so long is tried before it is used.
pub(crate) const TRUSTED: Duration = Duration::from_secs(1);
/// How long that may take. A connection that was cut without a word never answers.
const TRIAL: Duration = Duration::from_secs(2);

/// Connections to one server.
pub(super) struct Connections {
    pool: PgPool,
    size: u32,
    in_use: AtomicU32,
    /// Until when nobody should ask it.
    paused: Mutex<Option<Instant>>,
}

impl Connections {
    pub(super) fn new(pool: PgPoolOptions, options: PgConnectOptions) -> Self {
        let size = pool.get_max_connections();
        let pool = pool
            .test_before_acquire(false)
            .before_acquire(|connection, idle| {
                Box::pin(async move { Ok(idle.idle_for < TRUSTED || is_alive(connection).await) })
            })
            .connect_lazy_with(options);
        Self { pool, size, in_use: AtomicU32::new(0), paused: Mutex::new(None) }
    }

    /// Runs `work` on one of them. A statement that is cut off, because its time is up or its caller has left, takes its
    /// connection with it: what the server still does there is nobody else's answer.
    pub(super) async fn run<T>(
        &self,
        limit: Duration,
        work: impl AsyncFnOnce(&mut PgConnection) -> PortResult<T>,
    ) -> PortResult<T> {
        let mut held = self.acquire().await?;
        let Some(connection) = &mut held.connection else { return Err(unreachable()) };
        match tokio::time::timeout(limit, work(connection)).await {
            Ok(done) => {
                held.put_back();
                done
            }
            Err(_) => Err(PortError::new(ErrorKind::Timeout, "the database did not answer in time")),
        }
    }

    pub(super) async fn close(&self) {
        self.pool.close().await;
    }

    pub(super) fn is_closed(&self) -> bool {
        self.pool.is_closed()
    }

    /// Whether it failed not long ago.
    pub(super) fn is_paused(&self) -> bool {
        self.paused.lock().unwrap_or_else(PoisonError::into_inner).is_some_and(|until| Instant::now() < until)
    }

    /// Leaves it alone for a while.
    pub(super) fn pause(&self, pause: Duration) {
        *self.paused.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now() + pause);
    }

    async fn acquire(&self) -> PortResult<Held<'_>> {
        let connection = match self.pool.acquire().await {
            // The pool does not say whether it waited for a place or for the server.
            Err(sqlx::Error::PoolTimedOut) if self.in_use.load(Ordering::Relaxed) < self.size => {
                return Err(unreachable());
            }
            acquired => acquired.port()?,
        };
        self.in_use.fetch_add(1, Ordering::Relaxed);
        Ok(Held { connection: Some(connection), in_use: &self.in_use })
    }
}

/// Whether a connection that nobody uses still answers. What was left to undo in it is undone then.
pub(crate) async fn is_alive(connection: &mut PgConnection) -> bool {
    matches!(tokio::time::timeout(TRIAL, connection.ping()).await, Ok(Ok(())))
}

/// The server did not take a connection in time.
pub(super) fn unreachable() -> PortError {
    PortError::new(ErrorKind::Unavailable, "the database cannot be reached")
        .with_retry_after(Duration::from_secs(1))
}

/// A connection that somebody uses. Dropped with a statement under way, it is closed at once: a polite goodbye would
/// wait for a server that is busy or away.
struct Held<'a> {
    /// Until it is put back.
    connection: Option<PoolConnection<Postgres>>,
    in_use: &'a AtomicU32,
}

impl Held<'_> {
    /// Gives it back: no statement is under way.
    fn put_back(mut self) {
        self.connection = None;
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.in_use.fetch_sub(1, Ordering::Relaxed);
        if let Some(connection) = self.connection.take() {
            drop(connection.detach());
        }
    }
}
