use std::path::{Path, PathBuf};

use raglan_encoder::EncoderError;

/// Why a model could not be fetched: what each source said, and what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FetchError {
    /// The model's name.
    pub model: String,
    /// What was tried, in order.
    pub attempts: Vec<FetchAttempt>,
    /// Whether the network was left alone because the caller said so.
    pub offline: bool,
    /// What else to do, in words.
    pub remedy: &'static str,
}

/// One source of a model and why it did not help.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FetchAttempt {
    /// The source, in words.
    pub from: String,
    /// What went wrong.
    pub reason: String,
}

impl std::fmt::Display for FetchError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the model {} could not be had:", self.model)?;
        for attempt in &self.attempts {
            write!(f, "\n  - {}: {}", attempt.from, attempt.reason)?;
        }
        let network = if self.offline { "allow the network, " } else { "" };
        write!(f, "\nWhat to do: {network}{}.", self.remedy)
    }
}

impl std::error::Error for FetchError {}

/// Why a model's files cannot be used.
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
    /// The model is whole, but of a kind that this engine does not run.
    #[error("the model in {} is not supported: {reason}", path.display())]
    Unsupported {
        /// The model's folder.
        path: PathBuf,
        /// What it would need.
        reason: String,
    },
    /// The device that it is to run on is not there, or has no room for it.
    #[error("{device} cannot be used: {reason}")]
    Device {
        /// The device.
        device: String,
        /// What is wrong, and what to do.
        reason: String,
    },
    /// The system refused a thread for the model.
    #[error("no thread could be started for the model: {0}")]
    Thread(std::io::Error),
}

impl From<EncoderError> for LoadError {
    fn from(error: EncoderError) -> Self {
        match error {
            EncoderError::Read { path, source } => Self::Read { path, source },
            EncoderError::Invalid { path, reason } => Self::Invalid { path, reason },
            EncoderError::Unsupported { path, reason } => Self::Unsupported { path, reason },
        }
    }
}

impl LoadError {
    pub(crate) fn invalid(path: &Path, reason: impl std::fmt::Display) -> Self {
        Self::Invalid { path: path.to_owned(), reason: reason.to_string() }
    }

    /// This program cannot use a GPU.
    pub(crate) fn no_cuda(device: impl std::fmt::Display) -> Self {
        let reason =
            "this program was built without CUDA; build it with --features cuda, or run the model on the cpu";
        Self::Device { device: device.to_string(), reason: reason.to_owned() }
    }

    pub(crate) fn unsupported(path: &Path, reason: impl std::fmt::Display) -> Self {
        Self::Unsupported { path: path.to_owned(), reason: reason.to_string() }
    }
}
