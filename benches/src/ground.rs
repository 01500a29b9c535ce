//! The directory of a run, and who the run is.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use compute::limits::Limiter;
use compute::{os, run_as};

use crate::failure::{Context, Failure, Result};

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// A directory that goes away with the run. Whoever puts servers in it stops them first.
pub struct Ground {
    path: PathBuf,
    limiter: Limiter,
}

impl Ground {
    /// Makes the directory below `base`. Root becomes an ordinary user for good, as the daemon
    /// would: so this comes before any thread is started. `sized`: computes are to be held to sizes.
    pub fn prepare(base: Option<&Path>, user: Option<&str>, sized: bool) -> Result<Ground> {
        let base = base.map_or_else(std::env::temp_dir, Path::to_owned);
        std::fs::create_dir_all(&base).context(format!("making {}", base.display()))?;
        let base = base.canonicalize().context(format!("resolving {}", base.display()))?;
        let path = base.join(format!("ana-bench-{}", std::process::id()));
        let limiter = |user| {
            // One name for all runs: an ordinary user cannot remove the group that root made.
            if sized { Limiter::prepare(&base.join("ana-bench"), user) } else { Limiter::priorities() }
        };
        let limiter = match run_as::choose(user).map_err(hinted)? {
            Some(choice) => {
                run_as::prepare_home(&path, &choice.user).map_err(hinted)?;
                let limiter = limiter(Some(&choice.user));
                run_as::drop_privileges(&choice.user).map_err(hinted)?;
                limiter
            }
            None => {
                std::fs::create_dir(&path).context(format!("making {}", path.display()))?;
                limiter(None)
            }
        };
        let ground = Ground { path, limiter };
        // The caller's directory may be closed to the new user, and PostgreSQL's programs look at it.
        std::env::set_current_dir(&ground.path).context("changing the directory")?;
        Ok(ground)
    }

    /// A new directory in it.
    pub fn make(&self, name: &str) -> Result<PathBuf> {
        let path = self.path.join(name);
        std::fs::create_dir_all(&path).context(format!("making {}", path.display()))?;
        Ok(path)
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What holds computes to their sizes.
    pub fn limiter(&self) -> &Limiter {
        &self.limiter
    }

    /// What the disk is formatted with.
    pub fn file_system(&self) -> String {
        match os::file_system_type(&self.path) {
            Ok(0xEF53) => "ext4".to_owned(),
            Ok(0x5846_5342) => "xfs".to_owned(),
            Ok(0x9123_683E) => "btrfs".to_owned(),
            Ok(0x2FC1_2FC1) => "zfs".to_owned(),
            Ok(0x0102_1994) => "tmpfs (memory, not a disk)".to_owned(),
            Ok(0x794C_7630) => "overlayfs".to_owned(),
            Ok(other) => format!("{other:#x}"),
            Err(error) => error.to_string(),
        }
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.path) {
            eprintln!("warning: could not remove {}: {error}", self.path.display());
        }
    }
}

fn hinted(error: run_as::Error) -> Failure {
    let hint = error.hint().map(|hint| format!(" ({hint})")).unwrap_or_default();
    Failure(format!("{error}{hint}"))
}

/// From now on a signal to end is noted, for [`check`] to see: servers must be stopped first.
pub fn watch_signals(runtime: &tokio::runtime::Handle) -> Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let _inside = runtime.enter();
    for kind in [SignalKind::interrupt(), SignalKind::terminate()] {
        let mut signals = signal(kind).context("watching signals")?;
        runtime.spawn(async move {
            while signals.recv().await.is_some() {
                INTERRUPTED.store(true, Ordering::Relaxed);
            }
        });
    }
    Ok(())
}

/// Fails once a signal asked to end.
pub fn check() -> Result<()> {
    if INTERRUPTED.load(Ordering::Relaxed) { Err(Failure("interrupted".to_owned())) } else { Ok(()) }
}
