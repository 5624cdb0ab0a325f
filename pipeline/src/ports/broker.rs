use std::time::Duration;

use async_trait::async_trait;

use super::PortResult;
use crate::{
    domain::{Priority, Stage, Tenant, Timestamp},
    message::Message,
};

/// A message on its way to a queue.
#[derive(Debug, Clone, PartialEq)]
pub struct Envelope {
    /// What it says.
    pub message: Message,
    /// Its class; a lower class waits behind a higher one but is not starved.
    pub priority: Priority,
    /// Whose work it is; tenants of one class are served in turn.
    pub tenant: Tenant,
}

/// A message that was taken from a queue and is not settled yet. Dropped unsettled, it goes back to the queue at once.
#[async_trait]
pub trait Delivered: Send {
    /// What was sent.
    fn envelope(&self) -> &Envelope;

    /// How often it has been delivered, this time included.
    fn attempt(&self) -> u32;

    /// Done: it will not come again.
    async fn ack(self: Box<Self>) -> PortResult<()>;

    /// Not done: it comes again after `delay` and not before, or becomes a dead letter with `cause` after the broker's most attempts.
    async fn nack(self: Box<Self>, delay: Duration, cause: &str) -> PortResult<()>;

    /// Not begun: it comes again at once and this delivery does not count as an attempt.
    async fn hand_back(self: Box<Self>) -> PortResult<()>;
}

/// A reader of one queue.
#[async_trait]
pub trait Consumer: Send {
    /// The next message, as soon as there is one. The caller holds back by not calling. Cancel-safe: a dropped call loses no message.
    async fn next(&mut self) -> PortResult<Box<dyn Delivered>>;
}

/// How full a queue is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Depth {
    /// Waiting to be taken.
    pub ready: u64,
    /// Waiting for their delay to pass.
    pub delayed: u64,
    /// Taken and not settled.
    pub unsettled: u64,
    /// Given up.
    pub dead: u64,
}

/// A message that was given up.
#[derive(Debug, Clone, PartialEq)]
pub struct DeadLetter {
    /// Its id among the queue's dead letters.
    pub id: String,
    /// What it was.
    pub envelope: Envelope,
    /// Why.
    pub cause: String,
    /// How often it had been delivered.
    pub attempts: u32,
    /// Since when.
    pub at: Timestamp,
}

/// Carries messages between stages, at least once.
///
/// **Contract**
/// - A message that [`publish`](Self::publish) returned `Ok` for is delivered until it is acknowledged, given up, or the broker itself is lost.
/// - Unsettled messages of a consumer that went come back at once.
/// - A nacked message comes back after its delay and not before; after the most attempts it is a dead letter that keeps its cause.
/// - A full queue refuses new messages with `Overloaded` and loses none; what comes back (nack, hand back) is always taken.
/// - Within a class, messages of one tenant come in the order published; tenants and classes share as told in [`Envelope`].
#[async_trait]
pub trait Broker: Send + Sync {
    /// Puts a message on a stage's queue, visible after `delay`.
    async fn publish(&self, stage: Stage, envelope: Envelope, delay: Duration) -> PortResult<()>;

    /// A new reader of a stage's queue.
    async fn consume(&self, stage: Stage) -> PortResult<Box<dyn Consumer>>;

    /// How full a queue is.
    async fn depth(&self, stage: Stage) -> PortResult<Depth>;

    /// The messages given up, oldest first, at most `limit`.
    async fn dead_letters(&self, stage: Stage, limit: usize) -> PortResult<Vec<DeadLetter>>;

    /// Puts a dead letter back on its queue with its attempts counted anew. False where there is none with that id.
    async fn replay(&self, stage: Stage, id: &str) -> PortResult<bool>;

    /// Drops all dead letters of a queue; returns how many.
    async fn purge_dead_letters(&self, stage: Stage) -> PortResult<u64>;
}
