//! What a consumer has fetched, whose turn it is, and how much may be fetched. It knows no lock, no task and no clock: the time is given to it.
//!
//! RabbitMQ pushes the messages of a lane until as many are unsettled as its subscription allows, the lane's window. Windows begin at one.
//! When it was a lane's turn and nothing of it was here although there may have been more, its window is doubled. So a caller that is faster
//! than the network gets messages in advance, and one that is slow does not.
//!
//! A window is widened by ending the subscription and making another, and the driver drops what arrives after the end. So it is done while the
//! window is full and nothing of it may be settled: then nothing can be on its way.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use crate::broker::shares::{CLASSES, Shares};

/// A lane that was full a moment ago is waited for so long before it counts as empty: its next message may be on the way.
const ON_THE_WAY: Duration = Duration::from_millis(20);

/// Where a message came from: its lane, and the subscription that brought it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Slot {
    pub(super) lane: usize,
    /// A number that grows with each subscription of the lane.
    pub(super) subscription: u64,
}

/// What comes of asking for a message.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Take<M> {
    /// Here it is.
    Message(Slot, M),
    /// Nothing yet. Ask again when one arrives, or at this time where one is given.
    Wait(Option<Instant>),
}

#[derive(Debug)]
struct Lane<M> {
    fetched: VecDeque<(Slot, M)>,
    /// The subscription that counts; earlier ones are cancelled and bring nothing new.
    subscription: u64,
    /// How many messages it may have unsettled; 0 where there is none.
    window: u16,
    /// How many it has unsettled.
    in_window: u16,
    /// How many of all subscriptions are unsettled.
    held: u32,
    /// Until when its next message may be on the way.
    on_the_way_until: Option<Instant>,
    /// The window is to be widened when it is full.
    starved: bool,
    /// The subscription is being ended, for a wider one or for none: nothing that counts in its window may be settled, for what is settled
    /// lets another message come.
    ending: bool,
}

impl<M> Lane<M> {
    fn new() -> Self {
        Self {
            fetched: VecDeque::new(),
            subscription: 0,
            window: 0,
            in_window: 0,
            held: 0,
            on_the_way_until: None,
            starved: false,
            ending: false,
        }
    }

    /// All that it may have is here or handed out: whether there is more is not known.
    fn is_exhausted(&self) -> bool {
        self.window > 0 && self.in_window >= self.window
    }

    fn is_on_the_way(&self, now: Instant) -> bool {
        self.window > 0 && self.on_the_way_until.is_some_and(|until| until > now)
    }

    /// Whether it may have its turn.
    fn may_have_more(&self, now: Instant) -> bool {
        !self.fetched.is_empty() || self.is_exhausted() || self.is_on_the_way(now)
    }
}

/// The lanes of one consumer, class by class, each class with the same number.
#[derive(Debug)]
pub(super) struct Intake<M> {
    lanes: Vec<Lane<M>>,
    shares: Shares,
    /// In each class, the lane that is next.
    turns: [usize; CLASSES],
    /// Subscriptions before this one are of connections that are gone.
    first_subscription: u64,
    /// The caller waits for a message.
    pub(super) wanted: bool,
    /// When the caller was last seen to want one.
    pub(super) asked_at: Instant,
    /// All subscriptions are being ended: what is published now might still be delivered on one of them, to nobody.
    pub(super) leaving: bool,
    /// No lane is subscribed: lanes are asked for single messages, when one is wanted.
    pub(super) asking: bool,
}

impl<M> Intake<M> {
    pub(super) fn new(lanes: usize, now: Instant) -> Self {
        Self {
            lanes: (0..lanes).map(|_| Lane::new()).collect(),
            shares: Shares::default(),
            turns: [0; CLASSES],
            first_subscription: 0,
            wanted: false,
            asked_at: now,
            leaving: false,
            asking: false,
        }
    }

    fn per_class(&self) -> usize {
        self.lanes.len() / CLASSES
    }

    /// A message came.
    pub(super) fn arrived(&mut self, slot: Slot, message: M) {
        let lane = &mut self.lanes[slot.lane];
        lane.held += 1;
        if slot.subscription == lane.subscription {
            lane.in_window = lane.in_window.saturating_add(1);
        }
        lane.fetched.push_back((slot, message));
    }

