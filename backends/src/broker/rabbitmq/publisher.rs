//! Publishing with confirms: many messages in flight on one channel, each caller told of its own.

use std::{
    collections::HashSet,
    pin::pin,
    time::{Duration, Instant},
};

use futures::{FutureExt, StreamExt, stream::FuturesUnordered};
use lapin::{Channel, Confirmation, ConnectionStatus, options::BasicPublishOptions, types::ShortString};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::wire::Parcel;

/// So many messages wait for their confirms at most; further publishers wait for their turn.
const IN_FLIGHT: usize = 4_096;
/// How many messages may wait to be sent.
const WAITING: usize = 1_024;

/// Where a message goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Address {
    pub(super) exchange: String,
    pub(super) routing_key: String,
}

impl Address {
    /// Straight to a queue.
    pub(super) fn queue(name: String) -> Self {
        Self { exchange: String::new(), routing_key: name }
    }
}

/// Why a message was not published.
#[derive(Debug)]
pub(super) enum Refused {
    /// Its queue is full, or could not store it.
    Full,
    /// Nothing is there that takes it.
    Unroutable,
    /// It was never sent: the connection is gone.
    Gone,
    /// It was sent, and whether it was stored is not known.
    Unknown(&'static str),
}

struct Order {
    address: Address,
    parcel: Parcel,
    done: oneshot::Sender<Result<(), Refused>>,
}

/// The way to the task that publishes. The task ends with its connection.
#[derive(Clone)]
pub(super) struct Publisher {
    orders: mpsc::Sender<Order>,
}

impl Publisher {
    /// Starts on a channel that is in confirm mode. When RabbitMQ leaves the oldest message unconfirmed for twice `confirm_timeout`, `lost` is
    /// cancelled: a connection that says nothing more looks like this long before its heartbeats are missed.
    pub(super) fn start(
        channel: Channel,
        status: ConnectionStatus,
        confirm_timeout: Duration,
        lost: CancellationToken,
    ) -> Self {
        let (orders, received) = mpsc::channel(WAITING);
        let patience = confirm_timeout.saturating_mul(2);
        tokio::spawn(Task { channel, status, patience, lost, returned: HashSet::new() }.run(received));
        Self { orders }
    }

    /// Publishes and waits for the confirm, so long at most. Dropped meanwhile, the message is published all the same.
    pub(super) async fn publish(
        &self,
        address: Address,
        parcel: Parcel,
        confirm_timeout: Duration,
    ) -> Result<(), Refused> {
        let (done, confirmed) = oneshot::channel();
        let sent = async {
            self.orders.send(Order { address, parcel, done }).await.map_err(|_| Refused::Gone)?;
            confirmed.await.unwrap_or(Err(Refused::Unknown("the connection was lost before the confirm")))
        };
        tokio::time::timeout(confirm_timeout, sent)
            .await
            .unwrap_or(Err(Refused::Unknown("RabbitMQ did not confirm in time")))
    }
}

/// A message whose confirm has come.
struct Confirmed {
    id: Option<ShortString>,
    done: oneshot::Sender<Result<(), Refused>>,
    result: lapin::Result<Confirmation>,
}

struct Task {
    channel: Channel,
    status: ConnectionStatus,
    patience: Duration,
    lost: CancellationToken,
    /// Ids of messages that came back as unroutable and whose confirms have not come yet.
    returned: HashSet<ShortString>,
}

impl Task {
    async fn run(mut self, mut orders: mpsc::Receiver<Order>) {
        let lost = self.lost.clone();
        let mut in_flight = FuturesUnordered::new();
        let mut batch = Vec::new();
        let mut last_news = Instant::now();
        let mut look = tokio::time::interval((self.patience / 8).max(Duration::from_millis(10)));
        let mut gone = pin!(lost.cancelled());
        loop {
            tokio::select! {
                () = &mut gone => return,
                received = orders.recv_many(&mut batch, 64), if in_flight.len() < IN_FLIGHT => {
                    if received == 0 {
                        break;
                    }
                    if in_flight.is_empty() {
                        last_news = Instant::now();
                    }
                    in_flight.extend(batch.drain(..).map(|order| publish(self.channel.clone(), order)));
                }
                Some(first) = in_flight.next(), if !in_flight.is_empty() => {
                    last_news = Instant::now();
                    let mut confirmed = vec![first];
                    while let Some(Some(next)) = in_flight.next().now_or_never() {
                        confirmed.push(next);
                    }
                    self.settle(confirmed);
                    if in_flight.is_empty() {
                        self.returned.clear();
                    }
                }
                _ = look.tick() => {
                    if !in_flight.is_empty() && !self.status.blocked() && last_news.elapsed() > self.patience {
                        warn!(in_flight = in_flight.len(), "no confirm came for too long; connecting anew");
                        self.lost.cancel();
                    }
                }
            }
        }
        // Nobody publishes any more; what is in flight is seen through.
        while let Some(confirmed) = in_flight.next().await {
            self.settle(vec![confirmed]);
        }
    }

