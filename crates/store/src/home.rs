//! The branches and layers of one home: who references what, and what nobody does.
//!
//! A branch is a directory `branches/<name>` with a manifest. It comes into being by a rename of
//! `branches/<name>.new` and ends by a rename to `branches/<name>.gone`; so there is never half a
//! branch. A layer lives while a manifest names it (exact counts, taken from the manifests at
//! start) or while a cut in progress holds a lease on it. The layers that a branch writes lie in one
//! directory, its group, whose number is that of the first of them.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{CStr, CString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::errno::{Errno, Result};
use crate::fault::{Fault, planted};
use crate::layer::{self, Kind, Layer, LayerId, directory_name, group_of, list_native};
use crate::manifest::{Entry, Manifest};
use crate::moment::{Moment, reached};
use crate::path::RelPath;
use crate::sys::{self, Fd, O_CLOEXEC, O_DIRECTORY, O_RDONLY};

/// Suffix of a branch that is being made.
pub const NEW: &str = ".new";
/// Suffix of a branch that is being removed.
pub const GONE: &str = ".gone";
/// The part of a layer's identity that tells it from all others; above it stands its group's number.
const NUMBER: u64 = 0xffff_ffff;
/// A stack with more layers than this is looked at when the home is opened.
const DEEP: usize = 4;
/// How long a directory may be refilled by somebody else while it is removed.
const REMOVE_LIMIT: Duration = Duration::from_secs(5);

/// An open home.
#[derive(Debug)]
pub struct Home {
    path: PathBuf,
    layers: Fd,
    branches: Fd,
    references: Mutex<BTreeMap<LayerId, u32>>,
    /// Branches whose manifests did not read back when the references were counted.
    unreadable: Mutex<BTreeSet<String>>,
    next_layer: AtomicU64,
}

/// A parent made ready for a cut: its manifest on disk names the next layer already.
#[derive(Debug, Clone)]
pub struct Prepared {
    /// The stack up to and with the layer that the cut seals.
    pub sealed: Vec<Entry>,
    /// The parent's next open layer.
    pub next: Entry,
}

/// What the removal of a branch would free.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Going {
    /// Layers that nothing else names.
    pub layers: BTreeSet<LayerId>,
    /// Groups of which nothing is left then.
    pub groups: Vec<u32>,
}

impl Prepared {
    /// The same for a cut that found the top layer empty and left it open.
    #[must_use]
    pub fn without_top(mut self) -> Prepared {
        self.sealed.pop();
        self
    }
}

/// What opening a home cleaned up.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Swept {
    /// Branches whose making or removal was cut short.
    pub branches: Vec<String>,
    /// Layers that nothing referenced.
    pub layers: Vec<LayerId>,
    /// Branches with so many layers that some may be merged.
    pub deep: Vec<String>,
    /// Branches whose manifest does not read back.
    pub damaged: Vec<String>,
}

