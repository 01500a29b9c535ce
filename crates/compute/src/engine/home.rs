//! The engine's state and its locks.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Instant;

use store::gate::Gate;
use store::home::Home;
use store::layer::{Layer, seal};
use store::sys;

use super::attention::Attention;
use super::damage::Health;
use super::scrub::is_summed;
use super::usage::Usages;
use super::{BranchKey, Error};
use crate::limits::{Limiter, Limits};
use crate::process;
use crate::server::Server;

/// The branches of one home.
pub struct Engine {
    pub(super) home: Home,
    pub(super) shim: PathBuf,
    pub(super) sockets: PathBuf,
    /// Files of extensions that every server finds among its own.
    pub(super) extensions: OnceLock<PathBuf>,
    /// The server of new branches, and of those whose own is not where it was.
    pub(super) usual_server: OnceLock<Server>,
    /// Held by whoever syncs and indexes a sealed layer: the cut's own thread or maintenance.
    pub(super) sealing: Arc<Mutex<()>>,
    locks: Mutex<HashMap<BranchKey, Arc<Mutex<()>>>>,
    pub(super) limiter: OnceLock<Limiter>,
    pub(super) health: Health,
    /// What computes may take.
    pub(super) limits: Mutex<HashMap<BranchKey, Limits>>,
    /// Branches that may have layers to merge.
    pub(super) uncompacted: Arc<Mutex<BTreeSet<BranchKey>>>,
    /// Branches whose layers stay as they are.
    pub(super) held: Mutex<BTreeSet<BranchKey>>,
    /// Whether merges in progress shall end.
    pub(super) compaction_ends: AtomicBool,
    /// When all were last looked at for such layers.
    pub(super) looked_over: Mutex<Instant>,
    /// Where the WAL of each running branch ended in the last round of maintenance.
    wal_marks: Mutex<HashMap<BranchKey, u64>>,
    pub(super) attention: Attention,
    pub(super) usages: Usages,
}

impl Engine {
    /// Opens (and where needed creates) the home, finishes or undoes what a crash left half-done.
    /// `shim` is the preload library to give to every compute; `sockets` a short directory for
    /// the computes' unix sockets.
    ///
    /// # Errors
    /// When the home cannot be read or written.
    pub fn open(home: &Path, shim: &Path, sockets: &Path) -> Result<Engine, Error> {
        let io = |what: String| move |source| Error::Io { what, source };
        for directory in [home, sockets] {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(directory)
                .map_err(io(format!("could not create {}", directory.display())))?;
        }
        fs::set_permissions(home, fs::Permissions::from_mode(0o700))
            .map_err(io(format!("could not restrict {}", home.display())))?;
        let home = home.canonicalize().map_err(io(format!("could not resolve {}", home.display())))?;
        let (store, swept) = Home::open(&home).map_err(|errno| Error::Io {
            what: format!("could not open the store in {}", home.display()),
            source: errno.into(),
        })?;
        for name in &swept.branches {
            tracing::info!(branch = name, "removed a branch that a crash left half-made or half-removed");
        }
        for name in &swept.damaged {
            tracing::error!(
                branch = name,
                "the branch's manifest cannot be read; no layer is collected until it is put back or removed"
            );
        }
        let engine = Engine {
            home: store,
            shim: shim.to_owned(),
            sockets: sockets.to_owned(),
            extensions: OnceLock::new(),
            usual_server: OnceLock::new(),
            sealing: Arc::default(),
            locks: Mutex::default(),
            health: Health::default(),
            limiter: OnceLock::new(),
            limits: Mutex::default(),
            uncompacted: Arc::new(Mutex::new(
                swept.deep.into_iter().filter_map(|name| BranchKey::new(name).ok()).collect(),
            )),
            held: Mutex::default(),
            compaction_ends: AtomicBool::new(false),
            looked_over: Mutex::new(Instant::now()),
            wal_marks: Mutex::default(),
            attention: Attention::default(),
            usages: Usages::default(),
        };
        // What an earlier engine left undone, and whether all is whole, is not known: each is looked at once.
        engine.keys()?.iter().for_each(|key| engine.attention.call(key));
        Ok(engine)
    }

    /// Shows the files of `directory` in the extension directory of every server that is started from now
    /// on. The first directory that is offered counts.
    pub fn offer_extensions(&self, directory: &Path) {
        // Computes have another working directory.
        let absolute = directory.canonicalize().unwrap_or_else(|_| directory.to_owned());
        let _ = self.extensions.set(absolute);
    }

    /// Takes `server` for branches whose recorded server is not where it was: in a home that was restored on
    /// another machine, say. The first one that is named counts.
    pub fn fall_back_to(&self, server: &Server) {
        let _ = self.usual_server.set(server.clone());
    }