    /// Tells each publisher what came of its message.
    fn settle(&mut self, batch: Vec<Confirmed>) {
        let mut results = Vec::with_capacity(batch.len());
        let mut publishers = Vec::with_capacity(batch.len());
        for Confirmed { id, done, result } in batch {
            if let Err(error) = &result
                && !self.channel.status().connected()
            {
                warn!(%error, "publishing channel was closed; connecting anew");
                self.lost.cancel();
            }
            results.push((id, result.ok()));
            publishers.push(done);
        }
        for (done, verdict) in publishers.into_iter().zip(judge(&mut self.returned, results)) {
            // The publisher may have stopped waiting.
            let _ = done.send(verdict);
        }
    }
}

/// What came of each message, by its id and its confirm (none where the channel was closed first). `returned` holds the ids of messages that came
/// back as unroutable and whose own confirms have not been seen.
///
/// The driver hands a returned message to whichever confirm it completes next, and that need not be its own. So a confirm with a return says two
/// things: the message returned was not stored, and of its own message nothing is known, for its return may hang on another confirm. All
/// confirms that have come are looked at before anyone is told, because a return always hangs on its own confirm or on one that came before.
fn judge(
    returned: &mut HashSet<ShortString>,
    batch: Vec<(Option<ShortString>, Option<Confirmation>)>,
) -> Vec<Result<(), Refused>> {
    let mut judged = Vec::with_capacity(batch.len());
    for (id, confirm) in batch {
        let verdict = match confirm {
            Some(Confirmation::Ack(None) | Confirmation::NotRequested) => Ok(()),
            Some(Confirmation::Nack(None)) => Err(Refused::Full),
            Some(Confirmation::Ack(Some(message)) | Confirmation::Nack(Some(message))) => {
                returned.extend(message.properties.message_id().clone());
                Err(Refused::Unknown("another message was returned with its confirm"))
            }
            None => Err(Refused::Unknown("the connection was lost before the confirm")),
        };
        judged.push((id, verdict));
    }
    judged
        .into_iter()
        .map(|(id, verdict)| match id {
            Some(id) if returned.remove(&id) => Err(Refused::Unroutable),
            _ => verdict,
        })
        .collect()
}

/// Sends one message and waits for its confirm. Polled first in the order given, so messages are sent in that order.
async fn publish(channel: Channel, order: Order) -> Confirmed {
    let Order { address, parcel, done } = order;
    let id = parcel.id().cloned();
    let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
    let sent = channel
        .basic_publish(
            address.exchange.into(),
            address.routing_key.into(),
            options,
            &parcel.body,
            parcel.properties,
        )
        .await;
    let result = match sent {
        Ok(confirm) => confirm.await,
        Err(error) => Err(error),
    };
    Confirmed { id, done, result }
}

#[cfg(test)]
mod tests {
    use lapin::{
        BasicProperties,
        message::{BasicReturnMessage, Delivery},
    };

    use super::*;

    fn id(name: &str) -> Option<ShortString> {
        Some(name.into())
    }

    fn returned(name: &str) -> Option<BasicReturnMessage> {
        let mut delivery = Delivery::mock(0, "".into(), "".into(), false, Vec::new());
        delivery.properties = BasicProperties::default().with_message_id(name.into());
        Some(BasicReturnMessage { delivery, reply_code: 312, reply_text: "NO_ROUTE".into() })
    }

    /// One letter a message: stored, full, unroutable, not known.
    fn judged(batches: Vec<Vec<(&str, Option<Confirmation>)>>) -> Vec<String> {
        let mut ids = HashSet::new();
        let letter = |verdict: Result<(), Refused>| match verdict {
            Ok(()) => 's',
            Err(Refused::Full) => 'f',
            Err(Refused::Unroutable) => 'u',
            Err(Refused::Unknown(_)) => '?',
            Err(Refused::Gone) => 'g',
        };
        let batches = batches.into_iter().map(|batch| {
            let batch = batch.into_iter().map(|(name, confirm)| (id(name), confirm)).collect();
            judge(&mut ids, batch).into_iter().map(letter).collect()
        });
        batches.collect()
    }

    #[test]
    fn a_confirm_is_believed_where_nothing_came_back() {
        let batch = vec![
            ("a", Some(Confirmation::Ack(None))),
            ("b", Some(Confirmation::Nack(None))),
            ("c", None),
            ("d", Some(Confirmation::Ack(returned("d")))),
        ];
        assert_eq!(judged(vec![batch]), ["sf?u"]);
    }

    #[test]
    fn a_message_whose_return_hangs_on_another_confirm_is_not_taken_for_stored() {
        let ack = |name| Some(Confirmation::Ack(returned(name)));
        let stored = || Some(Confirmation::Ack(None));
        assert_eq!(judged(vec![vec![("a", ack("b")), ("b", stored()), ("c", stored())]]), ["?us"]);
        assert_eq!(
            judged(vec![vec![("b", stored()), ("a", ack("b"))]]),
            ["u?"],
            "in one batch, the order does not count"
        );
        assert_eq!(judged(vec![vec![("a", ack("b"))], vec![("b", stored())]]), ["?", "u"]);
        assert_eq!(
            judged(vec![vec![("a", ack("b"))], vec![("b", ack("a"))]]),
            ["?", "u"],
            "crossed over two batches"
        );
    }
}
