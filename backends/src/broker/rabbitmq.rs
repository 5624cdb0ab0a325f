//! The broker of the distributed shape: quorum queues on RabbitMQ, 3.10 or newer.
//!
//! For each stage there are, by class, some *lanes* where new messages wait, each tenant's in the one that its name hashes to, and one queue of
//! *returns* for what comes back; a ladder of *delays* (see [`delay`]); and the *dead* letters.
//!
//! - A message is published persistent, mandatory and confirmed. One that finds its queue full is refused; one that finds none makes all queues
//!   of its stage anew.
//! - A consumer takes from all lanes and returns, classes weighted as in the embedded shape, lanes of a class in turn.
//! - A message that is refused or handed back is published anew, to the returns or the ladder, and then acknowledged. One that is dropped, or
//!   whose process dies, is returned by RabbitMQ and counted by it. So attempts are what a header says plus what RabbitMQ counted since.
//! - RabbitMQ itself gives up what kills every consumer before it can count; that ends with the dead letters too.

mod client;
mod consumer;
mod dead;
mod delay;
mod delivery;
mod depth;
mod error;
mod inlet;
mod intake;
mod link;
mod lost;
mod names;
mod pace;
mod publisher;
mod pump;
mod settings;
#[cfg(test)]
mod tests;
mod topology;
mod wire;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use raglan_pipeline::{
    domain::Stage,
    ports::{Broker, Consumer, DeadLetter, Depth, Envelope, ErrorKind, PortError, PortResult},
};
use tokio::{sync::watch, time::timeout};
use tokio_util::sync::CancellationToken;

use self::{
    client::Client,
    consumer::RabbitMqConsumer,
    dead::DeadLetters,
    depth::Depths,
    error::{port_error, unavailable},
    link::Supervisor,
    publisher::Address,
    topology::{Part, Plan},
    wire::Parcel,
};

pub use self::settings::RabbitMqSettings;

/// How long RabbitMQ may take to show that it is there.
const PROBE: Duration = Duration::from_secs(2);

/// Queues on RabbitMQ, through one connection that is made anew whenever it is lost. While there is none, publishing fails as `Unavailable` after
/// [`RabbitMqSettings::publish_wait`] and consumers wait.
///
/// - Of the classes that wait, interactive gets 8 deliveries, normal 3 and batch 1 out of 12; within a class its lanes take turns, and so do
///   tenants as far as they are in different lanes.
/// - A message that is dropped comes back to the front of its lane; one that is handed back or refused stands behind what else came back.
/// - Dropping a message or losing its consumer counts as an attempt; for a message that was fetched in advance and not handed out this is so
///   only where the process or the connection died.
/// - Settling a message whose connection was lost fails; RabbitMQ delivers it again.
pub struct RabbitMqBroker {
    client: Arc<Client>,
    depths: Arc<Depths>,
    dead_letters: DeadLetters,
    closed: CancellationToken,
}

impl RabbitMqBroker {
    /// Connects; queues are made when they are first used. Call it inside a tokio runtime, after the metrics recorder (if any) is installed.
    ///
    /// # Errors
    /// `Invalid` where a setting makes no sense or RabbitMQ refuses the user or virtual host, `Unavailable` where it cannot be reached within
    /// [`RabbitMqSettings::connect_timeout`].
    pub async fn connect(settings: RabbitMqSettings) -> PortResult<Arc<Self>> {
        let uri = settings.check()?;
        let plan = Plan::new(&settings);
        let link = link::first(&uri, &plan, &settings).await?;
        let links = Arc::new(watch::Sender::new(Some(Arc::clone(&link))));
        let client = Arc::new(Client::new(settings.clone(), Arc::clone(&links)));
        let closed = CancellationToken::new();
        let supervisor = Supervisor {
            links,
            uri,
            plan,
            settings,
            closing: client.closing.clone(),
            tasks: client.tasks.clone(),
            closed: closed.clone(),
        };
        tokio::spawn(supervisor.run(link));
        Ok(Arc::new(Self {
            depths: Depths::new(Arc::clone(&client)),
            dead_letters: DeadLetters::new(Arc::clone(&client)),
            client,
            closed,
        }))
    }

    /// Whether RabbitMQ answers, with a word about the connection, for the readiness probe.
    pub async fn check(&self) -> PortResult<String> {
        let link = self.client.link_now()?;
        let probe = link.run(async {
            let channel = topology::open(&link.connection).await?;
            channel.close(200, "alive".into()).await.map_err(|error| port_error("no answer", error))
        });
        timeout(PROBE, probe)
            .await
            .unwrap_or_else(|_| Err(unavailable("RabbitMQ does not answer in time")))?;
        let status = link.connection.status();
        if status.blocked() {
            return Err(unavailable("RabbitMQ takes no messages: it is short of memory or disk"));
        }
        let since = link.since.elapsed().as_secs();
        Ok(format!("connected to virtual host {} for {since} s", status.vhost()))
    }

    /// Ends all consumers, gives back what they had fetched and not handed out, and closes the connection. What was handed out and is not settled
    /// is delivered again, so settle first.
    pub async fn close(&self) {
        self.client.closing.cancel();
        self.closed.cancelled().await;
    }

    /// Removes all queues and exchanges of a prefix, with every message in them: for tests, and for taking an installation apart.
    pub async fn remove_queues(settings: &RabbitMqSettings) -> PortResult<()> {
        topology::remove(settings).await
    }
}

impl Drop for RabbitMqBroker {
    fn drop(&mut self) {
        self.client.closing.cancel();
    }
}

#[async_trait]
impl Broker for RabbitMqBroker {
    async fn publish(&self, stage: Stage, envelope: Envelope, delay: Duration) -> PortResult<()> {
        let to = if delay.is_zero() {
            let lane = self.client.names.lane(stage, envelope.priority, &envelope.tenant);
            (Address::queue(lane), Part::Work)
        } else {
            self.client.due(stage, envelope.priority, delay)?
        };
        let published = self.client.send(stage, to, Parcel::new(&envelope)?).await;
        let metrics = &self.client.queue(stage).metrics;
        match &published {
            Ok(()) => metrics.published.increment(1),
            Err(_) => metrics.refused.increment(1),
        }
        published
    }

    async fn consume(&self, stage: Stage) -> PortResult<Box<dyn Consumer>> {
        if self.client.closing.is_cancelled() {
            return Err(PortError::new(ErrorKind::Unavailable, "the broker was closed"));
        }
        Ok(Box::new(RabbitMqConsumer::start(Arc::clone(&self.client), stage)))
    }

    async fn depth(&self, stage: Stage) -> PortResult<Depth> {
        self.depths.of(stage).await
    }

    async fn dead_letters(&self, stage: Stage, limit: usize) -> PortResult<Vec<DeadLetter>> {
        self.dead_letters.list(stage, limit).await
    }

    async fn replay(&self, stage: Stage, id: &str) -> PortResult<bool> {
        self.dead_letters.replay(stage, id).await
    }

    async fn purge_dead_letters(&self, stage: Stage) -> PortResult<u64> {
        self.dead_letters.purge(stage).await
    }
}
