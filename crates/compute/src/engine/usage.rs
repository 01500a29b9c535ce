//! What a branch occupies.
//!
//! Asked of many branches at once and often, so little is looked up twice: a sealed layer never changes and its
//! number is never used again; a branch at rest does not change either, but for how many names its WAL
//! segments have; who else uses a layer is in memory. What runs is looked at anew, at most every few seconds.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use store::layer::LayerId;
use store::manifest::Entry;
use store::stack::Stack;
use store::{lengths, sys};

use super::home::{Context, Engine};
use super::{BranchKey, Error, Usage};

/// So long a look at a branch that runs, or was just changed, holds.
const HOLDS: Duration = Duration::from_secs(3);
/// So many stacks have their length remembered; beyond that all are worked out again as needed.
const MOST_STACKS: usize = 16_384;

/// What is known of layers and branches.
#[derive(Default)]
pub(super) struct Usages {
    /// Disk space of sealed layers.
    layers: Mutex<HashMap<LayerId, u64>>,
    /// Length of the files of stacks of sealed layers, bottom first.
    stacks: Mutex<HashMap<Vec<LayerId>, u64>>,
    branches: Mutex<HashMap<BranchKey, Arc<Seen>>>,
}

/// One look at a branch.
struct Seen {
    /// The last change that was told before; none if the branch was at rest.
    change: Option<u64>,
    /// The manifest that was read.
    manifest: (u64, i64),
    when: Instant,
    /// Disk space of its directory, but for files that have other names too.
    directory_bytes: u64,
    shared_files: Vec<SharedFile>,
    entries: Vec<Entry>,
    /// Disk space of the layers that were not sealed yet.
    open_layers: BTreeMap<LayerId, u64>,
    logical_bytes: u64,
}

/// A file of a branch's directory that had further names elsewhere: a WAL segment.
struct SharedFile {
    path: PathBuf,
    bytes: u64,
    /// How many names it has in this branch.
    names: u64,
}

impl Usages {
    fn layers(&self) -> MutexGuard<'_, HashMap<LayerId, u64>> {
        self.layers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stacks(&self) -> MutexGuard<'_, HashMap<Vec<LayerId>, u64>> {
        self.stacks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn branches(&self) -> MutexGuard<'_, HashMap<BranchKey, Arc<Seen>>> {
        self.branches.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets a branch that is gone.
    pub fn forget(&self, key: &BranchKey) {
        self.branches().remove(key);
    }
}

