//! A branch's stack of layers as one process sees it, and lookups through it.

use std::collections::BTreeSet;
use std::sync::{Arc, OnceLock, PoisonError, RwLock, RwLockReadGuard};

use crate::errno::{Errno, Result};
use crate::layer::{Found, Kind, Layer, hidden_name};
use crate::manifest::{Entry, Manifest};
use crate::path::RelPath;
use crate::sys::Fd;

/// The layers of a branch, opened when first needed.
#[derive(Debug)]
pub struct Stack {
    layers: Fd,
    branch: Fd,
    items: RwLock<Vec<Arc<Item>>>,
}

#[derive(Debug)]
struct Item {
    entry: Entry,
    layer: OnceLock<Arc<Layer>>,
}

/// A finding and where it lies.
#[derive(Debug, Clone)]
pub struct Located {
    /// Slot of the layer.
    pub slot: u32,
    /// The layer.
    pub layer: Arc<Layer>,
    /// What it holds.
    pub found: Found,
}

impl Stack {
    /// Reads the manifest in the branch directory `branch`; layers are found under `layers`. Both
    /// descriptors must live as long as the stack.
    pub fn load(layers: Fd, branch: Fd) -> Result<Stack> {
        let stack = Stack { layers, branch, items: RwLock::new(Vec::new()) };
        stack.reload()?;
        Ok(stack)
    }

    /// Reads the manifest again. Layers that stay keep what is open.
    pub fn reload(&self) -> Result<()> {
        let manifest = Manifest::load(self.branch)?;
        let mut items = self.items.write().unwrap_or_else(PoisonError::into_inner);
        let old = std::mem::take(&mut *items);
        *items = manifest.entries.iter().map(|&entry| keep_or_new(&old, entry)).collect();
        Ok(())
    }

    fn items(&self) -> RwLockReadGuard<'_, Vec<Arc<Item>>> {
        self.items.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn open(&self, item: &Item) -> Result<Arc<Layer>> {
        if let Some(layer) = item.layer.get() {
            return Ok(Arc::clone(layer));
        }
        let layer = Arc::new(Layer::open(self.layers, item.entry.layer)?);
        Ok(Arc::clone(item.layer.get_or_init(|| layer)))
    }

    /// The layer at `slot`; reads the manifest again if the slot is new.
    pub fn layer(&self, slot: u32) -> Result<Arc<Layer>> {
        for attempt in 0..2 {
            let item = self.items().iter().rev().find(|item| item.entry.slot == slot).cloned();
            if let Some(item) = item {
                return self.open(&item);
            }
            if attempt == 0 {
                self.reload()?;
            }
        }
        Err(Errno::DAMAGED)
    }

    /// Entries from the bottom to the top.
    pub fn entries(&self) -> Vec<Entry> {
        self.items().iter().map(|item| item.entry).collect()
    }

    /// What `path` is in the layers below slot `below`: the highest layer that says something.
    pub fn find_below(&self, below: u32, path: &RelPath) -> Result<Option<Located>> {
        for item in self.items().iter().rev().filter(|item| item.entry.slot < below) {
            let layer = self.open(item)?;
            if let Some(found) = layer.find(path)? {
                let located = Located { slot: item.entry.slot, layer, found };
                return Ok((found.kind != Kind::Whiteout).then_some(located));
            }
        }
        Ok(None)
    }

    /// Everything that makes up the file `path` as of the layers below slot `below`, newest first,
    /// down to and with the complete file.
    pub fn chain_below(&self, below: u32, path: &RelPath) -> Result<Vec<Located>> {
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
        for item in self.items().iter().rev().filter(|item| item.entry.slot < below) {
            let layer = self.open(item)?;
            let removed_here = add_listing(&layer, directory, hidden, names)?;
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

fn keep_or_new(old: &[Arc<Item>], entry: Entry) -> Arc<Item> {
    let kept = old.iter().find(|item| item.entry == entry);
    kept.map_or_else(|| Arc::new(Item { entry, layer: OnceLock::new() }), Arc::clone)
}
