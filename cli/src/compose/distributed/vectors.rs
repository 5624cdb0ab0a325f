//! Where vectors are searched: in one Qdrant for all processes, or in an index that each process keeps for itself.

use std::{sync::Arc, time::Duration};

use anyhow::bail;
use raglan_backends::vector_index::qdrant::{QdrantIndex, QdrantSettings, Quantization};
use raglan_pipeline::{
    ports::{Coordination, DocumentStore, Replica, VectorIndex},
    replication::SharedFeeder,
};
use raglan_workers::Role;
use tokio::{task::JoinSet, time::interval};
use tokio_util::sync::CancellationToken;
use tracing::debug;
use uuid::Uuid;

use super::{
    super::{Models, health::Probe, indexes::Indexes},
    Problems,
};
use crate::config::{self, Config};

/// How often a process that only searches asks how far the index is fed; cached answers are told apart by it.
const REFRESH: Duration = Duration::from_secs(1);

/// Where vectors are searched.
pub(super) enum Vectors {
    /// In each process that searches, or nowhere, where there is no embedder.
    Local,
    /// In Qdrant.
    Shared(Arc<QdrantIndex>),
}

/// Opens the shared index, where one is configured.
pub(super) async fn vectors(config: &Config, models: &Models) -> anyhow::Result<Vectors> {
    let (Some(url), Some(embedder)) = (&config.qdrant.url, models.embedder.get()) else {
        return Ok(Vectors::Local);
    };
    let info = embedder.info();
    let settings = QdrantSettings {
        api_key: config.qdrant.api_key.clone(),
        name: config.qdrant.name.clone(),
        shards: config.qdrant.shards,
        replicas: config.qdrant.replicas,
        on_disk: config.qdrant.on_disk,
        quantization: match config.qdrant.quantization {
            config::Quantization::None => Quantization::None,
            config::Quantization::Int8 => Quantization::Int8,
        },
        ..QdrantSettings::new(url.clone(), info.model.clone(), info.dimension)
    };
    match QdrantIndex::open(settings).await {
        Ok(index) => Ok(Vectors::Shared(Arc::new(index))),
        Err(error) => bail!(Problems(vec![format!("qdrant: {error}")])),
    }
}

impl Vectors {
    /// Whether each process keeps an index of its own.
    pub fn is_local(&self) -> bool {
        matches!(self, Self::Local)
    }

    /// The index that this process searches.
    pub fn searched(&self, own: &Indexes) -> Option<Arc<dyn VectorIndex>> {
        match self {
            Self::Local => own.vectors.clone(),
            Self::Shared(index) => Some(index.clone()),
        }
    }

    /// The names of the indexes that all processes share.
    pub fn shared(&self) -> Vec<&'static str> {
        match self {
            Self::Local => Vec::new(),
            Self::Shared(index) => vec![index.name()],
        }
    }

    /// Starts what the shared index needs: those who take documents in feed it, one at a time, and all others ask how far it is.
    pub fn spawn(
        &self,
        tasks: &mut JoinSet<()>,
        roles: &[Role],
        documents: &Arc<dyn DocumentStore>,
        coordination: &Arc<dyn Coordination>,
        stop: &CancellationToken,
    ) {
        let Self::Shared(index) = self else { return };
        if roles.contains(&Role::Ingestion) {
            let feeder = SharedFeeder {
                replica: index.clone() as Arc<dyn Replica>,
                documents: documents.clone(),
                coordination: coordination.clone(),
                instance: Uuid::now_v7(),
            };
            let stop = stop.clone();
            tasks.spawn(async move { feeder.run(stop).await });
        }
        tasks.spawn(refresh(index.clone(), stop.clone()));
    }

    /// Asks the shared index how it is.
    pub fn probe(&self) -> Option<Probe> {
        let Self::Shared(index) = self else { return None };
        let index = index.clone();
        Some(Probe::new("qdrant", move || {
            let index = index.clone();
            async move { index.check().await.map(|()| "answers".to_owned()) }
        }))
    }
}

async fn refresh(index: Arc<QdrantIndex>, stop: CancellationToken) {
    let mut ticks = interval(REFRESH);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => {
                if let Err(error) = index.refresh().await {
                    debug!(%error, "position of the shared index not read");
                }
            }
        }
    }
}