    /// Directory of the compute's unix socket (0700, short enough for a socket path).
    pub fn socket_dir(&self, key: &BranchKey) -> PathBuf {
        self.sockets.join(key.as_str())
    }

    /// The compute's log file.
    pub fn log_path(&self, key: &BranchKey) -> PathBuf {
        self.directory(key).join("postgres.log")
    }

    /// All branches that have data on this host.
    ///
    /// # Errors
    /// When the home cannot be read.
    pub fn keys(&self) -> Result<Vec<BranchKey>, Error> {
        let names = self.home.branches().map_err(|errno| self.failed("could not list branches", errno))?;
        Ok(names.into_iter().filter_map(|name| BranchKey::new(name).ok()).collect())
    }

    pub(super) fn directory(&self, key: &BranchKey) -> PathBuf {
        self.home.branch_path(key.as_str())
    }

    pub(super) fn data_directory(&self, key: &BranchKey) -> PathBuf {
        self.directory(key).join("pgdata")
    }

    pub(super) fn exists(&self, key: &BranchKey) -> bool {
        self.directory(key).join("manifest").exists()
    }

    /// The gate of a branch whose compute runs.
    pub(super) fn gate(&self, key: &BranchKey) -> Result<Gate, Error> {
        let what = || format!("could not open the gate of branch {key}");
        let branch = self.home.open_branch(key.as_str()).context(what)?;
        let gate = sys::openat(branch, c"gate", sys::O_RDWR | sys::O_CLOEXEC, 0).and_then(|fd| {
            let gate = Gate::open(fd);
            sys::close(fd);
            gate
        });
        sys::close(branch);
        gate.context(what)
    }

    /// The lock of a branch: one cut, start, stop or removal at a time.
    pub(super) fn lock(&self, key: &BranchKey) -> Arc<Mutex<()>> {
        let mut locks = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(locks.entry(key.clone()).or_default())
    }

    pub(super) fn wal_marks(&self) -> MutexGuard<'_, HashMap<BranchKey, u64>> {
        self.wal_marks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets a branch that is gone. Names are not used again, so nobody who still waits for its lock finds
    /// anything.
    pub(super) fn forget(&self, key: &BranchKey) {
        self.locks.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
        self.wal_marks().remove(key);
        self.forget_limits(key);
        self.attention.forget(key);
        self.usages.forget(key);
        self.held.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
    }

    /// Branches on which somebody is working at this moment.
    fn locked(&self) -> Vec<BranchKey> {
        let locks = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = locks.iter().filter(|(_, lock)| lock.try_lock().is_err());
        taken.map(|(key, _)| key.clone()).collect()
    }

    /// Branches that have server processes, or on which something is being done: one pass over the process
    /// table, however many branches there are.
    ///
    /// # Errors
    /// When the process table cannot be read.
    pub fn with_processes(&self) -> Result<BTreeSet<BranchKey>, Error> {
        let directories =
            process::server_directories().map_err(|error| Error::Postgres(error.to_string()))?;
        let key_of = |path: &Path| {
            let branch = path.parent().filter(|_| path.ends_with("pgdata"))?.file_name()?;
            BranchKey::new(branch.to_str()?).ok()
        };
        let here = |key: &BranchKey, identity: (u64, u64)| {
            fs::metadata(self.data_directory(key)).is_ok_and(|facts| (facts.dev(), facts.ino()) == identity)
        };
        let found = directories.into_iter().filter_map(|(path, identity)| {
            // The name says which one it may be: another home may be seen under another path.
            key_of(&path).filter(|key| here(key, identity))
        });
        Ok(found.chain(self.locked()).collect())
    }

    pub(super) fn failed(&self, what: &str, errno: store::Errno) -> Error {
        Error::Io { what: what.to_owned(), source: errno.into() }
    }
}

/// Attaches what was being done to an I/O error.
pub(super) trait Context<T> {
    fn context(self, what: impl FnOnce() -> String) -> Result<T, Error>;
}

impl<T> Context<T> for std::io::Result<T> {
    fn context(self, what: impl FnOnce() -> String) -> Result<T, Error> {
        self.map_err(|source| Error::Io { what: what(), source })
    }
}

impl<T> Context<T> for store::Result<T> {
    fn context(self, what: impl FnOnce() -> String) -> Result<T, Error> {
        self.map_err(|errno| Error::Io { what: what(), source: errno.into() })
    }
}

/// Syncs a sealed layer and gives it its index; nothing to do where it has one.
pub(super) fn seal_layer(layers: sys::Fd, layer: store::layer::LayerId) -> store::Result<()> {
    seal::rebuild(layers, layer)?;
    let layer = Layer::open(layers, layer)?;
    seal::sync_layer(&layer, None)?;
    seal::build_index(&layer, &is_summed)
}
