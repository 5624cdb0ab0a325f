//! The one SQLite database of an embedded Raglan: write-ahead log, one writer, a few readers.

mod codec;
mod error;
mod writer;

use std::{path::Path, sync::Arc, time::Duration};

use futures::future::BoxFuture;
use raglan_pipeline::ports::{ErrorKind, PortError, PortResult};
use sqlx::{
    ConnectOptions as _, SqliteConnection, SqlitePool,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};

pub(in crate::database) use self::error::meaning;
use self::writer::Writer;
use super::{
    error::{SqlxResultExt as _, from_migration},
    migrations,
};

/// How many reads run at once; more wait.
const READERS: u32 = 4;
/// How long a read waits for one of the readers before it is refused.
const READER_PATIENCE: Duration = Duration::from_secs(10);
/// How long SQLite waits for another process's lock. Raglan itself has one writer and never waits.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// An open database, shared by the stores over it. Cheap to clone.
///
/// All writes go through one task that commits those that wait in one transaction, so that many small writes at once
/// cost one disk flush. A write has committed durably (`synchronous = FULL`) before its caller hears of it. A caller
/// that stops waiting takes its write back only if it had not begun: it may still happen.
///
/// Call [`close`](Self::close) before the program ends; without it nothing is lost, but the next start has to read the log.
#[derive(Debug, Clone)]
pub struct SqliteDatabase {
    readers: SqlitePool,
    writer: Arc<Writer>,
}

impl SqliteDatabase {
    /// Opens the database file, making it and its folder where missing, and brings its tables up to date.
    ///
    /// Must be called within a tokio runtime, in which the writer then runs.
    ///
    /// # Errors
    /// `Invalid` when a newer Raglan wrote the file, `Corrupt` when it is no database or is damaged, `Unavailable` when it
    /// cannot be opened.
    pub async fn open(path: &Path) -> PortResult<Self> {
        if let Some(folder) = path.parent() {
            tokio::fs::create_dir_all(folder).await.map_err(|source| {
                PortError::new(
                    ErrorKind::Unavailable,
                    format!("the folder {} cannot be made", folder.display()),
                )
                .with_source(source)
            })?;
        }
        let options = connect_options(path);
        let mut connection = options.connect().await.port()?;
        migrations::SQLITE.run(&mut connection).await.map_err(from_migration)?;
        let readers = SqlitePoolOptions::new()
            .max_connections(READERS)
            .acquire_timeout(READER_PATIENCE)
            .test_before_acquire(false)
            .connect_lazy_with(options.clone().create_if_missing(false).pragma("query_only", "ON"));
        Ok(Self { readers, writer: Arc::new(Writer::start(options, connection)) })
    }

    /// The connections for reading. A read sees everything that was committed before it began.
    pub(crate) fn readers(&self) -> &SqlitePool {
        &self.readers
    }

    /// Runs `work` on the writer's connection, in a transaction that it shares with others but whose failure is its own:
    /// when `work` fails, what it wrote is undone. It must not begin, commit or roll back by itself.
    pub(crate) async fn write<T, F>(&self, work: F) -> PortResult<T>
    where
        T: Send + 'static,
        F: for<'c> FnOnce(&'c mut SqliteConnection) -> BoxFuture<'c, PortResult<T>> + Send + 'static,
    {
        self.writer.write(work).await
    }

    /// Finishes the writes that wait, folds the write-ahead log into the database and closes it. Later calls of any
    /// store over it answer `Unavailable`.
    pub async fn close(&self) -> PortResult<()> {
        self.readers.close().await;
        self.writer.close().await
    }
}

fn connect_options(path: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .foreign_keys(true)
        .busy_timeout(BUSY_TIMEOUT)
        // KiB when negative: each connection's share of memory.
        .pragma("cache_size", "-8192")
        .pragma("temp_store", "MEMORY")
        // A log that grew during a great ingestion is cut back to this many bytes.
        .pragma("journal_size_limit", "67108864")
        .thread_name(|n| format!("sqlite-{n}"))
        .disable_statement_logging()
}

#[cfg(test)]
mod tests;
