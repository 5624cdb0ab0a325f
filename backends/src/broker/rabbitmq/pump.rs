//! The task behind a consumer: fetches messages while they are wanted, and starts anew on each connection.
//!
//! It fetches in one of two ways. *Watching*, it has a subscription on every lane, so that a message comes by itself. *Asking*, it has none and
//! gets one message at a time when one is wanted: that is the way while the caller is busy, since what is fetched for a busy caller would
//! wait for it while another consumer is idle. So it stops watching when messages lie unwanted for a moment, and watches again when all
//! lanes are empty or the caller comes back fast.
//!
//! A subscription can go silent: where a queue is deleted and made again at once, RabbitMQ before 4.0 renews the subscription by itself, says
//! nothing of it, and never delivers on it (seen on 3.10). So lanes that bring nothing although they may are asked now and then whether messages lie
//! there, and where they do, everything is subscribed anew.

use std::{
    future::ready,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::{
    StreamExt,
    future::{join, try_join_all},
    stream::{self, BoxStream, SelectAll},
};
use lapin::{
    BasicProperties, Channel,
    message::Delivery,
    options::{
        BasicCancelOptions, BasicConsumeOptions, BasicGetOptions, BasicNackOptions, BasicPublishOptions,
        BasicQosOptions, QueueDeclareOptions, QueueDeleteOptions,
    },
    types::{FieldTable, ShortString},
};
use raglan_pipeline::ports::PortResult;
use tokio::time::timeout;
use tracing::warn;
use uuid::Uuid;

use super::{
    delivery,
    error::{port_error, unavailable},
    inlet::Inlet,
    intake::Slot,
    link::{Link, back_off},
    lost::Seen,
    pace::Pace,
    topology::{Part, open},
};

/// How often it looks whether messages lie unwanted.
const LOOK: Duration = Duration::from_millis(25);
/// How often it looks whether a subscription has gone silent. It takes two looks to be sure.
const CHECK: Duration = Duration::from_secs(5);
/// Messages that lie unwanted for so long go back.
const UNWANTED: Duration = Duration::from_millis(100);
/// A session that lasted so long did not fail for the same reason as the one before it.
const LASTED: Duration = Duration::from_secs(10);
/// How long RabbitMQ may take to end a subscription.
const GOODBYE: Duration = Duration::from_secs(5);

pub(super) struct Pump {
    inlet: Arc<Inlet>,
    /// The queues of its lanes.
    queues: Vec<String>,
    /// The number of the last subscription.
    last_subscription: u64,
}

impl Pump {
    pub(super) fn new(inlet: Arc<Inlet>, queues: Vec<String>) -> Self {
        Self { inlet, queues, last_subscription: 0 }
    }

    /// Runs until the consumer is retired.
    pub(super) async fn run(mut self) {
        let inlet = Arc::clone(&self.inlet);
        let stage = inlet.stage.as_str();
        let mut links = inlet.client.links();
        let mut tries = 0;
        loop {
            let link = tokio::select! {
                biased;
                () = inlet.retired.cancelled() => return,
                link = links.wait_for(Option::is_some) => match link {
                    Ok(link) => link.clone(),
                    Err(_) => return,
                },
            };
            let Some(link) = link else { continue };
            let begun = Instant::now();
            let Err(error) = link.run(self.session(&link)).await else { return };
            let first = self.last_subscription + 1;
            drop(inlet.with(|intake, _| intake.reset(first)));
            inlet.resubscribed();
            link.forget(inlet.stage);
            tries = if begun.elapsed() < LASTED { tries + 1 } else { 0 };
            if !link.lost.is_cancelled() {
                warn!(stage, %error, tries, "consumer broke off; starting it again");
            }
            tokio::select! {
                () = inlet.retired.cancelled() => return,
                () = tokio::time::sleep(back_off(tries)) => {}
            }
        }
    }

    /// One connection's work. Returns in order only when the consumer is retired.
    async fn session(&mut self, link: &Link) -> PortResult<()> {
        link.ensure(self.inlet.stage, Part::Work).await?;
        let channel = open(&link.connection).await?;
        let mut session = Session {
            channel: channel.clone(),
            link,
            streams: SelectAll::new(),
            tags: vec![None; self.queues.len()],
            ended: Vec::new(),
            pace: Pace::new(Instant::now()),
            seen: Seen::default(),
            probe: None,
            checked: Instant::now(),
            silent: Vec::new(),
            pump: self,
        };
        let ran = session.run().await;
        drop(session);
        if ran.is_err() && channel.status().connected() {
            // What was fetched on it goes back with it.
            let _ = timeout(GOODBYE, channel.close(200, "starting again".into())).await;
        }
        ran
    }
}

/// What a subscription brings.
#[allow(clippy::large_enum_variant)] // deliveries are what nearly all of them are
enum Event {
    Delivery(Slot, Delivery),
    Failed(lapin::Error),
    /// It brings nothing more.
    Ended(Slot),
}

struct Session<'a> {
    pump: &'a mut Pump,
    link: &'a Link,
    channel: Channel,
    streams: SelectAll<BoxStream<'static, Event>>,
    /// The subscription of each lane.
    tags: Vec<Option<(Slot, ShortString)>>,
    /// Lanes whose subscription RabbitMQ ended.
    ended: Vec<usize>,
    /// How fast the caller comes while lanes are asked.
    pace: Pace,
    seen: Seen,
    /// A queue of its own, once it is needed (see [`lost`](super::lost)).
    probe: Option<ShortString>,
    /// When it was last looked whether subscriptions are silent.
    checked: Instant,
    /// Lanes that had messages then and brought none.
    silent: Vec<Slot>,
}

