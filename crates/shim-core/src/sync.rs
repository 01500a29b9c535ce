//! `fsync` and its relatives: what PostgreSQL was told is durable must be.

use std::sync::atomic::Ordering;

use store::errno::Result;
use store::files::NONE;
use store::layer::{arena, seal};
use store::sys::{self, Fd};

use crate::Outcome;
use crate::descriptors::Kind;
use crate::tracker::Tracker;

impl Tracker {
    /// `fsync(2)`, and `fdatasync(2)` with `data_only`.
    pub fn fsync(&self, fd: Fd, data_only: bool) -> Outcome<()> {
        let tracked = self.descriptors.get(fd)?;
        if !matches!(tracked.kind, Kind::File(_)) {
            return None;
        }
        Some(self.fsync_file(fd, data_only))
    }

    fn fsync_file(&self, fd: Fd, data_only: bool) -> Result<()> {
        // Bytes that went to a layer before it was sealed are part of what the caller was promised.
        self.wait_for_sealed()?;
        if let Some(current) = self.make_current(fd) {
            current?;
        }
        let native = || if data_only { sys::fdatasync(fd) } else { sys::fsync(fd) };
        let Some(tracked) = self.descriptors.get(fd) else { return native() };
        let Some((_, record)) = self.live_file(&tracked) else { return native() };
        let layer = self.layer(tracked.slot)?;
        let number = record.record.load(Ordering::Acquire);
        let Some(arena) = layer.arena().filter(|_| number != NONE) else { return native() };
        seal::sync_file(layer, arena, number, fd, !data_only)?;
        // For the caller this file may have existed for years: it will not sync the directory.
        let flags = &arena.record(number).flags;
        if flags.load(Ordering::Acquire) & arena::NAMED == 0 {
            seal::sync_directories(layer, &record.path())?;
            flags.fetch_or(arena::NAMED, Ordering::AcqRel);
        }
        Ok(())
    }

    /// Waits until every sealed layer of the stack is durable; does the work itself where nobody
    /// else has begun.
    pub(crate) fn wait_for_sealed(&self) -> Result<()> {
        let top = self.gate.top_slot();
        let done = self.durable_below.load(Ordering::Acquire);
        if done == top {
            return Ok(());
        }
        // The manifest names the layer of `top` since before the switch.
        self.layer(top)?;
        for entry in self.stack.entries().iter().filter(|entry| entry.slot >= done && entry.slot < top) {
            seal::sync_layer(self.layer(entry.slot)?, Some(self.witness))?;
        }
        self.durable_below.fetch_max(top, Ordering::AcqRel);
        Ok(())
    }

    /// `syncfs(2)` on anything in the data directory: everything of this branch becomes durable.
    pub fn sync_branch(&self) -> Result<()> {
        self.wait_for_sealed()?;
        let layer = self.layer(self.gate.top_slot())?;
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

    /// Whether this is the first start of a child that nobody has written to yet.
    pub fn is_fresh(&self) -> bool {
        self.gate.header().flags.load(Ordering::Acquire) & store::gate::FLAG_FRESH != 0
    }
}
