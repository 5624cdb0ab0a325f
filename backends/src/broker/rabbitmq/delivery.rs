//! A message in the hands of its consumer, and how it is settled.
//!
//! A message that comes back counted (nack) or uncounted (hand back) is published anew and then acknowledged, since RabbitMQ neither delays
//! what is returned to a queue nor, before 4.3, tells a failure from a change of mind. A process that dies between the two leaves two copies.

use std::{future::Future, sync::Arc, time::Duration};

use async_trait::async_trait;
use futures::StreamExt;
use lapin::options::{BasicAckOptions, BasicNackOptions, BasicRejectOptions};
use raglan_pipeline::ports::{Delivered, Envelope, ErrorKind, PortError, PortResult};
use tokio::time::timeout;
use tracing::warn;

use super::{
    error::{port_error, unavailable},
    inlet::{Fetched, Inlet},
    intake::Slot,
    publisher::Address,
    topology::Part,
    wire::{self, Parcel},
};

/// So many messages are handed back at once.
const AT_ONCE: usize = 16;

/// The right to settle a message, once. Dropped, the message goes back to the front of its queue and the delivery counts.
pub(super) struct Ticket {
    inlet: Arc<Inlet>,
    slot: Slot,
    /// None once settled.
    fetched: Option<Fetched>,
    /// It may be settled: its place in the window is given up.
    released: bool,
}

impl Ticket {
    pub(super) fn new(inlet: Arc<Inlet>, slot: Slot, fetched: Fetched) -> Self {
        Self { inlet, slot, fetched: Some(fetched), released: false }
    }

    /// Takes what is to be settled, as soon as it may be.
    async fn release(&mut self) -> Option<Fetched> {
        if !self.released {
            self.inlet.settle(self.slot).await;
            self.released = true;
        }
        self.fetched.take()
    }

    async fn ack(&mut self) -> PortResult<()> {
        let Some(fetched) = self.release().await else { return Ok(()) };
        let acked = fetched.channel.basic_ack(fetched.delivery_tag, BasicAckOptions::default());
        self.settled(acked).await
    }

    /// The driver waits until the word is sent, which may be long where RabbitMQ has blocked the connection.
    async fn settled(&self, word: impl Future<Output = lapin::Result<()>>) -> PortResult<()> {
        match timeout(self.inlet.client.settings.confirm_timeout, word).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(port_error("a message could not be settled and comes again", error)),
            Err(_) => {
                Err(PortError::new(ErrorKind::Timeout, "RabbitMQ: a message could not be settled in time"))
            }
        }
    }

    /// Publishes what takes the message's place, then acknowledges it.
    async fn replace(&mut self, to: (Address, Part), by: impl FnOnce(&Fetched) -> Parcel) -> PortResult<()> {
        self.inlet.until_left().await;
        let Some(fetched) = &self.fetched else { return Ok(()) };
        if !fetched.channel.status().connected() {
            // RabbitMQ delivers it again; a copy would be one too many.
            return Err(unavailable(
                "RabbitMQ: the connection that brought the message was lost; it comes again",
            ));
        }
        let parcel = by(fetched);
        self.inlet.client.send(self.inlet.stage, to, parcel).await?;
        self.ack().await
    }

    /// Back to its class at once, as if it had not been delivered.
    async fn hand_back(&mut self) -> PortResult<()> {
        let Some(fetched) = &self.fetched else { return Ok(()) };
        let class = wire::class(&fetched.properties);
        let to = self.inlet.client.due(self.inlet.stage, class, Duration::ZERO)?;
        let copy = |fetched: &Fetched| {
            Parcel::copy(&fetched.properties, &fetched.body, wire::deliveries(&fetched.properties))
        };
        match self.replace(to, copy).await {
            Err(_) if self.fetched.as_ref().is_some_and(|fetched| fetched.channel.status().connected()) => {
                // It cannot be published, but it can be returned. Before RabbitMQ 4.3 that counts as a delivery.
                let Some(fetched) = self.release().await else { return Ok(()) };
                let options = BasicNackOptions { requeue: true, ..BasicNackOptions::default() };
                self.settled(fetched.channel.basic_nack(fetched.delivery_tag, options)).await
            }
            done => done,
        }
    }

    /// To the dead letters.
    async fn bury(&mut self, attempts: u32, cause: &str) -> PortResult<()> {
        let client = Arc::clone(&self.inlet.client);
        let dead = Address::queue(client.names.dead(self.inlet.stage));
        let letter = |fetched: &Fetched| Parcel::dead(&fetched.properties, &fetched.body, attempts, cause);
        self.replace((dead, Part::Work), letter).await?;
        client.queue(self.inlet.stage).metrics.dead.increment(1);
        Ok(())
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let Some(fetched) = self.fetched.take() else { return };
        let (inlet, slot, released) = (Arc::clone(&self.inlet), self.slot, self.released);
        let put_back = async move {
            if !released {
                inlet.settle(slot).await;
            }
            // A reject and not a nack: from RabbitMQ 4.3 on, only this counts as a delivery that came to nothing. Where it fails, the
            // channel is gone and the message back already.
            let options = BasicRejectOptions { requeue: true };
            let _ = fetched.channel.basic_reject(fetched.delivery_tag, options).await;
        };
        let client = &self.inlet.client;
        client.tasks.spawn_on(put_back, &client.runtime);
    }
}

