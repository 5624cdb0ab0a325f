//! Which queues and exchanges there are, and their making.
//!
//! All queues are quorum queues: replicated, and on disk before a publisher is told. None is ever removed by RabbitMQ itself.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures::future::try_join_all;
use lapin::{
    Channel, Connection, ConnectionProperties, ExchangeKind,
    options::{
        ExchangeBindOptions, ExchangeDeclareOptions, ExchangeDeleteOptions, QueueBindOptions,
        QueueDeclareOptions, QueueDeleteOptions,
    },
    types::{AMQPValue, FieldTable},
};
use raglan_pipeline::{
    domain::{Priority, Stage},
    ports::PortResult,
};
use tokio::{sync::OnceCell, time::timeout};
use tracing::warn;

use super::{
    RabbitMqSettings,
    delay::{self, RUNGS},
    error::{code, port_error, reply_code, unavailable},
    names::Names,
};

/// How long the making of one part may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// More than anything is ever delivered: RabbitMQ 4 has a limit of its own where none is set, and looking at a dead letter counts.
const NO_DELIVERY_LIMIT: i64 = 1_000_000_000;

/// What is made together, when it is first needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Part {
    /// Where messages wait and where they end.
    Work,
    /// The ladder of delays.
    Delays,
}

/// A queue as it is to be.
pub(super) struct Queue {
    pub(super) name: String,
    arguments: FieldTable,
}

/// Each part of a stage, and whether it is there.
type Made = HashMap<(Stage, Part), Arc<OnceCell<()>>>;

/// What has been made on one connection.
pub(super) struct Topology {
    plan: Plan,
    made: Mutex<Made>,
}

impl Topology {
    pub(super) fn new(plan: Plan) -> Self {
        Self { plan, made: Mutex::default() }
    }

    /// Sees to it that a part is there; asks RabbitMQ only once for each.
    pub(super) async fn ensure(&self, connection: &Connection, stage: Stage, part: Part) -> PortResult<()> {
        let made = {
            let mut all = self.made.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(all.entry((stage, part)).or_default())
        };
        made.get_or_try_init(|| async {
            let making = self.plan.make(connection, stage, part);
            timeout(PATIENCE, making).await.unwrap_or_else(|_| Err(unavailable("RabbitMQ makes no queues")))
        })
        .await
        .copied()
    }

    /// Whether a part is known to be there.
    pub(super) fn has_made(&self, stage: Stage, part: Part) -> bool {
        let all = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        all.get(&(stage, part)).is_some_and(|made| made.initialized())
    }

    /// Something of a stage was not there: all of it is made again when it is next needed.
    pub(super) fn forget(&self, stage: Stage) {
        let mut all = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|(other, _), _| *other != stage);
    }
}

/// What is to be made.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    names: Names,
    capacity: i64,
    dead_letters: i64,
    delivery_limit: i64,
    consumer_timeout_ms: i64,
}

impl Plan {
    pub(super) fn new(settings: &RabbitMqSettings) -> Self {
        let bound = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        Self {
            names: Names::new(&settings.prefix, settings.lanes),
            capacity: bound(settings.capacity),
            dead_letters: bound(settings.dead_letters),
            delivery_limit: settings.delivery_limit().into(),
            consumer_timeout_ms: i64::try_from(settings.consumer_timeout.as_millis()).unwrap_or(i64::MAX),
        }
    }

    /// All queues of a part.
    pub(super) fn queues(&self, stage: Stage, part: Part) -> Vec<Queue> {
        match part {
            Part::Work => {
                let mut queues = vec![self.dead(stage)];
                for class in Priority::ALL {
                    queues.extend(self.names.lanes(stage, class).into_iter().map(|name| {
                        let mut arguments = self.work(stage);
                        put_number(&mut arguments, "x-max-length", self.capacity);
                        Queue { name, arguments }
                    }));
                    // Without a bound of its own: what comes back was counted when it was new.
                    let name = self.names.returns(stage, class);
                    queues.push(Queue { name, arguments: self.work(stage) });
                }
                queues
            }
            Part::Delays => (0..RUNGS).map(|rung| self.rung(stage, rung)).collect(),
        }
    }

