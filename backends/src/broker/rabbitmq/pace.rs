//! How fast a caller comes that gets its messages one at a time, and so whether it is better served by a subscription.

use std::time::{Duration, Instant};

/// A caller that comes so often within [`WHILE`] is.
const OFTEN: u32 = 32;
/// And one that has done nothing but wait for us for so long: asking may be slow, on a slow disk above all.
const WHILE: Duration = Duration::from_millis(250);

#[derive(Debug)]
pub(super) struct Pace {
    /// How many messages it got since when.
    got: (Instant, u32),
    /// Since when it has come back each time in less time than it takes us to ask; none where it has not.
    waits_since: Option<Instant>,
    /// When it wanted a message last.
    asked: Instant,
    /// When it got one last, and how long that had taken.
    answered: (Instant, Duration),
}

impl Pace {
    pub(super) fn new(now: Instant) -> Self {
        Self { got: (now, 0), waits_since: None, asked: now, answered: (now, Duration::ZERO) }
    }

    /// The caller wants a message: it is asked for.
    pub(super) fn wanted(&mut self, now: Instant) {
        let (answered, took) = self.answered;
        let came_at_once = now.saturating_duration_since(answered) <= took;
        self.waits_since = if came_at_once { self.waits_since.or(Some(now)) } else { None };
        self.asked = now;
    }

    /// It gets one. Whether it is fast.
    pub(super) fn got(&mut self, now: Instant) -> bool {
        let since = |then: Instant| now.saturating_duration_since(then);
        self.answered = (now, since(self.asked));
        let (counted_from, got) = self.got;
        self.got = if since(counted_from) > WHILE { (now, 1) } else { (counted_from, got + 1) };
        self.got.1 >= OFTEN || self.waits_since.is_some_and(|then| since(then) > WHILE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether a caller is found fast that comes back after `away` each time while asking takes `asking`.
    fn is_fast(away: Duration, asking: Duration) -> bool {
        let mut now = Instant::now();
        let mut pace = Pace::new(now);
        (0..100).any(|_| {
            now += away;
            pace.wanted(now);
            now += asking;
            pace.got(now)
        })
    }

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_caller_that_comes_often_is_fast() {
        assert!(is_fast(4 * MS, MS));
        assert!(!is_fast(10 * MS, MS));
    }

    #[test]
    fn a_caller_that_only_waits_is_fast_however_slow_asking_is() {
        for asking in [20, 100, 1_000] {
            assert!(is_fast(MS, asking * MS), "{asking} ms");
            assert!(!is_fast(2 * asking * MS, asking * MS), "{asking} ms");
        }
    }

    #[test]
    fn a_handful_of_places_that_become_free_at_once_are_no_reason() {
        let mut now = Instant::now();
        let mut pace = Pace::new(now);
        for _ in 0..20 {
            now += 1_000 * MS;
            for _ in 0..16 {
                pace.wanted(now);
                now += 2 * MS;
                assert!(!pace.got(now));
            }
        }
    }
}
