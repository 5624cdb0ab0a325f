//! The messages of a queue that are ready: in which order they are given out.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::Arc,
};

use raglan_pipeline::{
    domain::{Priority, Tenant},
    ports::Envelope,
};

use crate::broker::shares::Shares;

/// A message that nobody has at the moment.
#[derive(Debug)]
pub(super) struct Held {
    /// Its place among its tenant's messages of its class: lower comes first.
    pub(super) order: u64,
    pub(super) envelope: Arc<Envelope>,
    /// How often it was delivered.
    pub(super) attempts: u32,
}

/// One lane a class; between them it is [`Shares`].
#[derive(Debug)]
pub(super) struct Lanes {
    lanes: [Lane; Priority::ALL.len()],
    shares: Shares,
    len: usize,
}

impl Lanes {
    pub(super) fn new() -> Self {
        Self { lanes: Priority::ALL.map(|_| Lane::default()), shares: Shares::default(), len: 0 }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Puts a message at its place.
    pub(super) fn insert(&mut self, held: Held) {
        self.lanes[held.envelope.priority as usize].insert(held);
        self.len += 1;
    }

    /// Takes the message whose turn it is.
    pub(super) fn take(&mut self) -> Option<Held> {
        let waiting = self.lanes.each_ref().map(|lane| !lane.turns.is_empty());
        let class = self.shares.next(waiting)?;
        let held = self.lanes[class].take()?;
        self.shares.serve(class, waiting);
        if self.lanes[class].turns.is_empty() {
            self.shares.forget(class);
        }
        self.len -= 1;
        Some(held)
    }
}

/// The messages of one class: tenants in turn, each one's messages by their order.
#[derive(Debug, Default)]
struct Lane {
    /// Only tenants that have messages here.
    waiting: HashMap<Tenant, BTreeMap<u64, Held>>,
    /// The same tenants, the next one first.
    turns: VecDeque<Tenant>,
}

impl Lane {
    fn insert(&mut self, held: Held) {
        let tenant = &held.envelope.tenant;
        if let Some(messages) = self.waiting.get_mut(tenant) {
            messages.insert(held.order, held);
        } else {
            self.turns.push_back(tenant.clone());
            self.waiting.insert(tenant.clone(), BTreeMap::from([(held.order, held)]));
        }
    }

    fn take(&mut self) -> Option<Held> {
        let tenant = self.turns.pop_front()?;
        let messages = self.waiting.get_mut(&tenant)?;
        let (_, held) = messages.pop_first()?;
        if messages.is_empty() {
            self.waiting.remove(&tenant);
        } else {
            self.turns.push_back(tenant);
        }
        Some(held)
    }
}

#[cfg(test)]
mod tests {
    use raglan_pipeline::{domain::JobId, domain::Stage, message::Message};

    use super::*;

    fn held(order: u64, priority: Priority, tenant: &str) -> Held {
        let message = Message::Job { job_id: JobId::generate(), stage: Stage::Retrieval };
        let tenant = Tenant::new(tenant).unwrap();
        Held { order, envelope: Arc::new(Envelope { message, priority, tenant }), attempts: 0 }
    }

    #[test]
    fn classes_share_eight_to_three_to_one_in_every_dozen() {
        let mut lanes = Lanes::new();
        for order in 0..300 {
            let priority = Priority::ALL[(order % 3) as usize];
            lanes.insert(held(order, priority, "a"));
        }
        for _ in 0..8 {
            let dozen: Vec<_> = (0..12).map(|_| lanes.take().unwrap().envelope.priority).collect();
            let count = |wanted| dozen.iter().filter(|got| **got == wanted).count();
            assert_eq!(Priority::ALL.map(count), [8, 3, 1], "{dozen:?}");
        }
    }

    #[test]
    fn a_lane_that_was_empty_has_saved_nothing_up() {
        let mut lanes = Lanes::new();
        for order in 0..100 {
            lanes.insert(held(order, Priority::Batch, "a"));
        }
        for _ in 0..50 {
            lanes.take().unwrap();
        }
        for order in 100..200 {
            lanes.insert(held(order, Priority::Interactive, "a"));
        }
        let first: Vec<_> = (0..9).map(|_| lanes.take().unwrap().envelope.priority).collect();
        assert_eq!(first.iter().filter(|priority| **priority == Priority::Interactive).count(), 8);
    }

    #[test]
    fn tenants_take_turns_and_a_returned_message_takes_its_old_place() {
        let mut lanes = Lanes::new();
        for (order, tenant) in [(1, "a"), (2, "a"), (3, "a"), (4, "b"), (5, "c")] {
            lanes.insert(held(order, Priority::Normal, tenant));
        }
        let first = lanes.take().unwrap();
        assert_eq!(first.order, 1);
        lanes.insert(first);
        let rest: Vec<_> = std::iter::from_fn(|| lanes.take()).map(|held| held.order).collect();
        assert_eq!(rest, [4, 5, 1, 2, 3]);
        assert_eq!(lanes.len(), 0);
    }
}
