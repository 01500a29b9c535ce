//! Which user PostgreSQL runs as, when `ana` was started by root.
//!
//! PostgreSQL refuses to run as root. The whole daemon gives root up before it does anything else,
//! so that nothing of a branch is ever written by root.

use std::path::{Path, PathBuf};

use crate::os;
pub use crate::os::User;

/// Why no user could be taken, or why the taken one cannot work.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// `--run-as` names nobody.
    #[error("there is no user \"{0}\" on this machine")]
    NoSuchUser(String),
    /// `--run-as` names root.
    #[error("PostgreSQL refuses to run as root: \"{0}\" has user id 0")]
    Root(String),
    /// `--run-as` names another user and this process is not root.
    #[error("only root can become user \"{0}\"")]
    NotRoot(String),
    /// None of the usual users exists.
    #[error("PostgreSQL refuses to run as root, and there is no user anabranch or postgres to become")]
    NoUser,
    /// The user cannot get to the directory.
    #[error("user {user} cannot reach {path}: it has no right to enter {blocked}")]
    Unreachable {
        /// The user.
        user: String,
        /// Where it has to get to.
        path: PathBuf,
        /// The first directory on the way that stops it.
        blocked: PathBuf,
    },
    /// The user can get to the directory but not write there.
    #[error("user {user} cannot write in {path}")]
    NotWritable {
        /// The user.
        user: String,
        /// The directory.
        path: PathBuf,
    },
    /// The operating system said no.
    #[error("{what}: {source}")]
    Io {
        /// What was being done.
        what: String,
        /// The cause.
        source: std::io::Error,
    },
}

impl Error {
    /// What to do next.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Error::NoSuchUser(_) | Error::Root(_) => {
                "give --run-as the name of an ordinary user, or run ana as one".to_owned()
            }
            Error::NoUser => {
                "run ana as an ordinary user, or make one: useradd --system --create-home anabranch"
                    .to_owned()
            }
            Error::Unreachable { blocked, .. } => {
                format!("choose another directory with --home, or allow it: chmod o+x {}", blocked.display())
            }
            Error::NotWritable { user, path } => format!(
                "choose another directory with --home, or give it away: chown {user} {}",
                path.display()
            ),
            Error::NotRoot(_) => "leave --run-as out, or start ana as root".to_owned(),
            Error::Io { .. } => return None,
        })
    }
}

/// A user to become.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// Who.
    pub user: User,
    /// One line to show, where the choice is a makeshift.
    pub warning: Option<String>,
}

/// The user to become: `None` when this process is not root and so stays what it is.
/// `run_as` is the value of `--run-as`.
///
/// # Errors
/// The named user does not exist or is root; no usual user exists.
pub fn choose(run_as: Option<&str>) -> Result<Option<Choice>, Error> {
    let me = os::effective_uid();
    if me != 0 {
        return match run_as {
            Some(name) if find(name)?.is_none_or(|user| user.uid != me) => {
                Err(Error::NotRoot(name.to_owned()))
            }
            _ => Ok(None),
        };
    }
    choose_from(run_as, in_container(Path::new("/")), &find).map(Some)
}

fn find(name: &str) -> Result<Option<User>, Error> {
    os::user_by_name(name).map_err(|source| Error::Io { what: format!("looking up user {name}"), source })
}

fn choose_from(
    run_as: Option<&str>,
    in_container: bool,
    find: &dyn Fn(&str) -> Result<Option<User>, Error>,
) -> Result<Choice, Error> {
    if let Some(name) = run_as {
        let user = find(name)?.ok_or_else(|| Error::NoSuchUser(name.to_owned()))?;
        if user.uid == 0 {
            return Err(Error::Root(name.to_owned()));
        }
        return Ok(Choice { user, warning: None });
    }
    for name in ["anabranch", "postgres"] {
        if let Some(user) = find(name)?.filter(|user| user.uid != 0) {
            return Ok(Choice { user, warning: None });
        }
    }
    match find("nobody")?.filter(|user| in_container && user.uid != 0) {
        Some(user) => Ok(Choice {
            user,
            warning: Some(
                "PostgreSQL runs as nobody, a user that other programs may share; --run-as chooses another"
                    .to_owned(),
            ),
        }),
        None => Err(Error::NoUser),
    }
}

