//! One replica and the task that feeds it.

use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures::FutureExt;
use rand::Rng;
use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep, sleep_until},
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{ChangeLog, ReplicaState, ReplicaStatus, ReplicationSettings};
use crate::{
    domain::{Change, ChangeKind, DocumentId, LogPosition},
    ports::{ErrorKind, PortError, Replica},
};

/// Progress is logged this often while a replica catches up.
const REPORT_EVERY: Duration = Duration::from_secs(5);

pub(super) struct Follower {
    log: Arc<dyn ChangeLog>,
    replica: Arc<dyn Replica>,
    hint: Arc<Notify>,
    cancel: CancellationToken,
    settings: ReplicationSettings,
    status: watch::Sender<ReplicaStatus>,
    /// The store's history, once it is known that the replica is of it.
    history: Option<Uuid>,
    unsaved: Option<Unsaved>,
    failures: u32,
    reported: Option<Instant>,
}

/// Changes that were applied and not saved.
struct Unsaved {
    chunks: usize,
    first: Instant,
    last: Instant,
    /// Not before this time, after a save that failed.
    not_before: Instant,
}

/// What came of looking at the log.
enum Round {
    /// There may be more.
    More,
    /// The replica holds everything.
    Level,
}

/// What failed, since a replica that cannot be read is made anew and a store that cannot be read is not.
enum Trouble {
    Log(PortError),
    Replica(PortError),
    Panic,
}

impl Follower {
    pub(super) fn new(
        log: Arc<dyn ChangeLog>,
        replica: Arc<dyn Replica>,
        hint: Arc<Notify>,
        cancel: CancellationToken,
        settings: ReplicationSettings,
    ) -> (Self, watch::Receiver<ReplicaStatus>) {
        let (status, receiver) = watch::channel(ReplicaStatus {
            name: replica.name(),
            state: ReplicaState::CatchingUp,
            position: 0,
            head: 0,
        });
        let follower = Self {
            log,
            replica,
            hint,
            cancel,
            settings,
            status,
            history: None,
            unsaved: None,
            failures: 0,
            reported: None,
        };
        (follower, receiver)
    }

    /// Feeds the replica until it is cancelled, and saves it.
    pub(super) async fn run(mut self) {
        while !self.cancel.is_cancelled() {
            let round = AssertUnwindSafe(self.round()).catch_unwind().await;
            match round.unwrap_or(Err(Trouble::Panic)) {
                Ok(Round::More) => self.went_well(None),
                Ok(Round::Level) => {
                    self.went_well(Some(ReplicaState::Live));
                    self.rest().await;
                }
                Err(trouble) => self.back_off(trouble).await,
            }
        }
        if self.unsaved.is_some() {
            self.save().await;
        }
        self.status.send_modify(|status| status.state = ReplicaState::Stopped);
    }

    /// Applies the next changes.
    async fn round(&mut self) -> Result<Round, Trouble> {
        self.check_history().await?;
        let head = self.log.head().await.map_err(Trouble::Log)?;
        let position = self.replica.position();
        if position > head {
            tracing::warn!(replica = self.replica.name(), position, head, "replica is ahead of the log");
            self.start_anew().await?;
            return Ok(Round::More);
        }
        self.publish(head);
        if position == head {
            return Ok(Round::Level);
        }
        let changes = self.log.changes(position, self.settings.batch).await.map_err(Trouble::Log)?;
        // Asked after the changes: what was left out of them is left out before the horizon.
        let horizon = self.log.horizon().await.map_err(Trouble::Log)?;
        if position > 0 && position < horizon {
            tracing::warn!(replica = self.replica.name(), position, horizon, "replica is older than the log");
            self.start_anew().await?;
            return Ok(Round::More);
        }
        let changes = if changes.is_empty() { vec![nothing_until(head)] } else { changes };
        self.apply(changes, head).await?;
        Ok(Round::More)
    }

