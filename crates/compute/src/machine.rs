//! What kind of machine this is and where its programs lie: given as a value, so that others can be
//! imagined.

use std::path::{Path, PathBuf};
use std::process::Command;

/// A machine, as far as finding and installing PostgreSQL goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    /// Operating system as Rust names it, e.g. `linux`.
    pub os: String,
    /// Processor as Rust names it, e.g. `x86_64`.
    pub arch: String,
    /// Directories in which programs are looked up.
    pub path: Vec<PathBuf>,
    /// Where the file system begins: `/`.
    pub root: PathBuf,
}

impl Machine {
    /// The one we run on.
    pub fn this() -> Machine {
        let path = std::env::var_os("PATH").unwrap_or_default();
        Machine {
            os: std::env::consts::OS.to_owned(),
            arch: std::env::consts::ARCH.to_owned(),
            path: std::env::split_paths(&path).filter(|directory| directory.is_absolute()).collect(),
            root: PathBuf::from("/"),
        }
    }

    /// The program of this name on the path.
    pub fn program(&self, name: &str) -> Option<PathBuf> {
        use std::os::unix::fs::PermissionsExt;
        let runs = |path: &PathBuf| {
            std::fs::metadata(path)
                .is_ok_and(|facts| facts.is_file() && facts.permissions().mode() & 0o111 != 0)
        };
        self.path.iter().map(|directory| directory.join(name)).find(runs)
    }

    /// Existing directories in which a `postgres` may lie, most likely first: the one that `pg_config`
    /// names, then the usual places, those of major `wanted` before others and newer before older.
    pub(crate) fn server_directories(&self, wanted: u32) -> Vec<PathBuf> {
        let mut found: Vec<PathBuf> = Vec::new();
        let mut add = |directory: PathBuf| {
            if directory.join("postgres").exists() && !same_as_any(&directory, &found) {
                found.push(directory);
            }
        };
        if let Some(directory) = self.pg_config() {
            add(directory);
        }
        // Debian and Ubuntu; Red Hat, Fedora and SUSE; Arch and a build from source; Homebrew.
        let families = [
            ("usr/lib/postgresql", ""),
            ("usr", "pgsql-"),
            ("usr/lib", "postgresql"),
            ("home/linuxbrew/.linuxbrew/opt", "postgresql@"),
            ("opt/homebrew/opt", "postgresql@"),
        ];
        for (parent, prefix) in families {
            let mut majors = majors_in(&self.root.join(parent), prefix);
            majors.sort_by_key(|&major| (major != wanted, std::cmp::Reverse(major)));
            for major in majors {
                add(self.root.join(parent).join(format!("{prefix}{major}")).join("bin"));
            }
        }
        for directory in ["usr/local/pgsql/bin", "usr/local/bin", "usr/bin"] {
            add(self.root.join(directory));
        }
        found
    }

    fn pg_config(&self) -> Option<PathBuf> {
        let output = Command::new(self.program("pg_config")?).arg("--bindir").output().ok()?;
        let text = String::from_utf8(output.stdout).ok()?;
        let directory = PathBuf::from(text.trim());
        (output.status.success() && directory.is_absolute()).then_some(directory)
    }

    /// How to install PostgreSQL of this major version on the distribution at hand.
    pub fn install_hint(&self, major: u32) -> String {
        let release = std::fs::read_to_string(self.root.join("etc/os-release")).unwrap_or_default();
        let command = match family(&release) {
            Family::Debian => format!("apt install postgresql-{major}"),
            Family::RedHat => format!("dnf install postgresql{major}-server"),
            Family::Suse => format!("zypper install postgresql{major}-server"),
            Family::Arch => "pacman -S postgresql".to_owned(),
            Family::Other => {
                return format!("install PostgreSQL {major} and name its directory with --pg-bin");
            }
        };
        format!(
            "install it with: {command} (from PostgreSQL's own package repository, where the \
             distribution has another version), or name its directory with --pg-bin"
        )
    }
}

fn same_as_any(directory: &Path, others: &[PathBuf]) -> bool {
    let real = |path: &Path| path.join("postgres").canonicalize().ok();
    let this = real(directory);
    others.iter().any(|other| real(other) == this)
}

/// The numbers N for which `parent` has an entry `<prefix>N`.
fn majors_in(parent: &Path, prefix: &str) -> Vec<u32> {
    let entries = std::fs::read_dir(parent).into_iter().flatten().flatten();
    let number = |name: std::ffi::OsString| name.to_str()?.strip_prefix(prefix)?.parse().ok();
    entries.filter_map(|entry| number(entry.file_name())).collect()
}

