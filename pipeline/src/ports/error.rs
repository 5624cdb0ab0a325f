//! The errors of the ports. Whether to try again is asked of the error, not guessed by the caller.

use std::{fmt, time::Duration};

type Source = Box<dyn std::error::Error + Send + Sync>;

/// What kind of trouble a store, broker, cache, log or index has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// It cannot be reached or is not ready. Trying again later may help.
    Unavailable,
    /// It did not answer in time. The operation may or may not have taken effect.
    Timeout,
    /// It is full and refused. Nothing was stored.
    Overloaded,
    /// The request contradicts what is there.
    Conflict,
    /// The request can never succeed as it is.
    Invalid,
    /// What it holds cannot be read.
    Corrupt,
    /// It failed in a way that it should not.
    Internal,
}

/// The error of every port but the models' (see [`ModelError`]).
#[derive(Debug)]
pub struct PortError {
    kind: ErrorKind,
    message: String,
    retry_after: Option<Duration>,
    source: Option<Source>,
}

impl PortError {
    /// An error of this kind, with what happened in words.
    #[must_use]
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), retry_after: None, source: None }
    }

    /// Adds what caused it.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Source>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// Adds when to try again.
    #[must_use]
    pub fn with_retry_after(mut self, after: Duration) -> Self {
        self.retry_after = Some(after);
        self
    }

    /// Its kind.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// When to try again, where the other side said so.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }

    /// Whether the same call may succeed later.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(self.kind, ErrorKind::Unavailable | ErrorKind::Timeout | ErrorKind::Overloaded)
    }
}

impl fmt::Display for PortError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        if let Some(source) = &self.source {
            write!(f, ": {source}")?;
        }
        Ok(())
    }
}

impl std::error::Error for PortError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}

/// The result of a port call.
pub type PortResult<T> = Result<T, PortError>;

/// The errors of models, named by what the caller must do.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// Send less.
    #[error("the input is too long: {0}")]
    TooLong(String),
    /// Do not send it again: it would fail in the same way.
    #[error("{0}")]
    Permanent(String),
    /// Send it again, after this time where one is given.
    #[error("{message}")]
    TryLater {
        /// What happened.
        message: String,
        /// The delay that the other side asked for.
        after: Option<Duration>,
    },
    /// Nothing to do: the caller asked for this.
    #[error("cancelled")]
    Cancelled,
}

impl ModelError {
    /// A passing failure without a delay of its own.
    #[must_use]
    pub fn try_later(message: impl Into<String>) -> Self {
        Self::TryLater { message: message.into(), after: None }
    }
}
