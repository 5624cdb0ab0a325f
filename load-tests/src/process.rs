//! What the system knows of a process.

use std::path::PathBuf;

use anyhow::Context;

/// Resident memory now and at its peak, in MiB. Linux only.
pub fn memory_mib(pid: u32) -> anyhow::Result<(u64, u64)> {
    let path = PathBuf::from(format!("/proc/{pid}/status"));
    let text = std::fs::read_to_string(&path).with_context(|| format!("there is no process {pid}"))?;
    let field = |name: &str| {
        text.lines()
            .find_map(|line| {
                line.strip_prefix(name)?.trim().trim_end_matches(" kB").trim().parse::<u64>().ok()
            })
            .with_context(|| format!("{name} is not told"))
    };
    Ok((field("VmRSS:")? / 1024, field("VmHWM:")? / 1024))
}
