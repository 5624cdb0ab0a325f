use std::path::{Path, PathBuf};

/// Why a model cannot be run.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// A file is missing or cannot be read.
    #[error("{} cannot be read: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file is there, but not what it should be.
    #[error("{} is not usable: {reason}", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The model is whole, but of a kind that is not run here.
    #[error("the model in {} is not supported: {reason}", path.display())]
    Unsupported {
        /// The model's folder.
        path: PathBuf,
        /// What it would need.
        reason: String,
    },
    /// The settings ask for what cannot be.
    #[error("{0}")]
    Settings(String),
    /// The device that was asked for is not there, or this program was built without it.
    #[error("{0}")]
    Device(String),
    /// The model and its cache do not fit.
    #[error("not enough memory on {device}: {reason}")]
    Memory {
        /// Which device.
        device: String,
        /// What is needed and what is there.
        reason: String,
    },
}

impl LoadError {
    pub(crate) fn invalid(path: &Path, reason: impl std::fmt::Display) -> Self {
        Self::Invalid { path: path.to_owned(), reason: reason.to_string() }
    }

    pub(crate) fn unsupported(path: &Path, reason: impl std::fmt::Display) -> Self {
        Self::Unsupported { path: path.to_owned(), reason: reason.to_string() }
    }

    /// An operation of the device that failed while a model was loaded.
    pub(crate) fn device(error: &candle_core::Error) -> Self {
        Self::Device(first_line(error))
    }
}

/// Why a request was not taken, named by what the caller must do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// Send a shorter prompt or ask for less text.
    #[error("the prompt has {prompt} tokens and asks for {answer} more, but {room} in all are the most")]
    TooLong {
        /// Tokens of the prompt.
        prompt: usize,
        /// Tokens that were asked for.
        answer: usize,
        /// Tokens that a sequence may have.
        room: usize,
    },
    /// Send something else: this can never be run.
    #[error("{0}")]
    Invalid(String),
    /// Send it again later.
    #[error("{waiting} requests wait already, which is the most")]
    Full {
        /// How many wait.
        waiting: usize,
    },
    /// Send it elsewhere: this engine has ended.
    #[error("the engine has stopped: {0}")]
    Stopped(String),
}

/// candle adds a backtrace to its errors where one is asked for; people want the first line.
pub(crate) fn first_line(error: &candle_core::Error) -> String {
    error.to_string().lines().next().unwrap_or_default().to_owned()
}