#[derive(Debug, PartialEq, Eq)]
enum Family {
    Debian,
    RedHat,
    Suse,
    Arch,
    Other,
}

/// Reads `ID` and `ID_LIKE` of `os-release(5)`.
fn family(release: &str) -> Family {
    let value = |key: &str| {
        let line = release.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        line.unwrap_or_default().trim_matches(['"', '\'']).to_owned()
    };
    let names = format!("{} {}", value("ID"), value("ID_LIKE"));
    let is = |name: &str| names.split_whitespace().any(|word| word == name);
    if is("debian") || is("ubuntu") {
        Family::Debian
    } else if is("fedora") || is("rhel") {
        Family::RedHat
    } else if names.contains("suse") {
        Family::Suse
    } else if is("arch") {
        Family::Arch
    } else {
        Family::Other
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::Directory;

    #[test]
    fn the_hint_fits_the_distribution() {
        let root = Directory::new("machine");
        std::fs::create_dir(root.path().join("etc")).unwrap();
        let machine = Machine { root: root.path().to_owned(), ..Machine::this() };
        let hint = |release: &str| {
            std::fs::write(root.path().join("etc/os-release"), release).unwrap();
            machine.install_hint(17)
        };
        assert!(hint("PRETTY_NAME=\"Debian\"\nID=debian\n").contains("apt install postgresql-17 "));
        assert!(hint("ID=linuxmint\nID_LIKE=\"ubuntu debian\"\n").contains("apt install postgresql-17 "));
        assert!(
            hint("ID=\"rocky\"\nID_LIKE=\"rhel centos fedora\"\n")
                .contains("dnf install postgresql17-server ")
        );
        assert!(
            hint("ID=\"opensuse-leap\"\nID_LIKE=\"suse opensuse\"\n")
                .contains("zypper install postgresql17-server ")
        );
        assert!(hint("ID=arch\n").contains("pacman -S postgresql "));
        assert_eq!(hint("ID=void\n"), "install PostgreSQL 17 and name its directory with --pg-bin");
        assert_eq!(hint(""), "install PostgreSQL 17 and name its directory with --pg-bin");
    }

    #[test]
    fn directories_in_order_of_likelihood_each_once() {
        let root = Directory::new("machine");
        let machine = Machine { root: root.path().to_owned(), path: Vec::new(), ..Machine::this() };
        let place = |directory: &str| {
            let directory = root.path().join(directory);
            std::fs::create_dir_all(&directory).unwrap();
            std::fs::write(directory.join("postgres"), "").unwrap();
        };
        for directory in [
            "usr/lib/postgresql/15/bin",
            "usr/lib/postgresql/9/bin",
            "usr/lib/postgresql/17/bin",
            "usr/pgsql-18/bin",
            "usr/local/pgsql/bin",
        ] {
            place(directory);
        }
        std::fs::create_dir_all(root.path().join("usr/lib/postgresql/16/bin")).unwrap();
        std::fs::create_dir_all(root.path().join("usr/bin")).unwrap();
        std::os::unix::fs::symlink(
            root.path().join("usr/pgsql-18/bin/postgres"),
            root.path().join("usr/bin/postgres"),
        )
        .unwrap();
        let found = machine.server_directories(17);
        let expected = [
            "usr/lib/postgresql/17/bin",
            "usr/lib/postgresql/15/bin",
            "usr/lib/postgresql/9/bin",
            "usr/pgsql-18/bin",
            "usr/local/pgsql/bin",
        ];
        assert_eq!(found, expected.map(|directory| root.path().join(directory)));
    }

    #[test]
    fn programs_must_be_executable_files() {
        let root = Directory::new("machine");
        let (first, second) = (root.path().join("a"), root.path().join("b"));
        std::fs::create_dir_all(first.join("dir")).unwrap();
        std::fs::create_dir(&second).unwrap();
        std::fs::write(first.join("tool"), "").unwrap();
        crate::testing::script(&second.join("tool"), "true");
        let machine = Machine { path: vec![first, second.clone()], ..Machine::this() };
        assert_eq!(machine.program("tool"), Some(second.join("tool")));
        assert_eq!(machine.program("dir"), None);
        assert_eq!(machine.program("none"), None);
    }
}
