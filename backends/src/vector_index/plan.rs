//! Which way a search goes: through the graph, or past every vector that the filter leaves.
//!
//! All costs are in *rows*: the time that comparing one vector takes in a scan. Rows differ from machine to machine, but what a walk costs in rows differs
//! less, since both wait for the same memory and compute with the same instructions.

use super::usearch::UsearchSettings;

/// Vectors that a walk compares for each candidate that it keeps. 14.2 at 100,000 vectors with 128 candidates and 15.4 at 1,000,000 with 256.
const VISITS: usize = 14;
/// What one of them costs: each lies somewhere else in memory, is twice as long, and has a place in a heap and a set.
const VISIT_ROWS: usize = 6;
/// The collection that `expansion_search` is meant for. Larger ones need more candidates for the same recall …
const MEASURED_AT: f64 = 100_000.0;
/// … by this power of how much larger they are.
const GROWTH: f64 = 0.3;

/// Which way to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Way {
    /// The cheaper one.
    #[default]
    Cheaper,
    /// Through the graph, whatever it costs.
    Walk,
    /// Past every vector that the filter leaves.
    Scan,
}

/// A collection, and what is wanted of it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Case {
    /// Vectors in the graph, dead ones too.
    pub all: usize,
    /// Vectors that may be found.
    pub allowed: usize,
    /// Vectors that are wanted.
    pub limit: usize,
}

impl Case {
    /// How many candidates a walk keeps.
    pub(super) fn candidates(self, settings: &UsearchSettings) -> usize {
        let growth = (self.all as f64 / MEASURED_AT).max(1.0).powf(GROWTH);
        let usual = (settings.expansion_search as f64 * growth) as usize;
        // The last of the wanted are found as well as the first only when there is something beyond them.
        usual.max(self.limit + self.limit / 2)
    }

    /// Whether a scan is expected to cost less than a walk.
    ///
    /// A walk goes on until its candidates are complete. Where the filter leaves one in ten, it meets ten vectors for each candidate that counts.
    pub(super) fn scan_is_cheaper(self, settings: &UsearchSettings) -> bool {
        let unfiltered = self.candidates(settings) * VISITS * VISIT_ROWS;
        self.allowed.saturating_mul(self.allowed) <= unfiltered.saturating_mul(self.all)
    }

    /// After how many visits a walk has cost as much as the scan would have. The vectors that a filter leaves may lie far from the question, and
    /// then a walk passes through nearly all others first. Giving up here bounds what a wrong guess costs to twice the best.
    pub(super) fn most_visits(self) -> usize {
        self.allowed.div_ceil(VISIT_ROWS).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scans(all: usize, allowed: usize) -> bool {
        Case { all, allowed, limit: 10 }.scan_is_cheaper(&UsearchSettings::default())
    }

    #[test]
    fn small_collections_and_narrow_filters_are_scanned() {
        assert!(scans(1, 1));
        assert!(scans(5_000, 5_000));
        assert!(!scans(100_000, 100_000));
        assert!(scans(100_000, 1_000));
        assert!(scans(1_000_000, 10_000));
        assert!(!scans(1_000_000, 500_000));
    }

    #[test]
    fn what_is_scanned_with_some_is_scanned_with_fewer() {
        for all in [1_000, 50_000, 1_000_000] {
            let turn = (1..=all).find(|allowed| !scans(all, *allowed)).unwrap_or(all + 1);
            assert!((1..=all).step_by(97).all(|allowed| scans(all, allowed) == (allowed < turn)));
        }
    }

    #[test]
    fn larger_collections_and_limits_take_more_candidates() {
        let settings = UsearchSettings::default();
        let candidates = |all, limit| Case { all, allowed: all, limit }.candidates(&settings);
        assert_eq!(candidates(1_000, 10), settings.expansion_search);
        assert_eq!(candidates(100_000, 10), settings.expansion_search);
        assert!(candidates(1_000_000, 10) > 3 * settings.expansion_search / 2);
        assert!(candidates(1_000, 1_000) > 1_000);
    }

    #[test]
    fn nothing_overflows() {
        let case = Case { all: usize::MAX, allowed: usize::MAX, limit: 1 };
        assert!(!case.scan_is_cheaper(&UsearchSettings::default()) || case.most_visits() > 0);
    }
}
