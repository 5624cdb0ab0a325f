//! The PostgreSQL database that the processes of a distributed Raglan share: connections, migrations, hints of changes.

mod codec;
mod connection;
mod error;
mod listen;
mod migrate;

use std::{fmt, ops::AsyncFnOnce, sync::Arc, time::Duration};

use raglan_pipeline::{
    ports::{ErrorKind, PortError, PortResult},
    secret::Secret,
};
use sqlx::{ConnectOptions as _, Connection as _, PgConnection, postgres::PgConnectOptions};
use tracing::warn;

use self::connection::Connections;
pub(in crate::database) use self::error::meaning;
pub(crate) use self::{
    codec::{column, try_column},
    connection::{TRUSTED, is_alive, late, part},
    error::from_commit,
    listen::CHANGES_CHANNEL,
};
use super::error::SqlxResultExt as _;

/// What a call may take, as a multiple of what one of its statements may take.
const STATEMENTS_PER_CALL: u32 = 2;
/// What a call that writes many rows may take for each of them.
const PER_ROW: Duration = Duration::from_millis(1);
/// So long a replica that failed is left alone.
const REPLICA_PAUSE: Duration = Duration::from_secs(30);
/// The longest name that PostgreSQL keeps whole, in bytes.
const MAX_NAME: usize = 63;

/// How a database is reached.
#[derive(Debug, Clone)]
pub struct PostgresSettings {
    /// `postgres://user:password@host:port/database`, with `sslmode` and the like as parameters. Between Raglan and the
    /// server there may be a pooler only where it keeps a session's settings and prepared statements.
    pub url: Secret,
    /// The schema that holds all that Raglan stores: letters, digits and `_`, beginning with no digit. None for the user's own, usually `public`.
    pub schema: Option<String>,
    /// How many connections calls share; a process has one more for each job store, and one that listens.
    pub pool_size: u32,
    /// How long a call waits for its turn where all connections are busy, and then for the server where it needs a new one.
    pub acquire_timeout: Duration,
    /// How long one statement may take, waiting for locks included. A call as a whole may take twice this.
    pub statement_timeout: Duration,
    /// A streaming replica of the same database, for reads that may be a little old: lists of jobs and lists of documents. None
    /// reads everything from the primary, which also steps in where the replica fails.
    pub replica_url: Option<Secret>,
}

impl PostgresSettings {
    /// The database at this URL with the usual settings: no schema of its own, 10 connections, 5 s for a connection,
    /// 10 s for a statement, no replica.
    #[must_use]
    pub fn new(url: impl Into<Secret>) -> Self {
        Self {
            url: url.into(),
            schema: None,
            pool_size: 10,
            acquire_timeout: Duration::from_secs(5),
            statement_timeout: Duration::from_secs(10),
            replica_url: None,
        }
    }

    /// How a connection to this URL is opened. Settings that hold for a session go with it, so that they hold for all of them.
    fn options(&self, url: &Secret) -> PortResult<PgConnectOptions> {
        let is_ours = ["postgres://", "postgresql://"].iter().any(|scheme| url.expose().starts_with(scheme));
        if !is_ours {
            return Err(PortError::new(ErrorKind::Invalid, "a PostgreSQL URL begins with postgres://"));
        }
        let options: PgConnectOptions = url.expose().parse().port()?;
        let options = match options.get_application_name() {
            Some(_) => options,
            None => options.application_name("raglan"),
        };
        let limit = self.statement_timeout.as_millis().max(1).to_string();
        let options = options
            .options([
                ("statement_timeout", limit.as_str()),
                // A process that froze in the middle of a transaction does not keep its locks.
                ("idle_in_transaction_session_timeout", &limit),
                // A plan that was made when the tables were small is not kept until they are large.
                ("plan_cache_mode", "force_custom_plan"),
            ])
            .disable_statement_logging();
        Ok(match &self.schema {
            Some(schema) => options.options([("search_path", quoted(schema)?)]),
            None => options,
        })
    }
}

/// A schema's name as an identifier.
fn quoted(schema: &str) -> PortResult<String> {
    let fits = !schema.starts_with(|c: char| c.is_ascii_digit())
        && (1..=MAX_NAME).contains(&schema.len())
        && schema.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    if fits {
        return Ok(format!("\"{schema}\""));
    }
    Err(PortError::new(
        ErrorKind::Invalid,
        format!(
            "a schema's name is 1 to {MAX_NAME} letters, digits and _, and begins with no digit; got {schema:?}"
        ),
    ))
}

/// Connections to the database, shared by the stores over it. Cheap to clone.
///
/// A call that was given up in the middle of a statement leaves nothing behind: its connection is closed, and the server
/// undoes what was not committed.
///
/// Times in the record are the server's: the clocks of the processes may differ.
#[derive(Clone)]
pub struct PostgresDatabase {
    shared: Arc<Shared>,
}

