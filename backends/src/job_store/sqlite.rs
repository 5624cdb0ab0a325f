//! The record of jobs in SQLite.

mod table;

use std::time::Duration;

use async_trait::async_trait;
use futures::FutureExt as _;
use raglan_pipeline::{
    domain::{Delivery, Job, JobId, JobStatus, Progress, Stage, now},
    ports::{Accepted, Ended, Ending, JobFilter, JobStore, NewJob, Outcome, PortResult, Taken},
};
use sqlx::SqliteConnection;

use super::record::Record;
use crate::{
    database::{SqliteDatabase, codec::after},
    delivery_store,
};

/// Jobs in SQLite. Each change reads the record, applies the rule and writes it back within the database's one writer,
/// which is what makes it a compare-and-set.
///
/// Times come from this machine's clock. A call whose caller stops waiting may still take effect.
#[derive(Debug, Clone)]
pub struct SqliteJobStore {
    database: SqliteDatabase,
    retention: Duration,
}

impl SqliteJobStore {
    /// Over an open database; an ended job is forgotten after `retention`.
    #[must_use]
    pub fn new(database: SqliteDatabase, retention: Duration) -> Self {
        Self { database, retention }
    }
}

#[async_trait]
impl JobStore for SqliteJobStore {
    async fn accept(&self, new: NewJob) -> PortResult<Accepted> {
        self.database
            .write(move |connection| {
                async move {
                    if let Some(idempotency) = &new.idempotency
                        && let Some((held, hash)) =
                            table::select_by_key(connection, &new.tenant, &idempotency.key).await?
                    {
                        let same = hash == idempotency.request_hash;
                        return Ok(if same { Accepted::Existing(held.job) } else { Accepted::KeyReused });
                    }
                    let record = Record::accepted(&new);
                    table::insert(connection, &record, new.idempotency.as_ref()).await?;
                    Ok(Accepted::New(record.job))
                }
                .boxed()
            })
            .await
    }

    async fn get(&self, id: JobId) -> PortResult<Option<Job>> {
        Ok(table::select(self.database.readers(), id).await?.map(|record| record.job))
    }

    async fn list(&self, filter: &JobFilter) -> PortResult<Vec<Job>> {
        table::list(self.database.readers(), filter).await
    }

    async fn take(&self, id: JobId, stage: Stage, lease: Duration) -> PortResult<Taken> {
        self.database
            .write(move |connection| {
                async move {
                    let Some(mut record) = table::select(&mut *connection, id).await? else {
                        return Ok(Taken::Over);
                    };
                    let now = now();
                    let taken = record.take(stage, now, after(now, lease));
                    if let Taken::Yes(_) = taken {
                        table::update(connection, &record).await?;
                    }
                    Ok(taken)
                }
                .boxed()
            })
            .await
    }

    async fn extend(
        &self,
        id: JobId,
        fence: u64,
        lease: Duration,
        status: Option<JobStatus>,
        progress: Option<Progress>,
    ) -> PortResult<Option<Job>> {
        self.database
            .write(move |connection| {
                async move {
                    let Some(mut record) = held(connection, id, fence).await? else { return Ok(None) };
                    record.extend(after(now(), lease), status, progress)?;
                    write_back(connection, record, None).await.map(Some)
                }
                .boxed()
            })
            .await
    }

    async fn finish(&self, id: JobId, fence: u64, outcome: Outcome) -> PortResult<Option<Job>> {
        let retention = self.retention;
        self.database
            .write(move |connection| {
                async move {
                    let Some(mut record) = held(connection, id, fence).await? else { return Ok(None) };
                    let delivery = record.finish(outcome, now(), retention);
                    write_back(connection, record, delivery).await.map(Some)
                }
                .boxed()
            })
            .await
    }

    async fn end(&self, id: JobId, ending: Ending) -> PortResult<Ended> {
        let retention = self.retention;
        self.database
            .write(move |connection| {
                async move {
                    let Some(mut record) = table::select(&mut *connection, id).await? else {
                        return Ok(Ended::Missing);
                    };
                    if record.job.status.is_final() {
                        return Ok(Ended::Before(Box::new(record.job)));
                    }
                    let delivery = record.end(ending, now(), retention);
                    Ok(Ended::Now(Box::new(write_back(connection, record, delivery).await?)))
                }
                .boxed()
            })
            .await
    }

