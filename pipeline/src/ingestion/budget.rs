//! What all ingestions of a process share: memory, threads that read, and places in the encoder's queue.
//!
//! Everything here is given in the order in which it was asked for, so that several jobs at once get equal shares.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, Semaphore};

/// What a document takes at least, however small: this bounds how many are on their way.
const LEAST: u64 = 64 << 10;

/// How much ingestions may use, all of them together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IngestionLimits {
    /// Memory for documents that are on their way, in bytes, by estimate. One document that needs more is taken in alone.
    pub memory_bytes: u64,
    /// Files that are parsed and cut at the same time.
    pub readers: usize,
    /// Texts that are with the embedder at the same time, waiting or being embedded. Enough to keep all of its threads busy and to
    /// let it choose texts that go well together; more would only make others wait longer.
    pub embedding_texts: usize,
}

impl Default for IngestionLimits {
    /// A reader a core, from two to eight.
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(2, usize::from);
        Self { memory_bytes: 128 << 20, readers: cores.clamp(2, 8), embedding_texts: 512 }
    }
}

/// The shared means.
pub(super) struct Budget {
    pub(super) memory: Arc<Memory>,
    pub(super) readers: Semaphore,
    pub(super) texts: Semaphore,
}

impl Budget {
    pub(super) fn new(limits: IngestionLimits) -> Self {
        Self {
            memory: Memory::new(limits.memory_bytes),
            readers: Semaphore::new(limits.readers.max(1)),
            // A call has at least one text, and at most as many as all may.
            texts: Semaphore::new(limits.embedding_texts.max(super::embed::CALL_TEXTS)),
        }
    }
}

/// Memory for documents on their way, by estimate.
pub(super) struct Memory {
    total: u64,
    used: Mutex<u64>,
    freed: Notify,
    /// Who waits for memory stands in this line; the first looks whether there is enough.
    line: Semaphore,
}

impl Memory {
    fn new(total: u64) -> Arc<Self> {
        Arc::new(Self { total, used: Mutex::new(0), freed: Notify::new(), line: Semaphore::new(1) })
    }

    /// Waits until a document of so many bytes may be brought in. One that is larger than all of the memory waits until it is alone.
    pub(super) async fn admit(self: &Arc<Self>, bytes: u64) -> Held {
        let bytes = bytes.max(LEAST);
        // Never closed: without the permit, only the order is lost.
        let _first = self.line.acquire().await;
        loop {
            let freed = self.freed.notified();
            {
                let mut used = self.used();
                if *used == 0 || used.saturating_add(bytes) <= self.total {
                    *used = used.saturating_add(bytes);
                    return Held { memory: self.clone(), bytes };
                }
            }
            freed.await;
        }
    }

    fn used(&self) -> MutexGuard<'_, u64> {
        // Nothing panics while it holds this.
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Memory that one document holds, given back when this is dropped.
pub(super) struct Held {
    memory: Arc<Memory>,
    bytes: u64,
}

impl Held {
    /// The document turned out to need so much. More than was asked for is taken without waiting, since waiting while holding
    /// could wait for ever; those who come after wait for it.
    pub(super) fn set(&mut self, bytes: u64) {
        let bytes = bytes.max(LEAST);
        {
            let mut used = self.memory.used();
            *used = used.saturating_sub(self.bytes).saturating_add(bytes);
        }
        if bytes < self.bytes {
            self.memory.freed.notify_one();
        }
        self.bytes = bytes;
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        {
            let mut used = self.memory.used();
            *used = used.saturating_sub(self.bytes);
        }
        self.memory.freed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::{future::Future, pin::pin};

    use futures::poll;

    use super::*;

    async fn is_waiting(future: &mut std::pin::Pin<&mut impl Future<Output = Held>>) -> bool {
        poll!(future.as_mut()).is_pending()
    }

    #[tokio::test]
    async fn memory_is_given_in_order_and_comes_back() {
        let memory = Memory::new(10 * LEAST);
        let first = memory.admit(6 * LEAST).await;
        let mut large = pin!(memory.admit(5 * LEAST));
        assert!(is_waiting(&mut large).await);
        let mut small = pin!(memory.admit(1));
        assert!(is_waiting(&mut small).await, "who came later does not overtake");
        drop(first);
        let large = large.await;
        let small = small.await;
        assert_eq!(*memory.used(), 6 * LEAST);
        drop((large, small));
        assert_eq!(*memory.used(), 0);
    }

    #[tokio::test]
    async fn a_document_larger_than_all_memory_goes_alone() {
        let memory = Memory::new(2 * LEAST);
        let small = memory.admit(1).await;
        let mut huge = pin!(memory.admit(100 * LEAST));
        assert!(is_waiting(&mut huge).await);
        drop(small);
        let huge = huge.await;
        let mut next = pin!(memory.admit(1));
        assert!(is_waiting(&mut next).await);
        drop(huge);
        next.await;
    }

    #[tokio::test]
    async fn who_needs_more_than_it_said_makes_others_wait_and_who_needs_less_lets_them_in() {
        let memory = Memory::new(4 * LEAST);
        let mut held = memory.admit(LEAST).await;
        held.set(4 * LEAST);
        let mut next = pin!(memory.admit(LEAST));
        assert!(is_waiting(&mut next).await);
        held.set(2 * LEAST);
        let _next = next.await;
    }

    #[tokio::test]
    async fn who_stops_waiting_is_not_in_the_way() {
        let memory = Memory::new(2 * LEAST);
        let held = memory.admit(2 * LEAST).await;
        {
            let mut gone = pin!(memory.admit(2 * LEAST));
            assert!(is_waiting(&mut gone).await);
        }
        let mut next = pin!(memory.admit(LEAST));
        assert!(is_waiting(&mut next).await);
        drop(held);
        next.await;
    }
}