    /// A message is about to be settled, one way or the other. False where that must wait until its lane is subscribed anew.
    pub(super) fn settle(&mut self, slot: Slot, now: Instant) -> bool {
        if slot.subscription < self.first_subscription {
            return true;
        }
        let lane = &mut self.lanes[slot.lane];
        if slot.subscription == lane.subscription && lane.ending {
            return false;
        }
        lane.held = lane.held.saturating_sub(1);
        if slot.subscription == lane.subscription {
            if lane.is_exhausted() || lane.is_on_the_way(now) {
                lane.on_the_way_until = Some(now + ON_THE_WAY);
            }
            lane.in_window = lane.in_window.saturating_sub(1);
        }
        true
    }

    /// Gives out the message whose turn it is.
    pub(super) fn take(&mut self, now: Instant) -> Take<M> {
        let lanes = &self.lanes;
        let Some((class, lane)) = self.turn(|lane| lanes[lane].may_have_more(now)) else {
            return Take::Wait(None);
        };
        let Some((slot, message)) = self.lanes[lane].fetched.pop_front() else {
            // Its turn, and nothing of it is here.
            let lane = &mut self.lanes[lane];
            lane.starved = true;
            return Take::Wait(lane.on_the_way_until.filter(|_| !lane.is_exhausted()));
        };
        self.serve(class, lane, |intake, lane| intake.lanes[lane].may_have_more(now));
        Take::Message(slot, message)
    }

    /// The lane whose turn it is among those that may have more, with its class.
    fn turn(&self, may_have_more: impl Fn(usize) -> bool) -> Option<(usize, usize)> {
        let per_class = self.per_class();
        let of = |class: usize| {
            let first = self.turns[class];
            (0..per_class).map(move |n| class * per_class + (first + n) % per_class)
        };
        let waiting = std::array::from_fn(|class| of(class).any(&may_have_more));
        let class = self.shares.next(waiting)?;
        of(class).find(|lane| may_have_more(*lane)).map(|lane| (class, lane))
    }

    /// Notes that a lane had its turn.
    fn serve(&mut self, class: usize, lane: usize, may_have_more: impl Fn(&Self, usize) -> bool) {
        let per_class = self.per_class();
        let waits =
            |class: usize| (class * per_class..(class + 1) * per_class).any(|lane| may_have_more(self, lane));
        let mut waiting: [bool; CLASSES] = std::array::from_fn(waits);
        let left = waiting;
        // Its own class did wait.
        waiting[class] = true;
        self.turns[class] = (lane % per_class + 1) % per_class;
        self.shares.serve(class, waiting);
        for class in (0..CLASSES).filter(|class| !left[*class]) {
            self.shares.forget(class);
        }
    }

    /// Whether something must be done before more can arrive: a lane widened, or lanes asked for what the caller wants.
    pub(super) fn needs_help(&self) -> bool {
        if self.asking {
            self.wanted
        } else {
            self.lanes.iter().any(|lane| lane.starved && lane.is_exhausted())
        }
    }

    /// The lanes to be widened now, with their new windows; they must then be subscribed anew. A window grows to twice what is unsettled, however
    /// much that is, for it is the caller who holds it; in advance of the caller it grows to `ahead` at most.
    pub(super) fn widen(&mut self, ahead: u16) -> Vec<(usize, u16)> {
        let widened = |(number, lane): (usize, &mut Lane<M>)| {
            if lane.ending || !lane.starved || !lane.is_exhausted() {
                return None;
            }
            lane.starved = false;
            let held = u16::try_from(lane.held).unwrap_or(u16::MAX);
            let window = lane.window.saturating_mul(2).min(held.saturating_mul(2).max(ahead));
            lane.ending = window > lane.window;
            lane.ending.then_some((number, window))
        };
        self.lanes.iter_mut().enumerate().filter_map(widened).collect()
    }

    /// A lane is subscribed anew.
    pub(super) fn subscribed(&mut self, slot: Slot, window: u16, now: Instant) {
        let lane = &mut self.lanes[slot.lane];
        self.asking = false;
        lane.subscription = slot.subscription;
        lane.window = window;
        lane.in_window = 0;
        lane.starved = false;
        lane.ending = false;
        lane.on_the_way_until = Some(now + ON_THE_WAY);
    }

