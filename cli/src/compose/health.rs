//! How the parts of an embedded process are, for `/readyz`.

use std::sync::Arc;

use async_trait::async_trait;
use raglan_api::{Health, HealthReport, PartHealth, PartState};
use raglan_pipeline::{
    ports::DocumentStore,
    replication::{ReplicaState, Replication},
    retrieval::EmbedderSlot,
};

/// Asks the parts of this process.
pub struct ProcessHealth {
    replication: Arc<Replication>,
    documents: Arc<dyn DocumentStore>,
    embedder: EmbedderSlot,
}

impl ProcessHealth {
    pub fn new(
        replication: Arc<Replication>,
        documents: Arc<dyn DocumentStore>,
        embedder: EmbedderSlot,
    ) -> Self {
        Self { replication, documents, embedder }
    }
}

fn part(name: &str, state: PartState, detail: impl Into<String>) -> PartHealth {
    PartHealth { name: name.to_owned(), state, detail: detail.into() }
}

#[async_trait]
impl Health for ProcessHealth {
    async fn report(&self) -> HealthReport {
        let store = match self.documents.head().await {
            Ok(position) => part("store", PartState::Ok, format!("at change {position}")),
            Err(error) => part("store", PartState::Failing, error.to_string()),
        };
        let embedder = match &self.embedder {
            EmbedderSlot::Ready(embedder) => part("embedder", PartState::Ok, embedder.info().model.clone()),
            EmbedderSlot::Off => part("embedder", PartState::Ok, "switched off: keyword search alone"),
            EmbedderSlot::Missing => {
                part("embedder", PartState::Degraded, "the model could not be had: keyword search alone")
            }
        };
        let indexes = self.replication.status().into_iter().map(|replica| {
            let state = match replica.state {
                ReplicaState::Live => PartState::Ok,
                ReplicaState::CatchingUp => PartState::Starting,
                // The other index answers meanwhile.
                ReplicaState::Failing { .. } => PartState::Degraded,
                ReplicaState::Stopped => PartState::Failing,
            };
            part(replica.name, state, replica.to_string())
        });
        let parts: Vec<PartHealth> = [store, embedder].into_iter().chain(indexes).collect();
        let ready = parts.iter().all(|part| !matches!(part.state, PartState::Failing | PartState::Starting));
        HealthReport { ready, parts }
    }
}
