//! The broker of the embedded shape: queues in memory.
//!
//! It is the record of nothing. What a crash takes with it, the store's sweeper publishes again.

mod keeper;
mod lanes;
mod queue;
#[cfg(test)]
mod tests;

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use raglan_pipeline::{
    domain::Stage,
    ports::{Broker, Consumer, DeadLetter, Delivered, Depth, Envelope, PortResult},
};
use tokio::{sync::Notify, time::Instant};

use self::queue::{Return, Taken, Ticket};
use super::metrics::QueueMetrics;

/// The bounds of an [`InProcessBroker`]; each applies to every queue by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BrokerSettings {
    /// How many messages may wait (ready or delayed) before a publisher is refused.
    pub capacity: usize,
    /// How often a message is delivered before it is given up.
    pub max_attempts: u32,
    /// How long a consumer may keep a message unsettled before it is given to another. What the first one then says about it counts
    /// for nothing.
    pub lease: Duration,
    /// How many dead letters are kept; the oldest go first.
    pub dead_letters: usize,
}

impl Default for BrokerSettings {
    fn default() -> Self {
        Self { capacity: 10_000, max_attempts: 5, lease: Duration::from_secs(30 * 60), dead_letters: 1_000 }
    }
}

/// Queues in memory, one a stage.
///
/// - Of the classes that wait, interactive gets 8 deliveries, normal 3 and batch 1 out of 12; within a class the tenants take turns; a tenant's
///   messages come in the order published.
/// - A message that is dropped or handed back, or whose lease ends, takes its old place again, before younger ones of its tenant. A nacked one
///   stands behind those that wait when its delay ends.
/// - Dropping a message or losing its lease counts as an attempt, so one that kills its consumer ends as a dead letter too.
pub struct InProcessBroker {
    retrieval: Arc<Queue>,
    generation: Arc<Queue>,
    ingestion: Arc<Queue>,
    webhook: Arc<Queue>,
}

impl InProcessBroker {
    /// Empty queues. Call it inside a tokio runtime, after the metrics recorder (if any) is installed.
    #[must_use]
    pub fn new(settings: BrokerSettings) -> Arc<Self> {
        let queue = |stage| Queue::start(stage, settings.clone());
        Arc::new(Self {
            retrieval: queue(Stage::Retrieval),
            generation: queue(Stage::Generation),
            ingestion: queue(Stage::Ingestion),
            webhook: queue(Stage::Webhook),
        })
    }

    fn queue(&self, stage: Stage) -> &Arc<Queue> {
        match stage {
            Stage::Retrieval => &self.retrieval,
            Stage::Generation => &self.generation,
            Stage::Ingestion => &self.ingestion,
            Stage::Webhook => &self.webhook,
        }
    }
}

#[async_trait]
impl Broker for InProcessBroker {
    async fn publish(&self, stage: Stage, envelope: Envelope, delay: Duration) -> PortResult<()> {
        let queue = self.queue(stage);
        let published = queue.with(|state, now| state.publish(now, envelope, delay));
        match published {
            Ok(()) => queue.metrics.published.increment(1),
            Err(_) => queue.metrics.refused.increment(1),
        }
        published
    }

    async fn consume(&self, stage: Stage) -> PortResult<Box<dyn Consumer>> {
        Ok(Box::new(InProcessConsumer { queue: Arc::clone(self.queue(stage)) }))
    }

    async fn depth(&self, stage: Stage) -> PortResult<Depth> {
        Ok(self.queue(stage).with(|state, _| state.depth()))
    }

    async fn dead_letters(&self, stage: Stage, limit: usize) -> PortResult<Vec<DeadLetter>> {
        Ok(self.queue(stage).with(|state, _| state.dead_letters(limit)))
    }

    async fn replay(&self, stage: Stage, id: &str) -> PortResult<bool> {
        Ok(self.queue(stage).with(|state, _| state.replay(id)))
    }

    async fn purge_dead_letters(&self, stage: Stage) -> PortResult<u64> {
        Ok(self.queue(stage).with(|state, _| state.purge()))
    }
}