    /// All subscriptions, where there are any, are about to be ended.
    pub(super) fn ending(&mut self) {
        for lane in self.lanes.iter_mut().filter(|lane| lane.window > 0) {
            lane.ending = true;
            self.leaving = true;
        }
    }

    /// No lane is subscribed any more. What is here stays.
    pub(super) fn unsubscribed(&mut self) {
        self.asking = true;
        self.leaving = false;
        for lane in &mut self.lanes {
            lane.window = 0;
            lane.in_window = 0;
            lane.starved = false;
            lane.ending = false;
            lane.on_the_way_until = None;
        }
    }

    /// The lane to ask for a message, of those that were not found empty, when none is subscribed.
    pub(super) fn next_to_ask(&self, empty: &[bool]) -> Option<usize> {
        self.turn(|lane| !empty[lane]).map(|(_, lane)| lane)
    }

    /// A lane that was asked had a message.
    pub(super) fn answered(&mut self, lane: usize, empty: &[bool]) {
        self.serve(lane / self.per_class(), lane, |_, lane| !empty[lane]);
    }

    /// Whether messages are here that nobody has wanted for so long.
    pub(super) fn is_hoarding(&self, now: Instant, patience: Duration) -> bool {
        !self.wanted
            && now.saturating_duration_since(self.asked_at) > patience
            && self.lanes.iter().any(|lane| !lane.fetched.is_empty())
    }

    /// The subscriptions that may bring another message now.
    pub(super) fn open_lanes(&self) -> Vec<Slot> {
        let open = |(number, lane): (usize, &Lane<M>)| {
            let may_bring = lane.window > 0 && !lane.is_exhausted() && !lane.ending;
            may_bring.then_some(Slot { lane: number, subscription: lane.subscription })
        };
        self.lanes.iter().enumerate().filter_map(open).collect()
    }

    /// Everything that is here and not handed out.
    pub(super) fn drain(&mut self) -> Vec<(Slot, M)> {
        self.lanes.iter_mut().flat_map(|lane| lane.fetched.drain(..)).collect()
    }

