//! What Qdrant answers, as errors of the port.

use std::time::Duration;

use raglan_pipeline::ports::{ErrorKind, PortError};
use tonic::{Code, Status};

/// So many characters of Qdrant's words are told.
const LONGEST: usize = 400;

/// A failed call as an error of the port. `what` completes "Qdrant cannot …".
pub(super) fn of_status(what: &str, status: &Status) -> PortError {
    let kind = match status.code() {
        Code::DeadlineExceeded => ErrorKind::Timeout,
        Code::ResourceExhausted => ErrorKind::Overloaded,
        Code::AlreadyExists => ErrorKind::Conflict,
        Code::InvalidArgument
        | Code::OutOfRange
        | Code::Unauthenticated
        | Code::PermissionDenied
        | Code::Unimplemented => ErrorKind::Invalid,
        // A server that is broken inside, restarts or is cut off can be well again later; `Corrupt` would have the index made anew.
        _ => ErrorKind::Unavailable,
    };
    let hint = if status.code() == Code::NotFound { " (whoever feeds the index makes it)" } else { "" };
    let error = PortError::new(kind, format!("Qdrant cannot {what}: {}{hint}", words(status)));
    match retry_after(status) {
        Some(after) => error.with_retry_after(after),
        None => error,
    }
}

fn words(status: &Status) -> String {
    let said = status.message();
    let mut words = if said.is_empty() { status.code().description() } else { said }.to_owned();
    // Of a connection that failed the cause says why.
    let mut cause = std::error::Error::source(status);
    while let Some(error) = cause {
        let next = error.to_string();
        if !words.contains(&next) {
            words = format!("{words}: {next}");
        }
        cause = error.source();
    }
    if let Some((end, _)) = words.char_indices().nth(LONGEST) {
        words.truncate(end);
        words.push('…');
    }
    words
}

/// When to come again, where Qdrant says so (it limits rates).
fn retry_after(status: &Status) -> Option<Duration> {
    let seconds = status.metadata().get("retry-after")?.to_str().ok()?.parse().ok()?;
    Some(Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_says_whether_to_try_again() {
        for (code, kind) in [
            (Code::Unavailable, ErrorKind::Unavailable),
            (Code::Cancelled, ErrorKind::Unavailable),
            (Code::Internal, ErrorKind::Unavailable),
            (Code::Unknown, ErrorKind::Unavailable),
            (Code::NotFound, ErrorKind::Unavailable),
            (Code::FailedPrecondition, ErrorKind::Unavailable),
            (Code::DataLoss, ErrorKind::Unavailable),
            (Code::DeadlineExceeded, ErrorKind::Timeout),
            (Code::ResourceExhausted, ErrorKind::Overloaded),
            (Code::AlreadyExists, ErrorKind::Conflict),
            (Code::InvalidArgument, ErrorKind::Invalid),
            (Code::Unauthenticated, ErrorKind::Invalid),
            (Code::PermissionDenied, ErrorKind::Invalid),
            (Code::Unimplemented, ErrorKind::Invalid),
        ] {
            let error = of_status("search", &Status::new(code, "so it is"));
            assert_eq!(error.kind(), kind, "{code:?}");
            assert!(error.to_string().starts_with("Qdrant cannot search: so it is"), "{error}");
            assert_eq!(error.retry_after(), None);
        }
    }

    #[test]
    fn a_delay_that_was_asked_for_is_passed_on_and_long_words_are_cut() {
        let mut status = Status::resource_exhausted("x".repeat(1_000));
        status.metadata_mut().insert("retry-after", "7".parse().unwrap());
        let error = of_status("write", &status);
        assert_eq!(error.retry_after(), Some(Duration::from_secs(7)));
        assert!(error.to_string().chars().count() < LONGEST + 40);
        assert!(of_status("write", &Status::new(Code::NotFound, "")).to_string().contains("feeds the index"));
    }
}
