//! `fsync` and its relatives: what PostgreSQL was told is durable must be.

use std::sync::atomic::Ordering;

use store::errno::Result;
use store::layer::entry::Entry;
use store::layer::{arena, seal};
use store::sys::{self, Fd};

use crate::Outcome;
use crate::descriptors::Kind;
use crate::tracker::Tracker;

impl Tracker {
    /// `fsync(2)`, and `fdatasync(2)` with `data_only`.
    pub fn fsync(&self, fd: Fd, data_only: bool) -> Outcome<()> {
        let tracked = self.descriptors.get(fd)?;
        match tracked.kind {
            Kind::File(_) => Some(self.fsync_file(fd, data_only)),
            // Names made or removed before a cut are in a layer of their own.
            Kind::Directory => Some(self.wait_for_sealed().and_then(|()| sys::fsync(fd))),
            Kind::Stream(_) => None,
        }
    }

    fn fsync_file(&self, fd: Fd, data_only: bool) -> Result<()> {
        let native = || if data_only { sys::fdatasync(fd) } else { sys::fsync(fd) };
        let tracked = loop {
            // Bytes that went to a layer before it was sealed are part of what the caller was promised.
            self.wait_for_sealed()?;
            if let Some(current) = self.make_current(fd) {
                current?;
            }
            let Some(tracked) = self.descriptors.get(fd) else { return native() };
            // A cut in between has sealed one more.
            if tracked.slot <= self.durable_below.load(Ordering::Acquire) {
                break tracked;
            }
        };
        let layer = &*self.look(|stack| stack.layer(tracked.slot))?;
        // The record is the file's own word: the table may be ahead of this descriptor by now.
        let (Some(arena), Some(entry)) = (layer.arena(), Entry::load(fd)?) else { return native() };
        let number = entry.record;
        let flags = &arena.record(number).flags;
        if flags.load(Ordering::Acquire) & arena::LIVE == 0 {
            return native();
        }
        seal::sync_file(layer, arena, number, fd, !data_only)?;
        // For the caller this file may have existed for years: it will not sync the directory.
        let now = flags.load(Ordering::Acquire);
        if now & arena::NAMED == 0 {
            if now & arena::LISTED == 0 {
                seal::sync_name(layer, arena, number)?;
            }
            flags.fetch_or(arena::NAMED, Ordering::AcqRel);
        }
        Ok(())
    }

    /// Waits until every sealed layer of the stack is durable; does the work itself where nobody
    /// else has begun.
    pub(crate) fn wait_for_sealed(&self) -> Result<()> {
        let top = self.top_slot();
        let done = self.durable_below.load(Ordering::Acquire);
        if done == top {
            return Ok(());
        }
        // The manifest names the layer of `top` since before the switch.
        self.layer(top)?;
        let sealed = self.look(|stack| {
            let sealed = stack.entries().into_iter().filter(|entry| entry.slot >= done && entry.slot < top);
            sealed.map(|entry| stack.layer(entry.slot)).collect::<Result<Vec<_>>>()
        })?;
        sealed.iter().try_for_each(|layer| seal::sync_layer(layer, Some(self.witness)))?;
        self.durable_below.fetch_max(top, Ordering::AcqRel);
        Ok(())
    }

    /// `syncfs(2)` on anything in the data directory: everything of this branch becomes durable.
    pub fn sync_branch(&self) -> Result<()> {
        let top = loop {
            self.wait_for_sealed()?;
            let top = self.top_slot();
            if top == self.durable_below.load(Ordering::Acquire) {
                break top;
            }
        };
        let layer = &*self.layer(top)?;
        sys::syncfs(self.branch)?;
        let Some(arena) = layer.arena() else { return Ok(()) };
        for number in 0..arena.records() {
            let flags = arena.record(number).flags.load(Ordering::Acquire);
            if flags & arena::LIVE != 0 && flags & arena::OVERLAY != 0 {
                self.sync_record(layer, arena, number)?;
            }
        }
        Ok(())
    }

    fn sync_record(&self, layer: &store::layer::Layer, arena: &arena::Arena, number: u32) -> Result<()> {
        match layer.open_file(&arena.path(number)?, sys::O_RDONLY) {
            Ok(fd) => {
                let synced = seal::sync_file(layer, arena, number, fd, true);
                sys::close(fd);
                synced
            }
            Err(store::Errno::NOENT) => Ok(()),
            Err(errno) => Err(errno),
        }
    }

    /// Whether this is the first start of a child that nobody has written to yet. True once: whatever
    /// becomes of the engine that began the start, a later recovery syncs.
    pub fn take_fresh(&self) -> bool {
        let fresh = store::gate::FLAG_FRESH;
        self.gate.header().flags.fetch_and(!fresh, Ordering::AcqRel) & fresh != 0
    }
}