    /// The connection is gone, and with it all that was fetched; subscriptions go on from this number.
    pub(super) fn reset(&mut self, first_subscription: u64) -> Vec<(Slot, M)> {
        self.unsubscribed();
        self.asking = false;
        self.first_subscription = first_subscription;
        for lane in &mut self.lanes {
            lane.held = 0;
        }
        self.drain()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two lanes a class: interactive 0 and 1, normal 2 and 3, batch 4 and 5.
    const LANES: usize = 6;

    struct Test {
        intake: Intake<u32>,
        now: Instant,
    }

    impl Test {
        fn new(window: u16) -> Self {
            let now = Instant::now();
            let mut intake = Intake::new(LANES, now);
            for lane in 0..LANES {
                intake.subscribed(Slot { lane, subscription: 1 }, window, now);
            }
            Self { intake, now: now + ON_THE_WAY }
        }

        fn arrive(&mut self, lane: usize, count: u32) {
            for message in 0..count {
                self.intake.arrived(Slot { lane, subscription: 1 }, message);
            }
        }

        /// The lane of the message whose turn it is, which is settled at once.
        fn take(&mut self) -> usize {
            match self.intake.take(self.now) {
                Take::Message(slot, _) => {
                    assert!(self.intake.settle(slot, self.now));
                    slot.lane
                }
                Take::Wait(until) => panic!("nothing is here; wait until {until:?}"),
            }
        }
    }

    #[test]
    fn classes_share_eight_to_three_to_one_and_lanes_of_a_class_take_turns() {
        let mut test = Test::new(1_000);
        for lane in [0, 1, 2, 4] {
            test.arrive(lane, 100);
        }
        let dozen: Vec<_> = (0..12).map(|_| test.take()).collect();
        let count = |lane| dozen.iter().filter(|got| **got == lane).count();
        assert_eq!([0, 1, 2, 4].map(count), [4, 4, 3, 1], "{dozen:?}");
    }

    #[test]
    fn messages_of_a_lane_come_in_the_order_they_arrived() {
        let mut test = Test::new(10);
        test.arrive(2, 5);
        for expected in 0..5 {
            let Take::Message(_, message) = test.intake.take(test.now) else { panic!() };
            assert_eq!(message, expected);
        }
    }

    #[test]
    fn a_lower_class_does_not_overtake_while_the_higher_ones_next_message_is_on_the_way() {
        let mut test = Test::new(1);
        test.arrive(0, 1);
        test.arrive(4, 1);
        assert_eq!(test.take(), 0);
        // Settled a moment ago with its window full: the next may be on the way.
        assert_eq!(test.intake.take(test.now), Take::Wait(Some(test.now + ON_THE_WAY)));
        assert_eq!(test.intake.widen(32), [], "its window is open: something may be on the way");
        test.now += ON_THE_WAY;
        assert_eq!(test.take(), 4);
        assert_eq!(test.intake.take(test.now + ON_THE_WAY), Take::Wait(None));
        test.arrive(0, 1);
        assert_eq!(test.intake.widen(32), [(0, 2)], "now it is full");
    }

    #[test]
    fn a_window_grows_while_the_caller_waits_for_it_and_as_far_as_the_caller_holds_messages() {
        let mut test = Test::new(1);
        let mut window = 1;
        for subscription in 2..8 {
            for _ in 0..window {
                test.intake.arrived(Slot { lane: 0, subscription: subscription - 1 }, 0);
                assert!(matches!(test.intake.take(test.now), Take::Message(..)), "it is kept, not settled");
            }
            assert_eq!(test.intake.take(test.now), Take::Wait(None));
            assert!(test.intake.needs_help());
            assert_eq!(test.intake.widen(1), [(0, 2 * window)]);
            assert_eq!(test.intake.widen(1), [], "told once");
            let held = Slot { lane: 0, subscription: subscription - 1 };
            assert!(!test.intake.settle(held, test.now), "settled now, it would let another message come");
            window *= 2;
            test.intake.subscribed(Slot { lane: 0, subscription }, window, test.now - ON_THE_WAY);
        }
    }

    #[test]
    fn nothing_is_settled_while_subscriptions_are_ended() {
        let mut test = Test::new(1);
        test.arrive(0, 1);
        let Take::Message(slot, _) = test.intake.take(test.now) else { panic!() };
        assert_eq!(test.intake.take(test.now), Take::Wait(None), "its lane is starved");
        test.intake.ending();
        assert!(!test.intake.settle(slot, test.now));
        assert_eq!(test.intake.widen(32), [], "it is not subscribed again");
        assert!(test.intake.open_lanes().is_empty(), "nothing is expected of it");
        test.intake.unsubscribed();
        assert!(test.intake.settle(slot, test.now));
    }

    #[test]
    fn settling_what_an_earlier_subscription_brought_leaves_the_window_alone() {
        let mut test = Test::new(1);
        test.arrive(0, 1);
        let Take::Message(old, _) = test.intake.take(test.now) else { panic!() };
        let newer = Slot { lane: 0, subscription: 2 };
        test.intake.subscribed(newer, 1, test.now);
        test.intake.arrived(newer, 7);
        assert!(test.intake.settle(old, test.now));
        assert!(test.intake.lanes[0].is_exhausted());
    }

    #[test]
    fn lanes_that_are_asked_come_in_the_same_turns() {
        let mut intake: Intake<u32> = Intake::new(LANES, Instant::now());
        let empty = [false, true, true, true, false, true];
        let mut asked = Vec::new();
        for _ in 0..9 {
            let lane = intake.next_to_ask(&empty).unwrap();
            intake.answered(lane, &empty);
            asked.push(lane);
        }
        assert_eq!(asked.iter().filter(|lane| **lane == 0).count(), 8);
        assert_eq!(intake.next_to_ask(&[true; LANES]), None);
    }

    #[test]
    fn what_nobody_wants_is_hoarded_only_when_there_is_something() {
        let mut test = Test::new(1);
        let patience = Duration::from_millis(100);
        let later = test.now + 2 * patience;
        assert!(!test.intake.is_hoarding(later, patience));
        test.arrive(3, 1);
        assert!(!test.intake.is_hoarding(test.now, patience));
        assert!(test.intake.is_hoarding(later, patience));
        test.intake.wanted = true;
        assert!(!test.intake.is_hoarding(later, patience));
        test.intake.wanted = false;
        assert_eq!(test.intake.drain().len(), 1);
        assert!(!test.intake.is_hoarding(later, patience));
    }
}
