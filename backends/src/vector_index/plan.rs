//! Which way a search goes: through the graph, or past every vector that the filter leaves.
//!
//! All costs are in *rows*: the time that comparing one vector takes in a scan. Rows differ from machine to machine, but what a walk costs in rows differs
//! less, since both wait for the same memory and compute with the same instructions. `raglan-load-tests vectors` prints what they are.

use super::usearch::UsearchSettings;

/// How often a walk asks whether a vector is allowed, for each candidate that it keeps and in tenths, where all are: 2.6 to 3.1 times at 100,000 vectors and 64 to
/// 192 candidates; for filters, by the share that they leave: 2.4 to 2.6 divided by the share, from a half to a twentieth.
const ASKED_TENTHS: usize = 26;
/// What it costs to come to where it asks once, with the vectors that are compared before: 1.3 to 1.8 µs at 100,000 and at a million, where a row takes 20 ns and 41 ns:
/// 45 to 80 rows.
const ASKING_ROWS: usize = 40;
/// A walk that asks so many times as often as walks do is lost. One in a hundred asks 1.5 times as often.
const LOST: usize = 3;
/// The collection that `expansion_search` is meant for. Larger ones need more candidates for the same recall …
const MEASURED_AT: f64 = 100_000.0;
/// … by this power of how much larger they are: 2.5 times as many at a million. 96 candidates find 98.5 of a hundred at 100,000, and at a million 191 find 98.0.
const GROWTH: f64 = 0.4;

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
        let unfiltered = self.candidates(settings) * ASKED_TENTHS / 10 * ASKING_ROWS;
        self.allowed.saturating_mul(self.allowed) <= unfiltered.saturating_mul(self.all)
    }

    /// How often a walk may ask before it is given up for a scan. The vectors that a filter leaves may lie far from the question, and then a walk passes through
    /// nearly all others first. Since a walk was expected to cost less than the scan, both together cost at most four times the scan.
    pub(super) fn most_asked(self, settings: &UsearchSettings) -> usize {
        let expected =
            (self.candidates(settings) * ASKED_TENTHS).saturating_mul(self.all) / self.allowed.max(1) / 10;
        expected.saturating_mul(LOST).max(1)
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
        let settings = UsearchSettings::default();
        let case = Case { all: usize::MAX, allowed: usize::MAX, limit: 1 };
        assert!(case.scan_is_cheaper(&settings), "nothing is larger than what it is rounded to");
        assert!(case.most_asked(&settings) > 0);
        assert!(Case { allowed: 0, ..case }.most_asked(&settings) > 0);
    }
}
