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
            retired,
        }
    }

    /// The only way to what has been fetched.
    pub(super) fn with<T>(&self, change: impl FnOnce(&mut Intake<Fetched>, Instant) -> T) -> T {
        let mut intake = self.intake.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut intake, Instant::now())
    }

    /// Takes a delivery in.
    pub(super) fn arrive(&self, slot: Slot, channel: &Channel, delivery: Delivery) {
        let fetched = Fetched {
            channel: channel.clone(),
            delivery_tag: delivery.delivery_tag,
            properties: delivery.properties,
            body: delivery.data,
            _unsettled: self.client.unsettled(self.stage),
        };
        self.with(|intake, _| intake.arrived(slot, fetched));
        self.arrived.notify_one();
    }

    /// Notes that a message was settled, or will be in a moment.
    pub(super) fn settle(&self, slot: Slot) {
        let wanted = self.with(|intake, now| {
            intake.settled(slot, now);
            intake.wanted
        });
        if wanted {
            self.arrived.notify_one();
        }
    }
}
