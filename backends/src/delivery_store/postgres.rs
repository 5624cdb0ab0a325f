//! The record of webhook deliveries in PostgreSQL.

mod table;

use std::time::Duration;

use async_trait::async_trait;
use raglan_pipeline::{
    domain::{Delivery, DeliveryAttempt, DeliveryId, DeliveryStatus, JobId, Timestamp},
    ports::{DeliveryStore, PortResult},
};

pub(crate) use self::table::insert;
use super::rules;
use crate::database::PostgresDatabase;

/// Deliveries in PostgreSQL, in the database of their jobs. Leases are counted on the server's clock; two that ask for what is
/// due at once never wait for each other.
#[derive(Debug, Clone)]
pub struct PostgresDeliveryStore {
    database: PostgresDatabase,
}

impl PostgresDeliveryStore {
    /// Over a database.
    #[must_use]
    pub fn new(database: PostgresDatabase) -> Self {
        Self { database }
    }
}

#[async_trait]
impl DeliveryStore for PostgresDeliveryStore {
    async fn get(&self, id: DeliveryId) -> PortResult<Option<Delivery>> {
        self.database.primary(async |connection| table::select(connection, id).await).await
    }

    async fn of_job(&self, job: JobId) -> PortResult<Vec<Delivery>> {
        self.database.primary(async |connection| table::of_job(connection, job).await).await
    }

    async fn due(&self, limit: usize, lease: Duration) -> PortResult<Vec<Delivery>> {
        self.database
            .transaction(async |connection| {
                let due = table::lock_due(connection, limit).await?;
                let lease = |due: table::Due| {
                    let until = rules::leased_until(due.now, lease, due.leased_from);
                    Delivery { next_at: Some(until), ..due.delivery }
                };
                let leased: Vec<_> = due.into_iter().map(lease).collect();
                table::lease(connection, &leased).await?;
                Ok(leased)
            })
            .await
    }

    async fn begin(&self, id: DeliveryId, lease: Duration) -> PortResult<Option<Delivery>> {
        self.database.primary(async |connection| table::begin(connection, id, lease).await).await
    }

    async fn release(&self, ids: &[DeliveryId]) -> PortResult<()> {
        self.database.primary(async |connection| table::release(connection, ids).await).await
    }

    async fn recover(&self) -> PortResult<u64> {
        self.database.primary(async |connection| table::recover(connection).await).await
    }

    async fn next_due(&self) -> PortResult<Option<Timestamp>> {
        self.database.primary(async |connection| table::next_due(connection).await).await
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
            .transaction(async |connection| {
                let tried = table::lock(connection, id)
                    .await?
                    .and_then(|(delivery, _)| rules::tried(delivery, attempt, status, next_at));
                if let Some(delivery) = &tried {
                    table::update(connection, delivery).await?;
                }
                Ok(tried)
            })
            .await
    }

    async fn replay(&self, id: DeliveryId) -> PortResult<Option<Delivery>> {
        self.database
            .transaction(async |connection| {
                let found = table::lock(connection, id).await?;
                let replayed = found.map(|(delivery, now)| rules::replayed(delivery, now));
                if let Some(delivery) = &replayed {
                    table::update(connection, delivery).await?;
                }
                Ok(replayed)
            })
            .await
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::HashSet, sync::Arc};

    use raglan_pipeline::{contract::delivery_store as contract, ports::JobStore};

    use super::*;
    use crate::{database::postgres::scratch::Scratch, job_store::PostgresJobStore};

    async fn open(scratch: &Scratch) -> (Arc<dyn JobStore>, Arc<dyn DeliveryStore>) {
        let database = scratch.database().await;
        let jobs = PostgresJobStore::new(database.clone(), Duration::from_secs(3_600));
        (Arc::new(jobs), Arc::new(PostgresDeliveryStore::new(database)))
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn keeps_the_contract() {
        let Some(scratch) = Scratch::new("delivery_store::postgres::keeps_the_contract").await else {
            return;
        };
        contract::run_all(async || open(&scratch).await).await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn processes_at_once_share_what_is_due() {
        let Some(scratch) =
            Scratch::new("delivery_store::postgres::processes_at_once_share_what_is_due").await
        else {
            return;
        };
        let database = scratch.database().await;
        let jobs = PostgresJobStore::new(database.clone(), Duration::from_secs(3_600));
        let deliveries = PostgresDeliveryStore::new(database.clone());
        let mut made = HashSet::new();
        for _ in 0..30 {
            made.insert(contract::a_delivery(&jobs, &deliveries).await.id);
        }
        // As a process does that asked and has not committed yet.
        let (left, right) = tokio::join!(
            database.transaction(async |connection| {
                let due = table::lock_due(connection, 10).await?;
                let beside = deliveries.due(100, Duration::from_secs(3_600)).await?;
                Ok((due.into_iter().map(|due| due.delivery.id).collect::<Vec<_>>(), beside))
            }),
            deliveries.due(0, Duration::ZERO),
        );
        assert!(right.unwrap().is_empty(), "a limit of none is none");
        let (locked, beside) = left.unwrap();
        assert_eq!((locked.len(), beside.len()), (10, 20), "nobody waited for the other");
        let all: HashSet<_> =
            locked.into_iter().chain(beside.into_iter().map(|delivery| delivery.id)).collect();
        assert_eq!(all, made);
    }
}
