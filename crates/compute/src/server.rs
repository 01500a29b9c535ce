//! PostgreSQL servers on this machine.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::imports;
use crate::machine::Machine;

/// The major version that new projects get.
pub const DEFAULT_MAJOR: u32 = 17;

/// The oldest and the newest major version that branches support.
pub const SUPPORTED: std::ops::RangeInclusive<u32> = 15..=18;

/// A PostgreSQL installation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// Directory that holds `postgres` and `initdb`.
    pub bin_dir: PathBuf,
    /// Major version, e.g. 17.
    pub major: u32,
    /// Minor version, e.g. 10.
    pub minor: u32,
}

/// Why a directory does not hold a server that branches can run on.
#[derive(Debug, thiserror::Error)]
pub enum Unfit {
    /// There is no such program.
    #[error("{0} is missing")]
    Missing(PathBuf),
    /// The program does not run, or does not say its version.
    #[error("{program} --version failed: {reason}")]
    Broken {
        /// The program.
        program: PathBuf,
        /// What happened.
        reason: String,
    },
    /// Another major version than the one asked for.
    #[error("{bin_dir} holds PostgreSQL {found}, wanted is {wanted}")]
    Version {
        /// Where it is.
        bin_dir: PathBuf,
        /// Its version, e.g. `15.18`.
        found: String,
        /// The major version asked for, e.g. `17` or `15 to 18`.
        wanted: String,
    },
    /// It calls the operating system in ways that the preload library does not know.
    #[error(transparent)]
    Imports(#[from] imports::Refused),
}

impl Server {
    /// Looks at the server in `bin_dir`: its version must be one that branches support, and its file
    /// functions must all be known.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn at(bin_dir: &Path) -> Result<Server, Unfit> {
        Server::look(bin_dir, None)
    }

    /// As [`Server::at`], and it must be of major version `wanted`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn inspect(bin_dir: &Path, wanted: u32) -> Result<Server, Unfit> {
        Server::look(bin_dir, Some(wanted))
    }

    fn look(bin_dir: &Path, wanted: Option<u32>) -> Result<Server, Unfit> {
        let postgres = bin_dir.join("postgres");
        for program in [&postgres, &bin_dir.join("initdb")] {
            if !program.is_file() {
                return Err(Unfit::Missing(program.clone()));
            }
        }
        let (major, minor) = version_of(&postgres)?;
        let server = Server { bin_dir: bin_dir.to_owned(), major, minor };
        if wanted.is_some_and(|wanted| wanted != major) || !SUPPORTED.contains(&major) {
            let wanted = wanted.map_or_else(
                || format!("{} to {}", SUPPORTED.start(), SUPPORTED.end()),
                |major| major.to_string(),
            );
            return Err(Unfit::Version { bin_dir: bin_dir.to_owned(), found: server.version(), wanted });
        }
        imports::check_postgres(&postgres)?;
        Ok(server)
    }

    /// Path of one of its programs.
    pub fn program(&self, name: &str) -> PathBuf {
        self.bin_dir.join(name)
    }

    /// Version as people write it, e.g. `17.10`.
    pub fn version(&self) -> String {
        format!("{}.{}", self.major, self.minor)
    }
}

fn version_of(postgres: &Path) -> Result<(u32, u32), Unfit> {
    let broken = |reason: String| Unfit::Broken { program: postgres.to_owned(), reason };
    let output = Command::new(postgres)
        .arg("--version")
        .env_clear()
        .output()
        .map_err(|error| broken(error.to_string()))?;
    let text = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        let complaint = String::from_utf8_lossy(&output.stderr);
        let line = complaint.lines().next().unwrap_or_default();
        return Err(broken(format!("{}, {line}", output.status)));
    }
    parse_version(&text).ok_or_else(|| broken(format!("it printed \"{}\"", text.trim())))
}

/// `postgres (PostgreSQL) 17.10 (Debian …)`, `… 18beta1`, `… 19devel`.
fn parse_version(text: &str) -> Option<(u32, u32)> {
    let version = text.split_once("(PostgreSQL)")?.1.split_whitespace().next()?;
    let digits = |text: &str| {
        let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        text[..end].parse().ok()
    };
    let major = digits(version)?;
    let minor = version.split_once('.').and_then(|(_, rest)| digits(rest)).unwrap_or(0);
    Some((major, minor))
}

