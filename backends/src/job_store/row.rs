//! How a row of the table `jobs` is read, in whichever engine it lies.

use raglan_pipeline::{
    domain::{Job, JobId},
    ports::PortResult,
};

use super::record::Record;
use crate::database::codec::RowExt;

/// The record that a row of the table `jobs` holds.
pub(super) fn record(row: &impl RowExt) -> PortResult<Record> {
    let job = Job {
        id: JobId(row.uuid("id")?),
        tenant: row.parsed("tenant")?,
        spec: row.json("spec")?,
        status: row.name("status")?,
        stage: row.name("stage")?,
        attempt: row.number("attempt")?,
        fence: row.number("fence")?,
        epoch: row.number("epoch")?,
        priority: row.name("priority")?,
        metadata: row.json("metadata")?,
        webhook: row.optional_json("webhook")?,
        created_at: row.time("created_at")?,
        started_at: row.optional_time("started_at")?,
        completed_at: row.optional_time("completed_at")?,
        deadline: row.time("deadline")?,
        expires_at: row.optional_time("expires_at")?,
        progress: row.optional_json("progress")?,
        result: row.optional_json("result")?,
        error: row.optional_json("error")?,
        timings: row.json("timings")?,
        revision: row.number("revision")?,
    };
    Ok(Record {
        job,
        due_at: row.optional_time("due_at")?,
        lease_until: row.optional_time("lease_until")?,
        postponed: row.number("postponed")?,
    })
}
