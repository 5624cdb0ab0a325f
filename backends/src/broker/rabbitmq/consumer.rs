//! A reader of one stage's queues.

use std::{sync::Arc, time::Instant};

use async_trait::async_trait;
use raglan_pipeline::{
    domain::{Priority, Stage},
    ports::{Consumer, Delivered, PortResult},
};

use super::{
    client::Client,
    delivery::{self, Ticket},
    error::unavailable,
    inlet::Inlet,
    intake::Take,
    pump::Pump,
};

/// Takes messages from where its pump puts them. Dropped, what was fetched and not handed out goes back at once.
pub(super) struct RabbitMqConsumer {
    inlet: Arc<Inlet>,
}

impl RabbitMqConsumer {
    /// Starts one; it connects by itself.
    pub(super) fn start(client: Arc<Client>, stage: Stage) -> Self {
        let queues: Vec<String> =
            Priority::ALL.into_iter().flat_map(|class| client.names.inlets(stage, class)).collect();
        let inlet = Arc::new(Inlet::new(Arc::clone(&client), stage, queues.len()));
        client.tasks.spawn(Pump::new(Arc::clone(&inlet), queues).run());
        Self { inlet }
    }
}

impl Drop for RabbitMqConsumer {
    fn drop(&mut self) {
        // From now on, and not only from when the pump hears of it: what is settled would have another message come, for nobody.
        self.inlet.with(|intake, _| intake.ending());
        self.inlet.retired.cancel();
    }
}

/// While it lives, the caller waits for a message.
struct Wanting<'a>(&'a Inlet);

impl Drop for Wanting<'_> {
    fn drop(&mut self) {
        self.0.with(|intake, now| {
            intake.wanted = false;
            intake.asked_at = now;
        });
    }
}

#[async_trait]
impl Consumer for RabbitMqConsumer {
    async fn next(&mut self) -> PortResult<Box<dyn Delivered>> {
        // A consumer that always finds a message lets other tasks run now and then.
        tokio::task::coop::consume_budget().await;
        loop {
            // Registered before looking, so that a message that comes in between is seen.
            let arrived = self.inlet.arrived.notified();
            tokio::pin!(arrived);
            arrived.as_mut().enable();
            if self.inlet.retired.is_cancelled() {
                return Err(unavailable("the broker was closed"));
            }
            let until = match self.ask() {
                Take::Message(slot, fetched) => {
                    let ticket = Ticket::new(Arc::clone(&self.inlet), slot, fetched);
                    match delivery::open(ticket) {
                        Some(delivered) => return Ok(delivered),
                        None => continue,
                    }
                }
                Take::Wait(until) => until,
            };
            let _wanting = Wanting(&self.inlet);
            let at_most = async {
                match until {
                    Some(until) => tokio::time::sleep_until(until.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = arrived => {}
                () = at_most => {}
                () = self.inlet.retired.cancelled() => {}
            }
        }
    }
}

impl RabbitMqConsumer {
    /// Takes a message, or says that one is wanted.
    fn ask(&self) -> Take<super::inlet::Fetched> {
        let (take, needs_help) = self.inlet.with(|intake, now: Instant| {
            intake.asked_at = now;
            let take = intake.take(now);
            intake.wanted = matches!(take, Take::Wait(_));
            (take, intake.needs_help())
        });
        if needs_help {
            self.inlet.demand.notify_one();
        }
        take
    }
}
