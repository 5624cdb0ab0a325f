//! Work that goes on whether or not its caller is polled.

use std::panic::resume_unwind;

use tokio_util::task::AbortOnDropHandle;

/// Runs a future in a task of its own, which ends with the caller.
///
/// A stream that is followed over a socket is not polled while the socket's client reads nothing, or while its task does something else. A call
/// that it makes itself would stand still then, together with what others wait for: a turn at the database, a breaker's leave. Made through
/// this, a call that has begun comes to its end.
///
/// Within a tokio runtime.
pub async fn apart<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> T {
    match AbortOnDropHandle::new(tokio::spawn(work)).await {
        Ok(done) => done,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => resume_unwind(panic),
            // Only the runtime's end cancels it: the caller will not be polled again either.
            Err(_) => std::future::pending().await,
        },
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use futures::poll;
    use tokio::{
        sync::{Notify, Semaphore},
        time::timeout,
    };

    use super::*;

    #[tokio::test]
    async fn what_is_not_polled_keeps_no_turn() {
        let turns = Arc::new(Semaphore::new(1));
        let taken = Arc::clone(&turns).acquire_owned().await.unwrap();
        let waiting = Arc::clone(&turns);
        let mut left_alone = Box::pin(apart(async move { waiting.acquire().await.is_ok() }));
        assert!(poll!(&mut left_alone).is_pending());
        tokio::task::yield_now().await;
        drop(taken);
        let turn = timeout(Duration::from_secs(10), turns.acquire()).await;
        assert!(turn.is_ok(), "a caller that is not polled keeps its turn");
        assert!(left_alone.await);
    }

    #[tokio::test]
    async fn it_ends_with_its_caller() {
        let held = Arc::new(Notify::new());
        let inside = Arc::clone(&held);
        let mut caller = Box::pin(apart(async move { inside.notified().await }));
        assert!(poll!(&mut caller).is_pending());
        drop(caller);
        let gone = async {
            while Arc::strong_count(&held) > 1 {
                tokio::task::yield_now().await;
            }
        };
        timeout(Duration::from_secs(10), gone).await.expect("its work goes on without it");
    }

    #[tokio::test]
    #[should_panic(expected = "for the caller")]
    async fn a_panic_is_the_callers() {
        apart(async { panic!("for the caller") }).await
    }
}
