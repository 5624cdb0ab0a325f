//! One task owns the connection that writes, and commits what waits together.

use std::{
    panic::AssertUnwindSafe,
    sync::Arc,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use futures::{FutureExt as _, future::BoxFuture};
use raglan_pipeline::ports::{ErrorKind, PortError, PortResult};
use sqlx::{ConnectOptions as _, Connection as _, SqliteConnection, sqlite::SqliteConnectOptions};
use tokio::sync::{mpsc, oneshot};
use tracing::{error, warn};

use crate::database::error::{SqlxResultExt as _, from_sqlx};

/// How many writes wait at most; callers beyond these wait for a place.
const QUEUE: usize = 1_024;
/// How long a caller waits for a place before it is refused.
const PATIENCE: Duration = Duration::from_secs(10);
/// At most so many writes share a transaction.
const BATCH: usize = 256;
/// A transaction that has run for so long takes no further write, so that small writes do not wait behind many great ones.
const BATCH_TIME: Duration = Duration::from_millis(25);

/// The writer's end for callers.
#[derive(Debug)]
pub(super) struct Writer {
    commands: mpsc::Sender<Command>,
    /// How many transactions were committed.
    #[cfg(test)]
    pub(super) commits: Arc<AtomicU64>,
}

enum Command {
    Write(Box<dyn Write>),
    Close(oneshot::Sender<PortResult<()>>),
}

impl Writer {
    /// Starts the task on the present runtime.
    pub(super) fn start(options: SqliteConnectOptions, connection: SqliteConnection) -> Self {
        let (commands, queue) = mpsc::channel(QUEUE);
        let commits = Arc::new(AtomicU64::new(0));
        let task = Task { options, connection: Some(connection), queue, commits: Arc::clone(&commits) };
        tokio::spawn(task.run());
        Self {
            commands,
            #[cfg(test)]
            commits,
        }
    }

    /// See [`super::SqliteDatabase::write`].
    pub(super) async fn write<T, F>(&self, work: F) -> PortResult<T>
    where
        T: Send + 'static,
        F: for<'c> FnOnce(&'c mut SqliteConnection) -> BoxFuture<'c, PortResult<T>> + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let request = Request { work: Some(work), done: None, reply };
        match self.commands.send_timeout(Command::Write(Box::new(request)), PATIENCE).await {
            Ok(()) => answer.await.map_err(|_| closed())?,
            Err(mpsc::error::SendTimeoutError::Closed(_)) => Err(closed()),
            Err(mpsc::error::SendTimeoutError::Timeout(_)) => {
                Err(PortError::new(ErrorKind::Overloaded, "too many writes wait for the database")
                    .with_retry_after(Duration::from_secs(1)))
            }
        }
    }

    /// Finishes what waits and closes the connection.
    pub(super) async fn close(&self) -> PortResult<()> {
        let (reply, answer) = oneshot::channel();
        if self.commands.send(Command::Close(reply)).await.is_err() {
            return Ok(());
        }
        // No answer: a close before this one took the task with it.
        answer.await.unwrap_or(Ok(()))
    }
}

fn closed() -> PortError {
    PortError::new(ErrorKind::Unavailable, "the database is closed")
}

/// One caller's write, with the type of its answer hidden.
trait Write: Send {
    /// Whether nobody waits for it any more.
    fn is_abandoned(&self) -> bool;

    /// Does it and keeps the answer. False when it failed, so that what it wrote must be undone.
    fn run<'a>(&'a mut self, connection: &'a mut SqliteConnection) -> BoxFuture<'a, bool>;

    /// Tells the caller, once the transaction has ended.
    fn answer(self: Box<Self>, committed: Result<(), (ErrorKind, &str)>);
}

struct Request<T, F> {
    work: Option<F>,
    done: Option<PortResult<T>>,
    reply: oneshot::Sender<PortResult<T>>,
}

impl<T, F> Write for Request<T, F>
where
    T: Send + 'static,
    F: for<'c> FnOnce(&'c mut SqliteConnection) -> BoxFuture<'c, PortResult<T>> + Send + 'static,
{
    fn is_abandoned(&self) -> bool {
        self.reply.is_closed()
    }

    fn run<'a>(&'a mut self, connection: &'a mut SqliteConnection) -> BoxFuture<'a, bool> {
        async move {
            let Some(work) = self.work.take() else { return false };
            // A panic in one write must not take the writer from all others.
            let done = AssertUnwindSafe(async { work(connection).await })
                .catch_unwind()
                .await
                .unwrap_or_else(|_| {
                    error!("a write to the database panicked");
                    Err(PortError::new(ErrorKind::Internal, "a write to the database panicked"))
                });
            self.done.insert(done).is_ok()
        }
        .boxed()
    }

    fn answer(self: Box<Self>, committed: Result<(), (ErrorKind, &str)>) {
        let answer = match (self.done, committed) {
            (Some(Err(own)), _) => Err(own),
            (_, Err((kind, message))) => Err(PortError::new(kind, message)),
            (Some(done), Ok(())) => done,
            (None, Ok(())) => Err(PortError::new(ErrorKind::Internal, "a write was not run")),
        };
        // Nobody there any more: it has happened all the same.
        let _ = self.reply.send(answer);
    }
}

