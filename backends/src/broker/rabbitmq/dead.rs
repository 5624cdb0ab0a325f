//! The dead letters: looked at, put back, dropped.
//!
//! A queue has no way to be looked at but taking messages and giving them back. So a look takes the letters, sorts them by the time of their
//! death and gives them back in that order; meanwhile another look, or RabbitMQ's own count, does not see them. Looks of one process wait for
//! each other. A process that dies looking leaves the letters there, as RabbitMQ gives back what a lost channel had.

use std::{sync::Arc, time::Duration};

use futures::future::try_join_all;
use lapin::{
    BasicProperties, Channel,
    options::{BasicAckOptions, BasicGetOptions, BasicNackOptions, QueuePurgeOptions},
};
use raglan_pipeline::{
    domain::Stage,
    ports::{DeadLetter, PortResult},
};
use tokio::{sync::Mutex, time::timeout};
use tracing::warn;

use super::{
    client::Client,
    error::{port_error, unavailable},
    topology::{Part, open},
    wire::{self, Parcel},
};

/// A look takes so many letters at most: the oldest.
const SEEN: usize = 1_000;
/// How long a look may take.
const PATIENCE: Duration = Duration::from_secs(60);

pub(super) struct DeadLetters {
    client: Arc<Client>,
    looking: [Mutex<()>; Stage::ALL.len()],
}

/// A dead letter that was taken and is to be given back.
struct Taken {
    delivery_tag: u64,
    properties: BasicProperties,
    body: Vec<u8>,
}

impl Taken {
    fn has_id(&self, id: &str) -> bool {
        self.properties.message_id().as_ref().is_some_and(|other| other.as_str() == id)
    }
}

impl DeadLetters {
    pub(super) fn new(client: Arc<Client>) -> Self {
        Self { client, looking: Default::default() }
    }

    /// The oldest letters. What cannot be read cannot be listed: it stays, and is counted.
    pub(super) async fn list(&self, stage: Stage, limit: usize) -> PortResult<Vec<DeadLetter>> {
        self.look(stage, async |channel| {
            let taken = self.take(&channel, stage).await?;
            give_back(&channel, &taken).await?;
            let deliveries = self.client.settings.delivery_limit();
            let read = |letter: &Taken| match wire::read_dead(&letter.properties, &letter.body, deliveries) {
                Ok(letter) => Some(letter),
                Err(cause) => {
                    warn!(stage = stage.as_str(), cause, "dead letter cannot be read and is not listed");
                    None
                }
            };
            Ok(taken.iter().filter_map(read).take(limit).collect())
        })
        .await
    }

    /// Puts a letter back on its queue, with all copies that a crash may have made of it.
    pub(super) async fn replay(&self, stage: Stage, id: &str) -> PortResult<bool> {
        self.look(stage, async |channel| {
            let (wanted, others): (Vec<_>, Vec<_>) =
                self.take(&channel, stage).await?.into_iter().partition(|letter| letter.has_id(id));
            let Some(letter) = wanted.first() else {
                give_back(&channel, &others).await?;
                return Ok(false);
            };
            let to = self.client.due(stage, wire::class(&letter.properties), Duration::ZERO)?;
            let parcel = Parcel::copy(&letter.properties, &letter.body, 0);
            // Where this fails, the channel is closed and gives all of them back.
            self.client.send(stage, to, parcel).await?;
            let acks = wanted
                .iter()
                .map(|letter| channel.basic_ack(letter.delivery_tag, BasicAckOptions::default()));
            try_join_all(acks).await.map_err(|error| port_error("a dead letter cannot be taken", error))?;
            give_back(&channel, &others).await?;
            Ok(true)
        })
        .await
    }

    pub(super) async fn purge(&self, stage: Stage) -> PortResult<u64> {
        self.look(stage, async |channel| {
            let queue = self.client.names.dead(stage).into();
            let purged = channel.queue_purge(queue, QueuePurgeOptions::default()).await;
            purged.map(u64::from).map_err(|error| port_error("dead letters cannot be dropped", error))
        })
        .await
    }

    /// Does something with the letters on a channel of its own. When it is closed in order, all that was said on it has taken effect.
    async fn look<T>(&self, stage: Stage, work: impl AsyncFnOnce(Channel) -> PortResult<T>) -> PortResult<T> {
        let _looking = self.looking[stage as usize].lock().await;
        let link = self.client.link().await?;
        let looking = async {
            link.ensure(stage, Part::Work).await?;
            let channel = open(&link.connection).await?;
            let done = work(channel.clone()).await;
            if let Err(error) = channel.close(200, "seen".into()).await {
                // It was closed by RabbitMQ, as when the queue had been deleted.
                link.forget(stage);
                return done.and(Err(port_error("the dead letters cannot be seen", error)));
            }
            done
        };
        timeout(PATIENCE, link.run(looking))
            .await
            .unwrap_or_else(|_| Err(unavailable("RabbitMQ does not show its dead letters")))
    }

    /// Takes the letters, and puts them in the order of their death.
    async fn take(&self, channel: &Channel, stage: Stage) -> PortResult<Vec<Taken>> {
        let queue = self.client.names.dead(stage);
        let mut taken = Vec::new();
        while taken.len() < SEEN {
            let got = channel.basic_get(queue.as_str().into(), BasicGetOptions::default()).await;
            match got.map_err(|error| port_error("the dead letters cannot be seen", error))? {
                Some(message) => taken.push(Taken {
                    delivery_tag: message.delivery.delivery_tag,
                    properties: message.delivery.properties,
                    body: message.delivery.data,
                }),
                None => break,
            }
        }
        taken.sort_by_key(|letter| wire::died_at(&letter.properties));
        Ok(taken)
    }
}

/// Gives letters back, one by one: several with one word, RabbitMQ would put them back in disorder.
async fn give_back(channel: &Channel, letters: &[Taken]) -> PortResult<()> {
    let options = BasicNackOptions { requeue: true, ..BasicNackOptions::default() };
    let nacks = letters.iter().map(|letter| channel.basic_nack(letter.delivery_tag, options));
    try_join_all(nacks)
        .await
        .map(drop)
        .map_err(|error| port_error("dead letters cannot be given back", error))
}
