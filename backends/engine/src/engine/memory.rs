//! Memory of the machine that this process may have.

use std::{fs, path::Path};

/// Where the system shows its control groups (version 2).
const GROUPS: &str = "/sys/fs/cgroup";

/// What the process can have without swapping: what the system has, and its control group, which a container is, lets it have. None where nobody
/// can tell.
pub(super) fn available() -> Option<u64> {
    let of_system = fs::read_to_string("/proc/meminfo").ok().and_then(|text| of_system(&text));
    let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let own = own.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or_default();
    let of_groups = of_groups(Path::new(GROUPS), own);
    of_system.into_iter().chain(of_groups).min()
}

fn of_system(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

/// The least that the group of this path below `root`, or one above it, has left. None where none has a limit.
fn of_groups(root: &Path, path: &str) -> Option<u64> {
    let group = root.join(path);
    group.ancestors().take_while(|group| group.starts_with(root)).filter_map(of_group).min()
}

fn of_group(group: &Path) -> Option<u64> {
    let number = |name: &str| fs::read_to_string(group.join(name)).ok()?.trim().parse::<u64>().ok();
    // Where there is no limit it is written as a word.
    let limit = number("memory.max")?;
    let told = fs::read_to_string(group.join("memory.stat")).unwrap_or_default();
    let part = |name: &str| {
        let line = told.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.and_then(|number| number.trim().parse::<u64>().ok()).unwrap_or(0)
    };
    // Files that were read count as used, but give way: among them the weights, which have just been read.
    let files = part("file").saturating_sub(part("shmem"));
    Some(limit.saturating_sub(number("memory.current")?.saturating_sub(files)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_system_tells_what_is_available() {
        let text = "MemTotal:       24000 kB\nMemFree:  10 kB\nMemAvailable:   16000 kB\n";
        assert_eq!(of_system(text), Some(16_000 * 1024));
        assert_eq!(of_system("MemTotal: 1 kB"), None);
    }

    #[test]
    fn a_control_group_bounds_it_and_files_that_were_read_do_not_count() {
        let root = tempfile::tempdir().unwrap();
        let group = |path: &str, limit: &str, current: u64, stat: &str| {
            let folder = root.path().join(path);
            fs::create_dir_all(&folder).unwrap();
            fs::write(folder.join("memory.max"), format!("{limit}\n")).unwrap();
            fs::write(folder.join("memory.current"), format!("{current}\n")).unwrap();
            fs::write(folder.join("memory.stat"), stat).unwrap();
        };
        group("", "max", 900, "");
        assert_eq!(of_groups(root.path(), ""), None, "no limit");
        group("pods/one", "1000", 700, "anon 300\nfile 400\nfile_mapped 390\nshmem 50\n");
        // 700 are used, of which 350 are files that give way.
        assert_eq!(of_groups(root.path(), "pods/one"), Some(650));
        assert_eq!(of_groups(root.path(), "pods/one/deeper"), Some(650), "what is not shown is passed over");
        group("pods", "2000", 1_900, "file 0\n");
        assert_eq!(of_groups(root.path(), "pods/one"), Some(100), "the tightest counts");
        assert_eq!(of_groups(root.path(), "elsewhere"), None);
    }
}