struct Task {
    options: SqliteConnectOptions,
    /// None after a transaction that could not be ended: then it is opened anew.
    connection: Option<SqliteConnection>,
    queue: mpsc::Receiver<Command>,
    commits: Arc<AtomicU64>,
}

impl Task {
    async fn run(mut self) {
        let mut closing = None;
        while closing.is_none() {
            match self.queue.recv().await {
                Some(Command::Write(first)) => closing = self.batch(first).await,
                Some(Command::Close(reply)) => closing = Some(reply),
                None => break,
            }
        }
        self.queue.close();
        let closed = self.close_connection().await;
        match closing {
            // The caller of close has left: there is nobody to tell.
            Some(reply) => drop(reply.send(closed)),
            None => {
                if let Err(error) = closed {
                    warn!(%error, "the database was not closed cleanly");
                }
            }
        }
    }

    /// Runs a write, and those that wait behind it, in one transaction, and answers them all. A command to close that
    /// came among them is returned.
    async fn batch(&mut self, first: Box<dyn Write>) -> Option<oneshot::Sender<PortResult<()>>> {
        let mut batch = Vec::new();
        let mut closing = None;
        let outcome = self.transaction(first, &mut batch, &mut closing).await;
        match outcome {
            Ok(()) => batch.into_iter().for_each(|write| write.answer(Ok(()))),
            Err(error) => {
                warn!(%error, writes = batch.len(), "a transaction failed; its writes are undone");
                // What state the connection is in is not worth guessing: dropping it rolls back.
                self.connection = None;
                let message = error.to_string();
                batch.into_iter().for_each(|write| write.answer(Err((error.kind(), &message))));
            }
        }
        closing
    }

    async fn transaction(
        &mut self,
        first: Box<dyn Write>,
        batch: &mut Vec<Box<dyn Write>>,
        closing: &mut Option<oneshot::Sender<PortResult<()>>>,
    ) -> PortResult<()> {
        let began = Instant::now();
        let mut next = Some(first);
        let connection = match &mut self.connection {
            Some(connection) => connection,
            none => match self.options.connect().await {
                Ok(connection) => none.insert(connection),
                Err(error) => {
                    batch.extend(next);
                    return Err(from_sqlx(error));
                }
            },
        };
        if let Err(error) = execute(connection, "BEGIN IMMEDIATE").await {
            batch.extend(next);
            return Err(error);
        }
        while let Some(mut write) = next.take() {
            if !write.is_abandoned() {
                let done = savepoint(connection, write.as_mut()).await;
                batch.push(write);
                done?;
            }
            if batch.len() < BATCH && began.elapsed() < BATCH_TIME {
                match self.queue.try_recv() {
                    Ok(Command::Write(write)) => next = Some(write),
                    Ok(Command::Close(reply)) => *closing = Some(reply),
                    Err(_) => {}
                }
            }
        }
        execute(connection, "COMMIT").await?;
        self.commits.fetch_add(1, Ordering::Relaxed);
        metrics::histogram!("raglan_database_writes_per_commit").record(batch.len() as f64);
        metrics::histogram!("raglan_database_commit_seconds").record(began.elapsed());
        Ok(())
    }

    async fn close_connection(&mut self) -> PortResult<()> {
        let Some(mut connection) = self.connection.take() else { return Ok(()) };
        execute(&mut connection, "PRAGMA optimize").await?;
        execute(&mut connection, "PRAGMA wal_checkpoint(TRUNCATE)").await?;
        connection.close().await.port()
    }
}

/// Runs one write so that its failure undoes itself alone. An error is that of the transaction, not of the write.
async fn savepoint(connection: &mut SqliteConnection, write: &mut dyn Write) -> PortResult<()> {
    execute(connection, "SAVEPOINT w").await?;
    if !write.run(connection).await {
        execute(connection, "ROLLBACK TO w").await.map_err(|source| {
            // A full disk or a failing one makes SQLite undo the whole transaction by itself.
            PortError::new(ErrorKind::Unavailable, "a write failed in a way that undid those beside it")
                .with_source(source)
        })?;
    }
    execute(connection, "RELEASE w").await
}

async fn execute(connection: &mut SqliteConnection, sql: &'static str) -> PortResult<()> {
    sqlx::query(sql).execute(connection).await.map(drop).port()
}
