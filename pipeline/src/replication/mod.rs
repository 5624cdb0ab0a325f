//! Feeding replicas: each index follows the store's change log with a follower of its own, so that a slow or broken one
//! holds up no other.

mod follower;
mod reporter;
mod searchers;
mod shared;
#[cfg(test)]
mod tests;

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use tokio::{
    sync::{Notify, watch},
    time::{Instant, timeout_at},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use uuid::Uuid;

use self::follower::Follower;
pub use self::{
    reporter::{REPORT_TTL, report},
    searchers::{Fleet, Searchers},
    shared::SharedFeeder,
};
use crate::{
    domain::{Change, LogPosition},
    ports::{DocumentStore, ErrorKind, PortError, PortResult, Replica},
};

/// How replicas are fed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReplicationSettings {
    /// About so many chunks are applied at a time.
    pub batch: usize,
    /// The log is looked at this often when nobody says that it grew.
    pub poll: Duration,
    /// A replica is saved after so many chunks …
    pub save_after_chunks: usize,
    /// … or when this long has passed since the last change …
    pub save_when_quiet_for: Duration,
    /// … or since the first one that is not saved.
    pub save_at_latest: Duration,
    /// The delay after the first failure; it doubles with each one that follows.
    pub shortest_delay: Duration,
    /// The delay grows no longer than this.
    pub longest_delay: Duration,
}

impl Default for ReplicationSettings {
    fn default() -> Self {
        Self {
            batch: 1024,
            poll: Duration::from_secs(1),
            save_after_chunks: 50_000,
            save_when_quiet_for: Duration::from_secs(5),
            save_at_latest: Duration::from_secs(300),
            shortest_delay: Duration::from_millis(100),
            longest_delay: Duration::from_secs(30),
        }
    }
}

/// What a replica is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReplicaState {
    /// It has not reached the end of the log since it started, started anew or recovered.
    CatchingUp,
    /// It has everything, or is about to.
    Live,
    /// It could not go on, and tries again.
    Failing {
        /// What happened the last time.
        error: String,
    },
    /// It follows no longer.
    Stopped,
}

/// Where a replica is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplicaStatus {
    /// Its name.
    pub name: &'static str,
    /// What it is doing.
    pub state: ReplicaState,
    /// What it holds.
    pub position: LogPosition,
    /// The end of the log when it was last looked at.
    pub head: LogPosition,
}

impl fmt::Display for ReplicaStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, state, position, head } = self;
        match state {
            ReplicaState::CatchingUp => write!(f, "{name} is catching up, at {position} of {head}"),
            ReplicaState::Live => write!(f, "{name} is at {position}"),
            ReplicaState::Failing { error } => write!(f, "{name} fails, at {position} of {head}: {error}"),
            ReplicaState::Stopped => write!(f, "{name} has stopped, at {position}"),
        }
    }
}

/// What a follower needs of the store.
#[async_trait]
trait ChangeLog: Send + Sync {
    async fn changes(&self, after: LogPosition, limit: usize) -> PortResult<Vec<Change>>;
    async fn head(&self) -> PortResult<LogPosition>;
    async fn horizon(&self) -> PortResult<LogPosition>;
    async fn history(&self) -> PortResult<Uuid>;
}

struct StoreLog(Arc<dyn DocumentStore>);

#[async_trait]
impl ChangeLog for StoreLog {
    async fn changes(&self, after: LogPosition, limit: usize) -> PortResult<Vec<Change>> {
        self.0.changes(after, limit).await
    }

    async fn head(&self) -> PortResult<LogPosition> {
        self.0.head().await
    }

    async fn horizon(&self) -> PortResult<LogPosition> {
        self.0.horizon().await
    }

    async fn history(&self) -> PortResult<Uuid> {
        self.0.history().await
    }
}

/// The replicas of this process, and the tasks that feed them.
pub struct Replication {
    lanes: Vec<Lane>,
    tasks: TaskTracker,
}