/// Opens a message. None where it must not be handed out: then it is buried, meanwhile.
pub(super) fn open(ticket: Ticket) -> Option<Box<dyn Delivered>> {
    let fetched = ticket.fetched.as_ref()?;
    let before = wire::deliveries(&fetched.properties);
    let cause = match wire::read(&fetched.properties, &fetched.body) {
        Ok(envelope) if before < ticket.inlet.client.settings.max_attempts => {
            return Some(Box::new(RabbitMqDelivered { envelope, attempt: before + 1, ticket }));
        }
        Ok(_) => "its consumer went without settling it".to_owned(),
        Err(cause) => {
            let stage = ticket.inlet.stage.as_str();
            warn!(stage, cause, "message cannot be read; it becomes a dead letter");
            format!("the message cannot be read: {cause}")
        }
    };
    let (client, mut ticket) = (Arc::clone(&ticket.inlet.client), ticket);
    client.tasks.spawn(async move {
        if let Err(error) = ticket.bury(before, &cause).await {
            warn!(%error, "message could not be given up; it comes again");
        }
    });
    None
}

/// Hands back messages that were fetched and not handed out.
pub(super) async fn give_back(inlet: Arc<Inlet>, fetched: Vec<(Slot, Fetched)>) {
    futures::stream::iter(fetched)
        .for_each_concurrent(AT_ONCE, |(slot, fetched)| {
            let mut ticket = Ticket::new(Arc::clone(&inlet), slot, fetched);
            async move {
                if let Err(error) = ticket.hand_back().await {
                    tracing::debug!(%error, "message not handed back; the broker takes it back");
                }
            }
        })
        .await;
}

struct RabbitMqDelivered {
    envelope: Envelope,
    attempt: u32,
    ticket: Ticket,
}

#[async_trait]
impl Delivered for RabbitMqDelivered {
    fn envelope(&self) -> &Envelope {
        &self.envelope
    }

    fn attempt(&self) -> u32 {
        self.attempt
    }

    async fn ack(mut self: Box<Self>) -> PortResult<()> {
        self.ticket.ack().await?;
        self.ticket.inlet.client.queue(self.ticket.inlet.stage).metrics.acked.increment(1);
        Ok(())
    }

    async fn nack(mut self: Box<Self>, delay: Duration, cause: &str) -> PortResult<()> {
        let (inlet, attempt) = (Arc::clone(&self.ticket.inlet), self.attempt);
        if attempt >= inlet.client.settings.max_attempts {
            self.ticket.bury(attempt, cause).await?;
        } else {
            let to = inlet.client.due(inlet.stage, self.envelope.priority, delay)?;
            let copy = |fetched: &Fetched| Parcel::copy(&fetched.properties, &fetched.body, attempt);
            self.ticket.replace(to, copy).await?;
        }
        inlet.client.queue(inlet.stage).metrics.nacked.increment(1);
        Ok(())
    }

    async fn hand_back(mut self: Box<Self>) -> PortResult<()> {
        self.ticket.hand_back().await
    }
}