/// The first server of major `wanted` among those installed on the machine. Each one that does not
/// fit gives one line to `notes`.
pub fn find_on(machine: &Machine, wanted: u32, notes: &mut dyn FnMut(&str)) -> Option<Server> {
    for bin_dir in machine.server_directories(wanted) {
        match Server::inspect(&bin_dir, wanted) {
            Ok(server) => return Some(server),
            Err(unfit) => notes(&format!("passed over: {unfit}")),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::Directory;
    use crate::testing;

    #[test]
    fn versions_as_builders_print_them() {
        let cases = [
            ("postgres (PostgreSQL) 17.10\n", Some((17, 10))),
            ("postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)", Some((15, 18))),
            ("postgres (PostgreSQL) 18beta1", Some((18, 0))),
            ("postgres (PostgreSQL) 19devel", Some((19, 0))),
            ("postgres (PostgreSQL) 16.4.1 vendor", Some((16, 4))),
            ("postgres (PostgreSQL) ", None),
            ("something 17.10", None),
            ("", None),
        ];
        for (text, version) in cases {
            assert_eq!(parse_version(text), version, "{text:?}");
        }
    }

    #[test]
    fn a_real_server_is_recognised() {
        let server = testing::server();
        assert_eq!(server.major, DEFAULT_MAJOR);
        assert_eq!(Server::inspect(&server.bin_dir, server.major).unwrap(), server);
        assert_eq!(Server::at(&server.bin_dir).unwrap(), server);
        let other = Server::inspect(&server.bin_dir, 16).unwrap_err();
        assert!(other.to_string().ends_with(&format!("holds PostgreSQL {}, wanted is 16", server.version())));
        assert!(server.program("initdb").is_file());
        assert_eq!(server.version(), format!("17.{}", server.minor));
    }

    #[test]
    fn what_does_not_fit_is_passed_over_with_one_line_each() {
        let root = Directory::new("find");
        let real = testing::server();
        let machine = Machine { root: root.path().to_owned(), path: Vec::new(), ..Machine::this() };
        let place = |version: &str, script: &str| {
            let bin = root.path().join(format!("usr/lib/postgresql/{version}/bin"));
            std::fs::create_dir_all(&bin).unwrap();
            for program in ["postgres", "initdb"] {
                testing::script(&bin.join(program), script);
            }
            bin
        };
        place("15", "echo 'postgres (PostgreSQL) 15.18 (Debian)'");
        let broken = place("16", "echo 'libicu.so.60: cannot open' >&2; exit 127");
        let wrapped = place(
            "17",
            "echo 'postgres (PostgreSQL) 17.9' # a shell script is no server that can be checked",
        );
        let mut notes = Vec::new();
        let found = find_on(&machine, 17, &mut |note| notes.push(note.to_owned()));
        assert_eq!(found, None);
        assert_eq!(notes.len(), 3, "{notes:?}");
        assert!(
            notes[0].starts_with(&format!("passed over: {}/postgres is not", wrapped.display())),
            "{notes:?}"
        );
        assert!(
            notes[1].contains(&format!(
                "{}/postgres --version failed: exit status: 127, libicu.so.60",
                broken.display()
            )),
            "{notes:?}"
        );
        assert!(notes[2].ends_with("15/bin holds PostgreSQL 15.18, wanted is 17"), "{notes:?}");

        // One that fits further down the list is taken.
        let bin = root.path().join("usr/local/pgsql");
        std::fs::create_dir_all(&bin).unwrap();
        std::os::unix::fs::symlink(&real.bin_dir, bin.join("bin")).unwrap();
        let found = find_on(&machine, 17, &mut |_| {}).unwrap();
        assert_eq!((found.major, found.minor), (17, real.minor));
        assert_eq!(found.bin_dir, bin.join("bin"));
    }

    #[test]
    fn a_server_too_old_for_branches_is_refused_whatever_is_wanted() {
        let root = Directory::new("old");
        for program in ["postgres", "initdb"] {
            testing::script(&root.path().join(program), "echo 'postgres (PostgreSQL) 13.20'");
        }
        let error = Server::at(root.path()).unwrap_err().to_string();
        assert!(error.ends_with("holds PostgreSQL 13.20, wanted is 15 to 18"), "{error}");
    }

    #[test]
    fn pg_config_on_the_path_comes_first() {
        let root = Directory::new("config");
        let real = testing::server();
        let bin = root.path().join("tools");
        std::fs::create_dir(&bin).unwrap();
        testing::script(
            &bin.join("pg_config"),
            &format!("[ \"$1\" = --bindir ] && echo {}", real.bin_dir.display()),
        );
        let machine = Machine { root: root.path().to_owned(), path: vec![bin], ..Machine::this() };
        assert_eq!(find_on(&machine, 17, &mut |note| panic!("{note}")), Some(real));
    }
}
