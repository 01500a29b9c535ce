//! Starting and stopping the computes of branches.

use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use store::gate::{FLAG_FRESH, Gate};
use store::sys;

use super::create::{make_skeleton, write_file};
use super::home::{Context, Engine};
use super::{BranchKey, ComputeState, Error, StartOptions, StopMode};
use crate::fault::{Fault, planted};
use crate::process;
use crate::server::Server;
use crate::settings;

/// WAL between checkpoints, so that a child has little to replay: bounds create-to-first-row at any
/// size of the database. The price is more full-page images.
const MAX_WAL_SIZE_MB: u32 = 96;
const STOP_LIMIT: Duration = Duration::from_secs(60);
/// Recovery replays at most some [`MAX_WAL_SIZE_MB`], but a slow disk may be busy.
const START_LIMIT: Duration = Duration::from_secs(300);
/// How long processes without a postmaster may take to end before a start is refused.
const ORPHAN_LIMIT: Duration = Duration::from_secs(1);
/// How long a server that runs already and says that it is ready may take to answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);

impl Engine {
    /// Starts the compute unless it runs already; returns the postmaster's pid once it accepts
    /// connections on `socket_dir(key)/.s.PGSQL.5432`.
    ///
    /// # Errors
    /// [`Error::Refused`] while processes of an earlier compute live; [`Error::Damaged`] where the branch
    /// cannot be read, before anything has changed; [`Error::Postgres`] with the
    /// end of its log when the server does not come up.
    pub fn start(&self, key: &BranchKey, server: &Server, options: &StartOptions) -> Result<i32, Error> {
        let lock = self.lock(key);
        let _guard = lock.lock().unwrap_or_else(PoisonError::into_inner);
        self.start_locked(key, server, options)
    }

    pub(super) fn start_locked(
        &self,
        key: &BranchKey,
        server: &Server,
        options: &StartOptions,
    ) -> Result<i32, Error> {
        if !self.directory(key).exists() {
            return Err(Error::NotFound(key.to_string()));
        }
        let started = self.start_unless_running(key, server, options);
        // Until its processes could be seen, a round may have found the branch at rest.
        self.attention.call(key);
        started
    }

    fn start_unless_running(
        &self,
        key: &BranchKey,
        server: &Server,
        options: &StartOptions,
    ) -> Result<i32, Error> {
        match self.settled_state(key)? {
            ComputeState::Running { pid } => return Ok(pid),
            ComputeState::Orphans { pids } if !planted(Fault::OrphanOverlooked) => {
                return Err(Error::Refused(
                    key.to_string(),
                    format!(
                        "its postmaster is gone but processes {pids:?} of it still run; wait until they end or kill them"
                    ),
                ));
            }
            ComputeState::Orphans { .. } | ComputeState::Stopped => {}
        }
        self.attention.call(key);
        self.check(key)?;
        self.rebuild_layers(key)?;
        self.join_group(key)?;
        // A power cut may have taken empty private directories, which nobody syncs.
        make_skeleton(&self.directory(key))?;
        let data = self.data_directory(key);
        process::remove_stale_shared_memory(&data)
            .map_err(|error| Error::Postgres(format!("branch {key}: {error}")))?;
        let fresh = self.make_gate(key)?;
        let pid = self.spawn(key, server, options)?;
        if fresh {
            self.clear_fresh(key)?;
        }
        Ok(pid)
    }

