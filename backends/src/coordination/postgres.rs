//! What processes know of each other, in the PostgreSQL database that they share.

use std::time::Duration;

use async_trait::async_trait;
use raglan_pipeline::{
    domain::LogPosition,
    ports::{Coordination, PortResult, ReplicaReport},
};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::database::{
    PostgresDatabase, SqlxResultExt as _,
    codec::{RowExt as _, int},
};

/// Reports and leads as rows with an end, counted on the server's clock.
#[derive(Debug, Clone)]
pub struct PostgresCoordination {
    database: PostgresDatabase,
}

impl PostgresCoordination {
    /// Over a database.
    #[must_use]
    pub fn new(database: PostgresDatabase) -> Self {
        Self { database }
    }
}

#[async_trait]
impl Coordination for PostgresCoordination {
    async fn report(
        &self,
        instance: Uuid,
        replica: &str,
        position: LogPosition,
        ttl: Duration,
    ) -> PortResult<()> {
        let position = int(position)?;
        self.database
            .primary(async |connection| {
                sqlx::query(
                    "INSERT INTO replica_reports (instance, replica, position, expires_at) \
                     VALUES ($1, $2, $3, clock_timestamp() + make_interval(secs => $4)) \
                     ON CONFLICT (instance, replica) DO UPDATE SET position = excluded.position, \
                     expires_at = excluded.expires_at",
                )
                .bind(instance)
                .bind(replica)
                .bind(position)
                .bind(ttl.as_secs_f64())
                .execute(&mut *connection)
                .await
                .port()?;
                forget_the_dead(connection).await
            })
            .await
    }

    async fn withdraw(&self, instance: Uuid) -> PortResult<()> {
        self.database
            .primary(async |connection| {
                sqlx::query("DELETE FROM replica_reports WHERE instance = $1")
                    .bind(instance)
                    .execute(connection)
                    .await
                    .map(drop)
                    .port()
            })
            .await
    }

    async fn positions(&self) -> PortResult<Vec<ReplicaReport>> {
        let rows = self
            .database
            .primary(async |connection| {
                sqlx::query(
                    "SELECT instance, replica, position FROM replica_reports WHERE expires_at > clock_timestamp() \
                     ORDER BY instance, replica",
                )
                .fetch_all(connection)
                .await
                .port()
            })
            .await?;
        rows.iter()
            .map(|row| {
                Ok(ReplicaReport {
                    instance: row.uuid("instance")?,
                    replica: row.string("replica")?,
                    position: row.number("position")?,
                })
            })
            .collect()
    }

    async fn lead(&self, name: &str, instance: Uuid, ttl: Duration) -> PortResult<bool> {
        self.database
            .primary(async |connection| {
                sqlx::query(
                    "INSERT INTO leads (name, instance, until) \
                     VALUES ($1, $2, clock_timestamp() + make_interval(secs => $3)) \
                     ON CONFLICT (name) DO UPDATE SET instance = excluded.instance, until = excluded.until \
                     WHERE leads.instance = excluded.instance OR leads.until <= clock_timestamp()",
                )
                .bind(name)
                .bind(instance)
                .bind(ttl.as_secs_f64())
                .execute(connection)
                .await
                .port()
                .map(|done| done.rows_affected() > 0)
            })
            .await
    }

    async fn resign(&self, name: &str, instance: Uuid) -> PortResult<()> {
        self.database
            .primary(async |connection| {
                sqlx::query("DELETE FROM leads WHERE name = $1 AND instance = $2")
                    .bind(name)
                    .bind(instance)
                    .execute(connection)
                    .await
                    .map(drop)
                    .port()
            })
            .await
    }
}

/// Removes reports of processes that went without a word long ago.
async fn forget_the_dead(connection: &mut PgConnection) -> PortResult<()> {
    sqlx::query(
        "DELETE FROM replica_reports WHERE (instance, replica) IN (SELECT instance, replica FROM replica_reports \
         WHERE expires_at < now() - interval '1 hour' FOR UPDATE SKIP LOCKED)",
    )
    .execute(connection)
    .await
    .map(drop)
    .port()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use raglan_pipeline::contract::coordination as contract;

    use super::*;
    use crate::database::postgres::scratch::Scratch;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn keeps_the_contract() {
        let Some(scratch) = Scratch::new("coordination::postgres::keeps_the_contract").await else { return };
        contract::run_all(async || {
            Arc::new(PostgresCoordination::new(scratch.database().await)) as Arc<dyn Coordination>
        })
        .await;
    }

    #[tokio::test]
    async fn processes_that_went_without_a_word_are_forgotten() {
        let Some(scratch) =
            Scratch::new("coordination::postgres::processes_that_went_without_a_word_are_forgotten").await
        else {
            return;
        };
        let database = scratch.database().await;
        let shared = PostgresCoordination::new(database.clone());
        let hour = Duration::from_secs(3_600);
        for instance in [Uuid::new_v4(), Uuid::new_v4()] {
            shared.report(instance, "keywords", 1, hour).await.unwrap();
        }
        let rows = async |sql: &'static str| {
            database
                .primary(async |connection| sqlx::query(sql).execute(connection).await.port())
                .await
                .unwrap()
                .rows_affected()
        };
        assert_eq!(rows("UPDATE replica_reports SET expires_at = now() - interval '2 hours'").await, 2);
        shared.report(Uuid::new_v4(), "keywords", 1, hour).await.unwrap();
        assert_eq!(rows("SELECT FROM replica_reports").await, 1);
    }
}