    /// All exchanges of a part.
    pub(super) fn exchanges(&self, stage: Stage, part: Part) -> Vec<String> {
        match part {
            Part::Work => Vec::new(),
            Part::Delays => {
                let mut exchanges = vec![self.names.due(stage)];
                exchanges.extend((0..RUNGS).map(|rung| self.names.rung(stage, rung)));
                exchanges
            }
        }
    }

    /// What queues have in common from which consumers take.
    fn work(&self, stage: Stage) -> FieldTable {
        let mut arguments = quorum();
        put_number(&mut arguments, "x-delivery-limit", self.delivery_limit);
        put_number(&mut arguments, "x-consumer-timeout", self.consumer_timeout_ms);
        // What RabbitMQ itself gives up goes to the dead letters, and is kept until it is safe there.
        drop_to(&mut arguments, "");
        put_text(&mut arguments, "x-dead-letter-routing-key", &self.names.dead(stage));
        arguments
    }

    fn dead(&self, stage: Stage) -> Queue {
        let mut arguments = quorum();
        put_number(&mut arguments, "x-delivery-limit", NO_DELIVERY_LIMIT);
        put_number(&mut arguments, "x-max-length", self.dead_letters);
        put_text(&mut arguments, "x-overflow", "drop-head");
        Queue { name: self.names.dead(stage), arguments }
    }

    fn rung(&self, stage: Stage, rung: u32) -> Queue {
        let mut arguments = quorum();
        let hold = i64::try_from(delay::hold_ms(rung)).unwrap_or(i64::MAX);
        put_number(&mut arguments, "x-message-ttl", hold);
        drop_to(&mut arguments, &self.below(stage, rung));
        Queue { name: self.names.rung(stage, rung), arguments }
    }

    /// The exchange below a rung.
    fn below(&self, stage: Stage, rung: u32) -> String {
        rung.checked_sub(1).map_or_else(|| self.names.due(stage), |below| self.names.rung(stage, below))
    }

    async fn make(&self, connection: &Connection, stage: Stage, part: Part) -> PortResult<()> {
        let channel = open(connection).await?;
        let topic = |name: String| {
            let durable = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
            channel.exchange_declare(name.into(), ExchangeKind::Topic, durable, FieldTable::default())
        };
        try_join_all(self.exchanges(stage, part).into_iter().map(topic))
            .await
            .map_err(|error| port_error("an exchange cannot be made", error))?;
        // All at once: RabbitMQ works through them in order.
        let queues = self.queues(stage, part);
        let made = try_join_all(queues.iter().map(|queue| declare(&channel, queue))).await;
        match made {
            Ok(_) => {}
            Err(error) if reply_code(&error) == Some(code::PRECONDITION_FAILED) => {
                for queue in &queues {
                    make_or_accept(connection, queue).await?;
                }
            }
            Err(error) => return Err(port_error("a queue cannot be made", error)),
        }
        if part == Part::Delays {
            self.bind(&open(connection).await?, stage)
                .await
                .map_err(|error| port_error("a queue cannot be bound", error))?;
        }
        Ok(())
    }

    /// The ways down the ladder.
    async fn bind(&self, channel: &Channel, stage: Stage) -> lapin::Result<()> {
        let to_queue = |queue: String, exchange: String, key: String| {
            let options = QueueBindOptions::default();
            channel.queue_bind(queue.into(), exchange.into(), key.into(), options, FieldTable::default())
        };
        try_join_all((0..RUNGS).map(|rung| {
            let name = self.names.rung(stage, rung);
            to_queue(name.clone(), name, delay::pattern(rung, '1'))
        }))
        .await?;
        try_join_all((0..RUNGS).map(|rung| {
            let (from, to) = (self.names.rung(stage, rung), self.below(stage, rung));
            let (key, options) = (delay::pattern(rung, '0'), ExchangeBindOptions::default());
            channel.exchange_bind(to.into(), from.into(), key.into(), options, FieldTable::default())
        }))
        .await?;
        try_join_all(Priority::ALL.map(|class| {
            to_queue(self.names.returns(stage, class), self.names.due(stage), delay::class_pattern(class))
        }))
        .await?;
        Ok(())
    }
}

