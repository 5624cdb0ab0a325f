//! One shared connection, opened when it is first needed and again when it was lost.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicU32, AtomicU64, Ordering},
};

use futures::{
    FutureExt,
    future::{BoxFuture, Shared},
};
use redis::RedisResult;

use super::target::{Connection, Target};

/// So many calls in a row without an answer, and the connection is taken as dead: a network that drops everything ends no connection.
const SILENT_CALLS: u32 = 3;

/// Where a connection is, or is being opened, or is not.
pub(super) struct Lane {
    target: Arc<Target>,
    link: Mutex<Link>,
    opened: AtomicU64,
}

enum Link {
    Down,
    Opening(Opening),
    Up(Live),
}

/// One opening that all who need the connection wait for.
type Opening = Shared<BoxFuture<'static, RedisResult<Live>>>;

/// An open connection.
#[derive(Clone)]
pub(super) struct Live {
    pub(super) connection: Connection,
    /// Which opening it comes from.
    number: u64,
    silent_calls: Arc<AtomicU32>,
}

impl Lane {
    pub(super) fn new(target: Arc<Target>) -> Arc<Self> {
        Arc::new(Self { target, link: Mutex::new(Link::Down), opened: AtomicU64::new(0) })
    }

    /// The connection; it is opened where there is none. A caller that leaves does not stop the opening.
    pub(super) async fn live(self: &Arc<Self>) -> RedisResult<Live> {
        let opening = {
            let mut link = self.link();
            match &*link {
                Link::Up(live) => return Ok(live.clone()),
                Link::Opening(opening) => opening.clone(),
                Link::Down => {
                    let opening = self.open();
                    *link = Link::Opening(opening.clone());
                    opening
                }
            }
        };
        opening.await
    }

    fn open(self: &Arc<Self>) -> Opening {
        let lane = Arc::clone(self);
        let task = tokio::spawn(async move {
            let number = lane.opened.fetch_add(1, Ordering::Relaxed);
            let opened = lane.target.connect().await.map(|connection| Live {
                connection,
                number,
                silent_calls: Arc::default(),
            });
            *lane.link() = opened.as_ref().map_or(Link::Down, |live| Link::Up(live.clone()));
            opened
        });
        let lane = Arc::clone(self);
        let opened = async move {
            task.await.unwrap_or_else(|_| {
                // It was stopped with its runtime, or a TLS library without a provider panicked.
                *lane.link() = Link::Down;
                Err(std::io::Error::from(std::io::ErrorKind::Interrupted).into())
            })
        };
        opened.boxed().shared()
    }

    /// Forgets a connection that is of no use any more, unless there is a newer one already.
    pub(super) fn discard(&self, dead: &Live) {
        let mut link = self.link();
        if matches!(&*link, Link::Up(live) if live.number == dead.number) {
            *link = Link::Down;
        }
    }

    /// A call was given up without an answer.
    pub(super) fn unanswered(&self) {
        let mut link = self.link();
        let Link::Up(live) = &*link else { return };
        if live.silent_calls.fetch_add(1, Ordering::Relaxed) + 1 >= SILENT_CALLS {
            *link = Link::Down;
        }
    }

    fn link(&self) -> std::sync::MutexGuard<'_, Link> {
        self.link.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Live {
    /// A call was answered.
    pub(super) fn answered(&self) {
        self.silent_calls.store(0, Ordering::Relaxed);
    }
}
