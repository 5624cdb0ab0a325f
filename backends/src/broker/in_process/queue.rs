//! The state of one queue. It knows no lock, no task and no clock: the time is given to it.

use std::{
    collections::{BTreeMap, VecDeque},
    mem,
    sync::Arc,
    time::Duration,
};

use raglan_pipeline::{
    domain,
    ports::{DeadLetter, Depth, Envelope, ErrorKind, PortError, PortResult},
};
use tokio::time::Instant;
use uuid::Uuid;

use super::{
    BrokerSettings,
    lanes::{Held, Lanes},
};

/// What a publisher that is refused is told to wait.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// Of a cause, so many bytes are kept.
const CAUSE_BYTES: usize = 2_000;
/// Later than any delay that makes sense, and within what a clock can express.
const FAR: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);

/// Names a timer: when it is due, and its number, which no other timer of the queue has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Ticket {
    at: Instant,
    number: u64,
}

/// A message as it is given out.
#[derive(Debug)]
pub(super) struct Taken {
    /// Names it until it is settled.
    pub(super) ticket: Ticket,
    pub(super) envelope: Arc<Envelope>,
    pub(super) attempt: u32,
}

/// Why a message comes back without a word about the work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Return {
    /// Handed back: the attempt does not count.
    NotBegun,
    /// Its consumer dropped it.
    Dropped,
    /// Its consumer kept it too long.
    LeaseEnded,
}

/// What the outside must do after a change.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Effects {
    /// So many messages became ready.
    pub(super) ready: usize,
    /// So many messages were given up.
    pub(super) buried: u64,
    /// So many dead letters were dropped.
    pub(super) forgotten: u64,
    /// A timer was set that is earlier than the one the keeper waits for.
    pub(super) rearm: bool,
}

/// The messages of one queue, each in exactly one of four places.
pub(super) struct State {
    settings: BrokerSettings,
    ready: Lanes,
    /// By the end of their delay.
    delayed: BTreeMap<Ticket, Held>,
    /// By the end of their lease.
    unsettled: BTreeMap<Ticket, Held>,
    /// Oldest first.
    dead: VecDeque<DeadLetter>,
    /// The last number given to a message or a timer.
    last_number: u64,
    /// What the keeper waits for.
    armed: Option<Instant>,
    effects: Effects,
}

impl State {
    pub(super) fn new(settings: BrokerSettings) -> Self {
        Self {
            settings,
            ready: Lanes::new(),
            delayed: BTreeMap::new(),
            unsettled: BTreeMap::new(),
            dead: VecDeque::new(),
            last_number: 0,
            armed: None,
            effects: Effects::default(),
        }
    }

    /// Brings back what is due.
    pub(super) fn advance(&mut self, now: Instant) {
        while let Some(entry) = self.delayed.first_entry()
            && entry.key().at <= now
        {
            let held = entry.remove();
            self.enqueue_last(held);
        }
        while let Some((&ticket, _)) = self.unsettled.first_key_value()
            && ticket.at <= now
        {
            self.give_back(ticket, Return::LeaseEnded);
        }
    }

    /// Takes a new message in, or refuses it.
    pub(super) fn publish(&mut self, now: Instant, envelope: Envelope, delay: Duration) -> PortResult<()> {
        let waiting = self.ready.len() + self.delayed.len();
        if waiting >= self.settings.capacity {
            let message = format!("the queue is full: {waiting} messages wait");
            return Err(PortError::new(ErrorKind::Overloaded, message).with_retry_after(RETRY_AFTER));
        }
        self.enqueue_after(now, delay, Held { order: 0, envelope: Arc::new(envelope), attempts: 0 });
        Ok(())
    }

    /// Gives out the message whose turn it is.
    pub(super) fn take(&mut self, now: Instant) -> Option<Taken> {
        let mut held = self.ready.take()?;
        held.attempts = held.attempts.saturating_add(1);
        let ticket = self.ticket(now, self.settings.lease);
        let taken = Taken { ticket, envelope: Arc::clone(&held.envelope), attempt: held.attempts };
        self.unsettled.insert(ticket, held);
        Some(taken)
    }

    /// Done. False where the message is no longer the caller's.
    pub(super) fn ack(&mut self, ticket: Ticket) -> bool {
        self.unsettled.remove(&ticket).is_some()
    }