    /// The state once nothing is on its way: an engine that died may have left a postmaster that is
    /// still recovering or shutting down, and processes that outlive theirs end in moments if they can.
    /// A postmaster that was just told to end says "ready" until it has heard it; therefore it counts
    /// as running only if it says so after it has answered.
    fn settled_state(&self, key: &BranchKey) -> Result<ComputeState, Error> {
        let begin = Instant::now();
        loop {
            let state = self.state(key)?;
            let limit = match state {
                ComputeState::Stopped => return Ok(state),
                ComputeState::Orphans { .. } => ORPHAN_LIMIT,
                ComputeState::Running { pid } if self.says_ready(key, pid)? => {
                    let left = ANSWER_LIMIT.saturating_sub(begin.elapsed());
                    if planted(Fault::ReadyBelieved)
                        || self.answers_within(key, left) && self.says_ready(key, pid)?
                    {
                        return Ok(state);
                    }
                    ANSWER_LIMIT
                }
                ComputeState::Running { .. } => START_LIMIT,
            };
            if begin.elapsed() < limit {
                std::thread::sleep(Duration::from_millis(2));
            } else if let ComputeState::Running { pid } = state {
                let why =
                    format!("its postmaster {pid} does not accept connections; stop it, then try again");
                return Err(Error::Refused(key.to_string(), why));
            } else {
                return Ok(state);
            }
        }
    }

    fn says_ready(&self, key: &BranchKey, pid: i32) -> Result<bool, Error> {
        let file = process::PostmasterFile::read(&self.data_directory(key))
            .context(|| format!("could not read postmaster.pid of branch {key}"))?;
        Ok(file.is_some_and(|file| file.ready && file.pid == pid))
    }

    fn answers_within(&self, key: &BranchKey, limit: Duration) -> bool {
        !limit.is_zero() && process::answers(&self.socket_dir(key).join(".s.PGSQL.5432"), limit)
    }

    /// A new gate for a new incarnation; whether this is the first start of a child.
    fn make_gate(&self, key: &BranchKey) -> Result<bool, Error> {
        let what = || format!("could not make the gate of branch {key}");
        let manifest = self.manifest(key)?;
        let marker = self.directory(key).join("started");
        let fresh = self.record(key)?.parent.is_some() && !marker.exists();
        if fresh {
            write_file(&marker, b"")?;
        }
        let top = store::layer::Layer::open(self.home.layers(), manifest.top().layer).context(what)?;
        if let Some(arena) = top.arena() {
            arena.clear_poison();
        }
        let branch = self.home.open_branch(key.as_str()).context(what)?;
        let flags = sys::O_RDWR | sys::O_CREAT | sys::O_CLOEXEC;
        let gate = sys::openat(branch, c"gate", flags, 0o600).and_then(|fd| {
            let gate = Gate::create(fd, manifest.top().slot, if fresh { FLAG_FRESH } else { 0 });
            sys::close(fd);
            gate
        });
        sys::close(branch);
        gate.context(what)?;
        Ok(fresh)
    }

    fn clear_fresh(&self, key: &BranchKey) -> Result<(), Error> {
        self.gate(key)?.header().flags.store(0, std::sync::atomic::Ordering::Release);
        Ok(())
    }