impl Engine {
    /// Space of the branch: what its removal would free, what stays because others use it too, and how long
    /// its files are.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn usage(&self, key: &BranchKey) -> Result<Usage, Error> {
        if !self.directory(key).exists() {
            return Err(Error::NotFound(key.to_string()));
        }
        if self.damage(key).is_some() {
            // Of a damaged branch there is at least its own directory.
            return Ok(Usage { own_bytes: weigh(&self.directory(key)).0, ..Usage::default() });
        }
        let seen = self.seen(key)?;
        let mut usage =
            Usage { own_bytes: seen.directory_bytes, logical_bytes: seen.logical_bytes, ..Usage::default() };
        for file in &seen.shared_files {
            // Others may have given it up since; and so may this one, if it runs.
            let Ok(facts) = fs::symlink_metadata(&file.path) else { continue };
            match facts.nlink() <= file.names {
                true => usage.own_bytes += file.bytes,
                false => usage.shared_bytes += file.bytes,
            }
        }
        let going = self.home.going_with(&seen.entries);
        for entry in &seen.entries {
            let bytes = match seen.open_layers.get(&entry.layer) {
                Some(bytes) => *bytes,
                None => self.sealed_layer_bytes(entry.layer).unwrap_or_default(),
            };
            match going.layers.contains(&entry.layer) {
                true => usage.own_bytes += bytes,
                false => usage.shared_bytes += bytes,
            }
        }
        for group in going.groups {
            usage.own_bytes += blocks(&self.home.group_path(group));
        }
        Ok(usage)
    }

    /// Disk space of all layers that several branches use, each counted once, as far as it is known.
    pub fn shared_layer_bytes(&self) -> u64 {
        let references = self.home.reference_counts();
        let mut layers = self.usages.layers();
        // Those that are gone are forgotten here: there is nothing to be asked of them any more.
        layers.retain(|layer, _| references.contains_key(layer));
        let shared = layers.iter().filter(|(layer, _)| references.get(layer).is_some_and(|count| *count > 1));
        shared.map(|(_, bytes)| bytes).sum()
    }

    /// The last look at a branch, or a new one where that does not hold any more.
    fn seen(&self, key: &BranchKey) -> Result<Arc<Seen>, Error> {
        loop {
            let change = self.attention.change_of(key);
            let manifest = self.manifest_stamp(key)?;
            if let Some(seen) = self.usages.branches().get(key)
                && (seen.change, seen.manifest) == (change, manifest)
                && (change.is_none() || seen.when.elapsed() < HOLDS)
            {
                return Ok(Arc::clone(seen));
            }
            match self.look(key, change, manifest) {
                Ok(seen) => {
                    let seen = Arc::new(seen);
                    self.usages.branches().insert(key.clone(), Arc::clone(&seen));
                    return Ok(seen);
                }
                // Layers that were merged meanwhile are gone.
                Err(_) if self.manifest_stamp(key)? != manifest => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn manifest_stamp(&self, key: &BranchKey) -> Result<(u64, i64), Error> {
        // It is only ever replaced as a whole.
        let facts = fs::metadata(self.directory(key).join("manifest"));
        let facts = facts.context(|| format!("could not look at the manifest of branch {key}"))?;
        Ok((facts.ino(), facts.mtime() * 1_000_000_000 + facts.mtime_nsec()))
    }

    fn look(&self, key: &BranchKey, change: Option<u64>, manifest: (u64, i64)) -> Result<Seen, Error> {
        let entries = self.manifest(key)?.entries;
        let (directory_bytes, shared_files) = weigh(&self.directory(key));
        let open = |entry: &&Entry| self.sealed_layer_bytes(entry.layer).is_none();
        let open_layers = entries
            .iter()
            .filter(open)
            .map(|entry| (entry.layer, disk_usage(&self.home.layer_path(entry.layer))))
            .collect();
        let what = || format!("could not tell how long the files of branch {key} are");
        let logical_bytes = match self.logical_bytes(key, &entries) {
            // After a restart of the machine.
            Err(store::Errno::DAMAGED) if change.is_none() => {
                let lock = self.lock(key);
                let _guard = lock.lock().unwrap_or_else(PoisonError::into_inner);
                if self.postmaster(key)?.is_none() {
                    self.rebuild_layers(key)?;
                }
                self.logical_bytes(key, &entries)
            }
            told => told,
        };
        let logical_bytes = logical_bytes.context(what)?;
        let when = Instant::now();
        Ok(Seen {
            change,
            manifest,
            when,
            directory_bytes,
            shared_files,
            entries,
            open_layers,
            logical_bytes,
        })
    }

    /// Disk space of a sealed layer; none while it is not sealed.
    fn sealed_layer_bytes(&self, layer: LayerId) -> Option<u64> {
        if let Some(bytes) = self.usages.layers().get(&layer) {
            return Some(*bytes);
        }
        let path = self.home.layer_path(layer);
        let has = |name: &str| path.join(name).exists();
        let is_settled = || {
            let trash = fs::read_dir(path.join("trash")).is_ok_and(|mut trash| trash.next().is_some());
            has("index") && !has("arena") && !has("log") && !trash
        };
        if !is_settled() {
            return None;
        }
        let bytes = disk_usage(&path);
        self.usages.layers().insert(layer, bytes);
        Some(bytes)
    }

    fn logical_bytes(&self, key: &BranchKey, entries: &[Entry]) -> store::Result<u64> {
        // The last is written to; before it lies another one while a cut is prepared.
        let is_sealed = |entry: &Entry| self.home.layer_path(entry.layer).join("index").exists();
        let sealed = entries.iter().take_while(|entry| is_sealed(entry)).count();
        let (sealed, open) = entries.split_at(sealed.min(entries.len().saturating_sub(1)));
        let is_used = |entry: &&Entry| {
            let files = fs::read_dir(self.home.layer_path(entry.layer).join("f"));
            files.map_or(true, |mut files| files.next().is_some())
        };
        let used: Vec<&Entry> = open.iter().filter(is_used).collect();
        let known = self.usages.stacks().get(&numbers(sealed)).copied();
        if let (Some(bytes), true) = (known, used.is_empty()) {
            return Ok(bytes);
        }
        let branch = self.home.open_branch(key.as_str())?;
        let counted = Stack::load(self.home.layers(), branch).and_then(|stack| {
            let mut bytes = self.logical_bytes_of_sealed(&stack, sealed)?;
            for entry in used {
                bytes = with_layer(&stack, entry, bytes)?;
            }
            Ok(bytes)
        });
        sys::close(branch);
        counted
    }

    fn logical_bytes_of_sealed(&self, stack: &Stack, sealed: &[Entry]) -> store::Result<u64> {
        let Some((last, below)) = sealed.split_last() else { return Ok(0) };
        let known = |entries: &[Entry]| self.usages.stacks().get(&numbers(entries)).copied();
        if let Some(bytes) = known(sealed) {
            return Ok(bytes);
        }
        let bytes = match known(below) {
            Some(bytes) => with_layer(stack, last, bytes)?,
            None => lengths::total(stack, last.slot + 1)?,
        };
        let mut stacks = self.usages.stacks();
        if stacks.len() >= MOST_STACKS {
            stacks.clear();
        }
        stacks.insert(numbers(sealed), bytes);
        Ok(bytes)
    }
}

/// The total with one more layer on top of what amounts to `bytes`.
fn with_layer(stack: &Stack, entry: &Entry, bytes: u64) -> store::Result<u64> {
    match lengths::change(stack, entry.slot)? {
        Some(change) => Ok(bytes.saturating_add_signed(change)),
        None => lengths::total(stack, entry.slot + 1),
    }
}

fn numbers(entries: &[Entry]) -> Vec<LayerId> {
    entries.iter().map(|entry| entry.layer).collect()
}

/// Disk space of a directory and all below it, and apart from that its files that have names elsewhere too.
fn weigh(path: &Path) -> (u64, Vec<SharedFile>) {
    let (mut bytes, mut linked) = (0, BTreeMap::new());
    add(path, &mut bytes, &mut linked);
    let mut shared = Vec::new();
    for (links, file) in linked.into_values() {
        if links <= file.names { bytes += file.bytes } else { shared.push(file) }
    }
    (bytes, shared)
}

fn add(path: &Path, bytes: &mut u64, linked: &mut BTreeMap<u64, (u64, SharedFile)>) {
    // Files come and go while a server runs. Links are not followed.
    let Ok(facts) = fs::symlink_metadata(path) else { return };
    let size = facts.blocks() * 512;
    if facts.is_dir() {
        *bytes += size;
        let entries = fs::read_dir(path).into_iter().flatten().flatten();
        entries.for_each(|entry| add(&entry.path(), bytes, linked));
    } else if facts.nlink() > 1 {
        let new = || (facts.nlink(), SharedFile { path: path.to_owned(), bytes: size, names: 0 });
        linked.entry(facts.ino()).or_insert_with(new).1.names += 1;
    } else {
        *bytes += size;
    }
}

/// Disk space of a tree of files that have one name each, bytes.
pub(super) fn disk_usage(path: &Path) -> u64 {
    let mut bytes = 0;
    let mut linked = BTreeMap::new();
    add(path, &mut bytes, &mut linked);
    bytes + linked.into_values().map(|(_, file)| file.bytes).sum::<u64>()
}

fn blocks(path: &Path) -> u64 {
    fs::symlink_metadata(path).map_or(0, |facts| facts.blocks() * 512)
}
