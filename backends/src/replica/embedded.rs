//! What the embedded indexes share: each is a replica of the store's change log, kept in memory or on local disk, and worked
//! on by blocking threads.

use std::sync::{Mutex, PoisonError};

use raglan_pipeline::{
    domain::LogPosition,
    ports::{ErrorKind, PortError, PortResult},
};
use uuid::Uuid;

/// How far a replica is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Held {
    /// The last change applied.
    pub position: LogPosition,
    /// The history that it was fed from.
    pub history: Option<Uuid>,
    /// Chunks held.
    pub count: u64,
}

/// [`Held`], read from anywhere without waiting for the index.
#[derive(Debug, Default)]
pub(crate) struct Progress(Mutex<Held>);

impl Progress {
    pub(crate) fn new(held: Held) -> Self {
        Self(Mutex::new(held))
    }

    pub(crate) fn get(&self) -> Held {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn set(&self, held: Held) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = held;
    }
}

/// Runs work that computes or waits for a disk on a thread where it holds up nothing else. It runs to its end even when the
/// caller stops waiting.
pub(crate) async fn blocking<T, F>(work: F) -> PortResult<T>
where
    T: Send + 'static,
    F: FnOnce() -> PortResult<T> + Send + 'static,
{
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| {
        Err(PortError::new(ErrorKind::Internal, "the index's work did not run to its end").with_source(error))
    })
}

/// How many searches an index answers at the same time; more wait. Searching is arithmetic: more threads than cores
/// would only slow each other down.
pub(crate) fn search_threads() -> usize {
    std::thread::available_parallelism().map_or(2, |cores| cores.get().clamp(2, 64))
}
