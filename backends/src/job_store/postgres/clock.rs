//! The server's time without asking for it each time.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use raglan_pipeline::domain::Timestamp;

use crate::database::codec::after;

/// How long what the server said is gone by: a server whose clock is set is believed again after this.
const BELIEVED: Duration = Duration::from_secs(1);
/// What took longer to come says too little of the time at which it came.
const PROMPT: Duration = Duration::from_millis(50);

/// What the server's clock showed last, and when that was heard. It runs behind the server's by no more than [`PROMPT`] and never before it, so that no lease is
/// taken for over that the server holds for live.
#[derive(Debug, Default)]
pub(super) struct ServerClock(Mutex<Option<Heard>>);

#[derive(Debug, Clone, Copy)]
struct Heard {
    shown: Timestamp,
    at: Instant,
}

impl ServerClock {
    /// The server said that it is this time, in an answer to what it was asked at that moment.
    pub(super) fn hear(&self, shown: Timestamp, asked: Instant) -> Timestamp {
        let at = Instant::now();
        if at.duration_since(asked) <= PROMPT {
            *self.heard() = Some(Heard { shown, at });
        }
        shown
    }

    /// The time on the server; none where it has to be asked.
    pub(super) fn now(&self) -> Option<Timestamp> {
        let Heard { shown, at } = (*self.heard())?;
        let passed = at.elapsed();
        (passed <= BELIEVED).then(|| after(shown, passed))
    }

    fn heard(&self) -> MutexGuard<'_, Option<Heard>> {
        // It is whole after each statement.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;
    use raglan_pipeline::domain::now;

    use super::*;

    #[test]
    fn it_goes_on_from_what_the_server_said_and_asks_again_after_a_second() {
        let (clock, shown) = (ServerClock::default(), now() - TimeDelta::hours(1));
        assert_eq!(clock.now(), None);
        clock.hear(shown, Instant::now());
        let told = clock.now().unwrap();
        assert!(told >= shown && told - shown < TimeDelta::seconds(1), "{told}");
        *clock.heard() = Some(Heard { shown, at: Instant::now() - Duration::from_millis(500) });
        assert!(clock.now().unwrap() - shown >= TimeDelta::milliseconds(500));
        *clock.heard() = Some(Heard { shown, at: Instant::now() - Duration::from_millis(1_001) });
        assert_eq!(clock.now(), None);
    }

    #[test]
    fn what_came_late_is_not_believed() {
        let clock = ServerClock::default();
        clock.hear(now(), Instant::now() - 2 * PROMPT);
        assert_eq!(clock.now(), None);
    }
}
