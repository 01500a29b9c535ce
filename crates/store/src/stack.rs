//! A branch's stack of layers as one process sees it, and lookups through it.

use std::collections::BTreeSet;
use std::sync::{OnceLock, PoisonError, RwLock, RwLockReadGuard};

use crate::errno::{Errno, Result};
use crate::layer::{Found, Kind, Layer, hidden_name};
use crate::manifest::{Entry, Manifest};
use crate::path::RelPath;
use crate::sys::Fd;

/// Layers by slot. Grows by chunks and never moves, so that a layer is found without a lock.
const CHUNKS: usize = 4096;
const CHUNK: usize = 1024;
type Chunk = Box<[OnceLock<Layer>]>;

/// The layers of a branch, opened when first needed and then kept.
#[derive(Debug)]
pub struct Stack {
    layers: Fd,
    branch: Fd,
    entries: RwLock<Vec<Entry>>,
    opened: Box<[OnceLock<Chunk>]>,
}

/// A finding and where it lies.
#[derive(Debug, Clone, Copy)]
pub struct Located<'a> {
    /// Slot of the layer.
    pub slot: u32,
    /// The layer.
    pub layer: &'a Layer,
    /// What it holds.
    pub found: Found,
}

impl Stack {
    /// Reads the manifest in the branch directory `branch`; layers are found under `layers`. Both
    /// descriptors must live as long as the stack.
    pub fn load(layers: Fd, branch: Fd) -> Result<Stack> {
        let opened = (0..CHUNKS).map(|_| OnceLock::new()).collect();
        let stack = Stack { layers, branch, entries: RwLock::default(), opened };
        stack.reload()?;
        Ok(stack)
    }

    /// Reads the manifest again. What is open stays open.
    pub fn reload(&self) -> Result<()> {
        let manifest = Manifest::load(self.branch)?;
        *self.entries.write().unwrap_or_else(PoisonError::into_inner) = manifest.entries;
        Ok(())
    }

    fn listed(&self) -> RwLockReadGuard<'_, Vec<Entry>> {
        self.entries.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn cell(&self, slot: u32) -> Result<&OnceLock<Layer>> {
        let chunk = self.opened.get(slot as usize / CHUNK).ok_or(Errno(libc::EOVERFLOW))?;
        let chunk = chunk.get_or_init(|| (0..CHUNK).map(|_| OnceLock::new()).collect());
        Ok(&chunk[slot as usize % CHUNK])
    }

    /// The layer at `slot`; reads the manifest again if the slot is new.
    #[inline]
    pub fn layer(&self, slot: u32) -> Result<&Layer> {
        match self.cell(slot)?.get() {
            Some(layer) => Ok(layer),
            None => self.open_slot(slot),
        }
    }

    #[cold]
    fn open_slot(&self, slot: u32) -> Result<&Layer> {
        let listed = || self.listed().iter().rev().find(|entry| entry.slot == slot).copied();
        let entry = match listed() {
            Some(entry) => entry,
            None => {
                self.reload()?;
                listed().ok_or(Errno::DAMAGED)?
            }
        };
        let layer = Layer::open(self.layers, entry.layer)?;
        Ok(self.cell(slot)?.get_or_init(|| layer))
    }

    /// Slot of the highest layer in the manifest as it was last read: the open one at first.
    pub fn highest_slot(&self) -> u32 {
        self.listed().last().map_or(0, |entry| entry.slot)
    }

    /// Entries from the bottom to the top.
    pub fn entries(&self) -> Vec<Entry> {
        self.listed().clone()
    }

    /// What `path` is in the layers below slot `below`: the highest layer that says something.
    pub fn find_below(&self, below: u32, path: &RelPath) -> Result<Option<Located<'_>>> {
        for entry in self.listed().iter().rev().filter(|entry| entry.slot < below) {
            let layer = self.layer(entry.slot)?;
            if let Some(found) = layer.find(path)? {
                let located = Located { slot: entry.slot, layer, found };
                return Ok((found.kind != Kind::Whiteout).then_some(located));
            }
        }
        Ok(None)
    }

    /// Everything that makes up the file `path` as of the layers below slot `below`, newest first,
    /// down to and with the complete file.
    pub fn chain_below(&self, below: u32, path: &RelPath) -> Result<Vec<Located<'_>>> {
        let mut chain = Vec::new();
        let mut below = below;
        while let Some(located) = self.find_below(below, path)? {
            below = located.slot;
            let complete = located.found.kind != Kind::Overlay;
            chain.push(located);
            if complete {
                break;
            }
        }
        Ok(chain)
    }

    /// Names directly inside `directory` as of the layers below slot `below`. `hidden` holds names
    /// that higher layers removed; it grows on the way down.
    pub fn list_below(
        &self,
        below: u32,
        directory: &RelPath,
        hidden: &mut BTreeSet<Vec<u8>>,
        names: &mut BTreeSet<(Vec<u8>, bool)>,
    ) -> Result<()> {
        for entry in self.listed().iter().rev().filter(|entry| entry.slot < below) {
            let layer = self.layer(entry.slot)?;
            let removed_here = add_listing(layer, directory, hidden, names)?;
            hidden.extend(removed_here);
            if !directory.is_root() && layer.hides(directory)? {
                break;
            }
        }
        Ok(())
    }
}

/// Adds one layer's names; returns the names it removed, which hide those of lower layers only.
pub fn add_listing(
    layer: &Layer,
    directory: &RelPath,
    hidden: &BTreeSet<Vec<u8>>,
    names: &mut BTreeSet<(Vec<u8>, bool)>,
) -> Result<Vec<Vec<u8>>> {
    let mut removed = Vec::new();
    layer.list(directory, &mut |name, kind| {
        if let Some(gone) = hidden_name(name) {
            removed.push(gone.to_vec());
        } else if !hidden.contains(name) {
            names.insert((name.to_vec(), kind == Kind::Directory));
        }
        Ok(())
    })?;
    Ok(removed)
}