/// Whether this machine is a container, by the marks that Docker, Podman and systemd-nspawn leave.
fn in_container(root: &Path) -> bool {
    let marked = [".dockerenv", "run/.containerenv"].iter().any(|mark| root.join(mark).exists());
    let told = || {
        std::fs::read(root.join("proc/1/environ"))
            .is_ok_and(|text| text.split(|&byte| byte == 0).any(|entry| entry.starts_with(b"container=")))
    };
    marked || std::env::var_os("container").is_some() || told()
}

/// Makes `home` where it is missing, owned by `user` (0700), and checks that `user` can get there
/// and write. For root, before [`drop_privileges`].
///
/// # Errors
/// The first directory on the way that the user may not enter; a home that it may not write in.
pub fn prepare_home(home: &Path, user: &User) -> Result<(), Error> {
    let io = |what: &str, source| Error::Io { what: format!("{what} {}", home.display()), source };
    if !home.exists() {
        std::fs::create_dir_all(home).map_err(|source| io("making", source))?;
        std::os::unix::fs::chown(home, Some(user.uid), Some(user.gid))
            .map_err(|source| io("giving away", source))?;
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o700);
        std::fs::set_permissions(home, mode).map_err(|source| io("protecting", source))?;
    }
    let home = home.canonicalize().map_err(|source| io("resolving", source))?;
    if let Some(blocked) = first_blocked(&home, user)? {
        return Err(Error::Unreachable { user: user.name.clone(), path: home, blocked });
    }
    if !can_write(&home, user)? {
        return Err(Error::NotWritable { user: user.name.clone(), path: home });
    }
    Ok(())
}

/// The first directory of the absolute path that `user` may not enter, the path itself included.
fn first_blocked(path: &Path, user: &User) -> Result<Option<PathBuf>, Error> {
    let mut prefixes: Vec<&Path> = path.ancestors().collect();
    prefixes.reverse();
    // Looking up "." needs the right to search the directory, whatever grants it: mode or ACL.
    let search = || {
        prefixes
            .iter()
            .find(|prefix| std::fs::metadata(prefix.join(".")).is_err())
            .map(|prefix| prefix.to_path_buf())
    };
    os::as_user(user, search).map_err(|source| looking_as(user, source))
}

fn can_write(path: &Path, user: &User) -> Result<bool, Error> {
    use std::os::unix::fs::OpenOptionsExt;
    let probe = path.join(format!(".anabranch-probe-{}", std::process::id()));
    let attempt = || {
        let made = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&probe);
        made.is_ok() && std::fs::remove_file(&probe).is_ok()
    };
    os::as_user(user, attempt).map_err(|source| looking_as(user, source))
}

fn looking_as(user: &User, source: std::io::Error) -> Error {
    Error::Io { what: format!("looking at directories as user {}", user.name), source }
}

