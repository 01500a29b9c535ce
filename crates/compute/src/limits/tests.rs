//! Against directories that look like control groups; against this machine's own where it lets us.

use std::path::PathBuf;

use super::*;
use crate::scratch::Directory;

fn limits(cpus: f64) -> Limits {
    Limits { cpus, memory: 1 << 30, weight: 50 }
}

fn text(path: PathBuf) -> String {
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn root(cgroup: &str, mounts: &str) -> Directory {
    let directory = Directory::new("limits");
    std::fs::create_dir_all(directory.path().join("proc/self")).unwrap();
    std::fs::write(directory.path().join("proc/self/cgroup"), cgroup).unwrap();
    std::fs::write(directory.path().join("proc/self/mountinfo"), mounts).unwrap();
    directory
}

fn group(dir: PathBuf, files: &[(&str, &str)]) {
    std::fs::create_dir_all(&dir).unwrap();
    for (name, value) in files {
        std::fs::write(dir.join(name), value).unwrap();
    }
}

#[test]
fn weights_become_priorities() {
    let steps = [10_000, 1000, 100, 50, 1].map(priority::niceness);
    assert_eq!(steps, [0, 5, 10, 11, 19]);
    assert_eq!([0, 10, 19].map(priority::disk_level), [4, 6, 7]);
}

#[test]
fn without_groups_there_are_priorities() {
    let root = root("0::/\n", "");
    let limiter = Limiter::prepare_below(root.path(), "ana", None);
    assert_eq!(limiter.means(), Means::Priorities);
    assert!(!limiter.means().is_enforced());
    assert_eq!(limiter.place("a", &limits(1.0)).niceness, Some(11));
    assert_eq!(limiter.load("a"), None);
}

#[test]
fn version_two_has_its_files() {
    let mounts = "38 32 0:32 / /cg rw - cgroup2 cgroup2 rw\n";
    let root = root("0::/ana.service\n", mounts);
    let base = root.path().join("cg/ana.service");
    group(base.clone(), &[("cgroup.controllers", "cpu io memory pids"), ("cgroup.procs", "")]);
    group(base.join("computes/a"), &[("cgroup.procs", ""), ("memory.high", ""), ("io.weight", "")]);
    let limiter = Limiter::prepare_below(root.path(), "ana", None);
    if os::effective_uid() == 0 {
        // Root owns everything, so the mark is what tells; tmpfs and ext4 take it, as cgroup2 does.
        assert_eq!(limiter.means(), Means::Priorities, "nobody gave us this group");
        let dir = std::fs::File::open(&base).unwrap();
        os::set_attribute(&dir, c"trusted.delegate", b"1").unwrap();
        group(base.join("computes/a"), &[("cgroup.procs", ""), ("memory.high", ""), ("io.weight", "")]);
    }
    let limiter = Limiter::prepare_below(root.path(), "ana", None);
    assert_eq!(limiter.means(), Means::GroupsV2);
    assert_eq!(text(base.join("daemon/cgroup.procs")), std::process::id().to_string());
    assert_eq!(
        text(base.join("cgroup.subtree_control")),
        "+io",
        "each controller was asked for, the last one"
    );
    let placement = limiter.place("a", &limits(0.5));
    assert_eq!((placement.groups.len(), placement.niceness), (1, None));
    let group = base.join("computes/a");
    assert_eq!(text(group.join("cpu.max")), "50000 100000");
    assert_eq!(text(group.join("cpu.weight")), "50");
    assert_eq!(text(group.join("memory.high")), (1u64 << 30).to_string());
    assert_eq!(text(group.join("io.weight")), "default 50");
    limiter.change("a", &limits(4096.0), Vec::new).unwrap();
    assert_eq!(text(group.join("cpu.max")), "max 100000");
    std::fs::write(group.join("cpu.stat"), "usage_usec 70\nnr_periods 5\nnr_throttled 2\n").unwrap();
    assert_eq!(limiter.load("a"), Some(Load { used_us: 70, periods: 5, throttled: 2 }));
}

#[test]
fn a_group_with_other_processes_is_left_alone() {
    let root = root("0::/\n", "38 32 0:32 / /cg rw - cgroup2 cgroup2 rw\n");
    let base = root.path().join("cg");
    group(
        base.clone(),
        &[("cgroup.controllers", "cpu"), ("cgroup.procs", "1\n2\n"), ("cgroup.type", "domain")],
    );
    assert_eq!(Limiter::prepare_below(root.path(), "ana", None).means(), Means::Priorities);
    assert!(!base.join("daemon").exists() && !base.join("computes").exists());
}

/// The processor time of a compute, held to half a processor and then let go, as the kernel counts
/// it; with this machine's own groups.
#[test]
fn half_a_processor_is_half_a_processor() {
    let name = format!("ana-test-{}", std::process::id());
    let limiter = Limiter::prepare_below(Path::new("/"), &name, None);
    if !limiter.means().is_enforced() {
        use std::io::Write;
        let line = b"SKIPPED: processor limits: this machine gives no control groups to this user\n";
        std::io::stderr().write_all(line).unwrap();
        return;
    }
    let placement = limiter.place("a", &limits(0.5));
    // Two loops: together they would take two processors.
    let mut command = Command::new("sh");
    command.args(["-c", "(while :; do :; done) & (while :; do :; done) & wait"]);
    placement.apply(&mut command);
    os::detach(&mut command, 1024);
    let mut child = command.spawn().unwrap();
    let begin = std::time::Instant::now();
    while limiter.load("a").unwrap().throttled < 10 {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    // However busy the machine is, it cannot be more; one period may be under way.
    let load = limiter.load("a").unwrap();
    let most = (begin.elapsed().as_micros() as u64 + 2 * PERIOD) / 2 + PERIOD;
    let outcome = (load.used_us <= most, format!("{load:?}, allowed {most}"));

    limiter.change("a", &limits(4096.0), Vec::new).unwrap();
    let held = limiter.load("a").unwrap();
    std::thread::sleep(std::time::Duration::from_millis(500));
    let free = limiter.load("a").unwrap();
    os::kill(-child.id().cast_signed(), libc::SIGKILL).unwrap();
    child.wait().unwrap();
    while limiter.load("a").is_some() {
        limiter.remove("a");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    remove_groups_below(Path::new("/"), &name);
    assert!(outcome.0, "{}", outcome.1);
    assert!(free.throttled <= held.throttled + 1, "still held back after the limit was lifted");
}
