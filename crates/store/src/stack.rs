//! A branch's stack of layers as one process sees it, and lookups through it.
//!
//! A merge puts one layer in the place of several adjacent ones, under the highest of their slots. So a
//! slot that is no longer listed means the next higher one that is: whatever was found under the old slots
//! lies in the merged layer too. A process must [`Stack::follow`] the count of merges before it uses what
//! another one found, and look again when the count has changed under a look.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use crate::errno::{Errno, Result};
use crate::fault::{Fault, planted};
use crate::layer::{Found, Kind, Layer, hidden_name};
use crate::manifest::{Entry, Manifest};
use crate::path::RelPath;
use crate::sys::Fd;

/// No count of merges: it would take four billion.
const UNFOLLOWED: u32 = u32::MAX;

/// The layers of a branch, opened when first needed and kept while the manifest names them.
#[derive(Debug)]
pub struct Stack {
    layers: Fd,
    branch: Fd,
    list: RwLock<List>,
    /// The merges that the list has seen.
    followed: AtomicU32,
}

#[derive(Debug, Default)]
struct List {
    entries: Vec<Entry>,
    /// Beside each entry, once opened.
    opened: Vec<Option<Arc<Layer>>>,
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
        let stack = Stack { layers, branch, list: RwLock::default(), followed: AtomicU32::new(UNFOLLOWED) };
        stack.reload()?;
        Ok(stack)
    }

    /// Reads the manifest again and closes what it no longer names.
    pub fn reload(&self) -> Result<()> {
        let entries = Manifest::load(self.branch)?.entries;
        let mut list = self.list.write().unwrap_or_else(PoisonError::into_inner);
        if entries == list.entries {
            return Ok(());
        }
        let last = entries.len().saturating_sub(1);
        let opened = entries.iter().enumerate().map(|(at, entry)| {
            let before = list.entries.binary_search_by_key(&entry.slot, |entry| entry.slot).ok()?;
            let kept = list.opened[before].clone().filter(|layer| layer.id == entry.layer);
            // What was written to until now may have its index meanwhile, and a much smaller mapping.
            kept.filter(|layer| layer.index().is_some() || at + 2 > last)
        });
        list.opened = opened.collect();
        list.entries = entries;
        Ok(())
    }

    /// Reads the manifest again unless that was done since the last of `merges`, a count that is odd while
    /// a merged layer is being put into the manifest. Must come before another process's findings are
    /// used: they may name slots by a newer list.
    #[inline]
    pub fn follow(&self, merges: u32) -> Result<()> {
        if self.followed.load(Ordering::Acquire) == merges || planted(Fault::MergeUnseen) {
            return Ok(());
        }
        self.catch_up(merges)
    }

    #[cold]
    fn catch_up(&self, merges: u32) -> Result<()> {
        self.reload()?;
        if merges.is_multiple_of(2) {
            self.followed.store(merges, Ordering::Release);
        }
        Ok(())
    }

    fn list(&self) -> RwLockReadGuard<'_, List> {
        self.list.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The layer at `slot`; reads the manifest again if the slot is new.
    #[inline]
    pub fn layer(&self, slot: u32) -> Result<Arc<Layer>> {
        {
            let list = self.list();
            if let Some(Some(layer)) = list.opened.get(list.at_or_above(slot)) {
                return Ok(Arc::clone(layer));
            }
        }
        self.open_slot(slot)
    }

    #[cold]
    fn open_slot(&self, slot: u32) -> Result<Arc<Layer>> {
        let listed = || {
            let list = self.list();
            list.entries.get(list.at_or_above(slot)).copied()
        };
        let entry = match listed() {
            Some(entry) => entry,
            None => {
                self.reload()?;
                listed().ok_or(Errno::DAMAGED)?
            }
        };
        let layer = Layer::open(self.layers, entry.layer).map_err(|errno| match errno {
            // Not to be taken for a file that is not there.
            Errno::NOENT => Errno::DAMAGED,
            errno => errno,
        })?;
        let mut list = self.list.write().unwrap_or_else(PoisonError::into_inner);
        let at = list.at_or_above(slot);
        if list.entries.get(at) != Some(&entry) {
            return Ok(Arc::new(layer));
        }
        Ok(Arc::clone(list.opened[at].get_or_insert_with(|| Arc::new(layer))))
    }

    /// Slot of the highest layer in the manifest as it was last read: the open one at first.
    #[inline]
    pub fn highest_slot(&self) -> u32 {
        self.list().entries.last().map_or(0, |entry| entry.slot)
    }

    /// Entries from the bottom to the top.
    pub fn entries(&self) -> Vec<Entry> {
        self.list().entries.clone()
    }

    /// What `path` is in the layers below slot `below`: the highest layer that says something.
    pub fn find_below(&self, below: u32, path: &RelPath) -> Result<Option<Located>> {
        let mut below = below;
        while let Some(slot) = self.next_below(below) {
            let layer = self.layer(slot)?;
            if let Some(found) = layer.find(path)? {
                let located = Located { slot, layer, found };
                return Ok((located.found.kind != Kind::Whiteout).then_some(located));
            }
            below = slot;
        }
        Ok(None)
    }

    fn next_below(&self, slot: u32) -> Option<u32> {
        let list = self.list();
        list.at_or_above(slot).checked_sub(1).map(|at| list.entries[at].slot)
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
        let mut below = below;
        while let Some(slot) = self.next_below(below) {
            let layer = self.layer(slot)?;
            let removed_here = add_listing(&layer, directory, hidden, names)?;
            hidden.extend(removed_here);
            if !directory.is_root() && layer.hides(directory)? {
                break;
            }
            below = slot;
        }
        Ok(())
    }
}

impl List {
    /// Place of the first entry whose slot is not below `slot`.
    #[inline]
    fn at_or_above(&self, slot: u32) -> usize {
        // Nearly always it is the open layer that is asked for.
        match self.entries.split_last() {
            Some((last, lower)) if slot <= last.slot && lower.last().is_none_or(|next| slot > next.slot) => {
                lower.len()
            }
            _ => self.entries.partition_point(|entry| entry.slot < slot),
        }
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