impl Session<'_> {
    async fn run(&mut self) -> PortResult<()> {
        let inlet = Arc::clone(&self.pump.inlet);
        self.watch().await?;
        let mut look = tokio::time::interval(LOOK);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = inlet.retired.cancelled() => {
                    self.retire().await;
                    return Ok(());
                }
                Some(event) = self.streams.next(), if !self.streams.is_empty() => {
                    let lanes = self.take_in(event)?;
                    if !lanes.is_empty() {
                        self.subscribe(lanes).await?;
                    }
                }
                () = inlet.demand.notified() => self.help().await?,
                _ = look.tick() => self.look().await?,
            }
        }
    }

    /// Gives the lanes that must be subscribed anew, with their windows.
    fn take_in(&mut self, event: Event) -> PortResult<Vec<(usize, u16)>> {
        match event {
            Event::Delivery(slot, delivery) => {
                self.seen.note(delivery.delivery_tag);
                self.silent.retain(|silent| silent.lane != slot.lane);
                return Ok(self.pump.inlet.arrive(slot, &self.channel, delivery));
            }
            Event::Failed(error) => return Err(port_error("a subscription failed", error)),
            // Its queue was deleted, lost its leader, or (from 4.3 on) one of its messages was kept too long.
            Event::Ended(slot) => {
                if self.tags[slot.lane].take_if(|(current, _)| *current == slot).is_some() {
                    self.ended.push(slot.lane);
                }
            }
        }
        Ok(Vec::new())
    }

    /// More comes only when something is done.
    async fn help(&mut self) -> PortResult<()> {
        let inlet = &self.pump.inlet;
        let ahead = inlet.client.settings.prefetch;
        let (asking, wanted, lanes) =
            inlet.with(|intake, _| (intake.asking, intake.wanted, intake.widen(ahead)));
        match (asking, wanted) {
            (false, _) if lanes.is_empty() => Ok(()),
            (false, _) => self.subscribe(lanes).await,
            (true, true) => self.ask().await,
            (true, false) => Ok(()),
        }
    }

    async fn look(&mut self) -> PortResult<()> {
        if !self.ended.is_empty() {
            let stage = self.pump.inlet.stage;
            warn!(
                stage = stage.as_str(),
                lanes = self.ended.len(),
                "the broker ended subscriptions; starting them again"
            );
            self.link.forget(stage);
            self.link.ensure(stage, Part::Work).await?;
            let ended = std::mem::take(&mut self.ended);
            if !self.pump.inlet.with(|intake, _| intake.asking) {
                self.subscribe(ended.into_iter().map(|lane| (lane, 1)).collect()).await?;
            }
        }
        if self.checked.elapsed() >= CHECK {
            self.check().await?;
            self.checked = Instant::now();
        }
        if self.pump.inlet.with(|intake, now| intake.is_hoarding(now, UNWANTED)) {
            self.stop_watching().await?;
            let inlet = Arc::clone(&self.pump.inlet);
            let unwanted = inlet.with(|intake, _| intake.drain());
            inlet.client.tasks.spawn(delivery::give_back(Arc::clone(&inlet), unwanted));
            self.pace = Pace::new(Instant::now());
            // The caller may have come back meanwhile.
            self.help().await?;
        }
        Ok(())
    }

    /// Fails where a subscription has brought nothing since the last check although it may and messages lay there then and lie there now.
    async fn check(&mut self) -> PortResult<()> {
        let open_lanes = self.pump.inlet.with(|intake, _| intake.open_lanes());
        if open_lanes.is_empty() {
            self.silent.clear();
            return Ok(());
        }
        // RabbitMQ closes the channel on which it is asked for a queue that has gone.
        let channel = open(&self.link.connection).await?;
        let ready = open_lanes.iter().map(|slot| {
            let queue = self.pump.queues[slot.lane].as_str().into();
            channel.queue_declare(queue, QueueDeclareOptions::durable().passive(), FieldTable::default())
        });
        let ready = try_join_all(ready).await.map_err(|error| port_error("a lane has gone", error))?;
        if let Err(error) = channel.close(200, "checked".into()).await {
            tracing::debug!(%error, "channel of a check did not close in order");
        }
        let with_messages = open_lanes.into_iter().zip(ready).filter(|(_, queue)| queue.message_count() > 0);
        let silent: Vec<Slot> = with_messages.map(|(slot, _)| slot).collect();
        if silent.iter().any(|slot| self.silent.contains(slot)) {
            return Err(unavailable("RabbitMQ: a subscription brings nothing although messages wait"));
        }
        self.silent = silent;
        Ok(())
    }

    /// Subscribes to every lane.
    async fn watch(&mut self) -> PortResult<()> {
        let lanes = (0..self.pump.queues.len()).map(|lane| (lane, 1)).collect();
        self.subscribe(lanes).await
    }

    /// Subscribes to lanes with these windows, in place of the subscriptions that they have.
    async fn subscribe(&mut self, mut lanes: Vec<(usize, u16)>) -> PortResult<()> {
        lanes.sort_by_key(|(_, window)| *window);
        for group in lanes.chunk_by(|(_, a), (_, b)| a == b) {
            let window = group[0].1;
            // It counts for the subscriptions that are made after it.
            self.channel
                .basic_qos(window, BasicQosOptions::default())
                .await
                .map_err(|error| port_error("a window cannot be set", error))?;
            let mut subscribing = Vec::with_capacity(group.len());
            for (lane, _) in group {
                self.pump.last_subscription += 1;
                let slot = Slot { lane: *lane, subscription: self.pump.last_subscription };
                let tag = ShortString::from(format!("{lane}.{}", slot.subscription));
                let old = self.tags[*lane].replace((slot, tag.clone()));
                subscribing.push(self.exchange(slot, old.map(|(_, tag)| tag), tag));
            }
            let subscribed = try_join_all(subscribing)
                .await
                .map_err(|error| port_error("a queue cannot be subscribed to", error))?;
            for (slot, stream) in subscribed {
                self.streams.push(stream);
                self.pump.inlet.with(|intake, now| intake.subscribed(slot, window, now));
            }
        }
        self.pump.inlet.resubscribed();
        Ok(())
    }

    /// Ends one subscription and begins another, in this order: of two at once, messages would come in disorder.
    fn exchange(
        &self,
        slot: Slot,
        old: Option<ShortString>,
        tag: ShortString,
    ) -> impl Future<Output = lapin::Result<(Slot, BoxStream<'static, Event>)>> + use<> {
        let channel = self.channel.clone();
        let queue = ShortString::from(self.pump.queues[slot.lane].as_str());
        async move {
            let cancel = async {
                match old {
                    Some(old) => channel.basic_cancel(old, BasicCancelOptions::default()).await,
                    None => Ok(()),
                }
            };
            let (options, arguments) = (BasicConsumeOptions::default(), FieldTable::default());
            // Both are sent at once, the first one first.
            let (cancelled, consumer) =
                join(cancel, channel.basic_consume(queue, tag, options, arguments)).await;
            cancelled?;
            let events = consumer?.map(move |came| match came {
                Ok(delivery) => Event::Delivery(slot, delivery),
                Err(error) => Event::Failed(error),
            });
            Ok((slot, events.chain(stream::once(ready(Event::Ended(slot)))).boxed()))
        }
    }

    /// Asks the lanes, in turn, for one message.
    async fn ask(&mut self) -> PortResult<()> {
        let inlet = Arc::clone(&self.pump.inlet);
        let mut empty = vec![false; self.pump.queues.len()];
        self.pace.wanted(Instant::now());
        while let Some(lane) = inlet.with(|intake, _| intake.next_to_ask(&empty)) {
            let queue = self.pump.queues[lane].as_str().into();
            let got = self.channel.basic_get(queue, BasicGetOptions::default());
            match got.await.map_err(|error| port_error("a queue cannot be asked", error))? {
                Some(message) => {
                    self.pump.last_subscription += 1;
                    let slot = Slot { lane, subscription: self.pump.last_subscription };
                    inlet.with(|intake, _| intake.answered(lane, &empty));
                    self.seen.note(message.delivery.delivery_tag);
                    inlet.arrive(slot, &self.channel, message.delivery);
                    return if self.pace.got(Instant::now()) { self.watch().await } else { Ok(()) };
                }
                None => empty[lane] = true,
            }
        }
        self.watch().await
    }

    /// Ends all subscriptions and takes in what they still bring.
    async fn stop_watching(&mut self) -> PortResult<()> {
        self.pump.inlet.with(|intake, _| intake.ending());
        let cancelling: Vec<_> = self
            .tags
            .iter_mut()
            .filter_map(Option::take)
            .map(|(_, tag)| self.channel.basic_cancel(tag, BasicCancelOptions::default()))
            .collect();
        try_join_all(cancelling)
            .await
            .map_err(|error| port_error("a subscription cannot be ended", error))?;
        self.pump.inlet.unsubscribed();
        while let Some(event) = self.streams.next().await {
            self.take_in(event)?;
        }
        self.return_lost().await.map_err(|error| port_error("lost deliveries cannot be returned", error))
    }

    /// Returns what was delivered and has not come. All subscriptions have ended, so nothing comes any more. Before RabbitMQ 4.3 it counts as a
    /// delivery.
    async fn return_lost(&mut self) -> lapin::Result<()> {
        let Some(last) = self.last_delivery().await? else { return Ok(()) };
        for tag in self.seen.missing_below(last) {
            tracing::debug!(tag, "delivery came after its subscription; returning it");
            let options = BasicNackOptions { requeue: true, ..BasicNackOptions::default() };
            self.channel.basic_nack(tag, options).await?;
        }
        self.seen.note(last);
        Ok(())
    }

    /// The number of a delivery that is made for the purpose, and so is above all that were made before.
    async fn last_delivery(&mut self) -> lapin::Result<Option<u64>> {
        let queue = match &self.probe {
            Some(queue) => queue.clone(),
            None => {
                let prefix = &self.pump.inlet.client.settings.prefix;
                let name = ShortString::from(format!("{prefix}probe.{}", Uuid::now_v7().simple()));
                // It goes with the connection.
                let options = QueueDeclareOptions::exclusive();
                self.channel.queue_declare(name.clone(), options, FieldTable::default()).await?;
                self.probe.insert(name).clone()
            }
        };
        let (options, properties) = (BasicPublishOptions::default(), BasicProperties::default());
        let published = self.channel.basic_publish("".into(), queue.clone(), options, b"", properties);
        drop(published.await?);
        let got = self.channel.basic_get(queue, BasicGetOptions { no_ack: true }).await?;
        Ok(got.map(|message| message.delivery.delivery_tag))
    }

    /// Gives everything back that was not handed out. The channel stays open until what was handed out is settled.
    async fn retire(&mut self) {
        match timeout(GOODBYE, self.stop_watching()).await {
            Ok(Ok(())) => {
                if let Some(probe) = self.probe.take() {
                    let _ = self.channel.queue_delete(probe, QueueDeleteOptions::default()).await;
                }
            }
            // Closing the channel gives back all of it.
            Ok(Err(_)) | Err(_) => {
                self.pump.inlet.unsubscribed();
                drop(self.channel.close(200, "retired".into()).await);
            }
        }
        let inlet = Arc::clone(&self.pump.inlet);
        let fetched = inlet.with(|intake, _| intake.drain());
        delivery::give_back(inlet, fetched).await;
    }
}