struct Lane {
    hint: Arc<Notify>,
    status: watch::Receiver<ReplicaStatus>,
}

impl Replication {
    /// Begins to feed the replicas, with the usual settings. They are fed until `cancel`; then each is saved.
    #[must_use]
    pub fn start(
        store: Arc<dyn DocumentStore>,
        replicas: Vec<Arc<dyn Replica>>,
        cancel: CancellationToken,
    ) -> Arc<Self> {
        Self::start_with(store, replicas, cancel, ReplicationSettings::default())
    }

    /// [`start`](Self::start), with other settings.
    #[must_use]
    pub fn start_with(
        store: Arc<dyn DocumentStore>,
        replicas: Vec<Arc<dyn Replica>>,
        cancel: CancellationToken,
        settings: ReplicationSettings,
    ) -> Arc<Self> {
        Self::follow(Arc::new(StoreLog(store)), replicas, cancel, settings)
    }

    fn follow(
        log: Arc<dyn ChangeLog>,
        replicas: Vec<Arc<dyn Replica>>,
        cancel: CancellationToken,
        settings: ReplicationSettings,
    ) -> Arc<Self> {
        let tasks = TaskTracker::new();
        let lanes = replicas
            .into_iter()
            .map(|replica| {
                let hint = Arc::new(Notify::new());
                let (follower, status) =
                    Follower::new(log.clone(), replica, hint.clone(), cancel.clone(), settings);
                tasks.spawn(follower.run());
                Lane { hint, status }
            })
            .collect();
        tasks.close();
        Arc::new(Self { lanes, tasks })
    }

    /// Says that the log has grown, so that nobody waits for the next look at it. Cheap; may be called too often.
    pub fn hint(&self) {
        for lane in &self.lanes {
            lane.hint.notify_one();
        }
    }

    /// Waits until every replica holds the change at this position, so that every search that begins afterwards sees it.
    ///
    /// # Errors
    /// `Timeout` when that took longer than `timeout`, naming the replicas that lag and why; `Unavailable` when one has stopped before.
    pub async fn wait_for(&self, position: LogPosition, timeout: Duration) -> PortResult<()> {
        let deadline = Instant::now() + timeout;
        self.hint();
        for lane in &self.lanes {
            let mut status = lane.status.clone();
            let there =
                |status: &ReplicaStatus| status.position >= position || status.state == ReplicaState::Stopped;
            // Nothing borrowed of the status may live on: telling what is late borrows it again.
            let reached = timeout_at(deadline, status.wait_for(there))
                .await
                .map(|status| status.is_ok_and(|status| status.position >= position));
            match reached {
                Ok(true) => {}
                // It has stopped, or its task is gone.
                Ok(false) => return Err(self.not_there(ErrorKind::Unavailable, position)),
                Err(_) => return Err(self.not_there(ErrorKind::Timeout, position)),
            }
        }
        Ok(())
    }

    fn not_there(&self, kind: ErrorKind, position: LogPosition) -> PortError {
        let late: Vec<String> = self
            .status()
            .into_iter()
            .filter(|status| status.position < position)
            .map(|status| status.to_string())
            .collect();
        PortError::new(kind, format!("change {position} is not searchable yet: {}", late.join("; ")))
    }

    /// Where each replica is.
    #[must_use]
    pub fn status(&self) -> Vec<ReplicaStatus> {
        self.lanes.iter().map(|lane| lane.status.borrow().clone()).collect()
    }

    /// Waits until no replica is catching up any more: each has everything, fails, or has stopped.
    pub async fn caught_up(&self) {
        for lane in &self.lanes {
            // An error means that its task is gone: nothing more will come of it.
            let _ = lane.status.clone().wait_for(|status| status.state != ReplicaState::CatchingUp).await;
        }
    }

    /// Waits until all followers have ended, which they do after the cancellation given at the start, once their replica is saved.
    pub async fn join(&self) {
        self.tasks.wait().await;
    }
}