    async fn apply(&mut self, changes: Vec<Change>, head: LogPosition) -> Result<(), Trouble> {
        let chunks = changes.iter().map(weight).sum::<usize>();
        let began = Instant::now();
        self.replica.apply(changes).await.map_err(Trouble::Replica)?;
        metrics::histogram!("raglan_replica_apply_seconds", "replica" => self.replica.name())
            .record(began.elapsed().as_secs_f64());
        self.note_unsaved(chunks);
        self.publish(head);
        if self.save_due().is_some_and(|due| due <= Instant::now()) {
            self.save().await;
        }
        Ok(())
    }

    /// Makes sure, once after the start and after every failure, that the replica is one of this store.
    async fn check_history(&mut self) -> Result<(), Trouble> {
        if self.history.is_some() {
            return Ok(());
        }
        let history = self.log.history().await.map_err(Trouble::Log)?;
        self.history = Some(history);
        match self.replica.history() {
            Some(held) if held == history => Ok(()),
            Some(held) => {
                tracing::warn!(replica = self.replica.name(), %held, %history, "replica is of another store");
                self.start_anew().await
            }
            None => self.start_anew().await,
        }
    }

    async fn start_anew(&mut self) -> Result<(), Trouble> {
        let history = match self.history {
            Some(history) => history,
            None => self.log.history().await.map_err(Trouble::Log)?,
        };
        tracing::info!(replica = self.replica.name(), "replica starts anew");
        self.unsaved = None;
        self.status.send_modify(|status| status.state = ReplicaState::CatchingUp);
        self.replica.reset(history).await.map_err(Trouble::Replica)?;
        let head = self.status.borrow().head;
        self.publish(head);
        Ok(())
    }

    /// Waits until there is something to do.
    async fn rest(&mut self) {
        let save_due = self.save_due();
        tokio::select! {
            () = self.cancel.cancelled() => {}
            () = self.hint.notified() => {}
            () = sleep(self.settings.poll) => {}
            () = until(save_due) => self.save().await,
        }
    }

    fn note_unsaved(&mut self, chunks: usize) {
        let now = Instant::now();
        let unsaved =
            self.unsaved.get_or_insert(Unsaved { chunks: 0, first: now, last: now, not_before: now });
        unsaved.chunks += chunks;
        unsaved.last = now;
    }

    /// When the replica is to be saved; none when there is nothing to save.
    fn save_due(&self) -> Option<Instant> {
        let unsaved = self.unsaved.as_ref()?;
        let due = if unsaved.chunks >= self.settings.save_after_chunks {
            unsaved.last
        } else {
            (unsaved.last + self.settings.save_when_quiet_for)
                .min(unsaved.first + self.settings.save_at_latest)
        };
        Some(due.max(unsaved.not_before))
    }

