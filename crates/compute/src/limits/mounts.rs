//! Where the control groups of this process are: `/proc/self/cgroup` and `/proc/self/mountinfo`.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::os::{self, User};

/// One hierarchy as this process sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Hierarchy {
    /// Controllers of a hierarchy of version 1; none for that of version 2.
    pub controllers: Vec<String>,
    /// The group this process is in.
    pub own: PathBuf,
    /// Whether that is the topmost group that can be seen.
    pub is_top: bool,
}

impl Hierarchy {
    /// Whether groups may be made here: somebody gave this group to us, or nobody is above us. In a
    /// group that a manager made for other ends we have no business, even as root.
    pub fn is_ours(&self, user: Option<&User>) -> bool {
        let uid = user.map_or_else(os::effective_uid, |user| user.uid);
        let given = std::fs::metadata(&self.own).is_ok_and(|facts| facts.uid() == uid && uid != 0);
        // systemd marks what it delegates.
        let marked = [c"user.delegate", c"trusted.delegate"]
            .iter()
            .any(|name| os::attribute(&self.own, name).is_some_and(|value| value == b"1"));
        self.is_top || given || marked
    }
}

/// All hierarchies that are mounted and that this process is in; none where there is no `/proc`.
pub(super) fn read(root: &Path) -> Option<Vec<Hierarchy>> {
    let groups = std::fs::read_to_string(root.join("proc/self/cgroup")).ok()?;
    let mounts = std::fs::read_to_string(root.join("proc/self/mountinfo")).ok()?;
    Some(groups.lines().filter_map(|line| hierarchy(root, line, &mounts)).collect())
}

/// A line of `/proc/self/cgroup`: `4:cpu,cpuacct:/path`, for version 2 `0::/path`.
fn hierarchy(root: &Path, line: &str, mounts: &str) -> Option<Hierarchy> {
    let mut parts = line.splitn(3, ':').skip(1);
    let controllers: Vec<String> =
        parts.next()?.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect();
    let path = Path::new(parts.next()?);
    let (mount, top) = mounts.lines().find_map(|line| mount_of(line, &controllers))?;
    let below = path.strip_prefix(top).ok()?;
    let own = root.join(mount.strip_prefix("/").ok()?).join(below);
    Some(Hierarchy { controllers, is_top: below.as_os_str().is_empty(), own })
}

/// Mount point and root of the mount, where a line of `mountinfo` is the hierarchy of these
/// controllers: `36 35 98:0 /root /point options … - type source super-options`.
fn mount_of<'a>(line: &'a str, controllers: &[String]) -> Option<(&'a Path, &'a Path)> {
    let (mount, system) = line.split_once(" - ")?;
    let mut fields = mount.split(' ').skip(3);
    let (top, point) = (fields.next()?, fields.next()?);
    let mut system = system.split(' ');
    let (kind, options) = (system.next()?, system.nth(1)?);
    let fits = match kind {
        "cgroup2" => controllers.is_empty(),
        "cgroup" => {
            let first = controllers.first()?;
            options.split(',').any(|option| option == first)
        }
        _ => false,
    };
    fits.then_some((Path::new(point), Path::new(top)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "24 1 0:5 / /proc rw - proc proc rw\n\
        36 32 0:30 / /sys/fs/cgroup/cpu,cpuacct rw shared:9 - cgroup cgroup rw,cpu,cpuacct\n\
        37 32 0:31 /box /sys/fs/cgroup/blkio rw - cgroup cgroup rw,blkio\n\
        38 32 0:32 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw,nsdelegate\n";

    fn find(line: &str) -> Option<(PathBuf, bool)> {
        hierarchy(Path::new("/"), line, MOUNTS).map(|found| (found.own, found.is_top))
    }

    #[test]
    fn groups_are_found_below_their_mounts() {
        let cpu = "/sys/fs/cgroup/cpu,cpuacct";
        assert_eq!(find("4:cpu,cpuacct:/"), Some((PathBuf::from(cpu), true)));
        assert_eq!(find("4:cpu,cpuacct:/a/b"), Some((Path::new(cpu).join("a/b"), false)));
        assert_eq!(find("7:blkio:/box"), Some((PathBuf::from("/sys/fs/cgroup/blkio"), true)));
        assert_eq!(find("7:blkio:/elsewhere"), None);
        assert_eq!(
            find("0::/ana.service"),
            Some((PathBuf::from("/sys/fs/cgroup/unified/ana.service"), false))
        );
        assert_eq!(find("9:name=systemd:/"), None);
        assert_eq!(find("nonsense"), None);
    }

    #[test]
    fn this_process_is_somewhere() {
        let found = read(Path::new("/")).unwrap();
        for hierarchy in &found {
            assert!(hierarchy.own.is_dir(), "{hierarchy:?}");
        }
    }
}
