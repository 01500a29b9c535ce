//! Where the home is, and where its daemon's socket lies.

use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use control::names::short_hash;

use crate::failure::{Exit, Failure};

/// Name of the API's socket inside the run directory.
pub const SOCKET: &str = "api.sock";

/// A session directory with a longer path is not used: a socket's path ends at 107 bytes, and
/// below it come the home, the branch and PostgreSQL's own file name.
const LONGEST_RUNTIME_DIR: usize = 40;

/// The home: given, or the usual place of root or of an ordinary user.
pub fn locate(given: Option<PathBuf>, uid: u32) -> Result<PathBuf, Failure> {
    let path = match given {
        Some(path) => path,
        None if uid == 0 => PathBuf::from("/var/lib/anabranch"),
        None => std::env::var_os("HOME")
            .filter(|home| !home.is_empty())
            .map(|home| PathBuf::from(home).join(".local/share/anabranch"))
            .ok_or_else(|| {
                Failure::new(Exit::Outside, "HOME is not set, so there is no place for the data")
                    .with_hint("choose one with --home")
            })?,
    };
    let path = std::path::absolute(&path)
        .map_err(|error| Failure::io(format!("cannot resolve {}", path.display()), &error))?;
    // Links are resolved, so that two ways to write one home lead to one daemon.
    Ok(path.canonicalize().unwrap_or(path))
}

/// The socket of a home's daemon, for a client. Where nothing answers yet, the place where a
/// daemon would put it.
pub fn client_socket(home: &Path) -> PathBuf {
    let uid = owner_of(home);
    let places =
        [runtime_dir(uid), Some(PathBuf::from(format!("/run/user/{uid}"))).filter(|dir| owned_dir(dir, uid))];
    let sockets: Vec<PathBuf> = places
        .into_iter()
        .flatten()
        .map(|dir| dir.join("anabranch"))
        .chain([fallback_base(uid)])
        .map(|base| base.join(short_name(home)).join(SOCKET))
        .collect();
    let found = sockets.iter().find(|socket| socket.exists());
    found.or(sockets.last()).cloned().unwrap_or_default()
}

/// The run directory of this process as a home's daemon, for its sockets; made private to the user.
pub fn daemon_dir(home: &Path) -> Result<PathBuf, Failure> {
    let uid = owner_of(Path::new("/proc/self"));
    let base = match runtime_dir(uid) {
        Some(dir) => dir.join("anabranch"),
        None => fallback_base(uid),
    };
    let dir = base.join(short_name(home));
    for dir in [&base, &dir] {
        make_private(dir, uid)?;
    }
    Ok(dir)
}

/// Removes what is empty of a run directory: sockets of computes that run on stay.
pub fn leave_daemon_dir(dir: &Path) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let _ = std::fs::remove_dir(entry.path());
    }
    if std::fs::remove_dir(dir).is_ok()
        && let Some(base) = dir.parent()
    {
        let _ = std::fs::remove_dir(base);
    }
}

/// Eight digits that stand for the home in paths that must be short.
fn short_name(home: &Path) -> String {
    format!("{:08x}", short_hash(home.as_os_str().as_bytes()))
}

/// The session's directory, if it is this user's: after `sudo` it may be somebody else's.
fn runtime_dir(uid: u32) -> Option<PathBuf> {
    let dir = PathBuf::from(std::env::var_os("XDG_RUNTIME_DIR")?);
    let fits = dir.is_absolute() && dir.as_os_str().len() <= LONGEST_RUNTIME_DIR;
    (fits && owned_dir(&dir, uid)).then_some(dir)
}

fn fallback_base(uid: u32) -> PathBuf {
    PathBuf::from(format!("/tmp/.anabranch-{uid}"))
}

fn owned_dir(dir: &Path, uid: u32) -> bool {
    std::fs::symlink_metadata(dir).is_ok_and(|facts| facts.is_dir() && facts.uid() == uid)
}

fn owner_of(path: &Path) -> u32 {
    std::fs::metadata(path).map(|facts| facts.uid()).unwrap_or_default()
}

/// Makes a directory that only `uid` may enter, or checks that it is one: in `/tmp` anybody could
/// have made it first.
fn make_private(dir: &Path, uid: u32) -> Result<(), Failure> {
    match std::fs::DirBuilder::new().mode(0o700).create(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
            return Err(Failure::io(format!("cannot make {}", dir.display()), &error));
        }
        _ => {}
    }
    let facts = std::fs::symlink_metadata(dir)
        .map_err(|error| Failure::io(format!("cannot look at {}", dir.display()), &error))?;
    if facts.is_dir() && facts.uid() == uid && facts.mode() & 0o077 == 0 {
        return Ok(());
    }
    Err(Failure::refused(format!("{} is not a private directory of this user", dir.display()))
        .with_hint("remove it, or set XDG_RUNTIME_DIR to a directory of your own"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn scratch(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("ana-home-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        dir
    }

    #[test]
    fn private_directories_are_made_and_checked() {
        let base = scratch("private");
        let uid = owner_of(Path::new("/proc/self"));
        let dir = base.join("a");
        make_private(&dir, uid).unwrap();
        make_private(&dir, uid).unwrap();
        assert_eq!(std::fs::metadata(&dir).unwrap().mode() & 0o777, 0o700);
        assert!(make_private(&dir, uid + 1).is_err(), "somebody else's");
        std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o755)).unwrap();
        assert!(make_private(&dir, uid).is_err(), "open to others");
        let link = base.join("link");
        std::os::unix::fs::symlink("/", &link).unwrap();
        assert!(make_private(&link, uid).is_err(), "a link");
        std::fs::remove_dir_all(base).unwrap();
    }

    #[test]
    fn one_home_has_one_name() {
        let base = scratch("name");
        let home = base.join("home");
        std::fs::create_dir(&home).unwrap();
        std::os::unix::fs::symlink(&home, base.join("link")).unwrap();
        let direct = locate(Some(home), 1000).unwrap();
        let linked = locate(Some(base.join("link")), 1000).unwrap();
        assert_eq!(direct, linked);
        assert!(client_socket(&direct).as_os_str().len() < 100);
        std::fs::remove_dir_all(base).unwrap();
    }
}
