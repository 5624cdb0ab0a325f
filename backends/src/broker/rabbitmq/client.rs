//! What the broker, its consumers and their deliveries share: settings, the connection, and the ways to publish.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use raglan_pipeline::{
    domain::{Priority, Stage},
    ports::{ErrorKind, PortError, PortResult},
};
use tokio::{runtime::Handle, sync::watch, time::timeout};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::warn;

use super::{
    RabbitMqSettings,
    delay::Steps,
    error::unavailable,
    link::{Link, Links},
    names::Names,
    publisher::{Address, Refused},
    topology::Part,
    wire::Parcel,
};
use crate::broker::metrics::QueueMetrics;

/// What a publisher that is refused is told to wait.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// How long a queue that has gone stays away before it is made again.
const BEFORE_MAKING_AGAIN: Duration = Duration::from_millis(100);

/// What all parts of one broker share.
pub(super) struct Client {
    pub(super) settings: RabbitMqSettings,
    pub(super) names: Names,
    links: Arc<Links>,
    /// Cancelled when the broker is closed.
    pub(super) closing: CancellationToken,
    /// What must be seen through before the connection is closed.
    pub(super) tasks: TaskTracker,
    /// Where a message that is dropped outside the runtime is put back from.
    pub(super) runtime: Handle,
    queues: [QueueState; Stage::ALL.len()],
}

/// What is known of one stage's queues.
pub(super) struct QueueState {
    pub(super) metrics: QueueMetrics,
    /// Messages that this process has and has not settled.
    pub(super) unsettled: Arc<AtomicU64>,
}

/// Counts a message among the unsettled until it is dropped.
pub(super) struct Unsettled(Arc<AtomicU64>);

impl Drop for Unsettled {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Client {
    /// Inside a tokio runtime.
    pub(super) fn new(settings: RabbitMqSettings, links: Arc<Links>) -> Self {
        Self {
            names: Names::new(&settings.prefix, settings.lanes),
            settings,
            links,
            closing: CancellationToken::new(),
            tasks: TaskTracker::new(),
            runtime: Handle::current(),
            queues: Stage::ALL
                .map(|stage| QueueState { metrics: QueueMetrics::new(stage), unsettled: Arc::default() }),
        }
    }

    pub(super) fn queue(&self, stage: Stage) -> &QueueState {
        &self.queues[stage as usize]
    }

    /// Counts one more message as unsettled.
    pub(super) fn unsettled(&self, stage: Stage) -> Unsettled {
        let count = Arc::clone(&self.queue(stage).unsettled);
        count.fetch_add(1, Ordering::Relaxed);
        Unsettled(count)
    }

    /// The connection, as it comes and goes.
    pub(super) fn links(&self) -> watch::Receiver<Option<Arc<Link>>> {
        self.links.subscribe()
    }

    /// The connection, if there is one at this moment.
    pub(super) fn link_now(&self) -> PortResult<Arc<Link>> {
        self.links.borrow().clone().ok_or_else(not_connected)
    }

    /// The connection; waits a little for it to come back.
    pub(super) async fn link(&self) -> PortResult<Arc<Link>> {
        let mut links = self.links();
        let connected = timeout(self.settings.publish_wait, links.wait_for(Option::is_some));
        match connected.await {
            Ok(Ok(link)) => link.clone().ok_or_else(not_connected),
            _ => Err(not_connected()),
        }
    }

    /// The address where a message of a class is due after `delay`, when it comes back or is new with a delay.
    pub(super) fn due(&self, stage: Stage, class: Priority, delay: Duration) -> PortResult<(Address, Part)> {
        if delay.is_zero() {
            return Ok((Address::queue(self.names.returns(stage, class)), Part::Work));
        }
        let steps = Steps::of(delay).ok_or_else(|| {
            let longest = RabbitMqSettings::LONGEST_DELAY.as_secs() / 3_600;
            PortError::new(ErrorKind::Invalid, format!("a message is delayed by {longest} hours at most"))
        })?;
        let exchange = self.names.rung(stage, steps.top());
        Ok((Address { exchange, routing_key: steps.routing_key(class) }, Part::Delays))
    }

    /// Publishes, and returns when RabbitMQ has the message safe. Where its queue has gone, it is made again.
    pub(super) async fn send(
        &self,
        stage: Stage,
        (address, part): (Address, Part),
        parcel: Parcel,
    ) -> PortResult<()> {
        let mut made_again = false;
        loop {
            let link = self.link().await?;
            if link.connection.status().blocked() {
                let why = "RabbitMQ takes no messages: it is short of memory or disk";
                return Err(unavailable(why).with_retry_after(RETRY_AFTER));
            }
            link.ensure(stage, part).await?;
            let patience = self.settings.confirm_timeout;
            match link.publisher.publish(address.clone(), parcel.clone(), patience).await {
                Ok(()) => return Ok(()),
                Err(Refused::Unroutable) if !made_again => {
                    warn!(
                        queue = address.routing_key,
                        "message could not be routed; making the queues again"
                    );
                    // Those who consume from it are told first: where the queue is there again too soon, RabbitMQ before 4.0 tells them nothing.
                    tokio::time::sleep(BEFORE_MAKING_AGAIN).await;
                    link.forget(stage);
                    made_again = true;
                }
                Err(refused) => return Err(refused.into()),
            }
        }
    }
}

fn not_connected() -> PortError {
    unavailable("RabbitMQ cannot be reached").with_retry_after(RETRY_AFTER)
}

impl From<Refused> for PortError {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Full => {
                Self::new(ErrorKind::Overloaded, "the queue is full").with_retry_after(RETRY_AFTER)
            }
            Refused::Unroutable => unavailable("RabbitMQ: the queue is gone and could not be made again"),
            Refused::Gone => unavailable("RabbitMQ: the connection was lost").with_retry_after(RETRY_AFTER),
            Refused::Unknown(why) => Self::new(ErrorKind::Timeout, format!("RabbitMQ: {why}")),
        }
    }
}
