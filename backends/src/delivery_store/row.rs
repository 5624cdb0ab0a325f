//! How a row of the table `deliveries` is read, in whichever engine it lies.

use raglan_pipeline::{
    domain::{Delivery, DeliveryId, JobId},
    ports::PortResult,
};

use crate::database::codec::RowExt;

/// The delivery that a row of the table `deliveries` holds.
pub(super) fn delivery(row: &impl RowExt) -> PortResult<Delivery> {
    Ok(Delivery {
        id: DeliveryId(row.uuid("id")?),
        job_id: JobId(row.uuid("job_id")?),
        tenant: row.parsed("tenant")?,
        url: row.parsed("url")?,
        event: row.name("event")?,
        status: row.name("status")?,
        attempts: row.json("attempts")?,
        next_at: row.optional_time("next_at")?,
        created_at: row.time("created_at")?,
    })
}
