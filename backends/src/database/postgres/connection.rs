//! Connections to one server, for calls that need one for a moment.
//!
//! sqlx's own pool asks the server after every call whether the connection still lives, and where it was cut without a word
//! it waits for the answer without end. This one asks when a connection was idle or a call has failed, and for a bounded time.

use std::{
    ops::AsyncFnOnce,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use raglan_pipeline::ports::{ErrorKind, PortError, PortResult};
use sqlx::{ConnectOptions as _, Connection as _, PgConnection, postgres::PgConnectOptions};
use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::timeout,
};

use crate::database::error::SqlxResultExt as _;

/// A connection that was idle for so long is tried before it is used.
pub(crate) const TRUSTED: Duration = Duration::from_secs(1);
/// How long that may take, and a goodbye. A connection that was cut without a word never answers.
const TRIAL: Duration = Duration::from_secs(2);
/// A connection is not used for longer, so that the server can tidy up after it.
const LIFETIME: Duration = Duration::from_secs(30 * 60);
/// One that nobody needed for so long is closed.
const IDLE: Duration = Duration::from_secs(10 * 60);

/// A bounded number of connections, made when they are needed.
pub(super) struct Connections {
    options: PgConnectOptions,
    /// How long a call waits for its turn, and then for the server.
    patience: Duration,
    size: u32,
    turns: Semaphore,
    /// The last used comes last.
    idle: Mutex<Vec<Idle>>,
    /// Until when nobody should ask this server.
    paused: Mutex<Option<Instant>>,
}

struct Idle {
    connection: PgConnection,
    made: Instant,
    since: Instant,
}

impl Connections {
    pub(super) fn new(options: PgConnectOptions, size: u32, patience: Duration) -> Self {
        let size = size.max(1);
        Self {
            options,
            patience,
            size,
            turns: Semaphore::new(size as usize),
            idle: Mutex::default(),
            paused: Mutex::default(),
        }
    }

    /// Runs `work` on one of them. A statement that is cut off, because its time is up or its caller has left, takes its
    /// connection with it: what the server still does there is nobody else's answer.
    pub(super) async fn run<T>(
        &self,
        limit: Duration,
        work: impl AsyncFnOnce(&mut PgConnection) -> PortResult<T>,
    ) -> PortResult<T> {
        let _turn = self.turn().await?;
        let (mut connection, made) = self.take().await?;
        let Ok(done) = timeout(limit, work(&mut connection)).await else { return Err(late()) };
        // A transaction that failed is undone now.
        if done.is_ok() || is_alive(&mut connection).await {
            self.put_back(connection, made);
        }
        done
    }

    /// Opens a connection that is not one of them.
    pub(super) async fn connect(&self) -> PortResult<PgConnection> {
        if self.is_closed() {
            return Err(closed());
        }
        match timeout(self.patience, self.options.connect()).await {
            Ok(connection) => connection.port(),
            Err(_) => Err(unreachable()),
        }
    }

    /// Lets the calls end that have a connection, and then closes all.
    pub(super) async fn close(&self) {
        if let Ok(all) = self.turns.acquire_many(self.size).await {
            all.forget();
            self.turns.close();
        }
        let idle = std::mem::take(&mut *self.idle());
        for idle in idle {
            part(idle.connection).await;
        }
    }

    pub(super) fn is_closed(&self) -> bool {
        self.turns.is_closed()
    }

    /// Whether it failed not long ago.
    pub(super) fn is_paused(&self) -> bool {
        self.paused.lock().unwrap_or_else(PoisonError::into_inner).is_some_and(|until| Instant::now() < until)
    }

    /// Leaves it alone for a while.
    pub(super) fn pause(&self, pause: Duration) {
        *self.paused.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now() + pause);
    }

    async fn turn(&self) -> PortResult<SemaphorePermit<'_>> {
        match timeout(self.patience, self.turns.acquire()).await {
            Ok(turn) => turn.map_err(|_| closed()),
            Err(_) => Err(PortError::new(ErrorKind::Overloaded, "all connections to the database are busy")
                .with_retry_after(Duration::from_secs(1))),
        }
    }

    /// One that lives, with when it was made.
    async fn take(&self) -> PortResult<(PgConnection, Instant)> {
        let last = self.idle().pop();
        if let Some(Idle { mut connection, made, since }) = last {
            if since.elapsed() < TRUSTED || is_alive(&mut connection).await {
                return Ok((connection, made));
            }
            // Those that were idle for longer are no better.
            self.idle().clear();
        }
        Ok((self.connect().await?, Instant::now()))
    }

    fn put_back(&self, connection: PgConnection, made: Instant) {
        let mut idle = self.idle();
        idle.push(Idle { connection, made, since: Instant::now() });
        let old = |idle: &mut Idle| idle.made.elapsed() >= LIFETIME || idle.since.elapsed() >= IDLE;
        for idle in idle.extract_if(.., old) {
            tokio::spawn(part(idle.connection));
        }
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Idle>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a connection that nobody uses still answers. What was left to undo in it is undone then.
pub(crate) async fn is_alive(connection: &mut PgConnection) -> bool {
    matches!(timeout(TRIAL, connection.ping()).await, Ok(Ok(())))
}

/// Says goodbye, so that the server need not find out by itself.
pub(crate) async fn part(connection: PgConnection) {
    // One that is lost needs none.
    let _ = timeout(TRIAL, connection.close()).await;
}

/// The server did not take a connection in time.
pub(super) fn unreachable() -> PortError {
    PortError::new(ErrorKind::Unavailable, "the database cannot be reached")
        .with_retry_after(Duration::from_secs(1))
}

/// The server has the call and does not answer.
pub(crate) fn late() -> PortError {
    PortError::new(ErrorKind::Timeout, "the database did not answer in time")
}

fn closed() -> PortError {
    PortError::new(ErrorKind::Unavailable, "the database is closed")
}
