//! Delays without a plugin: a ladder of queues through which a message falls.
//!
//! Rung `n` is a queue that holds every message for 2ⁿ units and then drops it to the rung below (a queue-wide time to live and a dead-letter
//! exchange). Before each rung stands a topic exchange that reads one digit of the routing key, `1` to rest on this rung, `0` to pass it by.
//! So a delay written in binary, followed by the class, is the way of its message to the queue where it is due.
//!
//! All messages of a rung have the same time to live, so none waits behind a slower one. The ladder is as high as it is, always: queues that
//! come and go with the delays in use would have to be removed by `x-expires`, and a quorum queue's expiry is not put off when it is declared
//! again (rabbitmq-server issue 5894), so it would take waiting messages with it. Delays are rounded up to four binary digits, so that no
//! message falls on more than four rungs.

use std::time::Duration;

use raglan_pipeline::domain::Priority;

/// What the lowest rung holds a message for, in milliseconds.
const UNIT_MS: u64 = 50;
/// How many rungs there are.
pub(super) const RUNGS: u32 = 21;
/// Of a delay in units, so many leading binary digits are kept.
const DIGITS: u32 = 4;
/// The longest delay.
pub(super) const LONGEST: Duration = Duration::from_secs(24 * 3_600);

/// A delay as the ladder can keep it: at least as long as asked for, and longer by an eighth or by two units at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Steps(u32);

impl Steps {
    /// None where the delay is longer than [`LONGEST`].
    pub(super) fn of(delay: Duration) -> Option<Self> {
        if delay > LONGEST {
            return None;
        }
        let units = delay.as_nanos().div_ceil(u128::from(UNIT_MS) * 1_000_000);
        let units = u32::try_from(units).ok()?.max(1);
        let dropped = (u32::BITS - units.leading_zeros()).saturating_sub(DIGITS);
        Some(Self(units.div_ceil(1 << dropped) << dropped))
    }

    /// The highest rung on which it rests.
    pub(super) fn top(self) -> u32 {
        self.0.ilog2()
    }

    /// The way down: a digit a rung from the highest of the ladder to the lowest, then the class.
    pub(super) fn routing_key(self, class: Priority) -> String {
        let digits = format!("{:0width$b}", self.0, width = RUNGS as usize);
        let mut key = String::with_capacity(2 * RUNGS as usize + 12);
        for digit in digits.chars() {
            key.push(digit);
            key.push('.');
        }
        key + class.as_str()
    }
}

/// How long a rung holds a message, in milliseconds: one more than its share, for the part of a millisecond that RabbitMQ's clock cuts off.
pub(super) fn hold_ms(rung: u32) -> u64 {
    (UNIT_MS << rung) + 1
}

/// The routing keys that rest on a rung (`1`) or pass it by (`0`).
pub(super) fn pattern(rung: u32, digit: char) -> String {
    let above = RUNGS - 1 - rung;
    format!("{}{digit}.#", "*.".repeat(above as usize))
}

/// The routing keys of a class, whatever is left of the way.
pub(super) fn class_pattern(class: Priority) -> String {
    format!("#.{}", class.as_str())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rungs(steps: Steps) -> Vec<u32> {
        (0..RUNGS).filter(|rung| steps.0 & (1 << rung) != 0).collect()
    }

    fn held(steps: Steps) -> Duration {
        Duration::from_millis(rungs(steps).into_iter().map(hold_ms).sum())
    }

    proptest! {
        #[test]
        fn a_message_is_held_at_least_as_long_as_asked_and_little_longer(nanos in 1..=LONGEST.as_nanos() as u64) {
            let asked = Duration::from_nanos(nanos);
            let steps = Steps::of(asked).unwrap();
            let held = held(steps);
            prop_assert!(held >= asked);
            let coarseness = (asked / 8).max(Duration::from_millis(UNIT_MS)) + Duration::from_millis(UNIT_MS + 4);
            prop_assert!(held <= asked + coarseness, "{asked:?} becomes {held:?}");
            prop_assert!(rungs(steps).len() <= DIGITS as usize);
            prop_assert!(steps.top() < RUNGS);
        }

        #[test]
        fn a_longer_delay_is_never_held_shorter(a in 1..=LONGEST.as_nanos() as u64, b in 1..=LONGEST.as_nanos() as u64) {
            let (a, b) = (a.min(b), a.max(b));
            prop_assert!(Steps::of(Duration::from_nanos(a)) <= Steps::of(Duration::from_nanos(b)));
        }

        #[test]
        fn the_routing_key_leads_over_exactly_its_rungs(millis in 1..=LONGEST.as_millis() as u64) {
            let steps = Steps::of(Duration::from_millis(millis)).unwrap();
            let key = steps.routing_key(Priority::Batch);
            let words: Vec<_> = key.split('.').collect();
            prop_assert_eq!(words.len(), RUNGS as usize + 1);
            for rung in 0..RUNGS {
                // As a topic exchange reads it: so many words of any kind, then the digit.
                let above = pattern(rung, '1').matches('*').count();
                prop_assert_eq!(words[above] == "1", rungs(steps).contains(&rung));
            }
            prop_assert!(key.ends_with(&class_pattern(Priority::Batch)[1..]));
        }
    }

    #[test]
    fn short_delays_are_whole_units_and_long_ones_are_refused() {
        assert_eq!(Steps::of(Duration::from_nanos(1)), Some(Steps(1)));
        assert_eq!(Steps::of(Duration::from_millis(50)), Some(Steps(1)));
        assert_eq!(Steps::of(Duration::from_millis(51)), Some(Steps(2)));
        assert_eq!(Steps::of(Duration::from_millis(850)), Some(Steps(18)));
        assert!(Steps::of(LONGEST).is_some());
        assert_eq!(Steps::of(LONGEST + Duration::from_nanos(1)), None);
        assert_eq!(Steps::of(Duration::MAX), None);
    }
}
