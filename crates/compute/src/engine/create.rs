//! New clusters: initdb, then its files become the first sealed layer.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use pgdata::class::{Class, PRIVATE_DIRECTORIES, classify};
use pgdata::control_file::{ControlFile, State};
use store::layer::group_of;
use store::manifest::{Entry, Manifest};
use store::moment::{Moment, reached};
use store::sys;

use super::durable::Batch;
use super::home::{Context, Engine};
use super::record::{CutRecord, ServerRecord};
use super::{BOOTSTRAP_ROLE, BranchKey, Error};
use crate::fault::{Fault, planted};
use crate::initdb::initdb;
use crate::server::Server;
use crate::settings::Recorded;

impl Engine {
    /// Makes a new cluster and its first sealed layer. The branch is left stopped. Roles and
    /// databases beyond the bootstrap superuser are the control plane's to make.
    ///
    /// # Errors
    /// When initdb fails or the disk does; nothing of the branch is left then.
    pub fn create_root(&self, key: &BranchKey, server: &Server, admin_password: &str) -> Result<(), Error> {
        let lock = self.lock(key);
        let _guard = lock.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if self.exists(key) {
            return Ok(());
        }
        let new = self.home.branch_path(&format!("{key}{}", store::home::NEW));
        if new.exists() {
            fs::remove_dir_all(&new).context(|| format!("could not remove {}", new.display()))?;
        }
        let made = self.build_root(key, &new, server, admin_password);
        self.attention.call(key);
        if made.is_err() {
            // Best effort: the next start of the daemon sweeps what is left.
            let _ = fs::remove_dir_all(&new);
        }
        made
    }

    fn build_root(
        &self,
        key: &BranchKey,
        new: &Path,
        server: &Server,
        admin_password: &str,
    ) -> Result<(), Error> {
        make_skeleton(new)?;
        // A name of its own: what a killed engine's initdb had started may still look for the old one.
        let cluster = new.join(format!("initdb-{}-{:x}", std::process::id(), now_us()));
        initdb(server, &cluster, BOOTSTRAP_ROLE, admin_password, None)
            .map_err(|error| Error::Postgres(error.to_string()))?;
        let control = read_control(&cluster)?;
        if control.state != State::ShutDown {
            return Err(Error::Postgres("initdb left a cluster that was not shut down".to_owned()));
        }
        let base = self.home.reserve_layer(0);
        let imported = self.import(&cluster, new, base);
        let open = imported.and_then(|()| {
            self.home.new_layer(group_of(base)).context(|| "could not make a layer".to_owned())
        });
        let open = match open {
            Ok(open) => open,
            Err(error) => {
                let _ = self.home.end_lease(base);
                return Err(error);
            }
        };
        let record = CutRecord {
            version: 1,
            parent: None,
            redo_lsn: control.redo_lsn.0,
            checkpoint_lsn: control.checkpoint_lsn.0,
            end_lsn: control.redo_lsn.0,
            timeline: control.timeline,
            time_us: now_us(),
            closed_us: 0,
            drain_us: 0,
            wal_segment_size: u64::from(control.wal_segment_size),
            recorded: Recorded::of_control_file(&control),
        };
        // Slot 0 means "the base" in a block map.
        let entries = vec![Entry { slot: 1, layer: base }, Entry { slot: 2, layer: open }];
        let manifest = Manifest { sequence: 1, entries, note: record.encode()? };
        self.publish(key, new, &manifest, server, Batch::default())
    }

    /// Finishes `<key>.new`: server record, manifest, sync of these and of `batch`, rename.
    pub(super) fn publish(
        &self,
        key: &BranchKey,
        new: &Path,
        manifest: &Manifest,
        server: &Server,
        batch: Batch,
    ) -> Result<(), Error> {
        let published = self.publish_in(key, new, manifest, server, batch);
        // What failed may be the sync of a rename that was made: then the branch has the references, and
        // its removal gives them back.
        if published.is_err() && !self.exists(key) {
            let _ = self.home.abandon(manifest);
        }
        published
    }

    fn publish_in(
        &self,
        key: &BranchKey,
        new: &Path,
        manifest: &Manifest,
        server: &Server,
        mut batch: Batch,
    ) -> Result<(), Error> {
        let record =
            ServerRecord { bin_dir: server.bin_dir.clone(), major: server.major, minor: server.minor };
        let text = serde_json::to_vec(&record).map_err(|error| Error::Damaged(error.to_string()))?;
        batch.write(&new.join("server"), &text)?;
        reached(Moment::ServerRecorded);
        let name = format!("{key}{}", store::home::NEW);
        let branch = self.home.open_branch(&name).context(|| format!("could not open {}", new.display()))?;
        let written = manifest.write_first(branch);
        sys::close(branch);
        written.context(|| format!("could not write the manifest of branch {key}"))?;
        batch.file_at(&new.join(store::manifest::NAME.to_string_lossy().as_ref()))?;
        batch.directory(&new.join("pgdata"));
        batch.directory(new);
        batch.sync()?;
        self.home.publish(key.as_str()).context(|| format!("could not publish branch {key}"))
    }

