//! How full the queues are.
//!
//! What is ready, delayed and dead is counted by RabbitMQ, for all processes; what is unsettled it tells only through its management plugin,
//! so that is counted here, for this process. A count takes a round trip a queue, and every submission asks for one: so it is taken at most
//! once in [`FRESH`], and meanwhile the last one is given out.
//!
//! The ladder of delays is made by the first message that is delayed. Where it is not there yet, nothing is delayed, and it is looked for only
//! now and then, ever less often, for another process may have made it: RabbitMQ logs each look as an error.

use std::{
    sync::{Arc, Mutex, PoisonError, atomic::Ordering},
    time::{Duration, Instant},
};

use futures::future::try_join_all;
use lapin::{options::QueueDeclareOptions, types::FieldTable};
use raglan_pipeline::{
    domain::{Priority, Stage},
    ports::{Depth, PortResult},
};
use tokio::time::timeout;

use super::{
    client::Client,
    delay::RUNGS,
    error::{code, port_error, reply_code, unavailable},
    link::Link,
    topology::{Part, open},
};

/// A count is good for so long.
const FRESH: Duration = Duration::from_millis(200);
/// A count that is older is given out while a new one is taken, up to this age.
const STALE: Duration = Duration::from_secs(2);
/// How long a count may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// A ladder that was not there is looked for again after so long, and then after twice as long each time, up to [`LADDER_LOOK_MAX`].
const LADDER_LOOK: Duration = Duration::from_secs(5);
const LADDER_LOOK_MAX: Duration = Duration::from_secs(600);

/// The counts of all stages.
pub(super) struct Depths {
    client: Arc<Client>,
    stages: [Counted; Stage::ALL.len()],
}

#[derive(Default)]
struct Counted {
    last: Mutex<Option<(Instant, Depth)>>,
    ladder: Mutex<Ladder>,
    /// Held by the one who counts.
    counting: tokio::sync::Mutex<()>,
}

/// What is known of a stage's ladder of delays.
#[derive(Debug, Clone, Copy, Default)]
enum Ladder {
    #[default]
    Unknown,
    /// It was not there when it was looked for last.
    Missing {
        look_at: Instant,
        then_after: Duration,
    },
    There,
}

impl Counted {
    fn ladder(&self) -> Ladder {
        *self.ladder.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note_ladder(&self, ladder: Ladder) {
        *self.ladder.lock().unwrap_or_else(PoisonError::into_inner) = ladder;
    }

    fn last(&self) -> Option<(Duration, Depth)> {
        let last = *self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.map(|(at, depth)| (at.elapsed(), depth))
    }
}

impl Depths {
    pub(super) fn new(client: Arc<Client>) -> Arc<Self> {
        Arc::new(Self { client, stages: Default::default() })
    }

    pub(super) async fn of(self: &Arc<Self>, stage: Stage) -> PortResult<Depth> {
        let counted = &self.stages[stage as usize];
        match counted.last() {
            Some((age, depth)) if age < FRESH => return Ok(depth),
            Some((age, depth)) if age < STALE => {
                let this = Arc::clone(self);
                self.client.tasks.spawn(async move {
                    if let Ok(_counting) = this.stages[stage as usize].counting.try_lock()
                        && let Err(error) = this.count(stage).await
                    {
                        tracing::debug!(stage = stage.as_str(), %error, "depth not counted");
                    }
                });
                return Ok(depth);
            }
            _ => {}
        }
        let _counting = counted.counting.lock().await;
        match counted.last() {
            // Somebody else has counted meanwhile.
            Some((age, depth)) if age < FRESH => Ok(depth),
            _ => self.count(stage).await,
        }
    }

    async fn count(&self, stage: Stage) -> PortResult<Depth> {
        let link = self.client.link_now()?;
        let counting = async {
            match self.ask(&link, stage).await {
                Ok(depth) => Ok(depth),
                // A queue may have been deleted.
                Err(_) => {
                    link.forget(stage);
                    self.stages[stage as usize].note_ladder(Ladder::Unknown);
                    self.ask(&link, stage).await
                }
            }
        };
        let depth = timeout(PATIENCE, link.run(counting))
            .await
            .unwrap_or_else(|_| Err(unavailable("RabbitMQ does not tell how full its queues are")))?;
        self.client.queue(stage).metrics.set_depth(depth);
        let mut last = self.stages[stage as usize].last.lock().unwrap_or_else(PoisonError::into_inner);
        *last = Some((Instant::now(), depth));
        Ok(depth)
    }

    async fn ask(&self, link: &Link, stage: Stage) -> PortResult<Depth> {
        link.ensure(stage, Part::Work).await?;
        let delays = self.has_ladder(link, stage).await?;
        let channel = open(&link.connection).await?;
        let names = &self.client.names;
        let count = async |queues: Vec<String>| -> PortResult<u64> {
            let there = QueueDeclareOptions::durable().passive();
            let asked = queues
                .into_iter()
                .map(|queue| channel.queue_declare(queue.into(), there, FieldTable::default()));
            let queues =
                try_join_all(asked).await.map_err(|error| port_error("a queue cannot be counted", error))?;
            Ok(queues.iter().map(|queue| u64::from(queue.message_count())).sum())
        };
        Ok(Depth {
            ready: count(Priority::ALL.into_iter().flat_map(|class| names.inlets(stage, class)).collect())
                .await?,
            delayed: match delays {
                true => count((0..RUNGS).map(|rung| names.rung(stage, rung)).collect()).await?,
                false => 0,
            },
            unsettled: self.client.queue(stage).unsettled.load(Ordering::Relaxed),
            dead: count(vec![names.dead(stage)]).await?,
        })
    }

    /// Whether the ladder has been made, by this process or another one.
    async fn has_ladder(&self, link: &Link, stage: Stage) -> PortResult<bool> {
        let counted = &self.stages[stage as usize];
        if link.has_made(stage, Part::Delays) {
            return Ok(true);
        }
        let look_after = match counted.ladder() {
            Ladder::There => return Ok(true),
            Ladder::Missing { look_at, .. } if Instant::now() < look_at => return Ok(false),
            Ladder::Missing { then_after, .. } => then_after,
            Ladder::Unknown => LADDER_LOOK,
        };
        // The last that is made. RabbitMQ closes the channel on which a queue was not found, so it gets one of its own.
        let channel = open(&link.connection).await?;
        let last = self.client.names.rung(stage, RUNGS - 1);
        let there = QueueDeclareOptions::durable().passive();
        match channel.queue_declare(last.into(), there, FieldTable::default()).await {
            Ok(_) => {
                counted.note_ladder(Ladder::There);
                Ok(true)
            }
            Err(error) if reply_code(&error) == Some(code::NOT_FOUND) => {
                counted.note_ladder(Ladder::Missing {
                    look_at: Instant::now() + look_after,
                    then_after: (look_after * 2).min(LADDER_LOOK_MAX),
                });
                Ok(false)
            }
            Err(error) => Err(port_error("a queue cannot be counted", error)),
        }
    }
}
