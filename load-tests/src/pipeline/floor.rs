//! The floor: what RabbitMQ and Redis take for a job's two hops, whoever asks them.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use clap::Args;
use futures::StreamExt;
use lapin::{
    BasicProperties, Channel, Confirmation, Connection, ConnectionProperties,
    options::{
        BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions, ConfirmSelectOptions,
        QueueDeclareOptions, QueueDeleteOptions,
    },
    types::{AMQPValue, FieldTable},
};
use redis::aio::MultiplexedConnection;
use tokio::{sync::Semaphore, task::JoinSet};
use uuid::Uuid;

/// Send jobs through two queues with nothing but what no pipeline can do without: confirmed publishes to quorum queues, acknowledgements, and in Redis the passages,
/// the result and four events of each job.
#[derive(Debug, Args)]
pub struct Floor {
    /// RabbitMQ.
    #[arg(long, default_value = "amqp://guest:guest@127.0.0.1:5672/%2f")]
    amqp: String,
    /// Redis.
    #[arg(long, default_value = "redis://127.0.0.1:6379")]
    redis: String,
    /// How many jobs.
    #[arg(long, default_value_t = 20_000)]
    jobs: usize,
    /// How many are on their way at once.
    #[arg(long, default_value_t = 256)]
    in_flight: u16,
    /// Bytes of a job's passages.
    #[arg(long, default_value_t = 4_000)]
    passages: usize,
}

/// How long keys are kept: they are of no use after the measurement.
const TTL_S: i64 = 60;

/// One consumer and publisher of a hop.
#[derive(Clone)]
struct Hop {
    channel: Channel,
    redis: MultiplexedConnection,
    prefix: Arc<str>,
}

pub async fn run(floor: &Floor) -> anyhow::Result<()> {
    let connection = Connection::connect(&floor.amqp, ConnectionProperties::default())
        .await
        .context("RabbitMQ does not answer")?;
    let client = redis::Client::open(floor.redis.as_str())?;
    let prefix: Arc<str> = format!("floor-{}", Uuid::new_v4().simple()).into();
    let queues = ["retrieval", "generation"].map(|stage| format!("{prefix}.{stage}"));
    let mut hops = Vec::new();
    for _ in 0..3 {
        let channel = connection.create_channel().await?;
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        channel.basic_qos(floor.in_flight, BasicQosOptions::default()).await?;
        let redis = client.get_multiplexed_async_connection().await.context("Redis does not answer")?;
        hops.push(Hop { channel, redis, prefix: prefix.clone() });
    }
    for queue in &queues {
        declare(&hops[0].channel, queue).await?;
    }

    let permits = Arc::new(Semaphore::new(usize::from(floor.in_flight)));
    let passages: Arc<[u8]> = vec![b'x'; floor.passages].into();
    let mut tasks = JoinSet::new();
    for (hop, queue) in queues.iter().enumerate() {
        let (this, queue, next) = (hops[hop].clone(), queue.clone(), queues.get(hop + 1).cloned());
        let (permits, passages) = (permits.clone(), passages.clone());
        let jobs = floor.jobs;
        tasks.spawn(async move { this.consume(&queue, next, jobs, permits, passages).await });
    }
    let begun = Instant::now();
    let door = &hops[2];
    let mut publishing = JoinSet::new();
    for _ in 0..floor.jobs {
        // Given back by the second hop.
        permits.clone().acquire_owned().await?.forget();
        let (door, queue) = (door.clone(), queues[0].clone());
        publishing.spawn(async move { door.publish(&queue, Uuid::now_v7().to_string()).await });
        while let Some(published) = publishing.try_join_next() {
            published??;
        }
    }
    while let Some(published) = publishing.join_next().await {
        published??;
    }
    while let Some(consumed) = tasks.join_next().await {
        consumed??;
    }
    let took = begun.elapsed();
    for queue in &queues {
        door.channel.queue_delete(queue.as_str().into(), QueueDeleteOptions::default()).await?;
    }
    report(floor.jobs, took);
    Ok(())
}

