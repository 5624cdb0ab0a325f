/// Hears how far a long task is. Calls come from any thread and must return at once.
pub trait Progress: Send + Sync {
    /// A task begins: what it is, in words, and how many bytes it has, where that is known.
    fn start(&self, what: &str, total: Option<u64>);
    /// So many of its bytes are done, in all.
    fn advance(&self, done: u64);
    /// The task ended, well or not.
    fn finish(&self);
}

/// Tells nobody.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoProgress;

impl Progress for NoProgress {
    fn start(&self, _what: &str, _total: Option<u64>) {}
    fn advance(&self, _done: u64) {}
    fn finish(&self) {}
}

/// Calls [`Progress::finish`] on every way out.
pub(super) struct Task<'a>(&'a dyn Progress);

impl<'a> Task<'a> {
    pub(super) fn start(progress: &'a dyn Progress, what: &str, total: Option<u64>) -> Self {
        progress.start(what, total);
        Self(progress)
    }

    pub(super) fn advance(&self, done: u64) {
        self.0.advance(done);
    }
}

impl Drop for Task<'_> {
    fn drop(&mut self) {
        self.0.finish();
    }
}
