//! Who must see a change before it counts as visible: the indexes of this process, or those of all processes.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use tokio::time::{Instant, sleep};
use tracing::warn;

use super::Replication;
use crate::{
    domain::LogPosition,
    ports::{Coordination, ErrorKind, PortError, PortResult, ReplicaReport},
};

/// All whose searches must see a change of the documents before it counts as visible.
#[async_trait]
pub trait Searchers: Send + Sync {
    /// Waits until every search that begins afterwards sees the change at this position.
    ///
    /// # Errors
    /// `Timeout` when that took longer than `timeout`, naming who lags.
    async fn wait_for(&self, position: LogPosition, timeout: Duration) -> PortResult<()>;

    /// The position that each has reached, in no order; it tells whether they come any further.
    async fn positions(&self) -> Vec<LogPosition>;

    /// Says that the log has grown.
    fn hint(&self);
}

#[async_trait]
impl Searchers for Replication {
    async fn wait_for(&self, position: LogPosition, timeout: Duration) -> PortResult<()> {
        Self::wait_for(self, position, timeout).await
    }

    async fn positions(&self) -> Vec<LogPosition> {
        self.status().into_iter().map(|status| status.position).collect()
    }

    fn hint(&self) {
        Self::hint(self);
    }
}

/// The first wait between two looks at where the others are; it doubles up to [`LONGEST_LOOK`].
const SHORTEST_LOOK: Duration = Duration::from_millis(10);
const LONGEST_LOOK: Duration = Duration::from_millis(250);

/// The replicas of all processes, as they report themselves.
///
/// A process that says nothing any more is left out once its report has run out. Of a shared index somebody must report: while nobody feeds it, nothing counts
/// as visible.
pub struct Fleet {
    coordination: Arc<dyn Coordination>,
    local: Option<Arc<Replication>>,
    shared: Vec<&'static str>,
}

impl Fleet {
    /// All processes that report to `coordination`; `local` are the replicas of this one, and `shared` names the indexes that all processes share.
    #[must_use]
    pub fn new(
        coordination: Arc<dyn Coordination>,
        local: Option<Arc<Replication>>,
        shared: Vec<&'static str>,
    ) -> Self {
        Self { coordination, local, shared }
    }

    /// Who lags behind a position, in words; none where nobody does.
    fn lagging(&self, reports: &[ReplicaReport], position: LogPosition) -> Option<String> {
        let late = reports
            .iter()
            .filter(|report| report.position < position)
            .map(|report| format!("{} of {} is at {}", report.replica, report.instance, report.position));
        let unfed = self
            .shared
            .iter()
            .filter(|name| !reports.iter().any(|report| report.replica == **name))
            .map(|name| format!("nobody feeds {name}"));
        let all: Vec<String> = late.chain(unfed).collect();
        (!all.is_empty()).then(|| all.join("; "))
    }
}

#[async_trait]
impl Searchers for Fleet {
    async fn wait_for(&self, position: LogPosition, timeout: Duration) -> PortResult<()> {
        let deadline = Instant::now() + timeout;
        self.hint();
        let mut look = SHORTEST_LOOK;
        loop {
            let trouble = match self.coordination.positions().await {
                Ok(reports) => match self.lagging(&reports, position) {
                    None => return Ok(()),
                    Some(late) => late,
                },
                Err(error) if error.is_transient() => error.to_string(),
                Err(error) => return Err(error),
            };
            if Instant::now() + look >= deadline {
                let message = format!("change {position} is not searchable yet: {trouble}");
                return Err(PortError::new(ErrorKind::Timeout, message));
            }
            sleep(look).await;
            look = (look * 2).min(LONGEST_LOOK);
        }
    }

    async fn positions(&self) -> Vec<LogPosition> {
        match self.coordination.positions().await {
            Ok(reports) => reports.into_iter().map(|report| report.position).collect(),
            Err(error) => {
                warn!(%error, "positions of the replicas not read");
                Vec::new()
            }
        }
    }

    fn hint(&self) {
        if let Some(local) = &self.local {
            local.hint();
        }
    }
}