    /// Moves a shut-down cluster's files: layered ones into a new layer, the others into the
    /// branch's own directory.
    fn import(&self, cluster: &Path, new: &Path, layer: u64) -> Result<(), Error> {
        let directory = self.home.layer_path(layer);
        let files = directory.join("f");
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&files)
            .context(|| "could not make a layer".to_owned())?;
        move_tree(cluster, cluster, &files, &new.join("pgdata"))?;
        fs::remove_dir_all(cluster).context(|| format!("could not remove {}", cluster.display()))?;
        let open = |path: &Path| {
            let path = std::ffi::CString::new(path.as_os_str().as_encoded_bytes()).unwrap_or_default();
            sys::openat(sys::AT_FDCWD, &path, sys::O_RDONLY | sys::O_DIRECTORY | sys::O_CLOEXEC, 0)
        };
        let what = || format!("could not seal the new cluster in {}", directory.display());
        let (dir, tree) = (open(&directory).context(what)?, open(&files).context(what)?);
        // All files at once; initdb was told not to sync.
        let sealed = sys::syncfs(dir)
            .and_then(|()| store::layer::seal::index_tree(dir, tree, &super::scrub::is_summed))
            .and_then(|()| store::layer::sync_names(self.home.layers(), layer));
        sys::close(tree);
        sys::close(dir);
        sealed.context(what)
    }
}

fn move_tree(root: &Path, at: &Path, layer: &Path, skeleton: &Path) -> Result<(), Error> {
    let what = || format!("could not move {}", at.display());
    for entry in fs::read_dir(at).context(what)? {
        let entry = entry.context(what)?;
        let path = entry.path();
        let relative = path.strip_prefix(root).unwrap_or(&path);
        let class = classify(relative.as_os_str().as_encoded_bytes());
        let is_directory = entry.file_type().context(what)?.is_dir();
        let target = match class {
            Class::Block | Class::Whole => layer.join(relative),
            Class::Native => skeleton.join(relative),
            Class::Scratch | Class::Root => continue,
        };
        let beside = planted(Fault::SkeletonReadable).then(|| skeleton.join(relative));
        if is_directory {
            for directory in std::iter::once(&target).chain(&beside) {
                fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).context(what)?;
            }
            move_tree(root, &path, layer, skeleton)?;
        } else {
            let parent = target.parent().unwrap_or(skeleton);
            fs::DirBuilder::new().recursive(true).mode(0o700).create(parent).context(what)?;
            fs::rename(&path, &target).context(what)?;
            if let Some(copy) = beside.filter(|copy| *copy != target) {
                fs::copy(&target, &copy).context(what)?;
            }
        }
    }
    Ok(())
}

/// Writes a file of the branch's own: for the owner alone, whatever the process's mask.
pub(super) fn write_file(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let opened = fs::File::options().write(true).create(true).truncate(true).mode(0o600).open(path);
    opened
        .and_then(|mut file| file.write_all(bytes))
        .context(|| format!("could not write {}", path.display()))
}

/// The real directory of a branch: made once, never moved or replaced.
pub(super) fn make_skeleton(new: &Path) -> Result<(), Error> {
    let make = |path: &Path| {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .context(|| format!("could not create {}", path.display()))
    };
    make(&new.join("private"))?;
    PRIVATE_DIRECTORIES.iter().try_for_each(|name| make(&new.join("pgdata").join(name)))
}

/// The directories of a branch that is made from elsewhere, with a place for shared WAL.
pub(crate) fn make_branch_directories(path: &Path) -> std::io::Result<()> {
    make_skeleton(path).map_err(|error| match error {
        Error::Io { source, .. } => source,
        other => std::io::Error::other(other.to_string()),
    })?;
    super::segments::make_shared(path)
}

pub(super) fn read_control(cluster: &Path) -> Result<ControlFile, Error> {
    let path = cluster.join("global/pg_control");
    let bytes = fs::read(&path).context(|| format!("could not read {}", path.display()))?;
    ControlFile::parse(&bytes).map_err(|error| Error::Damaged(format!("{}: {error}", path.display())))
}

pub(super) fn now_us() -> i64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(0, |now| now.as_micros() as i64)
}
