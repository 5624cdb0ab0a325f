//! What the system tells of a process.

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
}