    /// A replica that cannot be saved is as good as before until the process ends, so it goes on, and saving is tried again later.
    async fn save(&mut self) {
        let saved = AssertUnwindSafe(self.replica.save()).catch_unwind().await;
        let failed: String = match saved {
            Ok(Ok(())) => {
                self.unsaved = None;
                return;
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => "it panicked".to_owned(),
        };
        metrics::counter!("raglan_replica_save_failures_total", "replica" => self.replica.name())
            .increment(1);
        tracing::warn!(replica = self.replica.name(), error = failed, "replica could not be saved");
        if let Some(unsaved) = &mut self.unsaved {
            unsaved.not_before = Instant::now() + self.settings.longest_delay;
        }
    }

    /// Says what failed, and waits before the next try.
    async fn back_off(&mut self, trouble: Trouble) {
        let (error, corrupt, asked) = match &trouble {
            Trouble::Log(error) => {
                (format!("the change log cannot be read: {error}"), false, error.retry_after())
            }
            Trouble::Replica(error) => {
                (error.to_string(), error.kind() == ErrorKind::Corrupt, error.retry_after())
            }
            Trouble::Panic => ("it panicked".to_owned(), false, None),
        };
        metrics::counter!("raglan_replica_failures_total", "replica" => self.replica.name()).increment(1);
        let state = ReplicaState::Failing { error };
        let news = self.status.send_if_modified(|status| {
            let news = status.state != state;
            status.state = state.clone();
            news
        });
        if let (true, ReplicaState::Failing { error }) = (news, &state) {
            tracing::warn!(replica = self.replica.name(), error, "replica fails and will be tried again");
        }
        self.history = None;
        let delay = asked.unwrap_or_else(|| self.delay()).min(self.settings.longest_delay);
        self.failures = self.failures.saturating_add(1);
        tokio::select! {
            () = self.cancel.cancelled() => return,
            () = sleep(delay) => {}
        }
        if corrupt {
            self.make_readable().await;
        }
    }

    /// What a replica holds cannot be read: it is only a copy.
    async fn make_readable(&mut self) {
        let reset = match self.log.history().await {
            Ok(history) => self.replica.reset(history).await,
            Err(error) => Err(error),
        };
        match reset {
            Ok(()) => {
                self.unsaved = None;
                tracing::warn!(replica = self.replica.name(), "replica could not be read and starts anew");
            }
            Err(error) => {
                tracing::warn!(replica = self.replica.name(), %error, "replica could not be read nor start anew");
            }
        }
        let head = self.status.borrow().head;
        self.publish(head);
    }

    /// Doubling, between half and all of it, so that replicas that failed together do not try together.
    fn delay(&self) -> Duration {
        let ReplicationSettings { shortest_delay, longest_delay, .. } = self.settings;
        let whole = shortest_delay.saturating_mul(1 << self.failures.min(20)).min(longest_delay);
        whole.mul_f64(rand::rng().random_range(0.5..=1.0))
    }

    /// Notes that a round went well, and the state that it brought the replica to.
    fn went_well(&mut self, state: Option<ReplicaState>) {
        if self.failures > 0 {
            tracing::info!(replica = self.replica.name(), "replica has recovered");
            self.failures = 0;
        }
        self.status.send_if_modified(|status| {
            let state = match (state, &status.state) {
                (Some(state), _) => state,
                (None, ReplicaState::Failing { .. }) => ReplicaState::CatchingUp,
                (None, _) => return false,
            };
            let news = status.state != state;
            status.state = state;
            news
        });
    }

    /// Publishes where the replica is.
    fn publish(&mut self, head: LogPosition) {
        let position = self.replica.position();
        let lag = head.saturating_sub(position);
        metrics::gauge!("raglan_replica_position", "replica" => self.replica.name()).set(position as f64);
        metrics::gauge!("raglan_replica_lag", "replica" => self.replica.name()).set(lag as f64);
        self.status.send_modify(|status| {
            status.position = position;
            status.head = head;
        });
        self.report(position, head);
    }

    /// Logs how far a replica is that has far to go.
    fn report(&mut self, position: LogPosition, head: LogPosition) {
        let name = self.replica.name();
        let now = Instant::now();
        match self.reported {
            None if position < head && self.status.borrow().state == ReplicaState::CatchingUp => {
                self.reported = Some(now);
            }
            Some(_) if position >= head => {
                self.reported = None;
                tracing::info!(replica = name, position, "replica is live");
            }
            Some(before) if now - before >= REPORT_EVERY => {
                self.reported = Some(now);
                tracing::info!(replica = name, position, head, "replica is catching up");
            }
            _ => {}
        }
    }
}

/// Changes that no longer matter are left out of the log, the last ones too. So that the replica's position says that there is
/// nothing more up to here, it is given a change that changes nothing.
fn nothing_until(head: LogPosition) -> Change {
    let kind = ChangeKind::DeleteChunks { document_id: DocumentId(Uuid::nil()), chunk_ids: Vec::new() };
    Change { position: head, kind }
}

/// How much a change counts towards saving, in chunks.
fn weight(change: &Change) -> usize {
    match &change.kind {
        ChangeKind::PutChunks { chunks, .. } => chunks.len().max(1),
        ChangeKind::DeleteChunks { chunk_ids, .. } => chunk_ids.len().max(1),
        ChangeKind::PutDocument { .. } | ChangeKind::DeleteDocument { .. } => 1,
    }
}

async fn until(due: Option<Instant>) {
    match due {
        Some(due) => sleep_until(due).await,
        None => std::future::pending().await,
    }
}
