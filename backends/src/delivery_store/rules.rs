//! The rules by which a delivery changes, the same in whichever engine it lies.

use raglan_pipeline::{
    domain::{Delivery, DeliveryAttempt, DeliveryStatus, Timestamp, truncate},
    ports::{ErrorKind, PortError, PortResult},
};

/// When a delivery that is left in this status is tried next: at the time given where it is pending, else never.
pub(super) fn next_try(status: DeliveryStatus, next_at: Option<Timestamp>) -> PortResult<Option<Timestamp>> {
    match (status, next_at) {
        (DeliveryStatus::Pending, Some(at)) => Ok(Some(truncate(at))),
        // It would wait for ever.
        (DeliveryStatus::Pending, None) => {
            Err(PortError::new(ErrorKind::Invalid, "a pending delivery needs a next try"))
        }
        (DeliveryStatus::Delivered | DeliveryStatus::Dead, _) => Ok(None),
    }
}

/// The delivery after a try of it; none where it is over and takes no more.
pub(super) fn tried(
    mut delivery: Delivery,
    attempt: DeliveryAttempt,
    status: DeliveryStatus,
    next_at: Option<Timestamp>,
) -> Option<Delivery> {
    if delivery.status != DeliveryStatus::Pending {
        return None;
    }
    delivery.attempts.push(attempt);
    delivery.status = status;
    delivery.next_at = next_at;
    Some(delivery)
}

/// The delivery when somebody wants it sent now, whatever became of it.
pub(super) fn replayed(delivery: Delivery, now: Timestamp) -> Delivery {
    Delivery { status: DeliveryStatus::Pending, next_at: Some(now), ..delivery }
}