impl Home {
    /// Opens a home, making its directories, finishing removals and undoing half-made branches.
    pub fn open(path: &Path) -> Result<(Home, Swept)> {
        let root = directory(path)?;
        for name in [c"layers", c"branches"] {
            match sys::mkdirat(root, name, 0o700) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(errno) => return Err(errno),
            }
        }
        sys::fsync(root)?;
        sys::close(root);
        let home = Home {
            path: path.to_owned(),
            layers: directory(&path.join("layers"))?,
            branches: directory(&path.join("branches"))?,
            references: Mutex::default(),
            unreadable: Mutex::default(),
            next_layer: AtomicU64::new(1),
        };
        let swept = home.sweep()?;
        Ok((home, swept))
    }

    fn sweep(&self) -> Result<Swept> {
        let mut swept = Swept::default();
        let mut references = BTreeMap::new();
        for name in self.names()? {
            if name.ends_with(NEW) || name.ends_with(GONE) {
                remove_tree(self.branches, &name)?;
                swept.branches.push(name);
                continue;
            }
            match self.manifest(&name) {
                Ok(manifest) => {
                    count(&mut references, &manifest.entries);
                    if manifest.entries.len() > DEEP {
                        swept.deep.push(name);
                    }
                }
                Err(_) => swept.damaged.push(name),
            }
        }
        let layers = self.layers_there()?;
        // Also of layers that are lost: what is given their number would be taken for them.
        let last = layers.iter().chain(references.keys()).map(|id| id & NUMBER).max();
        self.next_layer.store(last.map_or(1, |number| number + 1), Ordering::Relaxed);
        // A manifest that does not read back may name any layer: then nothing is garbage.
        if swept.damaged.is_empty() {
            for id in layers.into_iter().filter(|id| !references.contains_key(id)) {
                self.remove_layer(id)?;
                swept.layers.push(id);
            }
        }
        // A crash may have left some empty.
        self.list_layers()?.1.iter().try_for_each(|name| self.remove_group(name))?;
        *self.references() = references;
        *self.unreadable() = swept.damaged.iter().cloned().collect();
        Ok(swept)
    }

    /// All layers that are there.
    pub fn layers_there(&self) -> Result<Vec<LayerId>> {
        let (mut layers, groups) = self.list_layers()?;
        for name in groups {
            let group = sys::openat(self.layers, &name, O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0)?;
            let listed = list_native(group, &RelPath::ROOT, &mut |name, _| {
                layers.extend(number(name));
                Ok(())
            });
            sys::close(group);
            listed?;
        }
        Ok(layers)
    }

    /// Layers of the first format, and the names of all groups.
    fn list_layers(&self) -> Result<(Vec<LayerId>, Vec<CString>)> {
        let (mut layers, mut groups) = (Vec::new(), Vec::new());
        list_native(self.layers, &RelPath::ROOT, &mut |name, _| {
            match name.len() {
                8 => groups.extend(CString::new(name).ok()),
                _ => layers.extend(number(name)),
            }
            Ok(())
        })?;
        Ok((layers, groups))
    }

    /// Removes a group's directory once nothing is left in it.
    fn remove_group(&self, name: &CStr) -> Result<()> {
        match sys::unlinkat(self.layers, name, libc::AT_REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT | Errno(libc::ENOTEMPTY | libc::EEXIST)) => Ok(()),
            Err(errno) => Err(errno),
        }
    }

    fn references(&self) -> MutexGuard<'_, BTreeMap<LayerId, u32>> {
        self.references.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn unreadable(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.unreadable.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a branch may reference layers that nobody could count. One whose manifest reads by now (it
    /// was put back) is counted here.
    fn may_reference_unknown(&self) -> bool {
        let mut unreadable = self.unreadable();
        unreadable.retain(|name| match self.manifest(name) {
            Ok(manifest) => {
                count(&mut self.references(), &manifest.entries);
                false
            }
            Err(_) => self.branch_path(name).exists(),
        });
        !unreadable.is_empty()
    }

    fn names(&self) -> Result<Vec<String>> {
        let mut names = Vec::new();
        list_native(self.branches, &RelPath::ROOT, &mut |name, kind| {
            if kind == Kind::Directory {
                names.push(String::from_utf8_lossy(name).into_owned());
            }
            Ok(())
        })?;
        names.sort();
        Ok(names)
    }

    /// Names of all whole branches.
    pub fn branches(&self) -> Result<Vec<String>> {
        let mut names = self.names()?;
        names.retain(|name| !name.ends_with(NEW) && !name.ends_with(GONE));
        Ok(names)
    }

    /// Path of the home.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Directory of layers.
    pub fn layers(&self) -> Fd {
        self.layers
    }

    /// Path of the directory of layers.
    pub fn layers_path(&self) -> PathBuf {
        self.path.join("layers")
    }

    /// Path of a layer's directory.
    pub fn layer_path(&self, id: LayerId) -> PathBuf {
        self.layers_path().join(directory_name(id).to_string_lossy().as_ref())
    }

    /// Path of a branch's directory.
    pub fn branch_path(&self, name: &str) -> PathBuf {
        self.path.join("branches").join(name)
    }

    /// Opens a branch's directory; the caller closes it.
    pub fn open_branch(&self, name: &str) -> Result<Fd> {
        let name = CString::new(name).map_err(|_| Errno(libc::EINVAL))?;
        sys::openat(self.branches, &name, O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0)
    }

    /// The manifest of a branch.
    pub fn manifest(&self, name: &str) -> Result<Manifest> {
        let branch = self.open_branch(name)?;
        let manifest = Manifest::load(branch);
        sys::close(branch);
        manifest
    }

    /// Makes a new empty layer in a group (0: one of its own), durable as a name, with a lease: one
    /// reference that passes to the manifest that will name it.
    pub fn new_layer(&self, group: u32) -> Result<LayerId> {
        let (id, layer) = self.make_layer(group)?;
        self.sync_new(&layer)?;
        Ok(id)
    }

    /// As [`Home::new_layer`], not durable yet.
    fn make_layer(&self, group: u32) -> Result<(LayerId, Layer)> {
        let id = self.reserve_layer(group);
        match Layer::create(self.layers, id) {
            Ok(layer) => {
                reached(Moment::LayerMade);
                Ok((id, layer))
            }
            Err(errno) => {
                self.end_lease(id)?;
                Err(errno)
            }
        }
    }

    fn sync_new(&self, layer: &Layer) -> Result<()> {
        sys::fsync(layer.dir)?;
        layer::sync_names(self.layers, layer.id)
    }

    /// Reserves a number for a layer that the caller fills itself, with a lease; in a group, or in a new
    /// one (0) that takes its number.
    pub fn reserve_layer(&self, group: u32) -> LayerId {
        let number = self.next_layer.fetch_add(1, Ordering::Relaxed);
        let group = if group == 0 { number } else { u64::from(group) };
        let id = group << 32 | (number & NUMBER);
        self.references().insert(id, 1);
        id
    }

    /// Gives a lease back: the layer goes unless a manifest names it.
    pub fn end_lease(&self, id: LayerId) -> Result<()> {
        self.release(&[Entry { slot: 0, layer: id }])
    }

    /// Takes a lease on layers that one manifest names and nobody else does. Whether it did.
    pub fn lease_unshared(&self, layers: &[LayerId]) -> bool {
        // A manifest that does not read back may name any of them.
        if self.may_reference_unknown() {
            return false;
        }
        let mut references = self.references();
        let unshared = layers.iter().all(|layer| references.get(layer) == Some(&1));
        if unshared {
            layers.iter().for_each(|layer| *references.entry(*layer).or_insert(0) += 1);
        }
        unshared
    }

    /// Gives back the leases of layers that were to be merged.
    pub fn end_leases(&self, layers: &[LayerId]) -> Result<()> {
        layers.iter().try_for_each(|layer| self.end_lease(*layer))
    }

    /// Puts `merged` into a branch's manifest, in the place of adjacent layers that the caller leased
    /// ([`Home::lease_unshared`]); durable on return. False, and nothing done, where the branch has other
    /// layers by now or somebody else uses them too. Nothing else may change the manifest meanwhile. What was
    /// replaced stays until [`Home::remove_merged`].
    pub fn name_merged(&self, name: &str, layers: &[LayerId], merged: LayerId) -> Result<bool> {
        let branch = self.open_branch(name)?;
        let named = self.name_merged_in(branch, layers, merged);
        sys::close(branch);
        named
    }

    fn name_merged_in(&self, branch: Fd, layers: &[LayerId], merged: LayerId) -> Result<bool> {
        let mut manifest = Manifest::load(branch)?;
        let same = |window: &[Entry]| window.iter().map(|entry| entry.layer).eq(layers.iter().copied());
        let Some(at) = manifest.entries.windows(layers.len().max(1)).position(same) else { return Ok(false) };
        let leased = {
            let references = self.references();
            layers.iter().all(|layer| references.get(layer) == Some(&2))
        };
        let last = at + layers.len() - 1;
        if !leased || last + 1 == manifest.entries.len() {
            return Ok(false);
        }
        let entry = Entry { slot: manifest.entries[last].slot, layer: merged };
        manifest.entries.splice(at..=last, [entry]);
        manifest.sequence += 1;
        manifest.store(branch)?;
        reached(Moment::MergeNamed);
        Ok(true)
    }

    /// Removes layers that were merged into another one: their lease and what the manifest held.
    pub fn remove_merged(&self, layers: &[LayerId]) -> Result<()> {
        self.end_leases(layers)?;
        self.end_leases(layers)
    }

    /// Makes the next open layer of a branch and writes it into its manifest, durable on return.
    /// `top` is the slot that a running compute writes to now; where an earlier cut was given up,
    /// the layer that it had prepared is used.
    pub fn prepare_cut(&self, name: &str, top: Option<u32>) -> Result<Prepared> {
        // A manifest that was put back is counted as it is, before it gets a further layer.
        self.may_reference_unknown();
        let branch = self.open_branch(name)?;
        let prepared = self.prepare_in(branch, top);
        sys::close(branch);
        prepared
    }

    fn prepare_in(&self, branch: Fd, top: Option<u32>) -> Result<Prepared> {
        let mut manifest = Manifest::load(branch)?;
        if let Some(top) = top
            && let Some(at) = manifest.entries.iter().position(|entry| entry.slot == top)
            && let Some(next) = manifest.entries.get(at + 1)
        {
            return Ok(Prepared { sealed: manifest.entries[..=at].to_vec(), next: *next });
        }
        let sealed = manifest.entries.clone();
        let slot = manifest.top().slot.checked_add(1).ok_or(Errno(libc::EOVERFLOW))?;
        let (id, layer) = self.make_layer(group_of(manifest.top().layer))?;
        let next = Entry { slot, layer: id };
        manifest.entries.push(next);
        manifest.sequence += 1;
        let stored = if planted(Fault::ManifestLate) {
            self.sync_new(&layer).and_then(|()| manifest.store_unsynced(branch))
        } else {
            manifest.store_after(branch, || self.sync_new(&layer))
        };
        if let Err(errno) = stored {
            // What failed last may be the sync of a name that is there already: then the layer is the
            // manifest's, and the next cut uses it.
            let named = Manifest::load(branch).is_ok_and(|now| now.entries.contains(&next));
            if !named {
                self.end_lease(next.layer)?;
            }
            return Err(errno);
        }
        Ok(Prepared { sealed, next })
    }

    /// For a branch that nothing writes to, or not now: where its open layer holds nothing, what there is to
    /// share is sealed already, and a cut needs no next layer.
    pub fn unused_top(&self, name: &str) -> Result<Option<Prepared>> {
        let manifest = self.manifest(name)?;
        let Some((next, sealed)) = manifest.entries.split_last() else { return Ok(None) };
        if sealed.is_empty() {
            return Ok(None);
        }
        let layer = Layer::open(self.layers, next.layer)?;
        let mut unused = layer.arena().is_some();
        list_native(layer.files, &RelPath::ROOT, &mut |_, _| {
            unused = false;
            Ok(())
        })?;
        Ok(unused.then(|| Prepared { sealed: sealed.to_vec(), next: *next }))
    }

    /// The manifest of a child of a cut: the sealed layers and an open one of its own, which is not
    /// durable yet: its directory and that of all layers must be synced before the branch is
    /// published. Counts the references; [`Home::abandon`] gives them back.
    pub fn child_manifest(&self, prepared: &Prepared, note: Vec<u8>) -> Result<Manifest> {
        let own = Entry { slot: prepared.next.slot, layer: self.make_layer(0)?.0 };
        count(&mut self.references(), &prepared.sealed);
        let mut entries = prepared.sealed.clone();
        entries.push(own);
        Ok(Manifest { sequence: 1, entries, note })
    }

    /// Gives back the references of a manifest that never became a branch.
    pub fn abandon(&self, manifest: &Manifest) -> Result<()> {
        self.release(&manifest.entries)
    }

    /// Turns `<name>.new`, complete with its manifest and synced, into the branch. Durable on return.
    pub fn publish(&self, name: &str) -> Result<()> {
        self.rename(&format!("{name}{NEW}"), name)
    }

    fn rename(&self, from: &str, to: &str) -> Result<()> {
        let c_string = |text: &str| CString::new(text).map_err(|_| Errno(libc::EINVAL));
        sys::renameat(self.branches, &c_string(from)?, self.branches, &c_string(to)?)?;
        reached(Moment::BranchRenamed);
        sys::fsync(self.branches)
    }

    /// Removes a branch and every layer that only it referenced. Nothing of it may be in use. What a removal
    /// that failed has left is removed too. The layers of a branch whose manifest does not read back stay until
    /// the home is opened again.
    pub fn remove(&self, name: &str) -> Result<()> {
        self.may_reference_unknown();
        let gone = format!("{name}{GONE}");
        if self.branch_path(&gone).exists() {
            remove_tree(self.branches, &gone)?;
        }
        let entries = match self.manifest(name) {
            Ok(manifest) => manifest.entries,
            Err(Errno::NOENT) if !self.branch_path(name).exists() => return Ok(()),
            // Unknown references.
            Err(_) => Vec::new(),
        };
        self.rename(name, &gone)?;
        self.release(&entries)?;
        remove_tree(self.branches, &gone)
    }

    fn release(&self, entries: &[Entry]) -> Result<()> {
        let keep = self.may_reference_unknown();
        let mut unused = Vec::new();
        {
            let mut references = self.references();
            for entry in entries {
                match references.get_mut(&entry.layer) {
                    Some(count) if *count > 1 && !planted(Fault::CollectedWhileShared) => *count -= 1,
                    _ => {
                        references.remove(&entry.layer);
                        unused.push(entry.layer);
                    }
                }
            }
        }
        // A manifest that does not read back may name any layer: the next opening finds what is garbage.
        let keep = keep && !planted(Fault::UnreadableCollected);
        if keep || planted(Fault::NeverCollected) {
            return Ok(());
        }
        unused.into_iter().try_for_each(|id| self.remove_layer(id))
    }

    fn remove_layer(&self, id: LayerId) -> Result<()> {
        let name = directory_name(id);
        match remove_tree(self.layers, &name.to_string_lossy()) {
            Ok(()) => reached(Moment::LayerRemoved),
            Err(Errno::NOENT) => {}
            Err(errno) => return Err(errno),
        }
        if group_of(id) == 0 { Ok(()) } else { self.remove_group(&layer::group_name(group_of(id))) }
    }

    /// What would go with a branch that has these layers and no other.
    pub fn going_with(&self, entries: &[Entry]) -> Going {
        let references = self.references();
        let only = |layer: LayerId| references.get(&layer).is_none_or(|count| *count <= 1);
        let layers: BTreeSet<LayerId> =
            entries.iter().map(|entry| entry.layer).filter(|layer| only(*layer)).collect();
        let groups: BTreeSet<u32> = layers.iter().map(|layer| group_of(*layer)).collect();
        let goes = |group: &u32| {
            let first = u64::from(*group) << 32;
            *group != 0 && references.range(first..=first | NUMBER).all(|(layer, _)| layers.contains(layer))
        };
        Going { groups: groups.into_iter().filter(goes).collect(), layers }
    }

    /// Path of a group's directory.
    pub fn group_path(&self, group: u32) -> PathBuf {
        self.layers_path().join(layer::group_name(group).to_string_lossy().as_ref())
    }

    /// How many manifests (and leases) name each layer.
    pub fn reference_counts(&self) -> BTreeMap<LayerId, u32> {
        self.references().clone()
    }
}

/// A layer's number from the name of its directory.
fn number(name: &[u8]) -> Option<LayerId> {
    std::str::from_utf8(name).ok().and_then(|text| u64::from_str_radix(text, 16).ok())
}

fn count(references: &mut BTreeMap<LayerId, u32>, entries: &[Entry]) {
    for entry in entries {
        *references.entry(entry.layer).or_insert(0) += 1;
    }
}

fn directory(path: &Path) -> Result<Fd> {
    let path = CString::new(path.as_os_str().as_bytes()).map_err(|_| Errno(libc::EINVAL))?;
    sys::openat(sys::AT_FDCWD, &path, O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0)
}

/// Removes a directory and all below it. A process that a killed daemon left behind (initdb, say) may
/// still be writing there for a moment: what it adds is removed too.
pub fn remove_tree(parent: Fd, name: &str) -> Result<()> {
    let name = CString::new(name).map_err(|_| Errno(libc::EINVAL))?;
    let deadline = sys::monotonic_ns() + REMOVE_LIMIT.as_nanos() as u64;
    loop {
        remove_inside(parent, &name)?;
        reached(Moment::DirectoryEmptied);
        match sys::unlinkat(parent, &name, libc::AT_REMOVEDIR) {
            Err(Errno(libc::ENOTEMPTY)) if sys::monotonic_ns() < deadline => {
                sys::sleep(Duration::from_millis(10));
            }
            other => return other,
        }
    }
}

fn remove_inside(parent: Fd, name: &CStr) -> Result<()> {
    let fd = sys::openat(parent, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | sys::O_NOFOLLOW, 0)?;
    let mut inside = Vec::new();
    let listed = list_native(fd, &RelPath::ROOT, &mut |name, kind| {
        inside.push((name.to_vec(), kind == Kind::Directory));
        Ok(())
    });
    let removed = listed.and_then(|()| {
        inside.iter().try_for_each(|(name, is_directory)| {
            let gone = if *is_directory {
                remove_tree(fd, &String::from_utf8_lossy(name))
            } else {
                let name = CString::new(&name[..]).map_err(|_| Errno(libc::EINVAL))?;
                sys::unlinkat(fd, &name, 0)
            };
            if gone == Err(Errno::NOENT) { Ok(()) } else { gone }
        })
    });
    sys::close(fd);
    removed
}
