//! The roles a process can play. `raglan serve` plays all of them.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use raglan_pipeline::{
    delivery::DeliveryStage, domain::Stage, lifecycle::Lifecycle, stage::JobStage, sweeper::Sweeper,
};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use crate::{
    consume::{Handler, Pool},
    job::{JobWorker, WorkerSettings},
    webhook::WebhookWorker,
};

/// What a process does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Role {
    /// Finds passages.
    Retrieval,
    /// Writes answers.
    Generation,
    /// Takes documents in.
    Ingestion,
    /// Sends webhooks.
    Webhook,
    /// Sweeps and cleans.
    Maintenance,
}

impl Role {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::Retrieval, Self::Generation, Self::Ingestion, Self::Webhook, Self::Maintenance];

    /// Its name on the command line.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Retrieval => "retrieval",
            Self::Generation => "generation",
            Self::Ingestion => "ingestion",
            Self::Webhook => "webhook",
            Self::Maintenance => "maintenance",
        }
    }

    fn stage(self) -> Option<Stage> {
        match self {
            Self::Retrieval => Some(Stage::Retrieval),
            Self::Generation => Some(Stage::Generation),
            Self::Ingestion => Some(Stage::Ingestion),
            Self::Webhook => Some(Stage::Webhook),
            Self::Maintenance => None,
        }
    }
}

/// What the roles work with.
pub struct WorkerParts {
    /// The record, queues and events.
    pub lifecycle: Arc<Lifecycle>,
    /// The work of each job stage.
    pub stages: BTreeMap<Stage, Arc<dyn JobStage>>,
    /// Sends webhooks.
    pub delivery: Arc<DeliveryStage>,
    /// Sweeps.
    pub sweeper: Arc<Sweeper>,
    /// How many messages of each stage are worked on at once.
    pub concurrency: BTreeMap<Stage, usize>,
    /// How jobs are worked on.
    pub settings: WorkerSettings,
    /// How long work may go on after the stop.
    pub drain: Duration,
}

/// Roles at work.
pub struct Running {
    tasks: JoinSet<()>,
}

/// Starts roles; they work until `stop` is cancelled. A role whose stage has no work in `parts` is not started.
#[must_use]
pub fn start(roles: &[Role], parts: &WorkerParts, stop: &CancellationToken) -> Running {
    let mut tasks = JoinSet::new();
    for role in roles {
        let Some(stage) = role.stage() else {
            let (sweeper, stop) = (parts.sweeper.clone(), stop.clone());
            tasks.spawn(async move { sweeper.run(stop).await });
            continue;
        };
        let handler: Arc<dyn Handler> = match (stage, parts.stages.get(&stage)) {
            (Stage::Webhook, _) => Arc::new(WebhookWorker { stage: parts.delivery.clone() }),
            (_, Some(work)) => Arc::new(JobWorker {
                stage,
                work: work.clone(),
                lifecycle: parts.lifecycle.clone(),
                settings: parts.settings.clone(),
            }),
            (_, None) => {
                error!(role = role.as_str(), "role has no work here; not started");
                continue;
            }
        };
        let concurrency = parts.concurrency.get(&stage).copied().unwrap_or(1).max(1);
        let pool = Pool { stage, concurrency, drain: parts.drain };
        let (broker, stop) = (parts.lifecycle.broker.clone(), stop.clone());
        tasks.spawn(async move { pool.run(broker, handler, stop).await });
        info!(role = role.as_str(), concurrency, "role started");
    }
    Running { tasks }
}

impl Running {
    /// Waits until all roles have drained and ended.
    pub async fn join(&mut self) {
        while let Some(ended) = self.tasks.join_next().await {
            if let Err(error) = ended {
                error!(%error, "role died");
            }
        }
    }
}
