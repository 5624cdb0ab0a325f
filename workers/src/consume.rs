//! Taking messages from one queue, no more at once than there are permits, until told to stop.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use raglan_pipeline::{
    domain::Stage,
    ports::{Broker, Delivered, Place},
};
use tokio::{sync::Semaphore, task::JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

/// What is done with a message.
#[async_trait]
pub trait Handler: Send + Sync + 'static {
    /// Waits until the work on one more message could be begun soon.
    async fn place(&self) -> Place {
        Place::default()
    }

    /// Does the work and settles the message. `abandon` is cancelled when the time for finishing is up: then the work goes back to the queue.
    async fn handle(&self, delivered: Box<dyn Delivered>, abandon: CancellationToken);
}

/// A number of workers on one queue.
pub struct Pool {
    /// The queue.
    pub stage: Stage,
    /// How many messages are worked on at once.
    pub concurrency: usize,
    /// How long work may go on after the stop before it is handed back.
    pub drain: Duration,
}

/// How long to wait before a queue that cannot be read is tried again.
const RECONNECT: Duration = Duration::from_secs(1);

impl Pool {
    /// Takes and handles messages until `stop`; then finishes what is running within the drain time and hands the rest back.
    pub async fn run(&self, broker: Arc<dyn Broker>, handler: Arc<dyn Handler>, stop: CancellationToken) {
        let abandon = CancellationToken::new();
        let permits = Arc::new(Semaphore::new(self.concurrency));
        let mut running = JoinSet::new();
        while !stop.is_cancelled() {
            tokio::select! {
                () = stop.cancelled() => {}
                () = self.consume(&broker, &handler, &permits, &mut running, &abandon) => {
                    tokio::select! { () = stop.cancelled() => {}, () = tokio::time::sleep(RECONNECT) => {} }
                }
            }
        }
        self.drain(running, &abandon).await;
    }

    /// Takes messages until the queue cannot be read.
    async fn consume(
        &self,
        broker: &Arc<dyn Broker>,
        handler: &Arc<dyn Handler>,
        permits: &Arc<Semaphore>,
        running: &mut JoinSet<()>,
        abandon: &CancellationToken,
    ) {
        let stage = self.stage.as_str();
        let mut consumer = match broker.consume(self.stage).await {
            Ok(consumer) => consumer,
            Err(error) => {
                warn!(stage, %error, "queue cannot be read; trying again");
                return;
            }
        };
        loop {
            // Permit and place come first: what cannot be started is left on the queue for somebody who can.
            let Ok(permit) = permits.clone().acquire_owned().await else { return };
            let place = handler.place().await;
            let delivered = match consumer.next().await {
                Ok(delivered) => delivered,
                Err(error) => {
                    warn!(stage, %error, "queue broke off; trying again");
                    return;
                }
            };
            let (handler, abandon) = (handler.clone(), abandon.clone());
            running.spawn(async move {
                metrics::gauge!("raglan_stage_running", "stage" => stage).increment(1.0);
                handler.handle(delivered, abandon).await;
                metrics::gauge!("raglan_stage_running", "stage" => stage).decrement(1.0);
                drop((place, permit));
            });
            reap(stage, running);
        }
    }

    async fn drain(&self, mut running: JoinSet<()>, abandon: &CancellationToken) {
        let stage = self.stage.as_str();
        reap(stage, &mut running);
        if running.is_empty() {
            return;
        }
        info!(stage, running = running.len(), drain_s = self.drain.as_secs(), "finishing what is running");
        let all = async {
            while let Some(ended) = running.join_next().await {
                report(stage, ended);
            }
        };
        if tokio::time::timeout(self.drain, all).await.is_err() {
            info!(stage, left = running.len(), "time is up: handing work back");
            abandon.cancel();
            while let Some(ended) = running.join_next().await {
                report(stage, ended);
            }
        }
    }
}

/// Takes out what has ended.
fn reap(stage: &'static str, running: &mut JoinSet<()>) {
    while let Some(ended) = running.try_join_next() {
        report(stage, ended);
    }
}

fn report(stage: &'static str, ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended {
        // The message was dropped unsettled, so the broker has put it back.
        error!(stage, %error, "worker task died");
    }
}
