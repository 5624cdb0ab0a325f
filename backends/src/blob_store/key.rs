//! The form of a blob's key, the same for every engine.

use raglan_pipeline::ports::{ErrorKind, PortError, PortResult};

/// Refuses a key that is not parts of letters, digits and `._-` with `/` between them, or that could lead elsewhere.
pub(super) fn check(key: &str) -> PortResult<()> {
    let is_part = |part: &str| {
        !matches!(part, "" | "." | "..")
            && part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
    };
    if key.split('/').all(is_part) {
        return Ok(());
    }
    Err(PortError::new(
        ErrorKind::Invalid,
        format!(
            "a blob's key is parts of letters, digits and . _ - with / between them, got {:?}",
            key.chars().take(80).collect::<String>()
        ),
    ))
}
