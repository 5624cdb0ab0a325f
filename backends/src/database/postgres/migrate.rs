//! Bringing the tables up to date, and finding out whether they are.

use std::collections::BTreeMap;

use raglan_pipeline::ports::{ErrorKind, PortError, PortResult};
use sqlx::{AssertSqlSafe, PgConnection, postgres::PgPoolOptions};

use super::{PostgresDatabase, PostgresSettings, connection, quoted};
use crate::database::{
    SqlxResultExt as _,
    error::{from_migration, newer},
    migrations,
};

impl PostgresDatabase {
    /// Makes the schema where it is missing and brings its tables up to date. Any number of processes may do so at once:
    /// one of them does it, under a lock of the database, and the others wait for it.
    ///
    /// # Errors
    /// `Invalid` when a newer Raglan was here or for settings that cannot be, `Unavailable` when the server does not answer.
    pub async fn migrate(settings: &PostgresSettings) -> PortResult<()> {
        // Whoever comes second waits in a statement until the first has done, however long that takes.
        let options = settings.options(&settings.url)?.options([("statement_timeout", "0")]);
        let pool = PgPoolOptions::new()
            .max_connections(1)
            .acquire_timeout(settings.acquire_timeout)
            .connect_lazy_with(options);
        let mut connection = match pool.acquire().await {
            Err(sqlx::Error::PoolTimedOut) => return Err(connection::unreachable()),
            acquired => acquired.port()?,
        };
        if let Some(schema) = &settings.schema {
            ensure_schema(&mut connection, schema).await?;
        }
        drop(connection);
        let done = migrations::POSTGRES.run(&pool).await.map_err(from_migration);
        // With the connection goes the lock, should it be held yet.
        pool.close().await;
        done
    }

    /// Removes the schema with everything in it, for an installation that is given up.
    ///
    /// # Errors
    /// `Invalid` where the settings name no schema, `Unavailable` when the server does not answer.
    pub async fn drop_schema(settings: &PostgresSettings) -> PortResult<()> {
        let Some(schema) = &settings.schema else {
            return Err(invalid("only a schema of Raglan's own can be removed, and the settings name none"));
        };
        let sql = format!("DROP SCHEMA IF EXISTS {} CASCADE", quoted(schema)?);
        let database = Self::connect(settings.clone()).await?;
        let dropped = database
            .primary(async |connection| {
                sqlx::query(AssertSqlSafe(sql)).execute(connection).await.port().map(drop)
            })
            .await;
        database.close().await;
        dropped
    }

    /// Whether the tables are those of this program.
    ///
    /// # Errors
    /// `Invalid` where they are not, with what to do in words.
    pub async fn check_migrated(&self) -> PortResult<()> {
        let applied: Vec<(i64, Vec<u8>, bool)> = self
            .primary(async |connection| {
                let tables: Option<String> =
                    sqlx::query_scalar("SELECT to_regclass('_sqlx_migrations')::text")
                        .fetch_one(&mut *connection)
                        .await
                        .port()?;
                if tables.is_none() {
                    return Ok(Vec::new());
                }
                sqlx::query_as("SELECT version, checksum, success FROM _sqlx_migrations ORDER BY version")
                    .fetch_all(connection)
                    .await
                    .port()
            })
            .await?;
        let applied: BTreeMap<_, _> = applied
            .iter()
            .map(|(version, checksum, success)| (*version, (checksum.as_slice(), *success)))
            .collect();
        let ours: BTreeMap<_, _> =
            migrations::POSTGRES.iter().map(|ours| (ours.version, &*ours.checksum)).collect();
        if applied.is_empty() {
            return Err(invalid("the database has no tables yet; migrate it"));
        }
        if applied.keys().any(|version| !ours.contains_key(version)) {
            return Err(newer());
        }
        for (version, checksum) in ours {
            match applied.get(&version) {
                None => {
                    return Err(invalid(
                        "the database was written by an older version of Raglan; migrate it",
                    ));
                }
                Some((_, false)) => return Err(invalid("a migration of the database was not finished")),
                Some((applied, true)) if *applied != checksum => {
                    return Err(invalid("the database's tables are not those of this program"));
                }
                Some(_) => {}
            }
        }
        Ok(())
    }
}

/// Makes the schema where it is missing. Whoever is faster does no harm.
async fn ensure_schema(connection: &mut PgConnection, schema: &str) -> PortResult<()> {
    let is_there: bool =
        sqlx::query_scalar("SELECT EXISTS (SELECT FROM pg_catalog.pg_namespace WHERE nspname = $1)")
            .bind(schema)
            .fetch_one(&mut *connection)
            .await
            .port()?;
    // Not asked for where it is there: the user may have no right to make one.
    if is_there {
        return Ok(());
    }
    let sql = format!("CREATE SCHEMA IF NOT EXISTS {}", quoted(schema)?);
    match sqlx::query(AssertSqlSafe(sql)).execute(connection).await.port() {
        Err(error) if error.kind() == ErrorKind::Conflict => Ok(()),
        done => done.map(drop),
    }
}

fn invalid(message: &str) -> PortError {
    PortError::new(ErrorKind::Invalid, message)
}