    fn spawn(&self, key: &BranchKey, server: &Server, options: &StartOptions) -> Result<i32, Error> {
        let record = self.record(key)?;
        let sockets = self.socket_dir(key);
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&sockets)
            .context(|| format!("could not create {}", sockets.display()))?;
        let data = self.data_directory(key);
        let input = settings::ForcedInput {
            data_dir: &data,
            socket_dir: &sockets,
            logical: true,
            child: record.parent.is_some(),
            first_start: options.first_start && !planted(Fault::WorkersAtFirstStart),
        };
        let recorded = settings::Recorded::configured(&data)
            .context(|| format!("could not read the configuration of branch {key}"))?
            .max(&record.recorded);
        let (mut settings, refused) =
            settings::command_line(server.major, &input, &recorded, &defaults(), &options.settings);
        if planted(Fault::ArchiveInherited) && input.child {
            settings.retain(|(name, _)| !name.starts_with("archive_"));
        }
        for name in refused {
            tracing::warn!(branch = %key, name, "this setting is decided by the engine and was not taken");
        }
        let directory = self.directory(key);
        let mut env = vec![
            ("LD_PRELOAD".into(), self.shim.clone().into_os_string()),
            ("ANABRANCH_SHIM_BRANCH".into(), directory.into_os_string()),
            ("ANABRANCH_SHIM_LAYERS".into(), self.home.layers_path().into_os_string()),
            ("ANABRANCH_SHIM_WAL_SEGMENT".into(), record.wal_segment_size.to_string().into()),
        ];
        if let Some(extensions) = self.extensions.get() {
            env.push(("ANABRANCH_SHIM_EXTENSIONS".into(), extensions.clone().into_os_string()));
        }
        if let Some(caches) = self.make_cache_directory(key) {
            env.push(("ANABRANCH_SHIM_CACHE".into(), caches.into_os_string()));
        }
        // Whoever records us, plants faults in us or lets our disk fail does so in our computes.
        for name in [store::recorder::VARIABLE, store::fault::VARIABLE, store::failing::VARIABLE] {
            if let Some(value) = std::env::var_os(name) {
                env.push((name.into(), value));
            }
        }
        let confinement = self.confinement(key, server)?;
        let spec = process::SpawnSpec {
            server: server.clone(),
            data_dir: data,
            settings,
            env,
            log: self.log_path(key),
            run_as: None,
            confinement: confinement.map(Arc::new),
            limit: START_LIMIT,
        };
        process::spawn_placed(&spec, &self.placement(key))
            .map(|spawned| spawned.pid)
            .map_err(|error| Error::Postgres(format!("branch {key}: {error}")))
    }

    /// A directory in memory for what PostgreSQL throws away at every start: relation caches would
    /// otherwise be most of a fresh branch's bytes. Without one they go to the disk.
    fn make_cache_directory(&self, key: &BranchKey) -> Option<PathBuf> {
        self.remove_cache_directory(key);
        let path = self.cache_directory(key);
        let made = fs::DirBuilder::new().mode(0o700).create(&path);
        made.is_ok().then_some(path)
    }

    pub(super) fn cache_directory(&self, key: &BranchKey) -> PathBuf {
        Path::new(MEMORY).join(format!("{}{key}", cache_prefix(&self.home.layers_path())))
    }

    pub(super) fn remove_cache_directory(&self, key: &BranchKey) {
        // It may never have been made, or been cleared by somebody.
        let _ = fs::remove_dir_all(self.cache_directory(key));
    }

    /// Stops the compute; no error if it is not running.
    ///
    /// # Errors
    /// When it does not end.
    pub fn stop(&self, key: &BranchKey, mode: StopMode) -> Result<(), Error> {
        let lock = self.lock(key);
        let _guard = lock.lock().unwrap_or_else(PoisonError::into_inner);
        self.stop_locked(key, mode)
    }

    pub(super) fn stop_locked(&self, key: &BranchKey, mode: StopMode) -> Result<(), Error> {
        let data = self.data_directory(key);
        if self.state(key)? == ComputeState::Stopped {
            // An engine that died while it was stopping the compute may have left these.
            let _ = process::remove_stale_shared_memory(&data);
            self.remove_cache_directory(key);
            return Ok(());
        }
        let failed = |error: process::Error| Error::Postgres(format!("branch {key}: {error}"));
        match mode {
            StopMode::Fast => process::stop_fast(&data, STOP_LIMIT).map_err(failed)?,
            StopMode::Kill => {
                process::kill_all(&data).map_err(failed)?;
                // The next start looks again; left alone, segments of killed computes add up.
                let _ = process::remove_left_shared_memory(&data);
            }
        }
        self.remove_cache_directory(key);
        self.remove_placement(key);
        self.wal_marks().remove(key);
        self.attention.call(key);
        Ok(())
    }

    /// What is running for the branch.
    ///
    /// # Errors
    /// When the process table cannot be read.
    pub fn state(&self, key: &BranchKey) -> Result<ComputeState, Error> {
        let data = self.data_directory(key);
        let failed = |error: process::Error| Error::Postgres(format!("branch {key}: {error}"));
        if let Some(pid) = process::postmaster_of(&data).map_err(failed)? {
            return Ok(ComputeState::Running { pid });
        }
        let processes = process::processes_of(&data).map_err(failed)?;
        let pids: Vec<i32> =
            processes.iter().filter(|process| process.is_server).map(|process| process.pid).collect();
        Ok(if pids.is_empty() { ComputeState::Stopped } else { ComputeState::Orphans { pids } })
    }

    /// As [`Engine::state`], but where a server ended in order nothing is looked for, so it costs the same
    /// however many processes the machine has. To be shown, and before a start, which looks for itself.
    ///
    /// # Errors
    /// When the process table cannot be read.
    pub fn glance(&self, key: &BranchKey) -> Result<ComputeState, Error> {
        if self.has_pid_file(key) { self.state(key) } else { Ok(ComputeState::Stopped) }
    }

    /// Whether the last server did not end in order, or runs still: it removes this file as the last thing.
    pub(super) fn has_pid_file(&self, key: &BranchKey) -> bool {
        self.data_directory(key).join("postmaster.pid").exists()
    }

    /// Whether there may be anything of a compute: processes, or what one leaves that did not end in order.
    pub fn may_have_run(&self, key: &BranchKey) -> bool {
        self.has_pid_file(key) || self.cache_directory(key).exists()
    }

    /// The branch's postmaster, if it lives.
    pub(super) fn postmaster(&self, key: &BranchKey) -> Result<Option<i32>, Error> {
        process::postmaster_of(&self.data_directory(key))
            .map_err(|error| Error::Postgres(format!("branch {key}: {error}")))
    }

    /// When the server that runs now was started, seconds since 1970; none while none runs.
    ///
    /// # Errors
    /// When its `postmaster.pid` cannot be read.
    pub fn started(&self, key: &BranchKey) -> Result<Option<i64>, Error> {
        let file = process::PostmasterFile::read(&self.data_directory(key))
            .context(|| format!("could not read postmaster.pid of branch {key}"))?;
        Ok(file.and_then(|file| file.started))
    }

    /// After a restart of the machine: arenas of the branch's layers are made again from what is
    /// durable.
    pub(super) fn rebuild_layers(&self, key: &BranchKey) -> Result<(), Error> {
        let manifest = self.manifest(key)?;
        for entry in &manifest.entries {
            let path = self.home.layer_path(entry.layer);
            match store::layer::seal::rebuild(self.home.layers(), entry.layer) {
                Err(store::Errno::DAMAGED) => {
                    return Err(Error::Damaged(format!(
                        "branch {key}: its layer {} cannot be made again, a file of it is damaged; \
                         ana doctor --scrub says which",
                        path.display()
                    )));
                }
                other => {
                    other.context(|| format!("branch {key}: could not rebuild layer {}", path.display()))?;
                }
            }
        }
        Ok(())
    }
}

/// Values that we choose differently from PostgreSQL; the user's configuration files rank below the
/// command line, so these are few.
fn defaults() -> settings::Settings {
    [
        ("max_wal_size", format!("{MAX_WAL_SIZE_MB}MB")),
        // Dynamic shared memory comes from here first. Else its files, which lie on the disk where no
        // session manager removes them, would be most of a fresh branch's bytes. Costs what is touched.
        ("min_dynamic_shared_memory", "16MB".to_owned()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .to_vec()
}

/// Where caches of running computes are kept.
pub(super) const MEMORY: &str = "/dev/shm";

/// Beginning of the names of a home's cache directories.
fn cache_prefix(layers: &Path) -> String {
    let hash = store::path::fnv1a(layers.as_os_str().as_encoded_bytes());
    format!("anabranch-{}-{hash:016x}-", crate::os::effective_uid())
}

/// Removes the cache directories of a home of which nothing runs any more, for whoever removes the
/// home itself.
pub fn remove_caches(home: &Path) {
    let prefix = cache_prefix(&home.join("layers"));
    for entry in fs::read_dir(MEMORY).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(&prefix) {
            // Caches: what cannot be removed costs memory, nothing else.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}