    async fn due(&self, limit: usize, postpone: Duration) -> PortResult<Vec<Job>> {
        self.database
            .write(move |connection| {
                async move {
                    let now = now();
                    let mut jobs = Vec::new();
                    for mut record in table::due(connection, now, limit).await? {
                        record.postpone(now, postpone);
                        jobs.push(write_back(connection, record, None).await?);
                    }
                    Ok(jobs)
                }
                .boxed()
            })
            .await
    }

    async fn overdue(&self, limit: usize) -> PortResult<Vec<Job>> {
        table::overdue(self.database.readers(), now(), limit).await
    }

    async fn recover(&self) -> PortResult<u64> {
        self.database.write(|connection| table::recover(connection, now()).boxed()).await
    }

    async fn remove(&self, id: JobId) -> PortResult<bool> {
        self.database.write(move |connection| table::delete_ended(connection, id).boxed()).await
    }

    async fn remove_expired(&self, limit: usize) -> PortResult<Vec<Job>> {
        self.database.write(move |connection| table::delete_expired(connection, now(), limit).boxed()).await
    }

    async fn waiting(&self) -> PortResult<Vec<(Stage, u64)>> {
        table::waiting(self.database.readers(), now()).await
    }
}

/// The record, where the worker with this fence has it.
async fn held(connection: &mut SqliteConnection, id: JobId, fence: u64) -> PortResult<Option<Record>> {
    Ok(table::select(connection, id).await?.filter(|record| record.is_held_with(fence)))
}

async fn write_back(
    connection: &mut SqliteConnection,
    record: Record,
    delivery: Option<Delivery>,
) -> PortResult<Job> {
    table::update(connection, &record).await?;
    if let Some(delivery) = delivery {
        delivery_store::sqlite::table::insert(connection, &delivery).await?;
    }
    Ok(record.job)
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };

    use raglan_pipeline::contract::job_store::{self as contract, a_query};
    use tempfile::TempDir;

    use super::*;

    async fn open(folder: &TempDir, name: &str, retention: Duration) -> (SqliteDatabase, SqliteJobStore) {
        let database = SqliteDatabase::open(&folder.path().join(name)).await.unwrap();
        (database.clone(), SqliteJobStore::new(database, retention))
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn keeps_the_contract() {
        let folder = TempDir::new().unwrap();
        let count = AtomicUsize::new(0);
        contract::run_all(async |retention| {
            let name = format!("{}.db", count.fetch_add(1, Ordering::Relaxed));
            Arc::new(open(&folder, &name, retention).await.1) as Arc<dyn JobStore>
        })
        .await;
    }

    #[tokio::test]
    async fn jobs_survive_a_close_and_a_drop_without_one() {
        let folder = TempDir::new().unwrap();
        let hour = Duration::from_secs(3_600);
        let (database, jobs) = open(&folder, "a.db", hour).await;
        let (ended, running) = (a_query(JobId::generate()), a_query(JobId::generate()));
        jobs.accept(ended.clone()).await.unwrap();
        jobs.accept(running.clone()).await.unwrap();
        let Ended::Now(ended) = jobs.end(ended.id, Ending::Cancel).await.unwrap() else {
            panic!("not ended")
        };
        database.close().await.unwrap();

        let (_dropped, jobs) = open(&folder, "a.db", hour).await;
        assert_eq!(jobs.get(ended.id).await.unwrap(), Some(*ended.clone()));
        let Taken::Yes(taken) = jobs.take(running.id, Stage::Retrieval, hour).await.unwrap() else {
            panic!("not taken")
        };
        drop((_dropped, jobs));

        let (_database, jobs) = open(&folder, "a.db", hour).await;
        assert_eq!(jobs.get(ended.id).await.unwrap(), Some(*ended));
        assert_eq!(jobs.get(running.id).await.unwrap().as_ref(), Some(&*taken));
        assert!(matches!(jobs.take(running.id, Stage::Retrieval, hour).await.unwrap(), Taken::Busy(_)));
        assert_eq!(jobs.recover().await.unwrap(), 1);
        let Taken::Yes(again) = jobs.take(running.id, Stage::Retrieval, hour).await.unwrap() else {
            panic!("not taken")
        };
        assert_eq!(again.epoch, 1);
        assert!(again.fence > taken.fence);
    }
}
