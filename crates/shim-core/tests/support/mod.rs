//! A store in a temporary directory, and the calls of a process on one of its branches.
#![allow(dead_code, missing_docs, clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use shim_core::{Errno, Result, Settings, Tracker};
use store::gate::Gate;
use store::home::Home;
use store::layer::{Layer, seal};
use store::manifest::{Entry, Manifest};
use store::merge::merge;
use store::path::RelPath;
use store::sys::{self, Fd};

static NEXT: AtomicU32 = AtomicU32::new(0);

/// Small, seeded, replayable.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
}

/// A home that goes away with the test.
pub struct Place {
    pub path: PathBuf,
    pub home: Home,
}

impl Place {
    pub fn new() -> Place {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let base = std::env::var_os("CARGO_TARGET_TMPDIR").map_or_else(std::env::temp_dir, PathBuf::from);
        let path = base.join(format!("ana-place-{}-{number}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        let (home, _) = Home::open(&path).unwrap();
        Place { path, home }
    }

    /// A root branch whose first sealed layer holds these files.
    pub fn root(&self, name: &str, files: &[(&str, Vec<u8>)]) {
        let base = self.home.reserve_layer(0);
        let open = self.home.new_layer(store::layer::group_of(base)).unwrap();
        self.root_of(name, files, base, open);
    }

    /// A root branch as stores had it before layers had groups.
    pub fn first_format_root(&self, name: &str, files: &[(&str, Vec<u8>)]) {
        let number = |layer: u64| layer & 0xffff_ffff;
        let base = number(self.home.reserve_layer(0));
        let open = number(self.home.reserve_layer(0));
        Layer::create(self.home.layers(), open).unwrap();
        self.root_of(name, files, base, open);
    }

    fn root_of(&self, name: &str, files: &[(&str, Vec<u8>)], base: u64, open: u64) {
        let directory = self.home.layer_path(base);
        let tree = directory.join("f");
        std::fs::create_dir_all(&tree).unwrap();
        for top in ["base/5", "global", "pg_xact", "pg_stat", "pg_twophase"] {
            std::fs::create_dir_all(tree.join(top)).unwrap();
        }
        for (file, bytes) in files {
            std::fs::write(tree.join(file), bytes).unwrap();
        }
        let (dir, f) = (open_directory(&directory), open_directory(&tree));
        seal::index_tree(dir, f, &|_| true).unwrap();
        sys::close(dir);
        sys::close(f);
        let entries = vec![Entry { slot: 1, layer: base }, Entry { slot: 2, layer: open }];
        self.publish(name, &Manifest { sequence: 1, entries, note: Vec::new() });
    }

    pub fn publish(&self, name: &str, manifest: &Manifest) {
        self.try_publish(name, manifest).unwrap();
    }

    pub fn try_publish(&self, name: &str, manifest: &Manifest) -> Result<()> {
        let new = self.path.join("branches").join(format!("{name}.new"));
        std::fs::create_dir_all(new.join("private")).unwrap();
        std::fs::create_dir_all(new.join("pgdata/pg_wal")).unwrap();
        let path = std::ffi::CString::new(new.to_str().unwrap()).unwrap();
        let fd = sys::openat(sys::AT_FDCWD, &path, sys::O_RDONLY | sys::O_DIRECTORY, 0)?;
        let stored = manifest.store(fd);
        sys::close(fd);
        stored?;
        self.home.publish(name)
    }

    /// Cuts a branch, whose gate (if it has one running) is `gate`, into a new child.
    pub fn cut(&self, parent: &str, gate: Option<&Gate>, child: &str) {
        let prepared = self.home.prepare_cut(parent, gate.map(Gate::top_slot)).unwrap();
        if let Some(gate) = gate {
            let top = gate.close(Duration::from_secs(5)).unwrap().switch().unwrap();
            assert_eq!(top, prepared.next.slot);
        }
        let manifest = self.home.child_manifest(&prepared, Vec::new()).unwrap();
        self.publish(child, &manifest);
    }

    /// Syncs and indexes the sealed layers of a branch.
    pub fn seal(&self, branch: &str) {
        let manifest = self.home.manifest(branch).unwrap();
        for entry in &manifest.entries[..manifest.entries.len() - 1] {
            let layer = Layer::open(self.home.layers(), entry.layer).unwrap();
            seal::sync_layer(&layer, None).unwrap();
            seal::build_index(&layer, &|_| true).unwrap();
        }
    }

    /// Merges some neighbouring layers of a branch that it shares with nobody; the gate is that of its
    /// compute. How many.
    pub fn merge(&self, branch: &str, gate: &Gate, random: &mut Random) -> usize {
        let manifest = self.home.manifest(branch).unwrap();
        let counts = self.home.reference_counts();
        let layers: Vec<u64> = manifest.entries.iter().map(|entry| entry.layer).collect();
        let may = |layer: &u64| counts[layer] == 1 && self.home.layer_path(*layer).join("index").exists();
        let pairs = (1..layers.len() - 1).filter(|at| may(&layers[at - 1]) && may(&layers[*at]));
        let pairs: Vec<usize> = pairs.collect();
        if pairs.is_empty() {
            return 0;
        }
        let first = pairs[random.below(pairs.len() as u64) as usize] - 1;
        let longest = layers[first..layers.len() - 1].iter().take_while(|layer| may(layer)).count();
        let sources = &layers[first..first + 2 + random.below(longest as u64 - 1) as usize];
        self.name_merged(branch, sources, first == 0, gate);
        self.home.remove_merged(sources).unwrap();
        sources.len()
    }

    /// Merges these layers of a branch and puts the result in their place; they are still there.
    pub fn name_merged(&self, branch: &str, sources: &[u64], bottom: bool, gate: &Gate) {
        assert!(self.home.lease_unshared(sources));
        let top = self.home.manifest(branch).unwrap().top().layer;
        let target = self.home.reserve_layer(store::layer::group_of(top));
        merge(self.home.layers(), sources, target, bottom, &|_| true, &mut |_| Ok(())).unwrap();
        assert!(gate.merging(|| self.home.name_merged(branch, sources, target)).unwrap());
    }

    /// A cut whose child does not stay: the branch has one more sealed layer to itself.
    pub fn cut_for_nothing(&self, branch: &str, gate: &Gate) {
        self.cut(branch, Some(gate), "nothing");
        self.home.remove("nothing").unwrap();
        self.seal(branch);
    }

    /// A process of the branch: the first of a new compute.
    pub fn attach(&self, branch: &str) -> Process {
        let directory = self.path.join("branches").join(branch);
        let manifest = self.home.manifest(branch).unwrap();
        for entry in &manifest.entries {
            seal::rebuild(self.home.layers(), entry.layer).unwrap();
        }
        let fd = open_directory(&directory);
        let gate = sys::openat(fd, c"gate", sys::O_RDWR | sys::O_CREAT, 0o600).unwrap();
        Gate::create(gate, manifest.top().slot, 0).unwrap();
        sys::close(gate);
        sys::close(fd);
        let bytes = |path: PathBuf| path.to_str().unwrap().as_bytes().to_vec();
        let tracker = Tracker::attach(Settings {
            data_directory: bytes(directory.join("pgdata")),
            branch_directory: bytes(directory),
            layers_directory: bytes(self.path.join("layers")),
            cache_directory: None,
            extension_directory: Some(bytes(self.path.join("offered"))),
            wal_segment_size: 4 << 20,
        })
        .unwrap();
        tracker.set_inside(true);
        Process { tracker }
    }

    /// What a power cut leaves at worst: nothing that the map log does not name counts.
    pub fn lose_power(&self) {
        for layer in self.home.layers_there().unwrap() {
            let _ = std::fs::remove_file(self.home.layer_path(layer).join("arena"));
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.path);
    }
}

pub fn open_directory(path: &Path) -> Fd {
    let path = std::ffi::CString::new(path.to_str().unwrap()).unwrap();
    sys::openat(sys::AT_FDCWD, &path, sys::O_RDONLY | sys::O_DIRECTORY, 0).unwrap()
}

/// libc as a process under the shim sees it.
pub struct Process {
    pub tracker: Tracker,
}

pub const RDWR: i32 = sys::O_RDWR;
pub const CREATE: i32 = sys::O_RDWR | sys::O_CREAT | sys::O_EXCL;

impl Process {
    pub fn open(&self, path: &str, flags: i32) -> Result<Fd> {
        self.tracker.open(path.as_bytes(), flags, 0o600).expect("a layered path")
    }

    pub fn close(&self, fd: Fd) {
        self.tracker.closed(fd);
        sys::close(fd);
    }

    pub fn pread(&self, fd: Fd, length: usize, offset: u64) -> Result<Vec<u8>> {
        let mut buffer = vec![0xEE; length];
        let n = match self.tracker.pread(fd, &mut buffer, offset) {
            Some(n) => n?,
            None => sys::pread_full(fd, &mut buffer, offset)?,
        };
        buffer.truncate(n);
        Ok(buffer)
    }

    pub fn pwrite(&self, fd: Fd, bytes: &[u8], offset: u64) -> Result<()> {
        let n = match self.tracker.pwrite(fd, bytes, offset) {
            Some(n) => n?,
            None => sys::pwrite(fd, bytes, offset)?,
        };
        if n == bytes.len() { Ok(()) } else { Err(Errno(libc::ENOSPC)) }
    }

    pub fn ftruncate(&self, fd: Fd, length: u64) -> Result<()> {
        self.tracker.ftruncate(fd, length).unwrap_or_else(|| sys::ftruncate(fd, length))
    }

    pub fn truncate(&self, path: &str, length: u64) -> Result<()> {
        self.tracker.truncate(path.as_bytes(), length).expect("a layered path")
    }

    pub fn fsync(&self, fd: Fd) -> Result<()> {
        self.tracker.fsync(fd, true).unwrap_or_else(|| sys::fsync(fd))
    }

    pub fn size(&self, fd: Fd) -> Result<u64> {
        if let Some(current) = self.tracker.make_current(fd) {
            current?;
        }
        sys::size(fd)
    }

    pub fn unlink(&self, path: &str) -> Result<()> {
        self.tracker.unlink(path.as_bytes()).expect("a layered path")
    }

    pub fn rename(&self, from: &str, to: &str) -> Result<()> {
        self.tracker.rename(from.as_bytes(), to.as_bytes()).expect("layered paths")
    }

    pub fn mkdir(&self, path: &str) -> Result<()> {
        self.tracker.mkdir(path.as_bytes(), 0o700).expect("a layered path")
    }

    pub fn rmdir(&self, path: &str) -> Result<()> {
        self.tracker.rmdir(path.as_bytes()).expect("a layered path")
    }

    pub fn list(&self, path: &str) -> Result<Vec<String>> {
        let listed = self.tracker.open_listing(path.as_bytes()).expect("a layered path")?;
        Ok(listed.into_iter().map(|(name, _)| String::from_utf8(name).unwrap()).collect())
    }

    pub fn exists(&self, path: &str) -> bool {
        let there = |root: Fd, path: &RelPath| sys::fstatat(root, path.as_cstr(), 0).map(drop);
        self.tracker.at(path.as_bytes(), there).expect("a layered path").is_ok()
    }

    /// The whole content of a file.
    pub fn content(&self, path: &str) -> Result<Vec<u8>> {
        let fd = self.open(path, RDWR)?;
        let bytes = self.size(fd).and_then(|size| self.pread(fd, size as usize + 100, 0));
        self.close(fd);
        bytes
    }

    pub fn write_file(&self, path: &str, bytes: &[u8]) -> Result<()> {
        let fd = self.open(path, CREATE)?;
        let written = self.pwrite(fd, bytes, 0);
        self.close(fd);
        written
    }
}
