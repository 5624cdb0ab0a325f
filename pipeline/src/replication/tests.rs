use std::{
    collections::VecDeque,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use super::*;
use crate::domain::{ChangeKind, DocumentId};

const LONG: Duration = Duration::from_secs(3600);

/// A log that tests write to.
#[derive(Default)]
struct Log {
    changes: Mutex<Vec<Change>>,
    head: AtomicU64,
    horizon: AtomicU64,
    history: Mutex<Uuid>,
    down: Mutex<Option<ErrorKind>>,
}

impl Log {
    fn of(changes: u64) -> Arc<Self> {
        let log = Self { history: Mutex::new(Uuid::new_v4()), ..Self::default() };
        log.append(changes);
        Arc::new(log)
    }

    fn append(&self, count: u64) {
        for _ in 0..count {
            let position = self.head.fetch_add(1, Ordering::SeqCst) + 1;
            let kind =
                ChangeKind::DeleteDocument { document_id: DocumentId(Uuid::from_u128(position.into())) };
            self.changes.lock().unwrap().push(Change { position, kind });
        }
    }

    fn history(&self) -> Uuid {
        *self.history.lock().unwrap()
    }

    fn up<T>(&self, answer: T) -> PortResult<T> {
        match *self.down.lock().unwrap() {
            Some(kind) => Err(PortError::new(kind, "the store is down")),
            None => Ok(answer),
        }
    }
}

#[async_trait]
impl ChangeLog for Log {
    async fn changes(&self, after: LogPosition, limit: usize) -> PortResult<Vec<Change>> {
        let changes = self.changes.lock().unwrap();
        self.up(changes.iter().filter(|change| change.position > after).take(limit).cloned().collect())
    }

    async fn head(&self) -> PortResult<LogPosition> {
        self.up(self.head.load(Ordering::SeqCst))
    }

    async fn horizon(&self) -> PortResult<LogPosition> {
        self.up(self.horizon.load(Ordering::SeqCst))
    }

    async fn history(&self) -> PortResult<Uuid> {
        self.up(Self::history(self))
    }
}

/// What a copy does when it is asked to apply.
enum Fate {
    Fail(ErrorKind),
    Panic,
}

#[derive(Default, Clone)]
struct Held {
    position: LogPosition,
    history: Option<Uuid>,
    /// Every position applied since the last reset, in order.
    applied: Vec<LogPosition>,
    resets: usize,
    batches: usize,
    saved_at: Vec<LogPosition>,
}

/// A replica that remembers what happened to it.
#[derive(Default)]
struct Copy {
    held: Mutex<Held>,
    fates: Mutex<VecDeque<Fate>>,
    always_fails: AtomicBool,
    cannot_save: AtomicBool,
}

impl Copy {
    fn at(position: LogPosition, history: Uuid) -> Arc<Self> {
        let held = Held { position, history: Some(history), ..Held::default() };
        Arc::new(Self { held: Mutex::new(held), ..Self::default() })
    }

    fn held(&self) -> Held {
        self.held.lock().unwrap().clone()
    }
}

#[async_trait]
impl Replica for Copy {
    fn name(&self) -> &'static str {
        "copy"
    }

    fn position(&self) -> LogPosition {
        self.held().position
    }

    fn history(&self) -> Option<Uuid> {
        self.held().history
    }

    async fn apply(&self, changes: Vec<Change>) -> PortResult<()> {
        if self.always_fails.load(Ordering::SeqCst) {
            return Err(PortError::new(ErrorKind::Internal, "it is broken"));
        }
        let fate = self.fates.lock().unwrap().pop_front();
        match fate {
            Some(Fate::Fail(kind)) => return Err(PortError::new(kind, "it failed")),
            Some(Fate::Panic) => panic!("a panic that the test wants"),
            None => {}
        }
        let mut held = self.held.lock().unwrap();
        held.batches += 1;
        for change in changes {
            assert!(change.position > held.position, "in order, each once");
            held.position = change.position;
            held.applied.push(change.position);
        }
        Ok(())
    }

    async fn save(&self) -> PortResult<()> {
        if self.cannot_save.load(Ordering::SeqCst) {
            return Err(PortError::new(ErrorKind::Unavailable, "the disk is full"));
        }
        let mut held = self.held.lock().unwrap();
        let position = held.position;
        held.saved_at.push(position);
        Ok(())
    }

    async fn reset(&self, history: Uuid) -> PortResult<()> {
        let mut held = self.held.lock().unwrap();
        *held = Held { history: Some(history), resets: held.resets + 1, ..Held::default() };
        Ok(())
    }

    async fn count(&self) -> PortResult<u64> {
        Ok(0)
    }
}

