//! What the storage answers, as errors of the port.

use std::error::Error as StdError;

use object_store::{
    Error,
    client::{HttpError, HttpErrorKind},
};
use raglan_pipeline::{
    ports::{ErrorKind, PortError},
    secret::Secret,
};

use super::S3Settings;

/// Servers answer with whole documents; so many characters of one are told.
const LONGEST: usize = 400;

/// Tells errors without what is secret: a server may repeat the credentials that it was sent.
pub(super) struct Teller {
    secrets: Vec<Secret>,
}

impl Teller {
    pub(super) fn new(settings: &S3Settings) -> Self {
        let secrets = [&settings.access_key, &settings.secret_key, &settings.session_token];
        Self { secrets: secrets.into_iter().flatten().cloned().collect() }
    }

    /// An error of the storage in words.
    pub(super) fn words(&self, what: &str, error: &Error) -> String {
        let mut words = error.to_string();
        for secret in &self.secrets {
            words = secret.mask(&words);
        }
        if let Some((end, _)) = words.char_indices().nth(LONGEST) {
            words.truncate(end);
            words.push('…');
        }
        format!("the {what}: {words}")
    }

    /// An error of the storage as one of the port.
    pub(super) fn error(&self, what: &str, error: &Error) -> PortError {
        let kind = match error {
            Error::PermissionDenied { .. }
            | Error::Unauthenticated { .. }
            | Error::InvalidPath { .. }
            | Error::NotSupported { .. }
            | Error::NotImplemented { .. } => ErrorKind::Invalid,
            _ if refused(error) => ErrorKind::Invalid,
            _ if timed_out(error) => ErrorKind::Timeout,
            _ => ErrorKind::Unavailable,
        };
        PortError::new(kind, self.words(&format!("blob store cannot {what}"), error))
    }
}

/// Whether there is no bucket, which the storage tells by the same status as that there is no object.
pub(super) fn bucket_is_missing(error: &Error) -> bool {
    error.to_string().contains("NoSuchBucket")
}

/// Whether the storage refused the credentials. An error of listing holds the status, and tells it only in words.
fn refused(error: &Error) -> bool {
    let words = error.to_string();
    ["status code: 401", "status code: 403"].iter().any(|status| words.contains(status))
}

fn timed_out(error: &Error) -> bool {
    let mut cause: Option<&(dyn StdError + 'static)> = Some(error);
    while let Some(error) = cause {
        if let Some(http) = error.downcast_ref::<HttpError>() {
            return http.kind() == HttpErrorKind::Timeout;
        }
        cause = error.source();
    }
    false
}