/// Becomes `user` for good, groups included. To be called before any thread is started; afterwards
/// `HOME`, `USER` and `LOGNAME` say who we are.
///
/// # Errors
/// Not permitted, or root could be had back.
pub fn drop_privileges(user: &User) -> Result<(), Error> {
    os::become_user(user)
        .and_then(|()| os::set_identity_variables(user))
        .map_err(|source| Error::Io { what: format!("becoming user {}", user.name), source })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn user(name: &str, uid: u32) -> User {
        User { name: name.to_owned(), uid, gid: uid, home: PathBuf::from("/nonexistent") }
    }

    fn choose_among(run_as: Option<&str>, in_container: bool, users: &[User]) -> Result<Choice, Error> {
        let find = |name: &str| Ok(users.iter().find(|user| user.name == name).cloned());
        choose_from(run_as, in_container, &find)
    }

    #[test]
    fn the_named_user_then_anabranch_then_postgres_then_nobody_in_a_container() {
        let all = [
            user("root", 0),
            user("nobody", 65534),
            user("postgres", 26),
            user("anabranch", 900),
            user("me", 1000),
        ];
        let name = |choice: Choice| (choice.user.name, choice.warning.is_some());
        let plain = |text: &str| (text.to_owned(), false);
        assert_eq!(name(choose_among(Some("me"), false, &all).unwrap()), plain("me"));
        assert_eq!(name(choose_among(None, false, &all).unwrap()), plain("anabranch"));
        assert_eq!(name(choose_among(None, true, &all[..3]).unwrap()), plain("postgres"));
        assert_eq!(name(choose_among(None, true, &all[..2]).unwrap()), ("nobody".to_owned(), true));
        assert!(matches!(choose_among(None, false, &all[..2]), Err(Error::NoUser)));
        assert!(matches!(choose_among(None, true, &all[..1]), Err(Error::NoUser)));
        assert!(matches!(choose_among(Some("root"), true, &all), Err(Error::Root(_))));
        let error = choose_among(Some("ghost"), true, &all).unwrap_err();
        assert_eq!(error.to_string(), "there is no user \"ghost\" on this machine");
        assert!(error.hint().unwrap().contains("--run-as"));
    }

    #[test]
    fn a_container_is_known_by_its_marks() {
        let root = crate::scratch::Directory::new("container");
        assert_eq!(in_container(root.path()), std::env::var_os("container").is_some());
        std::fs::create_dir_all(root.path().join("proc/1")).unwrap();
        std::fs::write(root.path().join("proc/1/environ"), b"A=1\0container=podman\0").unwrap();
        assert!(in_container(root.path()));
        std::fs::remove_dir_all(root.path().join("proc")).unwrap();
        std::fs::write(root.path().join(".dockerenv"), b"").unwrap();
        assert!(in_container(root.path()));
    }

    /// Needs root to look as somebody else; an ordinary user has nobody to become.
    #[test]
    fn the_first_closed_directory_on_the_way_is_named() {
        let Some(nobody) = root_and_nobody() else {
            assert!(matches!(choose(None), Ok(None)), "an ordinary user stays what it is");
            return;
        };
        let scratch = crate::scratch::Directory::new("reach");
        let base = scratch.path().canonicalize().unwrap();
        let mode =
            |path: &Path, mode| std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
        mode(&base, 0o755);
        let closed = base.join("closed");
        let home = closed.join("inner/home");
        std::fs::create_dir_all(&home).unwrap();
        mode(&closed, 0o700);
        let error = prepare_home(&home, &nobody).unwrap_err();
        assert!(matches!(&error, Error::Unreachable { blocked, .. } if *blocked == closed), "{error}");
        assert!(error.hint().unwrap().ends_with(&format!("chmod o+x {}", closed.display())));

        mode(&closed, 0o711);
        let error = prepare_home(&home, &nobody).unwrap_err();
        assert!(matches!(&error, Error::NotWritable { path, .. } if *path == home), "{error}");

        let made = closed.join("made");
        prepare_home(&made, &nobody).unwrap();
        let facts = std::fs::metadata(&made).unwrap();
        assert_eq!(std::os::unix::fs::MetadataExt::uid(&facts), nobody.uid);
        assert_eq!(facts.permissions().mode() & 0o777, 0o700);
        assert_eq!(std::fs::read_dir(&made).unwrap().count(), 0, "the probe is gone");
    }

    fn root_and_nobody() -> Option<User> {
        (os::effective_uid() == 0).then(|| os::user_by_name("nobody").unwrap().unwrap())
    }
}
