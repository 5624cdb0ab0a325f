//! Telling the other processes where the replicas of this one are.

use std::{sync::Arc, time::Duration};

use futures::{StreamExt, stream::FuturesUnordered};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::warn;
use uuid::Uuid;

use super::{ReplicaState, Replication};
use crate::ports::Coordination;

/// How long a report counts. A process that died holds up those who wait for visibility for so long at most.
pub const REPORT_TTL: Duration = Duration::from_secs(10);

/// Between two reports of a replica that moves.
const SOONEST: Duration = Duration::from_millis(20);

/// Reports the replicas of a process until cancelled, then takes the reports back.
///
/// A replica is reported from the moment on that it has caught up: before, its process serves no searches, and nobody needs to wait for it.
pub async fn report(
    replication: Arc<Replication>,
    coordination: Arc<dyn Coordination>,
    instance: Uuid,
    cancel: CancellationToken,
) {
    replication.caught_up().await;
    loop {
        let begun = Instant::now();
        // Marked as seen before it is reported: what comes meanwhile is a change again.
        let mut lanes: Vec<_> = replication.lanes.iter().map(|lane| lane.status.clone()).collect();
        for lane in &mut lanes {
            let status = lane.borrow_and_update().clone();
            if status.state == ReplicaState::Stopped {
                continue;
            }
            let reported = coordination.report(instance, status.name, status.position, REPORT_TTL).await;
            if let Err(error) = reported {
                warn!(replica = status.name, %error, "position not reported");
            }
        }
        let mut changes: FuturesUnordered<_> = lanes.iter_mut().map(|lane| lane.changed()).collect();
        let next = async {
            if !matches!(changes.next().await, Some(Ok(()))) {
                // No replica, or one that is gone: nothing to hear from it.
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            () = cancel.cancelled() => break,
            _ = timeout(REPORT_TTL / 3, next) => {}
        }
        sleep(SOONEST.saturating_sub(begun.elapsed())).await;
    }
    if let Err(error) = coordination.withdraw(instance).await {
        warn!(%error, "reports not taken back; they run out by themselves");
    }
}
