use std::time::Duration;

use crate::ports::{ModelError, PortError};

/// What an error says about calling again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Advice {
    /// The same call may succeed later; not before `after`, where that was said.
    Later {
        /// The delay that the other side asked for.
        after: Option<Duration>,
    },
    /// The same call would fail again. The other side is well: it answered.
    Never,
    /// The caller stopped it; it says nothing about the other side.
    Cancelled,
}

/// An error that knows whether to try again.
pub trait Failure {
    /// What to do.
    fn advice(&self) -> Advice;
}

impl Failure for PortError {
    fn advice(&self) -> Advice {
        if self.is_transient() { Advice::Later { after: self.retry_after() } } else { Advice::Never }
    }
}

impl Failure for ModelError {
    fn advice(&self) -> Advice {
        match self {
            Self::TryLater { after, .. } => Advice::Later { after: *after },
            Self::TooLong(_) | Self::Permanent(_) => Advice::Never,
            Self::Cancelled => Advice::Cancelled,
        }
    }
}
