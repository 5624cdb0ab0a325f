//! A task a queue that brings back what is due (delays, leases) while no consumer comes by to do it.

use std::sync::Arc;

use super::Queue;

/// Starts it. It ends when the queue is dropped.
pub(super) fn spawn(queue: &Arc<Queue>) {
    let timers = Arc::clone(&queue.timers);
    let queue = Arc::downgrade(queue);
    tokio::spawn(async move {
        while let Some(due) = queue.upgrade().map(|queue| queue.with(|state, _| state.arm())) {
            match due {
                Some(at) => tokio::select! {
                    () = timers.notified() => {}
                    () = tokio::time::sleep_until(at) => {}
                },
                None => timers.notified().await,
            }
        }
    });
}
