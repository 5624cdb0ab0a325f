//! What the system tells of a process.

use std::time::Duration;

use anyhow::Context;

/// The memory of a process, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// Resident now.
    pub resident: u64,
    /// The most that was ever resident.
    pub peak: u64,
}

impl Memory {
    /// Of a process of this machine. Linux only.
    pub fn of(pid: u32) -> anyhow::Result<Self> {
        let path = format!("/proc/{pid}/status");
        let status = std::fs::read_to_string(&path).with_context(|| path.clone())?;
        Self::parse(&status).with_context(|| format!("{path}: no VmRSS or VmHWM"))
    }

    fn parse(status: &str) -> Option<Self> {
        let kib = |name: &str| -> Option<u64> {
            let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
            line.trim().strip_suffix("kB")?.trim().parse().ok()
        };
        Some(Self { resident: kib("VmRSS")? << 10, peak: kib("VmHWM")? << 10 })
    }
}

/// The processor time that this process has used, all of its threads together.
pub fn processor_time() -> anyhow::Result<Duration> {
    processor_time_of(std::process::id())
}

/// The processor time that a process of this machine has used. Linux only.
pub fn processor_time_of(pid: u32) -> anyhow::Result<Duration> {
    let path = format!("/proc/{pid}/stat");
    let stat = std::fs::read_to_string(&path).with_context(|| path.clone())?;
    parse_ticks(&stat).with_context(|| format!("{path}: no utime and stime"))
}

/// Time in user and kernel mode, in hundredths of a second: Linux tells them so on every machine.
fn parse_ticks(stat: &str) -> Option<Duration> {
    // The second field is the name in parentheses, which may hold anything.
    let (_, rest) = stat.rsplit_once(") ")?;
    let mut fields = rest.split(' ').skip(11);
    let ticks: u64 = fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?;
    Some(Duration::from_millis(ticks * 10))
}

/// A duration in seconds.
pub fn seconds(time: Duration) -> f64 {
    time.as_secs_f64()
}

/// Bytes as mebibytes.
#[allow(clippy::cast_precision_loss)] // shown with one digit
pub fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_is_read() {
        let status = "Name:\traglan\nVmPeak:\t  900000 kB\nVmHWM:\t  204800 kB\nVmRSS:\t    1024 kB\n";
        let memory = Memory::parse(status).unwrap();
        assert_eq!(memory, Memory { resident: 1 << 20, peak: 200 << 20 });
        assert_eq!(mib(memory.peak), "200.0 MiB");
        assert_eq!(Memory::parse("Name:\traglan\n"), None);
    }

    #[test]
    fn the_processor_time_is_read() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 100 0 0 0 150 25 0 0 20 0 4 0 1000 1 1";
        assert_eq!(parse_ticks(stat), Some(Duration::from_millis(1_750)));
        assert_eq!(parse_ticks("7"), None);
    }
}
