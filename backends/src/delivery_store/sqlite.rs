//! The record of webhook deliveries in SQLite.

pub(crate) mod table;

use std::time::Duration;

use async_trait::async_trait;
use futures::FutureExt as _;
use raglan_pipeline::{
    domain::{Delivery, DeliveryAttempt, DeliveryId, DeliveryStatus, JobId, Timestamp, now},
    ports::{DeliveryStore, PortResult},
};

use super::rules;
use crate::database::{SqliteDatabase, codec::after};

/// Deliveries in SQLite, in the database of their jobs.
#[derive(Debug, Clone)]
pub struct SqliteDeliveryStore {
    database: SqliteDatabase,
}

impl SqliteDeliveryStore {
    /// Over an open database.
    #[must_use]
    pub fn new(database: SqliteDatabase) -> Self {
        Self { database }
    }
}

#[async_trait]
impl DeliveryStore for SqliteDeliveryStore {
    async fn get(&self, id: DeliveryId) -> PortResult<Option<Delivery>> {
        table::select(self.database.readers(), id).await
    }

    async fn of_job(&self, job: JobId) -> PortResult<Vec<Delivery>> {
        table::of_job(self.database.readers(), job).await
    }

    async fn due(&self, limit: usize, lease: Duration) -> PortResult<Vec<Delivery>> {
        self.database
            .write(move |connection| {
                async move { table::lease_due(connection, now(), lease, limit).await }.boxed()
            })
            .await
    }

    async fn begin(&self, id: DeliveryId, lease: Duration) -> PortResult<Option<Delivery>> {
        self.database
            .write(move |connection| {
                async move { table::begin(connection, id, after(now(), lease)).await }.boxed()
            })
            .await
    }

    async fn release(&self, ids: &[DeliveryId]) -> PortResult<()> {
        let ids = ids.to_vec();
        self.database
            .write(move |connection| async move { table::release(connection, &ids).await }.boxed())
            .await
    }

    async fn recover(&self) -> PortResult<u64> {
        self.database.write(|connection| table::recover(connection).boxed()).await
    }

    async fn next_due(&self) -> PortResult<Option<Timestamp>> {
        table::next_due(self.database.readers()).await
    }

    async fn record(
        &self,
        id: DeliveryId,
        attempt: DeliveryAttempt,
        status: DeliveryStatus,
        next_at: Option<Timestamp>,
    ) -> PortResult<Option<Delivery>> {
        let next_at = rules::next_try(status, next_at)?;
        self.database
            .write(move |connection| {
                async move {
                    let tried = table::select(&mut *connection, id)
                        .await?
                        .and_then(|delivery| rules::tried(delivery, attempt, status, next_at));
                    if let Some(delivery) = &tried {
                        table::update(connection, delivery).await?;
                    }
                    Ok(tried)
                }
                .boxed()
            })
            .await
    }

    async fn replay(&self, id: DeliveryId) -> PortResult<Option<Delivery>> {
        self.database
            .write(move |connection| {
                async move {
                    let found = table::select(&mut *connection, id).await?;
                    let replayed = found.map(|delivery| rules::replayed(delivery, now()));
                    if let Some(delivery) = &replayed {
                        table::update(connection, delivery).await?;
                    }
                    Ok(replayed)
                }
                .boxed()
            })
            .await
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };

    use raglan_pipeline::{contract::delivery_store as contract, ports::JobStore};
    use tempfile::TempDir;

    use super::*;
    use crate::job_store::SqliteJobStore;

    async fn open(folder: &TempDir, name: &str) -> (Arc<dyn JobStore>, Arc<dyn DeliveryStore>) {
        let database = SqliteDatabase::open(&folder.path().join(name)).await.unwrap();
        let jobs = SqliteJobStore::new(database.clone(), Duration::from_secs(3_600));
        (Arc::new(jobs), Arc::new(SqliteDeliveryStore::new(database)))
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn keeps_the_contract() {
        let folder = TempDir::new().unwrap();
        let count = AtomicUsize::new(0);
        contract::run_all(async || {
            open(&folder, &format!("{}.db", count.fetch_add(1, Ordering::Relaxed))).await
        })
        .await;
    }

    #[tokio::test]
    async fn deliveries_and_their_attempts_survive_a_restart() {
        let folder = TempDir::new().unwrap();
        let (jobs, deliveries) = open(&folder, "a.db").await;
        let made = contract::a_delivery(&*jobs, &*deliveries).await;
        let attempt = contract::an_attempt(503);
        let tried =
            deliveries.record(made.id, attempt, DeliveryStatus::Pending, Some(now())).await.unwrap().unwrap();
        drop((jobs, deliveries));
        let (_jobs, deliveries) = open(&folder, "a.db").await;
        assert_eq!(deliveries.get(made.id).await.unwrap(), Some(tried));
    }
}
