//! How much memory this host has for computes: that of the machine, or of the control group that the
//! daemon lives in.

use std::path::{Path, PathBuf};

/// Memory as the kernel tells it, bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Memory {
    /// All there is for us and our neighbours.
    pub total: u64,
    /// What programs could take without anything being pushed out.
    pub available: u64,
}

/// Of all memory, computes get this share (per cent); the rest is for the page cache that all
/// branches share, the daemon and everything else.
const SHARE: u64 = 75;

/// Of what is really free, computes get this share (per cent).
const FREE_SHARE: u64 = 90;

/// A host that tells nothing is taken for a small one.
const UNKNOWN: Memory = Memory { total: 2 << 30, available: 1 << 30 };

impl Memory {
    /// Of this machine.
    pub fn read() -> Memory {
        Memory::read_below(Path::new("/")).unwrap_or(UNKNOWN)
    }

    /// What computes may take in all, when they take `used` now. Where other programs fill the
    /// memory, this is less than what would otherwise be ours.
    pub fn for_computes(self, used: u64) -> u64 {
        (self.total / 100 * SHARE).min((self.available + used) / 100 * FREE_SHARE)
    }

    fn read_below(root: &Path) -> Option<Memory> {
        let text = std::fs::read_to_string(root.join("proc/meminfo")).ok()?;
        let machine = Memory { total: field(&text, "MemTotal:")?, available: field(&text, "MemAvailable:")? };
        let groups = std::fs::read_to_string(root.join("proc/self/cgroup")).unwrap_or_default();
        Some(groups.lines().flat_map(|line| limits_of(root, line)).fold(machine, |so_far, (limit, used)| {
            Memory {
                total: so_far.total.min(limit),
                available: so_far.available.min(limit.saturating_sub(used)),
            }
        }))
    }
}

/// `MemTotal:  123 kB`, as bytes.
fn field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse::<u64>().ok().map(|kib| kib * 1024)
}

/// Limit and use of each control group above us that bounds memory, from a line of
/// `/proc/self/cgroup`. Page cache that can be dropped does not count as use.
fn limits_of(root: &Path, line: &str) -> Vec<(u64, u64)> {
    let mut parts = line.splitn(3, ':');
    let (Some(_), Some(controllers), Some(path)) = (parts.next(), parts.next(), parts.next()) else {
        return Vec::new();
    };
    let (base, limit, usage) = match controllers {
        "" => ("sys/fs/cgroup", "memory.max", "memory.current"),
        "memory" => ("sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes"),
        _ => return Vec::new(),
    };
    let base = root.join(base);
    let own: PathBuf = base.join(path.trim_start_matches('/'));
    own.ancestors()
        .take_while(|dir| dir.starts_with(&base))
        .filter_map(|dir| {
            let number =
                |name: &str| std::fs::read_to_string(dir.join(name)).ok()?.trim().parse::<u64>().ok();
            let droppable = std::fs::read_to_string(dir.join("memory.stat")).ok().and_then(|text| {
                let line = text.lines().find_map(|line| {
                    line.strip_prefix("total_inactive_file ").or_else(|| line.strip_prefix("inactive_file "))
                })?;
                line.trim().parse::<u64>().ok()
            });
            Some((number(limit)?, number(usage)?.saturating_sub(droppable.unwrap_or_default())))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    fn root(name: &str, cgroup: &str) -> PathBuf {
        let root = std::env::temp_dir().join(format!("ana-memory-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&root);
        std::fs::create_dir_all(root.join("proc/self")).unwrap();
        let kib = GIB / 1024;
        let meminfo = format!("MemTotal: {} kB\nMemFree: 1 kB\nMemAvailable: {} kB\n", 16 * kib, 12 * kib);
        std::fs::write(root.join("proc/meminfo"), meminfo).unwrap();
        std::fs::write(root.join("proc/self/cgroup"), cgroup).unwrap();
        root
    }

    fn group(root: &Path, dir: &str, files: &[(&str, String)]) {
        let dir = root.join("sys/fs/cgroup").join(dir);
        std::fs::create_dir_all(&dir).unwrap();
        for (name, value) in files {
            std::fs::write(dir.join(name), value).unwrap();
        }
    }

    #[test]
    fn a_plain_machine() {
        let root = root("plain", "0::/user.slice\n");
        let memory = Memory::read_below(&root).unwrap();
        assert_eq!(memory, Memory { total: 16 * GIB, available: 12 * GIB });
        assert_eq!(memory.for_computes(0), (12 * GIB) / 100 * 90);
        assert_eq!(memory.for_computes(4 * GIB), (16 * GIB) / 100 * 75);
        std::fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn the_tightest_group_on_the_way_up_counts() {
        let root = root("v2", "0::/pod/box\n");
        let max = |value: String| ("memory.max", value);
        let used = |value: u64| ("memory.current", value.to_string());
        group(&root, "pod/box", &[max("max".into()), used(GIB)]);
        let stat = ("memory.stat", format!("anon 5\ninactive_file {GIB}\n"));
        group(&root, "pod", &[max((4 * GIB).to_string()), used(3 * GIB), stat]);
        assert_eq!(Memory::read_below(&root).unwrap(), Memory { total: 4 * GIB, available: 2 * GIB });
        std::fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn version_one_groups_count_too() {
        let root = root("v1", "8:pids:/\n4:memory:/box\n0::/\n");
        let files = [("memory.limit_in_bytes", GIB.to_string()), ("memory.usage_in_bytes", "0".to_owned())];
        group(&root, "memory/box", &files);
        let unlimited = ("memory.limit_in_bytes", "9223372036854771712\n".to_owned());
        group(&root, "memory", &[unlimited, ("memory.usage_in_bytes", "1".to_owned())]);
        assert_eq!(Memory::read_below(&root).unwrap(), Memory { total: GIB, available: GIB });
        std::fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn this_machine_tells() {
        let memory = Memory::read();
        assert!(memory.total > 0 && memory.available <= memory.total, "{memory:?}");
    }
}