/// Removes everything that settings name.
pub(super) async fn remove(settings: &RabbitMqSettings) -> PortResult<()> {
    let plan = Plan::new(settings);
    let connection = Connection::connect_uri(settings.check()?, ConnectionProperties::default())
        .await
        .map_err(|error| port_error("no connection", error))?;
    let channel = open(&connection).await?;
    let parts = || Stage::ALL.into_iter().flat_map(|stage| [(stage, Part::Work), (stage, Part::Delays)]);
    let removing = async {
        let queues = parts().flat_map(|(stage, part)| plan.queues(stage, part));
        try_join_all(
            queues.map(|queue| channel.queue_delete(queue.name.into(), QueueDeleteOptions::default())),
        )
        .await?;
        let exchanges = parts().flat_map(|(stage, part)| plan.exchanges(stage, part));
        try_join_all(
            exchanges.map(|name| channel.exchange_delete(name.into(), ExchangeDeleteOptions::default())),
        )
        .await?;
        connection.close(200, "done".into()).await
    };
    removing.await.map_err(|error| port_error("a queue cannot be removed", error))
}

/// Makes a queue; one that is there with other arguments is taken as it is, since RabbitMQ cannot change it.
async fn make_or_accept(connection: &Connection, queue: &Queue) -> PortResult<()> {
    let Err(error) = declare(&open(connection).await?, queue).await else { return Ok(()) };
    if reply_code(&error) != Some(code::PRECONDITION_FAILED) {
        return Err(port_error("a queue cannot be made", error));
    }
    warn!(queue = queue.name, %error, "queue was made with other settings and keeps them");
    let there = QueueDeclareOptions::durable().passive();
    open(connection)
        .await?
        .queue_declare(queue.name.as_str().into(), there, FieldTable::default())
        .await
        .map(drop)
        .map_err(|error| port_error("a queue cannot be used", error))
}

async fn declare(channel: &Channel, queue: &Queue) -> lapin::Result<lapin::Queue> {
    let options = QueueDeclareOptions::durable();
    channel.queue_declare(queue.name.as_str().into(), options, queue.arguments.clone()).await
}

/// A channel of its own, closed when it is dropped: RabbitMQ answers what it refuses by closing the channel.
pub(super) async fn open(connection: &Connection) -> PortResult<Channel> {
    connection.create_channel().await.map_err(|error| port_error("no channel can be opened", error))
}

fn quorum() -> FieldTable {
    let mut arguments = FieldTable::default();
    put_text(&mut arguments, "x-queue-type", "quorum");
    // Or else all leaders of a cluster would be where the first process connected.
    put_text(&mut arguments, "x-queue-leader-locator", "balanced");
    arguments
}

/// What leaves the queue unconsumed goes to this exchange, and stays until it has arrived (which needs `reject-publish`).
fn drop_to(arguments: &mut FieldTable, exchange: &str) {
    put_text(arguments, "x-dead-letter-exchange", exchange);
    put_text(arguments, "x-dead-letter-strategy", "at-least-once");
    put_text(arguments, "x-overflow", "reject-publish");
}

fn put_number(arguments: &mut FieldTable, name: &'static str, value: i64) {
    arguments.insert(name.into(), AMQPValue::LongLongInt(value));
}

fn put_text(arguments: &mut FieldTable, name: &'static str, value: &str) {
    arguments.insert(name.into(), AMQPValue::LongString(value.into()));
}