    /// Not done. False where the message is no longer the caller's.
    pub(super) fn nack(&mut self, now: Instant, ticket: Ticket, delay: Duration, cause: &str) -> bool {
        let Some(held) = self.unsettled.remove(&ticket) else { return false };
        if held.attempts >= self.settings.max_attempts {
            self.bury(held, cause);
        } else {
            self.enqueue_after(now, delay, held);
        }
        true
    }

    /// Takes a message back to its old place. Nothing happens where it is no longer the caller's.
    pub(super) fn give_back(&mut self, ticket: Ticket, why: Return) {
        let Some(mut held) = self.unsettled.remove(&ticket) else { return };
        let cause = match why {
            Return::NotBegun => {
                held.attempts = held.attempts.saturating_sub(1);
                return self.enqueue(held);
            }
            Return::Dropped => "its consumer went without settling it",
            Return::LeaseEnded => "its consumer kept it longer than the lease",
        };
        if held.attempts >= self.settings.max_attempts {
            self.bury(held, cause);
        } else {
            self.enqueue(held);
        }
    }

    pub(super) fn depth(&self) -> Depth {
        Depth {
            ready: self.ready.len() as u64,
            delayed: self.delayed.len() as u64,
            unsettled: self.unsettled.len() as u64,
            dead: self.dead.len() as u64,
        }
    }

    pub(super) fn dead_letters(&self, limit: usize) -> Vec<DeadLetter> {
        self.dead.iter().take(limit).cloned().collect()
    }

    /// Puts a dead letter back, as if it were new. False where there is none with that id.
    pub(super) fn replay(&mut self, id: &str) -> bool {
        let place = self.dead.iter().position(|letter| letter.id == id);
        let Some(letter) = place.and_then(|place| self.dead.remove(place)) else { return false };
        self.enqueue_last(Held { order: 0, envelope: Arc::new(letter.envelope), attempts: 0 });
        true
    }

    /// Drops all dead letters.
    pub(super) fn purge(&mut self) -> u64 {
        mem::take(&mut self.dead).len() as u64
    }

    /// What the keeper is to wait for from now on.
    pub(super) fn arm(&mut self) -> Option<Instant> {
        self.armed = self.next_due();
        self.armed
    }

    /// What the changes since the last call ask of the outside.
    pub(super) fn take_effects(&mut self) -> Effects {
        let due = self.next_due();
        if due.is_some_and(|due| self.armed.is_none_or(|armed| due < armed)) {
            self.armed = due;
            self.effects.rearm = true;
        }
        mem::take(&mut self.effects)
    }

    fn next_due(&self) -> Option<Instant> {
        let delay = self.delayed.first_key_value().map(|(ticket, _)| ticket.at);
        let lease = self.unsettled.first_key_value().map(|(ticket, _)| ticket.at);
        delay.into_iter().chain(lease).min()
    }

    fn number(&mut self) -> u64 {
        self.last_number += 1;
        self.last_number
    }

    fn ticket(&mut self, now: Instant, after: Duration) -> Ticket {
        Ticket { at: now + after.min(FAR), number: self.number() }
    }

    /// At the place it has.
    fn enqueue(&mut self, held: Held) {
        self.effects.ready += 1;
        self.ready.insert(held);
    }

    /// Behind its tenant's messages that wait.
    fn enqueue_last(&mut self, held: Held) {
        let order = self.number();
        self.enqueue(Held { order, ..held });
    }

    /// Behind those that wait when the delay has passed.
    fn enqueue_after(&mut self, now: Instant, delay: Duration, held: Held) {
        if delay.is_zero() {
            self.enqueue_last(held);
        } else {
            let ticket = self.ticket(now, delay);
            self.delayed.insert(ticket, held);
        }
    }

    fn bury(&mut self, held: Held, cause: &str) {
        self.dead.push_back(DeadLetter {
            id: Uuid::now_v7().to_string(),
            envelope: Arc::unwrap_or_clone(held.envelope),
            cause: cause[..cause.floor_char_boundary(CAUSE_BYTES)].to_owned(),
            attempts: held.attempts,
            at: domain::now(),
        });
        self.effects.buried += 1;
        while self.dead.len() > self.settings.dead_letters.max(1) {
            self.dead.pop_front();
            self.effects.forgotten += 1;
        }
    }
}