struct Shared {
    settings: PostgresSettings,
    options: PgConnectOptions,
    primary: Connections,
    replica: Option<Connections>,
}

impl fmt::Debug for PostgresDatabase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresDatabase").field("settings", &self.shared.settings).finish_non_exhaustive()
    }
}

impl PostgresDatabase {
    /// Brings the tables up to date (see [`Self::migrate`]) and connects.
    ///
    /// # Errors
    /// Those of [`Self::migrate`] and [`Self::connect`].
    pub async fn open(settings: PostgresSettings) -> PortResult<Self> {
        Self::migrate(&settings).await?;
        Self::connect(settings).await
    }

    /// Connects to a database whose tables are there; [`Self::check_migrated`] finds out whether they are. Must be
    /// called within a tokio runtime.
    ///
    /// # Errors
    /// `Invalid` for settings that cannot be, `Unavailable` where the server (not the replica) does not answer.
    pub async fn connect(settings: PostgresSettings) -> PortResult<Self> {
        let options = settings.options(&settings.url)?;
        let connections = |options| Connections::new(options, settings.pool_size, settings.acquire_timeout);
        let replica = match &settings.replica_url {
            Some(url) => Some(connections(settings.options(url)?)),
            None => None,
        };
        let primary = connections(options.clone());
        let database = Self { shared: Arc::new(Shared { settings, options, primary, replica }) };
        database.ping().await?;
        Ok(database)
    }

    /// Whether the server answers.
    pub async fn ping(&self) -> PortResult<()> {
        self.primary(async |connection| connection.ping().await.port()).await
    }

    /// Closes all connections, after the calls that have one; a job store closes its own when it goes. Later calls of any
    /// store over it answer `Unavailable`.
    pub async fn close(&self) {
        self.shared.primary.close().await;
        if let Some(replica) = &self.shared.replica {
            replica.close().await;
        }
    }

    /// What a call to a store may take at the most, once it has a connection.
    pub(crate) fn call_timeout(&self) -> Duration {
        self.shared.settings.statement_timeout * STATEMENTS_PER_CALL
    }

    /// Whether it was closed.
    pub(crate) fn is_closed(&self) -> bool {
        self.shared.primary.is_closed()
    }

    /// Opens a connection for one who keeps it.
    pub(crate) async fn connection(&self) -> PortResult<PgConnection> {
        self.shared.primary.connect().await
    }

    /// Runs `work`, each of its statements by itself.
    pub(crate) async fn primary<T>(
        &self,
        work: impl AsyncFnOnce(&mut PgConnection) -> PortResult<T>,
    ) -> PortResult<T> {
        self.shared.primary.run(self.call_timeout(), work).await
    }

    /// Runs `work` on what may be a little old.
    pub(crate) async fn stale<T>(
        &self,
        work: impl AsyncFnOnce(&mut PgConnection) -> PortResult<T> + Clone,
    ) -> PortResult<T> {
        if let Some(replica) = self.shared.replica.as_ref().filter(|replica| !replica.is_paused()) {
            match replica.run(self.call_timeout(), work.clone()).await {
                Err(error) if error.is_transient() => {
                    warn!(%error, pause_s = REPLICA_PAUSE.as_secs(), "read replica failed; reading from the primary");
                    replica.pause(REPLICA_PAUSE);
                }
                done => return done,
            }
        }
        self.primary(work).await
    }

    /// Runs `work` in a transaction; its failure undoes it.
    pub(crate) async fn transaction<T>(
        &self,
        work: impl AsyncFnOnce(&mut PgConnection) -> PortResult<T>,
    ) -> PortResult<T> {
        self.transaction_of(0, work).await
    }

    /// The same where so many rows are written, which takes its time.
    pub(crate) async fn transaction_of<T>(
        &self,
        rows: usize,
        work: impl AsyncFnOnce(&mut PgConnection) -> PortResult<T>,
    ) -> PortResult<T> {
        let more = PER_ROW.saturating_mul(u32::try_from(rows).unwrap_or(u32::MAX));
        let limit = self.call_timeout().saturating_add(more);
        self.shared
            .primary
            .run(limit, async |connection| {
                let mut transaction = connection.begin().await.port()?;
                let done = work(&mut transaction).await?;
                transaction.commit().await.map_err(from_commit)?;
                Ok(done)
            })
            .await
    }

    /// Runs `work`, which only reads, on one snapshot.
    pub(crate) async fn snapshot<T>(
        &self,
        work: impl AsyncFnOnce(&mut PgConnection) -> PortResult<T>,
    ) -> PortResult<T> {
        const BEGIN: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";
        self.primary(async |connection| {
            let mut transaction = connection.begin_with(BEGIN).await.port()?;
            let done = work(&mut transaction).await?;
            transaction.commit().await.port()?;
            Ok(done)
        })
        .await
    }
}

#[cfg(test)]
pub(crate) mod scratch;
#[cfg(test)]
mod tests;
