//! Files of a home as a test sees them: digests, inodes, disk space, which layers a branch reads.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use store::manifest::Manifest;

use crate::lab::Lab;

/// SHA-256 of a file's bytes.
pub fn digest(path: &Path) -> String {
    let mut file = File::open(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        let n = file.read(&mut buffer).unwrap();
        if n == 0 {
            return hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        }
        hash.update(&buffer[..n]);
    }
}

/// Every path below `root`, with the digest of each file.
pub fn digests(root: &Path) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    collect(root, &mut found);
    found
}

fn collect(path: &Path, found: &mut BTreeMap<PathBuf, String>) {
    let metadata = fs::symlink_metadata(path).unwrap();
    if metadata.is_dir() {
        found.insert(path.to_owned(), "directory".to_owned());
        for entry in fs::read_dir(path).unwrap() {
            collect(&entry.unwrap().path(), found);
        }
    } else if metadata.is_file() {
        found.insert(path.to_owned(), digest(path));
    }
}

/// Fails with the paths that differ.
pub fn assert_same(before: &BTreeMap<PathBuf, String>, after: &BTreeMap<PathBuf, String>) {
    let paths: std::collections::BTreeSet<&PathBuf> = before.keys().chain(after.keys()).collect();
    let changed: Vec<&&PathBuf> =
        paths.iter().filter(|path| before.get(**path) != after.get(**path)).collect();
    assert!(changed.is_empty(), "changed: {changed:#?}");
}

/// Paths of all layers below a home's `layers`, and of groups that are empty.
pub fn layers_in(directory: &Path) -> BTreeSet<String> {
    let names = |path: &Path| -> Vec<String> {
        let entries = fs::read_dir(path).into_iter().flatten().flatten();
        entries.map(|entry| entry.file_name().into_string().unwrap()).collect()
    };
    let inside = |group: String| match names(&directory.join(&group)) {
        layers if layers.is_empty() => vec![group],
        layers => layers.iter().map(|layer| format!("{group}/{layer}")).collect(),
    };
    names(directory).into_iter().flat_map(inside).collect()
}

/// Disk space of a tree, bytes; a file with several names counts once.
pub fn disk_usage(root: &Path) -> u64 {
    fn add(path: &Path, seen: &mut BTreeMap<u64, u64>) {
        // Files come and go while a server runs.
        let Ok(metadata) = fs::symlink_metadata(path) else { return };
        seen.insert(metadata.ino(), metadata.blocks() * 512);
        if metadata.is_dir() {
            let Ok(entries) = fs::read_dir(path) else { return };
            entries.flatten().for_each(|entry| add(&entry.path(), seen));
        }
    }
    let mut seen = BTreeMap::new();
    add(root, &mut seen);
    seen.values().sum()
}

impl Lab {
    /// The engine's home.
    pub fn home(&self) -> PathBuf {
        self.path.join("home")
    }

    /// The directory of a branch.
    pub fn branch_directory(&self, branch: &str) -> PathBuf {
        self.home().join("branches").join(branch)
    }

    /// The data directory of a branch.
    pub fn data_directory(&self, branch: &str) -> PathBuf {
        self.branch_directory(branch).join("pgdata")
    }

    /// Directories of the layers that a branch reads, the open one last.
    pub fn layers(&self, branch: &str) -> Vec<PathBuf> {
        let bytes = fs::read(self.branch_directory(branch).join("manifest")).unwrap();
        let manifest = Manifest::decode(&bytes).unwrap();
        let path = |entry: &store::manifest::Entry| {
            let name = store::layer::directory_name(entry.layer);
            self.home().join("layers").join(name.to_str().unwrap())
        };
        manifest.entries.iter().map(path).collect()
    }

    /// WAL segments of a branch that it shares with others by hard links: name to inode and digest.
    pub fn shared_segments(&self, branch: &str) -> BTreeMap<String, (u64, String)> {
        let mut shared = BTreeMap::new();
        // A root shares from where it writes; what a child shares with its parent lies apart.
        let written = fs::read_dir(self.data_directory(branch).join("pg_wal")).unwrap();
        let inherited = fs::read_dir(self.branch_directory(branch).join("wal")).into_iter().flatten();
        for entry in written.chain(inherited) {
            let entry = entry.unwrap();
            let metadata = entry.metadata().unwrap();
            if metadata.is_file() && metadata.nlink() > 1 {
                let name = entry.file_name().into_string().unwrap();
                shared.insert(name, (metadata.ino(), digest(&entry.path())));
            }
        }
        shared
    }
}
