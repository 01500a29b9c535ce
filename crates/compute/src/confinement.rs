//! Confining the processes of a compute to what belongs to their branch.
//!
//! All branches of a home run as one operating-system user, so permissions do not keep the programs that
//! a superuser of one branch may start (`COPY … TO PROGRAM`, untrusted languages) from the files of the
//! others. Landlock does (landlock(7)): it takes rights on directories away from a process and all its
//! descendants, for good. From its sixth version on (Linux 6.12) it also keeps them from signalling
//! others. What it cannot do yet is forbid to connect to a socket in a directory; those ask for passwords.

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Command;

use landlock::{
    ABI, Access, AccessFs, Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetError, Scope, path_beneath_rules,
};

use crate::os;

/// The first version with what PostgreSQL needs: renaming between directories, and truncation under
/// control.
const OLDEST: i32 = 3;

/// What a compute may reach.
#[derive(Debug, Default)]
pub struct Reach {
    /// Trees that are closed but for what stands below; everything outside of them is open.
    pub closed: Vec<PathBuf>,
    /// Trees, or files, that may be read and written.
    pub written: Vec<PathBuf>,
    /// Trees, or files, that may be read and run.
    pub read: Vec<PathBuf>,
}

/// A confinement ready to be put on.
#[derive(Debug)]
pub struct Confinement {
    rules: OwnedFd,
}

/// Whether this machine can confine computes.
pub fn available() -> bool {
    os::landlock_version().is_some_and(|version| version >= OLDEST)
}

impl Confinement {
    /// Of what may be reached. None where the kernel cannot.
    ///
    /// # Errors
    /// The kernel refuses the rules.
    pub fn new(reach: &Reach) -> Result<Option<Confinement>, RulesetError> {
        if !available() {
            return Ok(None);
        }
        let all = AccessFs::from_all(ABI::V5);
        let rules = Ruleset::default()
            .handle_access(all)?
            .scope(Scope::from_all(ABI::V6))?
            .create()?
            .add_rules(path_beneath_rules(around(&reach.closed), all))?
            .add_rules(path_beneath_rules(&reach.written, all))?
            .add_rules(path_beneath_rules(&reach.read, AccessFs::from_read(ABI::V5)))?;
        Ok(Option::<OwnedFd>::from(rules).map(|rules| Confinement { rules }))
    }

    /// Lets a command put it on before its first instruction. Must outlive the spawning.
    pub fn apply(&self, command: &mut Command) {
        os::confine(command, self.rules.as_raw_fd());
    }
}

/// Every entry beside the closed trees, as they are now. Rules only ever add, so to leave something out
/// is to name all its neighbours.
fn around(closed: &[PathBuf]) -> Vec<PathBuf> {
    let mut open = Vec::new();
    collect(Path::new("/"), closed, &mut open);
    open
}

fn collect(directory: &Path, closed: &[PathBuf], open: &mut Vec<PathBuf>) {
    // What we may not list, our computes need not reach.
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        // The target of a link has rules of its own.
        if closed.contains(&path) || entry.file_type().is_ok_and(|kind| kind.is_symlink()) {
            continue;
        }
        if closed.iter().any(|tree| tree.starts_with(&path)) {
            collect(&path, closed, open);
        } else {
            open.push(path);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::scratch::Directory;

    #[test]
    fn everything_but_the_closed_trees_is_named() {
        let scratch = Directory::new("confinement");
        let root = scratch.path().canonicalize().unwrap();
        for name in ["a/home/x", "a/other", "b", "c/run"] {
            std::fs::create_dir_all(root.join(name)).unwrap();
        }
        std::os::unix::fs::symlink(root.join("a/home"), root.join("way")).unwrap();
        let found = around(&[root.join("a/home"), root.join("c/run")]);
        let mut found: Vec<_> = found.iter().filter_map(|path| path.strip_prefix(&root).ok()).collect();
        found.sort();
        assert_eq!(found, [Path::new("a/other"), Path::new("b")]);
    }

    #[test]
    fn a_confined_program_reaches_what_is_open_and_nothing_closed() {
        if !available() {
            // Around the test harness, which would keep it to itself.
            let line = b"SKIPPED: a confined program: this kernel has no Landlock\n";
            std::io::stderr().write_all(line).unwrap();
            return;
        }
        let scratch = Directory::new("confinement");
        let root = scratch.path().canonicalize().unwrap();
        let file = |name: &str| {
            std::fs::create_dir_all(root.join(name).parent().unwrap()).unwrap();
            std::fs::write(root.join(name), "secret").unwrap();
            root.join(name)
        };
        let (mine, others, readable) = (file("home/mine/f"), file("home/others/f"), file("home/shared/f"));
        let outside = file("beside/f");
        let reach = Reach {
            closed: vec![root.join("home")],
            written: vec![root.join("home/mine")],
            read: vec![root.join("home/shared")],
        };
        let confinement = Confinement::new(&reach).unwrap().unwrap();
        let runs = |script: String| {
            let mut command = Command::new("sh");
            command.arg("-c").arg(script).stderr(std::process::Stdio::null());
            confinement.apply(&mut command);
            command.status().unwrap().success()
        };
        for (path, read, written) in
            [(&mine, true, true), (&others, false, false), (&readable, true, false), (&outside, true, true)]
        {
            let path = path.display();
            assert_eq!(runs(format!("cat {path}")), read, "reading {path}");
            assert_eq!(runs(format!("echo x >> {path}")), written, "writing {path}");
        }
        assert!(!runs(format!("ls {}", root.join("home").display())));
        if os::landlock_version().is_some_and(|version| version >= 6) {
            assert!(!runs(format!("kill -0 {}", std::process::id())), "signals reach others");
        }
    }
}
