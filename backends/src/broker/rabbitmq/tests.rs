//! The contract on a real RabbitMQ, and what is true of this broker beyond it.

mod cuts;
mod proxy;
mod queues;

use std::sync::Mutex;

use raglan_pipeline::{
    contract,
    domain::{JobId, Priority, Tenant},
    message::Message,
    ports::Delivered,
    secret::Secret,
};

use tokio::sync::{Semaphore, SemaphorePermit};

use super::*;
use crate::test_servers::{amqp_url, skipped};

const STAGE: Stage = Stage::Retrieval;
/// What must come is waited for so long.
const PATIENCE: Duration = Duration::from_secs(30);
const NOW: Duration = Duration::ZERO;

/// So many tests run at once: RabbitMQ before 3.12 reserves three of its file handles for every quorum queue, and takes no more connections when
/// it has none left.
static AT_ONCE: Semaphore = Semaphore::const_new(3);

/// Settings with a prefix of their own; its queues are removed when this is dropped, also when a test fails.
struct Queues {
    settings: Vec<RabbitMqSettings>,
    _turn: SemaphorePermit<'static>,
}

impl Queues {
    /// None, with a word why, where there is no server.
    async fn new(test: &str) -> Option<Self> {
        let turn = AT_ONCE.acquire().await.unwrap();
        let settings = RabbitMqSettings { url: Secret::new(amqp_url()), ..RabbitMqSettings::default() };
        match RabbitMqBroker::connect(settings).await {
            Ok(broker) => {
                broker.close().await;
                Some(Self { settings: Vec::new(), _turn: turn })
            }
            Err(error) => {
                skipped(test, &error.to_string());
                None
            }
        }
    }

    fn settings(&mut self) -> RabbitMqSettings {
        let settings = RabbitMqSettings {
            url: Secret::new(amqp_url()),
            prefix: format!("raglan-test-{}.", uuid::Uuid::now_v7().simple()),
            max_attempts: 3,
            ..RabbitMqSettings::default()
        };
        self.settings.push(settings.clone());
        settings
    }
}

async fn remove(all: Vec<RabbitMqSettings>) {
    for settings in all {
        RabbitMqBroker::remove_queues(&settings).await.unwrap();
    }
}

impl Drop for Queues {
    fn drop(&mut self) {
        let left = std::mem::take(&mut self.settings);
        // A runtime of its own: the test's may be ending.
        let removed = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(remove(left));
        });
        if removed.join().is_err() {
            eprintln!("queues of a test were left behind");
        }
    }
}

fn envelope() -> Envelope {
    Envelope {
        message: Message::Job { job_id: JobId::generate(), stage: STAGE },
        priority: Priority::Normal,
        tenant: Tenant::default(),
    }
}

fn id(envelope: &Envelope) -> JobId {
    match &envelope.message {
        Message::Job { job_id, .. } => *job_id,
        other @ Message::Delivery { .. } => panic!("{other:?} was never sent"),
    }
}

async fn publish(broker: &RabbitMqBroker) -> Envelope {
    let envelope = envelope();
    broker.publish(STAGE, envelope.clone(), NOW).await.unwrap();
    envelope
}

async fn next(consumer: &mut Box<dyn Consumer>) -> Box<dyn Delivered> {
    timeout(PATIENCE, consumer.next()).await.expect("no message came").unwrap()
}

/// Waits until the depth is as expected.
async fn assert_depth(broker: &RabbitMqBroker, expected: impl Fn(&Depth) -> bool) {
    let waiting = async {
        loop {
            let depth = broker.depth(STAGE).await.unwrap();
            if expected(&depth) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    if timeout(PATIENCE, waiting).await.is_err() {
        panic!("the depth stays {:?}", broker.depth(STAGE).await);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn it_keeps_the_contract() {
    let Some(queues) = Queues::new("broker::rabbitmq::it_keeps_the_contract").await else { return };
    let (queues, last) = (Mutex::new(queues), Mutex::new(None::<Arc<RabbitMqBroker>>));
    contract::broker::run_all(|limits| {
        let (before, last_queues) = {
            let mut queues = queues.lock().unwrap();
            (last.lock().unwrap().take(), std::mem::take(&mut queues.settings))
        };
        let settings = RabbitMqSettings {
            capacity: limits.capacity,
            max_attempts: limits.max_attempts,
            ..queues.lock().unwrap().settings()
        };
        let last = &last;
        async move {
            if let Some(before) = before {
                before.close().await;
            }
            remove(last_queues).await;
            let broker = RabbitMqBroker::connect(settings).await.unwrap();
            *last.lock().unwrap() = Some(Arc::clone(&broker));
            broker as Arc<dyn Broker>
        }
    })
    .await;
}
