//! What errors of the driver mean to a caller.

use lapin::Error;
use raglan_pipeline::ports::{ErrorKind, PortError};

/// The reply codes that this broker tells apart.
pub(super) mod code {
    pub(in super::super) const ACCESS_REFUSED: u16 = 403;
    pub(in super::super) const NOT_FOUND: u16 = 404;
    pub(in super::super) const NOT_ALLOWED: u16 = 530;
    pub(in super::super) const PRECONDITION_FAILED: u16 = 406;
}

/// The reply code, where it is RabbitMQ that refused.
pub(super) fn reply_code(error: &Error) -> Option<u16> {
    match error.kind() {
        lapin::ErrorKind::ProtocolError(error) => Some(error.get_id()),
        _ => None,
    }
}

/// An error of the driver as the port's. `what` was being done.
pub(super) fn port_error(what: &str, error: Error) -> PortError {
    let kind = match reply_code(&error) {
        // No right to, or no such virtual host: the same call fails until somebody changes that.
        Some(code::ACCESS_REFUSED | code::NOT_ALLOWED) => ErrorKind::Invalid,
        Some(code::PRECONDITION_FAILED) => ErrorKind::Conflict,
        _ => ErrorKind::Unavailable,
    };
    PortError::new(kind, format!("RabbitMQ: {what}")).with_source(error)
}

/// There is no connection, or none that works.
pub(super) fn unavailable(message: impl Into<String>) -> PortError {
    PortError::new(ErrorKind::Unavailable, message)
}
