//! A broker whose depths cost a round trip or several: asked once for many callers.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use tokio::time::Instant;

use crate::{
    domain::Stage,
    ports::{Broker, Consumer, DeadLetter, Depth, Envelope, PortResult},
};

/// Answers [`Broker::depth`] from what the broker said a moment ago, plus what was published through here since. Everything else goes through.
pub struct RememberedDepth {
    broker: Arc<dyn Broker>,
    /// How long an answer is good.
    fresh: Duration,
    known: Mutex<HashMap<Stage, Known>>,
}

#[derive(Clone, Copy)]
struct Known {
    depth: Depth,
    asked: Instant,
    /// Published since it was asked.
    published: u64,
}

impl RememberedDepth {
    /// Over a broker; an answer is good for `fresh`.
    #[must_use]
    pub fn new(broker: Arc<dyn Broker>, fresh: Duration) -> Arc<Self> {
        Arc::new(Self { broker, fresh, known: Mutex::default() })
    }

    /// What is known of a stage, and whether the caller is to ask anew. Only one caller at a time is: the others go on with the old answer meanwhile.
    fn look(&self, stage: Stage) -> (Option<Known>, bool) {
        let mut known = self.lock();
        match known.get_mut(&stage) {
            Some(entry) if entry.asked.elapsed() < self.fresh => (Some(*entry), false),
            Some(entry) => {
                let old = *entry;
                entry.asked = Instant::now();
                (Some(old), true)
            }
            None => (None, true),
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Stage, Known>> {
        // The map is whole after every statement under the lock, a panic included.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Broker for RememberedDepth {
    async fn publish(&self, stage: Stage, envelope: Envelope, delay: Duration) -> PortResult<()> {
        self.broker.publish(stage, envelope, delay).await?;
        if let Some(known) = self.lock().get_mut(&stage) {
            known.published += 1;
        }
        Ok(())
    }

    async fn consume(&self, stage: Stage) -> PortResult<Box<dyn Consumer>> {
        self.broker.consume(stage).await
    }

    async fn depth(&self, stage: Stage) -> PortResult<Depth> {
        let (known, ask) = self.look(stage);
        if let (Some(Known { depth, published, .. }), false) = (known, ask) {
            return Ok(Depth { ready: depth.ready + published, ..depth });
        }
        let asked = Instant::now();
        let depth = self.broker.depth(stage).await?;
        self.lock().insert(stage, Known { depth, asked, published: 0 });
        Ok(depth)
    }

    async fn dead_letters(&self, stage: Stage, limit: usize) -> PortResult<Vec<DeadLetter>> {
        self.broker.dead_letters(stage, limit).await
    }

    async fn replay(&self, stage: Stage, id: &str) -> PortResult<bool> {
        self.broker.replay(stage, id).await
    }

    async fn purge_dead_letters(&self, stage: Stage) -> PortResult<u64> {
        self.broker.purge_dead_letters(stage).await
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;
    use crate::{
        domain::{JobId, Priority, Tenant},
        message::Message,
    };

    /// Counts how often it is asked, and says that it holds seven.
    #[derive(Default)]
    struct Counting(AtomicU64);

    #[async_trait]
    impl Broker for Counting {
        async fn publish(&self, _: Stage, _: Envelope, _: Duration) -> PortResult<()> {
            Ok(())
        }
        async fn consume(&self, _: Stage) -> PortResult<Box<dyn Consumer>> {
            unreachable!("nobody consumes here")
        }
        async fn depth(&self, _: Stage) -> PortResult<Depth> {
            self.0.fetch_add(1, Ordering::Relaxed);
            Ok(Depth { ready: 7, ..Depth::default() })
        }
        async fn dead_letters(&self, _: Stage, _: usize) -> PortResult<Vec<DeadLetter>> {
            Ok(Vec::new())
        }
        async fn replay(&self, _: Stage, _: &str) -> PortResult<bool> {
            Ok(false)
        }
        async fn purge_dead_letters(&self, _: Stage) -> PortResult<u64> {
            Ok(0)
        }
    }

    fn envelope() -> Envelope {
        Envelope {
            message: Message::Job { job_id: JobId::generate(), stage: Stage::Retrieval },
            priority: Priority::Normal,
            tenant: Tenant::default(),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_broker_is_asked_once_in_a_while_and_what_is_published_counts_at_once() {
        let counting = Arc::new(Counting::default());
        let broker = RememberedDepth::new(counting.clone(), Duration::from_millis(250));
        for _ in 0..5 {
            assert_eq!(broker.depth(Stage::Retrieval).await.unwrap().ready, 7);
        }
        broker.publish(Stage::Retrieval, envelope(), Duration::ZERO).await.unwrap();
        assert_eq!(broker.depth(Stage::Retrieval).await.unwrap().ready, 8);
        assert_eq!(counting.0.load(Ordering::Relaxed), 1);
        broker.depth(Stage::Ingestion).await.unwrap();
        assert_eq!(counting.0.load(Ordering::Relaxed), 2, "each stage by itself");
        tokio::time::advance(Duration::from_millis(251)).await;
        assert_eq!(broker.depth(Stage::Retrieval).await.unwrap().ready, 7);
        assert_eq!(counting.0.load(Ordering::Relaxed), 3);
    }
}
