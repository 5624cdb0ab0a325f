//! How the parts of a process are, for `/readyz`.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use futures::future::{BoxFuture, join_all};
use raglan_api::{Health, HealthReport, PartHealth, PartState};
use raglan_pipeline::{
    ports::{DocumentStore, PortResult},
    replication::{ReplicaState, Replication},
    retrieval::EmbedderSlot,
};
use tokio::time::timeout;

/// A server that does not answer within this time counts as one that does not answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// Asks a server how it is.
pub type Ask = Box<dyn Fn() -> BoxFuture<'static, PortResult<String>> + Send + Sync>;

/// A server that this process works with.
pub struct Probe {
    name: &'static str,
    ask: Ask,
}

impl Probe {
    /// A server without which the process still works, less well: what is accepted is safe, and is made good later.
    pub fn new<F>(name: &'static str, ask: impl Fn() -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = PortResult<String>> + Send + 'static,
    {
        Self { name, ask: Box::new(move || Box::pin(ask())) }
    }

    async fn report(&self) -> PartHealth {
        match timeout(PATIENCE, (self.ask)()).await {
            Ok(Ok(detail)) => part(self.name, PartState::Ok, detail),
            Ok(Err(error)) => part(self.name, PartState::Degraded, error.to_string()),
            Err(_) => part(self.name, PartState::Degraded, format!("no answer within {PATIENCE:?}")),
        }
    }
}

/// Asks the parts of this process.
pub struct ProcessHealth {
    replication: Option<Arc<Replication>>,
    documents: Arc<dyn DocumentStore>,
    embedder: Option<EmbedderSlot>,
    servers: Vec<Probe>,
}

impl ProcessHealth {
    /// Of a process with these parts; `replication` where it keeps indexes, `embedder` where it embeds.
    pub fn new(
        replication: Option<Arc<Replication>>,
        documents: Arc<dyn DocumentStore>,
        embedder: Option<EmbedderSlot>,
    ) -> Self {
        Self { replication, documents, embedder, servers: Vec::new() }
    }

    /// Asks these servers too.
    pub fn with_servers(self, servers: Vec<Probe>) -> Self {
        Self { servers, ..self }
    }

    async fn store(&self) -> PartHealth {
        match timeout(PATIENCE, self.documents.head()).await {
            Ok(Ok(position)) => part("store", PartState::Ok, format!("at change {position}")),
            Ok(Err(error)) => part("store", PartState::Failing, error.to_string()),
            Err(_) => part("store", PartState::Failing, format!("no answer within {PATIENCE:?}")),
        }
    }
}

fn part(name: &str, state: PartState, detail: impl Into<String>) -> PartHealth {
    PartHealth { name: name.to_owned(), state, detail: detail.into() }
}

#[async_trait]
impl Health for ProcessHealth {
    async fn report(&self) -> HealthReport {
        let (store, servers) = tokio::join!(self.store(), join_all(self.servers.iter().map(Probe::report)));
        let embedder = self.embedder.as_ref().map(|embedder| match embedder {
            EmbedderSlot::Ready(embedder) => part("embedder", PartState::Ok, embedder.info().model.clone()),
            EmbedderSlot::Off => part("embedder", PartState::Ok, "switched off: keyword search alone"),
            EmbedderSlot::Missing => {
                part("embedder", PartState::Degraded, "the model could not be had: keyword search alone")
            }
        });
        let replicas = self.replication.iter().flat_map(|replication| replication.status());
        let indexes = replicas.map(|replica| {
            let state = match replica.state {
                ReplicaState::Live => PartState::Ok,
                ReplicaState::CatchingUp => PartState::Starting,
                // The other index answers meanwhile.
                ReplicaState::Failing { .. } => PartState::Degraded,
                ReplicaState::Stopped => PartState::Failing,
            };
            part(replica.name, state, replica.to_string())
        });
        let parts: Vec<PartHealth> =
            [store].into_iter().chain(embedder).chain(servers).chain(indexes).collect();
        let ready = parts.iter().all(|part| !matches!(part.state, PartState::Failing | PartState::Starting));
        HealthReport { ready, parts }
    }
}

#[cfg(test)]
mod tests {
    use raglan_backends::{database::SqliteDatabase, document_store::SqliteDocumentStore};

    use super::*;

    #[tokio::test]
    async fn only_a_process_that_embeds_shows_an_embedder() {
        let folder = tempfile::tempdir().unwrap();
        let database = SqliteDatabase::open(&folder.path().join("raglan.db")).await.unwrap();
        let documents: Arc<dyn DocumentStore> = Arc::new(SqliteDocumentStore::new(database));
        let mut shown = Vec::new();
        for embedder in [None, Some(EmbedderSlot::Off), Some(EmbedderSlot::Missing)] {
            let report = ProcessHealth::new(None, Arc::clone(&documents), embedder).report().await;
            assert!(report.ready);
            shown.push(report.parts.into_iter().map(|part| (part.name, part.state)).collect::<Vec<_>>());
        }
        let (store, embedder) = (("store".to_owned(), PartState::Ok), |state| ("embedder".to_owned(), state));
        let expected = [
            vec![store.clone()],
            vec![store.clone(), embedder(PartState::Ok)],
            vec![store, embedder(PartState::Degraded)],
        ];
        assert_eq!(shown, expected);
    }
}
