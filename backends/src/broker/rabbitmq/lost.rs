//! Finds deliveries that the driver dropped.
//!
//! RabbitMQ may deliver a little after it has said that a subscription is over, and the driver drops what comes for a subscription that is over.
//! RabbitMQ goes on to count such a message as delivered, and nobody would ever settle it. But it numbers the deliveries of a channel without
//! gaps: so what was dropped is found as a gap below the number of a later delivery, and is returned by its number.

use std::collections::BTreeSet;

/// The numbers of the deliveries of one channel that have come.
#[derive(Debug)]
pub(super) struct Seen {
    /// All below it have come, or were found missing.
    next: u64,
    /// Those that have come beyond it.
    beyond: BTreeSet<u64>,
}

impl Default for Seen {
    fn default() -> Self {
        Self { next: 1, beyond: BTreeSet::new() }
    }
}

impl Seen {
    /// A delivery came.
    pub(super) fn note(&mut self, tag: u64) {
        if tag >= self.next {
            self.beyond.insert(tag);
            while self.beyond.remove(&self.next) {
                self.next += 1;
            }
        }
    }

    /// Those below a delivery that have not come. They are told once.
    pub(super) fn missing_below(&mut self, tag: u64) -> Vec<u64> {
        let missing = (self.next..tag).filter(|other| !self.beyond.contains(other)).collect();
        self.next = self.next.max(tag);
        self.beyond = self.beyond.split_off(&self.next);
        while self.beyond.remove(&self.next) {
            self.next += 1;
        }
        missing
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_are_found_once_and_only_below() {
        let mut seen = Seen::default();
        for tag in [2, 1, 5, 4, 9] {
            seen.note(tag);
        }
        assert_eq!(seen.missing_below(7), [3, 6]);
        assert!(seen.missing_below(7).is_empty());
        assert_eq!(seen.missing_below(10), [7, 8]);
        seen.note(10);
        seen.note(11);
        assert!(seen.missing_below(12).is_empty());
        assert!(seen.beyond.is_empty(), "nothing is kept of what is complete");
    }
}
