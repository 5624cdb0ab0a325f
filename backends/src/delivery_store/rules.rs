//! The rules by which a delivery changes, the same in whichever engine it lies.

use std::time::Duration;

use raglan_pipeline::{
    domain::{Delivery, DeliveryAttempt, DeliveryStatus, Timestamp, truncate},
    ports::{ErrorKind, LONGEST_LEASE, PortError, PortResult},
};

use crate::database::codec::after;

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

/// Until when a delivery is leased that was leased before since `leased_from`, if ever: for as long as it has waited since, if that is more.
pub(super) fn leased_until(now: Timestamp, lease: Duration, leased_from: Option<Timestamp>) -> Timestamp {
    let waited = leased_from.and_then(|since| (now - since).to_std().ok()).unwrap_or_default();
    after(now, waited.clamp(lease, lease.saturating_mul(LONGEST_LEASE)))
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

#[cfg(test)]
mod tests {
    use raglan_pipeline::domain::now;

    use super::*;

    #[test]
    fn a_lease_doubles_while_nobody_tries_up_to_its_bound() {
        let (since, lease) = (truncate(now()), Duration::from_secs(5));
        let mut at = since;
        let mut leases = Vec::new();
        let mut leased_from = None;
        for _ in 0..9 {
            let until = leased_until(at, lease, leased_from);
            leases.push((until - at).num_seconds());
            (leased_from, at) = (Some(since), until);
        }
        assert_eq!(leases, [5, 5, 10, 20, 40, 80, 160, 320, 320]);
        assert_eq!(leased_until(at, Duration::ZERO, Some(since)), at);
        assert_eq!(leased_until(since, lease, Some(at)), since + lease, "a clock that was set back");
    }
}