/// One queue: its state, and who is to be woken when it changes.
struct Queue {
    stage: Stage,
    state: Mutex<queue::State>,
    /// Consumers that wait; told once for each message that becomes ready.
    ready: Notify,
    /// The keeper (see [`keeper`]); told when a timer was set that is earlier than the one it waits for.
    timers: Arc<Notify>,
    metrics: QueueMetrics,
}

impl Queue {
    fn start(stage: Stage, settings: BrokerSettings) -> Arc<Self> {
        let queue = Arc::new(Self {
            stage,
            state: Mutex::new(queue::State::new(settings)),
            ready: Notify::new(),
            timers: Arc::new(Notify::new()),
            metrics: QueueMetrics::new(stage),
        });
        keeper::spawn(&queue);
        queue
    }

    /// Changes the state, after bringing back what is due, and then tells whom it concerns. The only way to the state.
    fn with<T>(&self, change: impl FnOnce(&mut queue::State, Instant) -> T) -> T {
        let (result, effects) = {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            let now = Instant::now();
            state.advance(now);
            let result = change(&mut state, now);
            self.metrics.set_depth(state.depth());
            (result, state.take_effects())
        };
        for _ in 0..effects.ready {
            self.ready.notify_one();
        }
        if effects.rearm {
            self.timers.notify_one();
        }
        self.metrics.dead.increment(effects.buried);
        if effects.forgotten > 0 {
            tracing::warn!(
                queue = self.stage.as_str(),
                count = effects.forgotten,
                "too many dead letters: the oldest were dropped"
            );
        }
        result
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        // So that the keeper sees that its queue is gone.
        self.timers.notify_one();
    }
}

struct InProcessConsumer {
    queue: Arc<Queue>,
}

#[async_trait]
impl Consumer for InProcessConsumer {
    async fn next(&mut self) -> PortResult<Box<dyn Delivered>> {
        // A consumer that always finds a message lets other tasks run now and then.
        tokio::task::coop::consume_budget().await;
        loop {
            // Registered before looking, so that a message that comes in between wakes this consumer. Dropped while it waits, it passes
            // the wake-up on (see `Notify`).
            let woken = self.queue.ready.notified();
            tokio::pin!(woken);
            woken.as_mut().enable();
            if let Some(taken) = self.queue.with(|state, now| state.take(now)) {
                return Ok(Box::new(InProcessDelivered::new(Arc::clone(&self.queue), taken)));
            }
            woken.await;
        }
    }
}

struct InProcessDelivered {
    queue: Arc<Queue>,
    envelope: Arc<Envelope>,
    attempt: u32,
    /// None once settled.
    ticket: Option<Ticket>,
}

impl InProcessDelivered {
    fn new(queue: Arc<Queue>, taken: Taken) -> Self {
        Self { queue, envelope: taken.envelope, attempt: taken.attempt, ticket: Some(taken.ticket) }
    }
}

#[async_trait]
impl Delivered for InProcessDelivered {
    fn envelope(&self) -> &Envelope {
        &self.envelope
    }

    fn attempt(&self) -> u32 {
        self.attempt
    }

    async fn ack(mut self: Box<Self>) -> PortResult<()> {
        if let Some(ticket) = self.ticket.take()
            && self.queue.with(|state, _| state.ack(ticket))
        {
            self.queue.metrics.acked.increment(1);
        }
        Ok(())
    }

    async fn nack(mut self: Box<Self>, delay: Duration, cause: &str) -> PortResult<()> {
        if let Some(ticket) = self.ticket.take()
            && self.queue.with(|state, now| state.nack(now, ticket, delay, cause))
        {
            self.queue.metrics.nacked.increment(1);
        }
        Ok(())
    }

    async fn hand_back(mut self: Box<Self>) -> PortResult<()> {
        if let Some(ticket) = self.ticket.take() {
            self.queue.with(|state, _| state.give_back(ticket, Return::NotBegun));
        }
        Ok(())
    }
}

impl Drop for InProcessDelivered {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket.take() {
            self.queue.with(|state, _| state.give_back(ticket, Return::Dropped));
        }
    }
}
