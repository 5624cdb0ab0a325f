//! What a consumer, its pump and its messages share.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use lapin::{BasicProperties, Channel, message::Delivery};
use raglan_pipeline::domain::Stage;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::{
    client::{Client, Unsettled},
    intake::{Intake, Slot},
};

/// A message that RabbitMQ delivered and that is not settled.
pub(super) struct Fetched {
    pub(super) channel: Channel,
    pub(super) delivery_tag: u64,
    pub(super) properties: BasicProperties,
    pub(super) body: Vec<u8>,
    _unsettled: Unsettled,
}

/// The place where the pump puts messages and the consumer takes them.
pub(super) struct Inlet {
    pub(super) client: Arc<Client>,
    pub(super) stage: Stage,
    intake: Mutex<Intake<Fetched>>,
    /// For the consumer: look again.
    pub(super) arrived: Notify,
    /// For the pump: the consumer gets nothing unless something is fetched.
    pub(super) demand: Notify,
    /// For those who settle.
    resubscribed: Notify,
    /// Cancelled when the consumer is dropped or the broker closed.
    pub(super) retired: CancellationToken,
}

impl Inlet {
    pub(super) fn new(client: Arc<Client>, stage: Stage, lanes: usize) -> Self {
        let retired = client.closing.child_token();
        Self {
            client,
            stage,
            intake: Mutex::new(Intake::new(lanes, Instant::now())),
            arrived: Notify::new(),
            demand: Notify::new(),
            resubscribed: Notify::new(),
            retired,
        }
    }

    /// The only way to what has been fetched.
    pub(super) fn with<T>(&self, change: impl FnOnce(&mut Intake<Fetched>, Instant) -> T) -> T {
        let mut intake = self.intake.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut intake, Instant::now())
    }

    /// Takes a delivery in. Gives the lanes that must be subscribed anew, with their windows (see [`Intake::widen`]): before the consumer can settle
    /// the message that filled one.
    pub(super) fn arrive(&self, slot: Slot, channel: &Channel, delivery: Delivery) -> Vec<(usize, u16)> {
        let fetched = Fetched {
            channel: channel.clone(),
            delivery_tag: delivery.delivery_tag,
            properties: delivery.properties,
            body: delivery.data,
            _unsettled: self.client.unsettled(self.stage),
        };
        let ahead = self.client.settings.prefetch;
        let lanes = self.with(|intake, _| {
            intake.arrived(slot, fetched);
            intake.widen(ahead)
        });
        self.arrived.notify_one();
        lanes
    }

    /// Waits until a message may be settled, and notes that it is.
    pub(super) async fn settle(&self, slot: Slot) {
        self.until(|intake, now| intake.settle(slot, now)).await;
        if self.with(|intake, _| intake.wanted) {
            self.arrived.notify_one();
        }
    }

    /// Waits until what is published to a lane is not delivered to a subscription that is being ended.
    pub(super) async fn until_left(&self) {
        self.until(|intake, _| !intake.leaving).await;
    }

    /// Tries until it is done, whenever subscriptions have changed.
    async fn until(&self, mut done: impl FnMut(&mut Intake<Fetched>, Instant) -> bool) {
        loop {
            let resubscribed = self.resubscribed.notified();
            tokio::pin!(resubscribed);
            resubscribed.as_mut().enable();
            if self.with(&mut done) {
                return;
            }
            resubscribed.await;
        }
    }

    /// All subscriptions have ended: what was held up by that may be settled.
    pub(super) fn unsubscribed(&self) {
        self.with(|intake, _| intake.unsubscribed());
        self.resubscribed();
    }

    /// Lanes were subscribed anew, or all subscriptions have ended: who waits looks again.
    pub(super) fn resubscribed(&self) {
        self.resubscribed.notify_waiters();
        self.arrived.notify_one();
    }
}