struct Running {
    replication: Arc<Replication>,
    cancel: CancellationToken,
}

fn follow(log: &Arc<Log>, copies: &[&Arc<Copy>], settings: ReplicationSettings) -> Running {
    let cancel = CancellationToken::new();
    let replicas = copies.iter().map(|copy| -> Arc<dyn Replica> { (*copy).clone() }).collect();
    let replication = Replication::follow(log.clone(), replicas, cancel.clone(), settings);
    Running { replication, cancel }
}

impl Running {
    async fn stop(self) {
        self.cancel.cancel();
        self.replication.join().await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_empty_replica_catches_up_in_batches_and_is_saved_at_the_end() {
    let log = Log::of(25);
    let copy = Arc::<Copy>::default();
    let settings = ReplicationSettings { batch: 10, ..ReplicationSettings::default() };
    let running = follow(&log, &[&copy], settings);
    running.replication.wait_for(25, LONG).await.unwrap();
    let held = copy.held();
    assert_eq!(held.applied, (1..=25).collect::<Vec<_>>());
    assert_eq!((held.batches, held.resets, held.history), (3, 1, Some(log.history())));
    running.stop().await;
    assert_eq!(copy.held().saved_at, [25]);
}

#[tokio::test(start_paused = true)]
async fn a_replica_goes_on_where_it_was_saved() {
    let log = Log::of(25);
    let copy = Copy::at(20, log.history());
    let running = follow(&log, &[&copy], ReplicationSettings::default());
    running.replication.wait_for(25, LONG).await.unwrap();
    assert_eq!(copy.held().applied, [21, 22, 23, 24, 25]);
    assert_eq!(copy.held().resets, 0);
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn replicas_that_cannot_go_on_start_anew() {
    let log = Log::of(25);
    log.horizon.store(10, Ordering::SeqCst);
    let of_another_store = Copy::at(20, Uuid::new_v4());
    let before_the_horizon = Copy::at(9, log.history());
    let ahead = Copy::at(26, log.history());
    let at_the_horizon = Copy::at(10, log.history());
    let copies = [&of_another_store, &before_the_horizon, &ahead, &at_the_horizon];
    let running = follow(&log, &copies, ReplicationSettings::default());
    running.replication.wait_for(25, LONG).await.unwrap();
    // The one that is ahead is there at once, by its position; give it the time to notice.
    tokio::time::sleep(Duration::from_secs(10)).await;
    for copy in [&of_another_store, &before_the_horizon, &ahead] {
        assert_eq!((copy.held().resets, copy.held().applied.len()), (1, 25));
    }
    assert_eq!((at_the_horizon.held().resets, at_the_horizon.held().applied.len()), (0, 15));
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn changes_are_applied_when_hinted_at_and_when_not() {
    let log = Log::of(1);
    let copy = Arc::<Copy>::default();
    let settings = ReplicationSettings { poll: Duration::from_secs(100), ..ReplicationSettings::default() };
    let running = follow(&log, &[&copy], settings);
    running.replication.wait_for(1, LONG).await.unwrap();

    let before = Instant::now();
    log.append(1);
    running.replication.wait_for(2, LONG).await.unwrap();
    assert!(before.elapsed() < Duration::from_secs(1), "waiting is a hint");

    log.append(1);
    tokio::time::sleep(Duration::from_secs(101)).await;
    assert_eq!(copy.held().position, 3, "nobody said that there was something");
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn changes_left_out_at_the_end_of_the_log_do_not_hold_anybody_up() {
    let log = Log::of(5);
    log.changes.lock().unwrap().truncate(3);
    let copy = Arc::<Copy>::default();
    let running = follow(&log, &[&copy], ReplicationSettings::default());
    running.replication.wait_for(5, Duration::from_secs(60)).await.unwrap();
    assert_eq!(copy.held().position, 5, "it is known that there is nothing more");
    log.horizon.store(5, Ordering::SeqCst);
    log.append(1);
    running.replication.wait_for(6, LONG).await.unwrap();
    assert_eq!(copy.held().resets, 1, "only the one at the start");
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn failures_are_tried_again_until_they_pass() {
    let log = Log::of(3);
    let copy = Arc::<Copy>::default();
    copy.fates.lock().unwrap().extend([
        Fate::Fail(ErrorKind::Internal),
        Fate::Panic,
        Fate::Fail(ErrorKind::Unavailable),
    ]);
    let running = follow(&log, &[&copy], ReplicationSettings::default());
    running.replication.wait_for(3, LONG).await.unwrap();
    assert_eq!((copy.held().applied, copy.held().resets), (vec![1, 2, 3], 1));

    *log.down.lock().unwrap() = Some(ErrorKind::Unavailable);
    log.append(1);
    let error = running.replication.wait_for(4, Duration::from_secs(20)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert!(error.to_string().contains("the store is down"), "{error}");
    *log.down.lock().unwrap() = None;
    running.replication.wait_for(4, LONG).await.unwrap();
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(running.replication.status()[0].state, ReplicaState::Live);
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_cannot_be_read_starts_anew_and_a_store_that_cannot_changes_nothing() {
    let log = Log::of(3);
    let copy = Copy::at(2, log.history());
    copy.fates.lock().unwrap().push_back(Fate::Fail(ErrorKind::Corrupt));
    let running = follow(&log, &[&copy], ReplicationSettings::default());
    running.replication.wait_for(3, LONG).await.unwrap();
    assert_eq!((copy.held().applied, copy.held().resets), (vec![1, 2, 3], 1));

    *log.down.lock().unwrap() = Some(ErrorKind::Corrupt);
    log.append(1);
    running.replication.wait_for(4, Duration::from_secs(60)).await.unwrap_err();
    *log.down.lock().unwrap() = None;
    running.replication.wait_for(4, LONG).await.unwrap();
    assert_eq!((copy.held().applied, copy.held().resets), (vec![1, 2, 3, 4], 1));
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_broken_replica_is_named_and_holds_up_no_other() {
    let log = Log::of(3);
    let (good, broken) = (Arc::<Copy>::default(), Arc::<Copy>::default());
    broken.always_fails.store(true, Ordering::SeqCst);
    let running = follow(&log, &[&good, &broken], ReplicationSettings::default());
    let error = running.replication.wait_for(3, Duration::from_secs(90)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert!(error.to_string().contains("copy fails, at 0 of 3: it is broken"), "{error}");
    assert_eq!(good.held().position, 3);
    let status = running.replication.status();
    assert_eq!(status[0].state, ReplicaState::Live);
    assert_eq!(status[1].state, ReplicaState::Failing { error: "it is broken".to_owned() });
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn replicas_are_saved_when_quiet_when_much_has_changed_and_at_the_latest() {
    let log = Log::of(0);
    let copy = Copy::at(0, log.history());
    let settings = ReplicationSettings {
        save_after_chunks: 100,
        save_when_quiet_for: Duration::from_secs(5),
        save_at_latest: Duration::from_secs(30),
        ..ReplicationSettings::default()
    };
    let running = follow(&log, &[&copy], settings);
    let wait = |position| running.replication.wait_for(position, LONG);

    log.append(1);
    wait(1).await.unwrap();
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert!(copy.held().saved_at.is_empty(), "not yet quiet for long enough");
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(copy.held().saved_at, [1], "quiet");

    log.append(100);
    wait(101).await.unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(copy.held().saved_at, [1, 101], "much has changed");

    for position in 102..=112 {
        log.append(1);
        wait(position).await.unwrap();
        tokio::time::sleep(Duration::from_secs(3)).await;
    }
    assert_eq!(copy.held().saved_at.len(), 3, "never quiet, saved all the same: {:?}", copy.held().saved_at);

    copy.cannot_save.store(true, Ordering::SeqCst);
    log.append(1);
    wait(113).await.unwrap();
    tokio::time::sleep(Duration::from_secs(60)).await;
    copy.cannot_save.store(false, Ordering::SeqCst);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(copy.held().saved_at.last(), Some(&113), "tried again");
    assert_eq!(running.replication.status()[0].state, ReplicaState::Live, "it can be searched meanwhile");

    let saves = copy.held().saved_at.len();
    running.stop().await;
    assert_eq!(copy.held().saved_at.len(), saves, "nothing new to save");
}

#[tokio::test(start_paused = true)]
async fn waiting_ends_when_the_replicas_stop() {
    let log = Log::of(1);
    let copy = Arc::<Copy>::default();
    let running = follow(&log, &[&copy], ReplicationSettings::default());
    running.replication.wait_for(1, LONG).await.unwrap();
    let replication = running.replication.clone();
    let waiting = tokio::spawn(async move { replication.wait_for(99, LONG).await });
    tokio::time::sleep(Duration::from_secs(1)).await;
    let replication = running.replication.clone();
    running.stop().await;
    let error = waiting.await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert_eq!(replication.status()[0].state, ReplicaState::Stopped);
    replication.wait_for(1, LONG).await.unwrap();
}

#[tokio::test]
async fn no_replicas_hold_nobody_up() {
    let running = follow(&Log::of(3), &[], ReplicationSettings::default());
    running.replication.wait_for(3, LONG).await.unwrap();
    running.stop().await;
}
