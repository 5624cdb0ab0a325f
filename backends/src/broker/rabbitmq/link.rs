//! The connection, and a new one whenever it is lost.
//!
//! The driver can recover by itself, but then publishers, consumers and their messages change under their owners' hands, and a refused
//! recovery ends it for good. Here a lost connection is dropped whole: what was made on it fails, and is made again on the next.

use std::{
    future::Future,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::StreamExt;
use lapin::{Connection, ConnectionProperties, Event, options::ConfirmSelectOptions, uri::AMQPUri};
use raglan_pipeline::{
    domain::Stage,
    ports::{ErrorKind, PortResult},
};
use rand::Rng;
use tokio::{sync::watch, time::timeout};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{info, warn};

use super::{
    RabbitMqSettings,
    error::{port_error, unavailable},
    publisher::Publisher,
    topology::{Part, Plan, Topology, open},
};

/// The wait before the second try to connect; doubled for each further one.
const RETRY_BASE: Duration = Duration::from_millis(100);
/// The longest such wait.
const RETRY_MAX: Duration = Duration::from_secs(10);
/// How long a connection may take to say goodbye.
const GOODBYE: Duration = Duration::from_secs(2);
/// How long what is under way may take before the connection is closed all the same.
const LAST_TASKS: Duration = Duration::from_secs(10);
/// How often a connection is looked at, beside listening to what it tells.
const LOOK: Duration = Duration::from_secs(1);

/// One connection, and what was made on it.
pub(super) struct Link {
    pub(super) connection: Connection,
    pub(super) publisher: Publisher,
    topology: Topology,
    /// Cancelled when the connection is gone or of no use any more.
    pub(super) lost: CancellationToken,
    pub(super) since: Instant,
}

impl Link {
    /// Connects.
    pub(super) async fn open(
        uri: &AMQPUri,
        plan: &Plan,
        settings: &RabbitMqSettings,
    ) -> PortResult<Arc<Self>> {
        let name = format!("raglan {} (process {})", env!("CARGO_PKG_VERSION"), std::process::id());
        let properties = ConnectionProperties::default().with_connection_name(name.into());
        let connecting = async {
            let connection = Connection::connect_uri(uri.clone(), properties)
                .await
                .map_err(|error| port_error("no connection", error))?;
            let lost = CancellationToken::new();
            watch_over(&connection, lost.clone());
            let channel = open(&connection).await?;
            channel
                .confirm_select(ConfirmSelectOptions::default())
                .await
                .map_err(|error| port_error("no publisher confirms", error))?;
            let status = connection.status().clone();
            let publisher = Publisher::start(channel, status, settings.confirm_timeout, lost.clone());
            let topology = Topology::new(plan.clone());
            Ok(Arc::new(Self { connection, publisher, topology, lost, since: Instant::now() }))
        };
        timeout(settings.connect_timeout, connecting)
            .await
            .unwrap_or_else(|_| Err(unavailable("RabbitMQ: no connection in time")))
    }

    /// Sees to it that the queues are there.
    pub(super) async fn ensure(&self, stage: Stage, part: Part) -> PortResult<()> {
        self.run(async {
            self.topology.ensure(&self.connection, stage, Part::Work).await?;
            match part {
                Part::Work => Ok(()),
                Part::Delays => self.topology.ensure(&self.connection, stage, part).await,
            }
        })
        .await
    }

    /// Whether a part was made, or found, on this connection.
    pub(super) fn has_made(&self, stage: Stage, part: Part) -> bool {
        self.topology.has_made(stage, part)
    }

    /// Something of a stage was not there.
    pub(super) fn forget(&self, stage: Stage) {
        self.topology.forget(stage);
    }

    /// Does something on this connection; it fails as soon as the connection is lost, even where nobody would have noticed that yet.
    pub(super) async fn run<T>(&self, work: impl Future<Output = PortResult<T>>) -> PortResult<T> {
        tokio::select! {
            biased;
            () = self.lost.cancelled() => Err(unavailable("RabbitMQ: the connection was lost")),
            done = work => done,
        }
    }

    /// Ends it, politely where the other side still answers.
    async fn close(&self) {
        self.lost.cancel();
        let goodbye = self.connection.close(200, "goodbye".into());
        if !matches!(timeout(GOODBYE, goodbye).await, Ok(Ok(()))) {
            tracing::debug!("connection did not close in order");
        }
    }
}

/// Cancels `lost` when the connection is not connected any more.
fn watch_over(connection: &Connection, lost: CancellationToken) {
    let (mut events, status) = (connection.events_listener(), connection.status().clone());
    tokio::spawn(async move {
        let mut look = tokio::time::interval(LOOK);
        while status.connected() {
            tokio::select! {
                () = lost.cancelled() => return,
                _ = look.tick() => {}
                event = events.next() => match event {
                    Some(Event::ConnectionBlocked(reason)) => {
                        warn!(reason, "publishing is blocked: the broker is short of memory or disk");
                    }
                    Some(Event::ConnectionUnblocked) => info!("publishing is possible again"),
                    Some(_) => {}
                    None => break,
                },
            }
        }
        lost.cancel();
    });
}

/// Where the present connection is found. None while there is none.
pub(super) type Links = watch::Sender<Option<Arc<Link>>>;

/// Connects for the first time: tries until the time is up, but not where trying again cannot help.
pub(super) async fn first(uri: &AMQPUri, plan: &Plan, settings: &RabbitMqSettings) -> PortResult<Arc<Link>> {
    let until = Instant::now() + settings.connect_timeout;
    let mut tries = 0;
    loop {
        match Link::open(uri, plan, settings).await {
            Ok(link) => return Ok(link),
            Err(error) if error.kind() == ErrorKind::Invalid => return Err(error),
            Err(error) => {
                let wait = back_off(tries);
                if Instant::now() + wait >= until {
                    return Err(error);
                }
                tokio::time::sleep(wait).await;
                tries += 1;
            }
        }
    }
}

/// What keeps the connection up, until it is told to close it.
pub(super) struct Supervisor {
    pub(super) links: Arc<Links>,
    pub(super) uri: AMQPUri,
    pub(super) plan: Plan,
    pub(super) settings: RabbitMqSettings,
    /// Cancelled to close the connection.
    pub(super) closing: CancellationToken,
    /// What is seen through before that.
    pub(super) tasks: TaskTracker,
    /// Cancelled when it is closed.
    pub(super) closed: CancellationToken,
}

impl Supervisor {
    pub(super) async fn run(self, first: Arc<Link>) {
        let _closed = self.closed.clone().drop_guard();
        let mut link = first;
        loop {
            self.links.send_replace(Some(Arc::clone(&link)));
            tokio::select! {
                () = link.lost.cancelled() => warn!("connection to the broker lost; connecting anew"),
                () = self.closing.cancelled() => {
                    self.tasks.close();
                    if timeout(LAST_TASKS, self.tasks.wait()).await.is_err() {
                        warn!(left = self.tasks.len(), "broker closed before all messages were given back");
                    }
                    self.links.send_replace(None);
                    link.close().await;
                    return;
                }
            }
            self.links.send_replace(None);
            link.close().await;
            let lost_at = Instant::now();
            link = tokio::select! {
                link = again(&self.uri, &self.plan, &self.settings) => link,
                () = self.closing.cancelled() => return,
            };
            metrics::counter!("raglan_broker_reconnects_total").increment(1);
            info!(after_ms = lost_at.elapsed().as_millis(), "connected to the broker again");
        }
    }
}

/// Connects, however long it takes.
async fn again(uri: &AMQPUri, plan: &Plan, settings: &RabbitMqSettings) -> Arc<Link> {
    let mut tries = 0;
    loop {
        match Link::open(uri, plan, settings).await {
            Ok(link) => return link,
            Err(error) => warn!(%error, tries, "broker cannot be reached; trying again"),
        }
        tokio::time::sleep(back_off(tries)).await;
        tries = tries.saturating_add(1);
    }
}

/// Exponential, with jitter, so that many processes do not come back at the same moment.
pub(super) fn back_off(tries: u32) -> Duration {
    let most = RETRY_BASE.saturating_mul(1 << tries.min(10)).min(RETRY_MAX);
    most.mul_f64(rand::rng().random_range(0.5..=1.0))
}
