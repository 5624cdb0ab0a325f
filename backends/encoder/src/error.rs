use std::path::{Path, PathBuf};

/// Why a model's files cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum EncoderError {
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
}

impl EncoderError {
    pub(crate) fn invalid(path: &Path, reason: impl std::fmt::Display) -> Self {
        Self::Invalid { path: path.to_owned(), reason: reason.to_string() }
    }

    pub(crate) fn unsupported(path: &Path, reason: impl std::fmt::Display) -> Self {
        Self::Unsupported { path: path.to_owned(), reason: reason.to_string() }
    }
}
