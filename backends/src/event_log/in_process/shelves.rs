//! In which order jobs lose their events.

use std::collections::BTreeMap;

use raglan_pipeline::domain::JobId;

/// Where a job's log stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shelf {
    /// It keeps events, and more will come.
    Running,
    /// It keeps events, the last of them among them.
    Finished,
    /// Its events went, more will come: only its numbering is kept.
    Numbers,
    /// It is kept for the readers it has, and goes with them.
    ReadersOnly,
}

/// The jobs on each shelf (but the last), by when they were last appended to.
#[derive(Debug, Default)]
pub(super) struct Shelves {
    running: BTreeMap<u64, JobId>,
    finished: BTreeMap<u64, JobId>,
    numbers: BTreeMap<u64, JobId>,
}

impl Shelves {
    /// Puts a job on a shelf. `turn` grows with time and is no other job's.
    pub(super) fn put(&mut self, shelf: Shelf, turn: u64, job: JobId) {
        if let Some(jobs) = self.jobs(shelf) {
            jobs.insert(turn, job);
        }
    }

    /// Takes a job off its shelf.
    pub(super) fn take(&mut self, shelf: Shelf, turn: u64) {
        if let Some(jobs) = self.jobs(shelf) {
            jobs.remove(&turn);
        }
    }

    /// The job on a shelf that was quiet for longest.
    pub(super) fn quietest(&mut self, shelf: Shelf) -> Option<JobId> {
        self.jobs(shelf)?.first_key_value().map(|(_, job)| *job)
    }

    fn jobs(&mut self, shelf: Shelf) -> Option<&mut BTreeMap<u64, JobId>> {
        match shelf {
            Shelf::Running => Some(&mut self.running),
            Shelf::Finished => Some(&mut self.finished),
            Shelf::Numbers => Some(&mut self.numbers),
            Shelf::ReadersOnly => None,
        }
    }
}
