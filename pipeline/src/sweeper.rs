//! The sweeper: makes good whatever a crash, a lost queue or a dead worker left behind. All that it needs is in the store, so it
//! can run anywhere, and several of them do no harm.

use std::{sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{
    lifecycle::Lifecycle,
    ports::{DocumentStore, Ending, PortResult},
};

/// How often and how much.
#[derive(Debug, Clone, PartialEq)]
pub struct SweeperSettings {
    /// Time between two looks.
    pub interval: Duration,
    /// The most of each kind at one look.
    pub batch: usize,
    /// How long a staged version of a document may wait to be published before it counts as left behind.
    pub staged_for: Duration,
}

impl Default for SweeperSettings {
    fn default() -> Self {
        Self { interval: Duration::from_millis(500), batch: 500, staged_for: Duration::from_secs(24 * 3_600) }
    }
}

/// Looks after jobs, deliveries and leftovers.
pub struct Sweeper {
    lifecycle: Arc<Lifecycle>,
    documents: Arc<dyn DocumentStore>,
    settings: SweeperSettings,
}

/// Every so many looks, leftovers are cleared.
const LOOKS_PER_CLEANING: u32 = 120;

impl Sweeper {
    /// A sweeper over these parts.
    #[must_use]
    pub fn new(
        lifecycle: Arc<Lifecycle>,
        documents: Arc<dyn DocumentStore>,
        settings: SweeperSettings,
    ) -> Self {
        Self { lifecycle, documents, settings }
    }

    /// Sweeps until cancelled.
    pub async fn run(&self, cancel: CancellationToken) {
        let mut interval = tokio::time::interval(self.settings.interval);
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut look = 0u32;
        loop {
            tokio::select! {
                () = cancel.cancelled() => return,
                _ = interval.tick() => {}
            }
            if let Err(error) = self.sweep().await {
                warn!(%error, "sweep failed");
            }
            if look.is_multiple_of(LOOKS_PER_CLEANING)
                && let Err(error) = self.clean().await
            {
                warn!(%error, "cleaning failed");
            }
            look = look.wrapping_add(1);
        }
    }

    /// One look at jobs and deliveries.
    pub async fn sweep(&self) -> PortResult<()> {
        let lifecycle = &self.lifecycle;
        for job in lifecycle.jobs.overdue(self.settings.batch).await? {
            lifecycle.end(job.id, Ending::Deadline).await?;
        }
        for job in lifecycle.jobs.due(self.settings.batch, lifecycle.settings.republish_after).await? {
            if lifecycle.enqueue(&job, Duration::ZERO).await {
                metrics::counter!("raglan_jobs_republished_total", "stage" => job.stage.as_str())
                    .increment(1);
                info!(job_id = %job.id, stage = job.stage.as_str(), "job put back on its queue");
            }
        }
        lifecycle.publish_deliveries().await?;
        for (stage, waiting) in lifecycle.jobs.waiting().await? {
            #[allow(clippy::cast_precision_loss)] // a gauge
            metrics::gauge!("raglan_jobs_waiting", "stage" => stage.as_str()).set(waiting as f64);
        }
        Ok(())
    }

    /// Removes what has had its time.
    pub async fn clean(&self) -> PortResult<()> {
        for job in self.lifecycle.jobs.remove_expired(self.settings.batch).await? {
            self.lifecycle.clear(&job).await;
        }
        self.documents.clean(self.settings.staged_for).await?;
        Ok(())
    }
}