#[allow(clippy::cast_precision_loss)] // a count
fn report(jobs: usize, took: Duration) {
    println!(
        "floor: {jobs} jobs in {:.2} s, {:.0} jobs/s",
        took.as_secs_f64(),
        jobs as f64 / took.as_secs_f64()
    );
}

async fn declare(channel: &Channel, queue: &str) -> anyhow::Result<()> {
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
    let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    channel.queue_declare(queue.into(), options, arguments).await?;
    Ok(())
}

impl Hop {
    /// Takes all jobs of a queue, several at once.
    async fn consume(
        self,
        queue: &str,
        next: Option<String>,
        jobs: usize,
        permits: Arc<Semaphore>,
        passages: Arc<[u8]>,
    ) -> anyhow::Result<()> {
        let options = BasicConsumeOptions::default();
        let mut consumer =
            self.channel.basic_consume(queue.into(), "".into(), options, FieldTable::default()).await?;
        let mut running = JoinSet::new();
        for _ in 0..jobs {
            let delivery = consumer.next().await.context("the consumer ended")??;
            let (this, next) = (self.clone(), next.clone());
            let (permits, passages) = (permits.clone(), passages.clone());
            running.spawn(async move {
                let job = String::from_utf8(delivery.data.clone())?;
                match next {
                    Some(next) => {
                        this.retrieve(&job, &passages).await?;
                        this.publish(&next, job).await?;
                    }
                    None => {
                        this.generate(&job).await?;
                        permits.add_permits(1);
                    }
                }
                delivery.ack(BasicAckOptions::default()).await?;
                anyhow::Ok(())
            });
            while let Some(done) = running.try_join_next() {
                done??;
            }
        }
        while let Some(done) = running.join_next().await {
            done??;
        }
        Ok(())
    }

    async fn publish(&self, queue: &str, job: String) -> anyhow::Result<()> {
        let persistent = BasicProperties::default().with_delivery_mode(2);
        let confirmed = self
            .channel
            .basic_publish(
                "".into(),
                queue.into(),
                BasicPublishOptions::default(),
                job.as_bytes(),
                persistent,
            )
            .await?
            .await?;
        ensure!(matches!(confirmed, Confirmation::Ack(_)), "RabbitMQ did not take a message");
        Ok(())
    }

    /// The first hop: two events, and the passages.
    async fn retrieve(&self, job: &str, passages: &[u8]) -> anyhow::Result<()> {
        self.event(job, "job.retrieving").await?;
        let mut redis = self.redis.clone();
        redis::cmd("SET")
            .arg(format!("{}:passages:{job}", self.prefix))
            .arg(passages)
            .arg("EX")
            .arg(TTL_S)
            .exec_async(&mut redis)
            .await?;
        self.event(job, "job.retrieved").await
    }

    /// The second hop: the passages back, two events, and the result.
    async fn generate(&self, job: &str) -> anyhow::Result<()> {
        self.event(job, "job.generating").await?;
        let mut redis = self.redis.clone();
        let passages: Vec<u8> =
            redis::cmd("GET").arg(format!("{}:passages:{job}", self.prefix)).query_async(&mut redis).await?;
        redis::cmd("SET")
            .arg(format!("{}:result:{job}", self.prefix))
            .arg(&passages[..passages.len().min(1_000)])
            .arg("EX")
            .arg(TTL_S)
            .exec_async(&mut redis)
            .await?;
        self.event(job, "job.succeeded").await
    }

    async fn event(&self, job: &str, kind: &str) -> anyhow::Result<()> {
        let key = format!("{}:events:{job}", self.prefix);
        let mut redis = self.redis.clone();
        redis::pipe()
            .cmd("XADD")
            .arg(&key)
            .arg("*")
            .arg("type")
            .arg(kind)
            .ignore()
            .cmd("EXPIRE")
            .arg(&key)
            .arg(TTL_S)
            .ignore()
            .cmd("PUBLISH")
            .arg(&key)
            .arg(kind)
            .ignore()
            .exec_async(&mut redis)
            .await?;
        Ok(())
    }
}
