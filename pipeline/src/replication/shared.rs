//! Feeding an index that all processes share: one of them at a time does.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use uuid::Uuid;

use super::{Replication, report};
use crate::ports::{Coordination, DocumentStore, Replica};

/// How long the right to feed lasts without being renewed. The feeder stops before that time has passed.
const LEASE: Duration = Duration::from_secs(15);

/// Feeds a shared index whenever this process is the one that may.
///
/// The lease keeps two processes from feeding at once as a rule. Should one be stopped in the middle of a write for longer than its lease and go on afterwards, a
/// chunk that was deleted meanwhile can come back into the index; no search shows it, since every hit is checked against the store.
pub struct SharedFeeder {
    /// The index.
    pub replica: Arc<dyn Replica>,
    /// The log that it is fed from.
    pub documents: Arc<dyn DocumentStore>,
    /// Who feeds.
    pub coordination: Arc<dyn Coordination>,
    /// This process.
    pub instance: Uuid,
}

impl SharedFeeder {
    /// Feeds until cancelled. `hint` is awaited for news of the log.
    pub async fn run(&self, cancel: CancellationToken) {
        while !cancel.is_cancelled() {
            if self.leads().await {
                self.feed(&cancel).await;
            }
            tokio::select! {
                () = cancel.cancelled() => {}
                () = sleep(LEASE / 3) => {}
            }
        }
    }

    async fn leads(&self) -> bool {
        match self.coordination.lead(self.replica.name(), self.instance, LEASE).await {
            Ok(leads) => leads,
            Err(error) => {
                warn!(index = self.replica.name(), %error, "not known who feeds the index");
                false
            }
        }
    }

    /// Feeds for as long as the lease is renewed.
    async fn feed(&self, cancel: &CancellationToken) {
        info!(index = self.replica.name(), "feeding the shared index");
        let stop = cancel.child_token();
        let replication =
            Replication::start(self.documents.clone(), vec![self.replica.clone()], stop.clone());
        let reporter =
            tokio::spawn(report(replication.clone(), self.coordination.clone(), self.instance, stop.clone()));
        let mut renewed = Instant::now();
        while !cancel.is_cancelled() && renewed.elapsed() < LEASE * 2 / 3 {
            tokio::select! {
                () = cancel.cancelled() => {}
                () = sleep(LEASE / 5) => {
                    // A call that hangs must not outlast the lease.
                    if timeout(LEASE / 5, self.leads()).await.unwrap_or(false) {
                        renewed = Instant::now();
                    }
                }
            }
        }
        stop.cancel();
        replication.join().await;
        let _ = reporter.await;
        if let Err(error) = self.coordination.resign(self.replica.name(), self.instance).await {
            warn!(index = self.replica.name(), %error, "lease not given back; it runs out by itself");
        }
        info!(index = self.replica.name(), "no longer feeding the shared index");
    }
}
