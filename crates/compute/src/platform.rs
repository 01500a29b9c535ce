//! What this machine and the home's file system must offer, checked before anything is written.

use std::fs::File;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::os;

/// Why branches cannot work here.
#[derive(Debug, thiserror::Error)]
pub enum Unsupported {
    /// musl, or another C library.
    #[error("ana needs glibc: its preload library does not work with this C library (musl?)")]
    NotGlibc,
    /// glibc is too old.
    #[error("ana needs glibc {}.{} or newer; this machine has {found}", OLDEST_GLIBC.0, OLDEST_GLIBC.1)]
    OldGlibc {
        /// Its version.
        found: String,
    },
    /// The home lies on a file system that cannot keep its promises.
    #[error("{home} lies on {kind}, which {reason}")]
    FileSystem {
        /// The home.
        home: PathBuf,
        /// Kind of the file system.
        kind: &'static str,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The file system of the home lacks something.
    #[error("the file system of {home} has no {what}: {source}")]
    Lacks {
        /// The home.
        home: PathBuf,
        /// What it lacks.
        what: &'static str,
        /// What it answers.
        source: std::io::Error,
    },
    /// The home cannot be looked at.
    #[error("{home} cannot be checked: {source}")]
    Unreachable {
        /// The home.
        home: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
}

impl Unsupported {
    /// What to do next.
    pub fn hint(&self) -> &'static str {
        match self {
            Unsupported::NotGlibc | Unsupported::OldGlibc { .. } => {
                "run ana on a newer glibc distribution, or in a container of one"
            }
            Unsupported::Unreachable { .. } => "make the directory, or choose another one with --home",
            Unsupported::FileSystem { .. } | Unsupported::Lacks { .. } => {
                "choose a directory on a local ext4, XFS or btrfs with --home"
            }
        }
    }
}

const OLDEST_GLIBC: (u32, u32) = (2, 28);

/// Checks the C library and the existing directory `home`.
///
/// # Errors
/// The first thing that is missing, with the reason.
pub fn check(home: &Path) -> Result<(), Unsupported> {
    check_glibc(os::glibc_version().as_deref())?;
    let unreachable = |source| Unsupported::Unreachable { home: home.to_owned(), source };
    let kind = os::file_system_type(home).map_err(unreachable)?;
    if let Some((kind, reason)) = unfit_file_system(kind) {
        return Err(Unsupported::FileSystem { home: home.to_owned(), kind, reason });
    }
    check_features(home)
}

fn check_glibc(version: Option<&str>) -> Result<(), Unsupported> {
    let found = version.ok_or(Unsupported::NotGlibc)?;
    let mut numbers = found.split('.').map(|part| part.parse().unwrap_or(0));
    let known = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if known < OLDEST_GLIBC {
        return Err(Unsupported::OldGlibc { found: found.to_owned() });
    }
    Ok(())
}

/// By the numbers of `statfs(2)`. What a network or a host keeps in its own cache is neither durable
/// after `fsync` nor shared memory between processes in the way a local file is.
fn unfit_file_system(kind: u32) -> Option<(&'static str, &'static str)> {
    const REMOTE: &str = "does not keep PostgreSQL's data safe over a network";
    const PASSED: &str = "passes files through from elsewhere without local locking and durability";
    Some(match kind {
        0x6969 => ("NFS", REMOTE),
        0xFF53_4D42 | 0xFE53_4D42 | 0x517B => ("SMB", REMOTE),
        0x00C3_6400 => ("CephFS", REMOTE),
        0x5346_414F => ("AFS", REMOTE),
        0x0BD0_0BD0 => ("Lustre", REMOTE),
        0x0102_1997 => ("9p", PASSED),
        // virtiofs has the number of FUSE, which it is.
        0x6573_5546 => ("FUSE or virtiofs", PASSED),
        0x786F_4256 => ("a VirtualBox shared folder", PASSED),
        _ => return None,
    })
}

/// Every layer file is made without a name, given an extended attribute, and then a name.
fn check_features(home: &Path) -> Result<(), Unsupported> {
    let lacks = |what| move |source| Unsupported::Lacks { home: home.to_owned(), what, source };
    let file = File::options().write(true).mode(0o600).custom_flags(libc::O_TMPFILE).open(home).map_err(
        |source| match source.raw_os_error() {
            Some(libc::EOPNOTSUPP | libc::EISDIR | libc::EINVAL) => {
                lacks("unnamed files (O_TMPFILE)")(source)
            }
            _ => Unsupported::Unreachable { home: home.to_owned(), source },
        },
    )?;
    os::set_attribute(&file, c"user.anabranch.probe", b"1")
        .map_err(lacks("extended attributes of users (user_xattr)"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::Directory;

    #[test]
    fn glibc_since_2_28() {
        for version in ["2.28", "2.36", "2.100", "3.0", "2.39.9000"] {
            assert!(check_glibc(Some(version)).is_ok(), "{version}");
        }
        for version in ["2.27", "2.4", "1.99", "", "x.y"] {
            let error = check_glibc(Some(version)).unwrap_err();
            let expected = format!("ana needs glibc 2.28 or newer; this machine has {version}");
            assert_eq!(error.to_string(), expected);
        }
        let error = check_glibc(None).unwrap_err();
        assert!(error.to_string().contains("glibc") && error.to_string().contains("musl"));
        assert!(check_glibc(os::glibc_version().as_deref()).is_ok(), "tests run on glibc");
    }

    #[test]
    fn remote_file_systems_are_refused_local_ones_are_not() {
        let name = |kind| unfit_file_system(kind).map(|(name, _)| name);
        assert_eq!(name(0x6969), Some("NFS"));
        assert_eq!(name(0x0102_1997), Some("9p"));
        assert_eq!(name(0x6573_5546), Some("FUSE or virtiofs"));
        // ext4, XFS, btrfs, tmpfs, overlayfs, ZFS
        for local in [0xEF53, 0x5846_5342, 0x9123_683E, 0x0102_1994, 0x794C_7630, 0x2FC1_2FC1] {
            assert_eq!(name(local), None, "{local:x}");
        }
    }

    #[test]
    fn this_machine_is_fit() {
        let home = Directory::new("platform");
        check(home.path()).unwrap();
        assert_eq!(std::fs::read_dir(home.path()).unwrap().count(), 0, "the probe has no name");
    }

    #[test]
    fn a_home_without_what_layers_need_is_refused() {
        let error = check(Path::new("/proc")).unwrap_err();
        // Only root gets as far as the answer of that file system.
        let expected = match os::effective_uid() {
            0 => "the file system of /proc has no unnamed files (O_TMPFILE): ",
            _ => "/proc cannot be checked: ",
        };
        assert!(error.to_string().starts_with(expected), "{error}");
        assert!(error.hint().contains("--home"));
        let error = check(Path::new("/nonexistent")).unwrap_err();
        assert!(error.to_string().starts_with("/nonexistent cannot be checked: "), "{error}");
    }
}
