//! One reader of one job.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use raglan_pipeline::{
    apart::apart,
    decorators::retry::Backoff,
    domain::JobId,
    ports::{Followed, PortResult},
};
use tokio::time::timeout;
use tracing::debug;

use super::{
    Log, PAGE,
    hub::{Member, Signal},
    wire::{self, Entry, Linked, Listed},
};

/// How long a reader waits for its job to be heard before it reads the past. When it is heard, it reads again.
const HEARD_WITHIN: Duration = Duration::from_millis(250);
/// A reader that hears nothing for so long reads: a part of a cluster may have been cut off from the node that is listened to.
const SILENCE: Duration = Duration::from_secs(15);
/// A reader holds about so many bytes of events that its client has not taken, and one event beyond them: those of a fast model have many kilobytes each, and a
/// client may take nothing for long.
const HELD: usize = 64 << 10;
/// How many events are read first, while nobody knows how large they are: more than a short job has.
const FIRST: usize = 8;
/// How long to wait before a read that failed is made again.
const BACKOFF: Backoff =
    Backoff { base: Duration::from_millis(100), factor: 2.0, max: Duration::from_secs(2) };

/// A place in a job's events.
pub(super) struct Reader {
    log: Arc<Log>,
    member: Member,
    job: JobId,
    /// The number of the last event that was taken or missed.
    cursor: u64,
    /// What was taken and not yet asked for, see [`HELD`].
    ready: VecDeque<Followed>,
    /// How many events to read next: as many as could be held of the size of the last, so that little is read in vain.
    page: usize,
    /// Whether the stream may have more than was heard.
    behind: bool,
    /// Reads in a row that failed.
    failures: u32,
}

impl Reader {
    pub(super) fn new(log: Arc<Log>, member: Member, job: JobId, after: u64) -> Self {
        Self {
            log,
            member,
            job,
            cursor: after,
            ready: VecDeque::new(),
            page: FIRST,
            behind: true,
            failures: 0,
        }
    }

    /// What comes next.
    pub(super) async fn next(&mut self) -> Followed {
        if !std::mem::replace(&mut self.member.heard, true) {
            // What is signalled now will be read in any case.
            let _ = timeout(HEARD_WITHIN, self.member.recv()).await;
        }
        // A reader that is far behind lets other tasks run now and then.
        tokio::task::coop::consume_budget().await;
        loop {
            if let Some(next) = self.ready.pop_front() {
                return next;
            }
            if self.behind { self.read().await } else { self.hear().await }
        }
    }

    async fn hear(&mut self) {
        match timeout(SILENCE, self.member.recv()).await {
            Ok(Signal::Event(linked)) => self.take_heard(linked),
            Ok(Signal::Reread) | Err(_) => self.behind = true,
        }
    }

    async fn read(&mut self) {
        let (log, job, from, most) =
            (Arc::clone(&self.log), self.job, self.cursor.saturating_add(1), self.page);
        // Apart: a reader whose client reads nothing is not polled, and would keep its turn.
        let page = apart(async move {
            // The semaphore is never closed.
            let _turn = log.reading.acquire().await;
            let listed = log.page(job, from, most).await?;
            let held = Held::of(&listed, most);
            let entries = listed.into_iter().take(held.count).map(|listed| wire::entry(job, listed));
            PortResult::Ok((entries.collect::<PortResult<Vec<_>>>()?, held))
        });
        match page.await {
            Ok((entries, held)) => {
                self.failures = 0;
                self.behind = held.behind;
                self.page = held.next;
                for entry in entries {
                    self.take(entry);
                }
            }
            Err(error) => {
                self.failures = self.failures.saturating_add(1);
                debug!(job_id = %self.job, %error, "events not read; trying again");
                let delay = BACKOFF.delay(self.failures, &mut rand::rng());
                tokio::time::sleep(delay).await;
            }
        }
    }

    /// Takes what was heard, unless something before it was not: then the stream has both.
    fn take_heard(&mut self, linked: Arc<Linked>) {
        match linked.before {
            Some(before) if before > self.cursor => self.behind = true,
            _ => {
                let linked = Arc::unwrap_or_clone(linked);
                self.take(Entry { seq: linked.event.seq, linked: Some(linked) });
            }
        }
    }

    /// Takes what was read.
    fn take(&mut self, entry: Entry) {
        let Entry { seq, linked } = entry;
        if seq <= self.cursor {
            return;
        }
        let missed = match &linked {
            // A reader from the very beginning has missed nothing that it could know of.
            Some(Linked { before: None, .. }) => (self.cursor > 0).then(|| seq - 1),
            Some(Linked { before: Some(before), .. }) => (*before > self.cursor).then_some(*before),
            None => Some(seq),
        };
        if let Some(up_to) = missed {
            self.ready.push_back(Followed::Missed { up_to });
        }
        if let Some(linked) = linked {
            self.ready.push_back(Followed::Event(linked.event));
        }
        self.cursor = seq;
    }
}

/// What a reader may hold of events that it read.
#[derive(Debug, PartialEq)]
struct Held {
    /// So many of them, one at least.
    count: usize,
    /// Whether the stream may have more.
    behind: bool,
    /// How many to read next.
    next: usize,
}

impl Held {
    /// Of these events, where so many were asked for.
    fn of(listed: &[Listed], asked: usize) -> Self {
        let (mut count, mut bytes) = (0, 0);
        for (_, fields) in listed {
            if bytes >= HELD {
                break;
            }
            count += 1;
            bytes += fields.iter().map(Vec::len).sum::<usize>();
        }
        let next = (HELD * count).checked_div(bytes).map_or(asked, |next| next.clamp(1, PAGE));
        Self { count, behind: count < listed.len() || listed.len() == asked, next }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(bytes: &[usize], asked: usize) -> Held {
        let listed = |bytes: &usize| ("1-0".to_owned(), vec![vec![0; *bytes]]);
        Held::of(&bytes.iter().map(listed).collect::<Vec<Listed>>(), asked)
    }

    #[test]
    fn a_reader_holds_as_many_events_as_fit_and_one_at_least() {
        assert_eq!(held(&[], 8), Held { count: 0, behind: false, next: 8 });
        // Small ones: all of them, and the next page is as large as pages are.
        assert_eq!(held(&[100; 7], 8), Held { count: 7, behind: false, next: PAGE });
        assert_eq!(held(&[100; 8], 8), Held { count: 8, behind: true, next: PAGE });
        // What does not fit is read again, and no more than fits.
        assert_eq!(held(&[2 * HELD, 1], 8), Held { count: 1, behind: true, next: 1 });
        assert_eq!(held(&[HELD - 1, HELD, 1], 8), Held { count: 2, behind: true, next: 1 });
        assert_eq!(held(&[HELD / 4; 3], 8), Held { count: 3, behind: false, next: 4 });
    }
}
