//! The gate: how a cut becomes atomic over all processes of a branch.
//!
//! Every mutating call counts itself into its process's [`Slot`] and looks whether the gate is
//! closed. A cutter closes the gate, waits until every slot has drained, and then switches the top
//! layer and opens the gate by *one* compare-and-exchange of the state word. So a cutter that died,
//! or was stopped and found its gate forced open, can never switch half-way: either the exchange
//! succeeded while everything was drained, or nothing happened.
//!
//! The protocol is generic over the atomics so that a model checker can run it (`tests/gate_loom.rs`).

use std::time::Duration;

use crate::errno::{Errno, Result};
use crate::fault::{Fault, planted};
use crate::shared_struct;
use crate::shm::Mapping;
use crate::sys::{self, Fd};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

pub mod protocol;

use protocol::State;

/// Slots for processes; a compute has at most this many at once.
pub const SLOTS: usize = 1024;
/// Slots with disk space from the start.
const ALLOCATED: usize = 64;
const HEADER: usize = 4096;
const SLOT_SIZE: usize = 64;
const MAGIC: u64 = u64::from_le_bytes(*b"ANAGATE1");
const VERSION: u32 = 1;
/// A writer that has waited this long forces the gate open: writers matter more than branches.
const FORCE_OPEN_AFTER: Duration = Duration::from_secs(1);
const WAIT_SLICE: Duration = Duration::from_millis(20);

shared_struct! {
    /// What all processes of a branch and the cutter share.
    pub struct Header {
        magic: AtomicU64,
        version: AtomicU32,
        /// Bit 0: this start is the first of a fresh child, see [`FLAG_FRESH`].
        pub flags: AtomicU32,
        /// See [`State`].
        pub state: AtomicU64,
        /// Futex: bumped whenever the gate opens.
        wake: AtomicU32,
        /// Slots at or above this were never used.
        slots_used: AtomicU32,
        cutter_pid: AtomicU32,
        /// Counts merges of layers: odd while the manifest is being replaced. Whoever uses what another
        /// process found in the layers follows it first, see [`crate::stack::Stack::follow`].
        pub merges: AtomicU32,
        cutter_start: AtomicU64,
        /// Highest byte written to the branch's stream of WAL segments by this incarnation.
        pub stream_mark: AtomicU64,
        /// Calls on tracked paths that we refused or had to handle the rare way, by kind.
        pub counters: [AtomicU32; 32],
    }
}

shared_struct! {
    /// One process's place in the gate. A cache line of its own.
    pub struct Slot {
        /// Owner; 0 is free.
        pub pid: AtomicU32,
        /// Calls of this process now inside the gate (threads and signal handlers nest).
        pub depth: AtomicU32,
        /// Owner's start time in ticks since boot.
        pub start: AtomicU64,
        /// Outermost entries so far; tells a long call from many short ones.
        pub entries: AtomicU32,
        reserved: [AtomicU32; 11],
    }
}

/// The data directory is a child that was never started: everything it reads is either durable or
/// replayed from its WAL.
pub const FLAG_FRESH: u32 = 1;

/// A mapped gate.
#[derive(Debug)]
pub struct Gate {
    mapping: Mapping,
    fd: Fd,
}

impl Drop for Gate {
    fn drop(&mut self) {
        sys::close(self.fd);
    }
}

/// Why a cut was given up. The branch is as before, its writers run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GiveUp {
    /// A call was still running when the time was up; the process that made it.
    Busy(u32),
    /// Somebody else cuts, or a writer forced the gate open.
    Lost,
}

/// A closed gate. Opens again, without a switch, when dropped.
pub struct Closed<'a> {
    gate: &'a Gate,
    state: State,
}

impl Gate {
    /// Creates or resets the gate file. Only while no process of the branch is alive.
    pub fn create(fd: Fd, top_slot: u32, flags: u32) -> Result<Gate> {
        sys::ftruncate(fd, (HEADER + SLOTS * SLOT_SIZE) as u64)?;
        // Allocated before use: a hole that a full disk cannot fill would kill a backend by SIGBUS.
        sys::fallocate(fd, 0, 0, (HEADER + ALLOCATED * SLOT_SIZE) as u64)?;
        let gate = Gate::map(fd)?;
        let header = gate.header();
        let used = header.slots_used.load(Ordering::Relaxed) as usize;
        for slot in gate.slots().iter().take(used.min(SLOTS)) {
            slot.pid.store(0, Ordering::Relaxed);
            slot.depth.store(0, Ordering::Relaxed);
        }
        header.slots_used.store(0, Ordering::Relaxed);
        header.cutter_pid.store(0, Ordering::Relaxed);
        header.merges.store(0, Ordering::Relaxed);
        header.stream_mark.store(0, Ordering::Relaxed);
        header.flags.store(flags, Ordering::Relaxed);
        // After a power cut the WAL may end before what an earlier incarnation had written.
        header.stream_mark.store(0, Ordering::Relaxed);
        header.state.store(State::open(top_slot, 0).word(), Ordering::Relaxed);
        header.version.store(VERSION, Ordering::Relaxed);
        header.magic.store(MAGIC, Ordering::Release);
        Ok(gate)
    }

    /// Maps an existing gate file.
    pub fn open(fd: Fd) -> Result<Gate> {
        if sys::size(fd)? < (HEADER + SLOTS * SLOT_SIZE) as u64 {
            return Err(Errno::DAMAGED);
        }
        let gate = Gate::map(fd)?;
        let header = gate.header();
        let known = header.magic.load(Ordering::Acquire) == MAGIC
            && header.version.load(Ordering::Relaxed) == VERSION;
        if known { Ok(gate) } else { Err(Errno::DAMAGED) }
    }

    fn map(fd: Fd) -> Result<Gate> {
        let mapping = Mapping::file(fd, HEADER + SLOTS * SLOT_SIZE)?;
        Ok(Gate {
            mapping,
            fd: sys::fcntl(fd, libc::F_DUPFD_CLOEXEC, 2048)
                .or_else(|_| sys::fcntl(fd, libc::F_DUPFD_CLOEXEC, 0))?,
        })
    }

    /// The shared header.
    pub fn header(&self) -> &Header {
        self.mapping.at(0)
    }

    fn slots(&self) -> &[Slot] {
        self.mapping.slice(HEADER, SLOTS)
    }

    /// How often layers of the branch were merged, doubled; odd while it is being done.
    #[inline]
    pub fn merges(&self) -> u32 {
        self.header().merges.load(Ordering::Acquire)
    }

    /// Runs `replace`, which puts a merged layer into the manifest, so that no process takes what it finds by
    /// the one manifest for something of the other.
    pub fn merging<T>(&self, replace: impl FnOnce() -> T) -> T {
        let merges = &self.header().merges;
        // A daemon that died in here left it odd.
        merges.fetch_or(1, Ordering::AcqRel);
        let replaced = replace();
        merges.fetch_add(1, Ordering::AcqRel);
        replaced
    }

    /// The state word now.
    #[inline]
    pub fn state(&self) -> State {
        State::from(self.header().state.load(Ordering::Acquire))
    }

    /// Slot of the open layer.
    #[inline]
    pub fn top_slot(&self) -> u32 {
        self.state().top_slot()
    }

    /// Takes a free slot for this process.
    pub fn claim(&self) -> Result<u32> {
        let pid = sys::getpid();
        let start = sys::process_start(pid).unwrap_or(0);
        let header = self.header();
        for (index, slot) in self.slots().iter().enumerate() {
            let owner = slot.pid.load(Ordering::Acquire);
            // Looking at every owner would cost more than it finds: only when slots become scarce.
            let gone = || index >= SLOTS / 2 && sys::process_start(owner).is_none();
            let free = owner == 0 || !planted(Fault::SlotsLost) && gone();
            if !free {
                continue;
            }
            if index >= ALLOCATED {
                sys::fallocate(self.fd, 0, (HEADER + index * SLOT_SIZE) as u64, SLOT_SIZE as u64)?;
            }
            // Only from the owner that was looked at: another process may have been quicker.
            if slot.pid.compare_exchange(owner, pid, Ordering::SeqCst, Ordering::Relaxed).is_ok() {
                slot.depth.store(0, Ordering::SeqCst);
                slot.start.store(start, Ordering::SeqCst);
                header.slots_used.fetch_max(index as u32 + 1, Ordering::SeqCst);
                return Ok(index as u32);
            }
        }
        Err(Errno(libc::ENFILE))
    }

    /// Gives a slot back.
    pub fn release(&self, index: u32) {
        let slot = &self.slots()[index as usize];
        slot.depth.store(0, Ordering::SeqCst);
        slot.pid.store(0, Ordering::SeqCst);
    }

    /// Enters the gate; returns the slot of the open layer, which stays what it is until [`Gate::leave`].
    #[inline]
    pub fn enter(&self, index: u32) -> u32 {
        let slot = &self.slots()[index as usize];
        let header = self.header();
        match protocol::enter(&slot.depth, &header.state) {
            Ok(state) => {
                slot.entries.store(slot.entries.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
                state.top_slot()
            }
            Err(closed) if planted(Fault::GateUnheld) => {
                slot.depth.fetch_add(1, Ordering::SeqCst);
                closed.top_slot()
            }
            Err(_) => self.enter_slowly(slot),
        }
    }

    #[cold]
    fn enter_slowly(&self, slot: &Slot) -> u32 {
        let header = self.header();
        let since = sys::monotonic_ns();
        loop {
            let wake = header.wake.load(Ordering::Acquire);
            match protocol::enter(&slot.depth, &header.state) {
                Ok(state) => return state.top_slot(),
                Err(closed) => {
                    sys::futex_wait(&header.wake, wake, WAIT_SLICE);
                    let waited = Duration::from_nanos(sys::monotonic_ns() - since);
                    let cutter_gone = waited >= WAIT_SLICE && !self.cutter_alive();
                    if (cutter_gone || waited > FORCE_OPEN_AFTER) && !planted(Fault::CutterTrusted) {
                        protocol::reopen(&header.state, closed);
                        self.wake();
                    }
                }
            }
        }
    }

    /// Leaves the gate.
    #[inline]
    pub fn leave(&self, index: u32) {
        protocol::leave(&self.slots()[index as usize].depth);
    }

    fn cutter_alive(&self) -> bool {
        let header = self.header();
        let pid = header.cutter_pid.load(Ordering::Acquire);
        pid != 0 && sys::process_start(pid) == Some(header.cutter_start.load(Ordering::Acquire))
    }

    fn wake(&self) {
        let header = self.header();
        header.wake.fetch_add(1, Ordering::AcqRel);
        sys::futex_wake_all(&header.wake);
    }

    /// Closes the gate and waits until every call has left, at most `limit`.
    ///
    /// # Errors
    /// [`GiveUp`]; the gate is open again.
    pub fn close(&self, limit: Duration) -> std::result::Result<Closed<'_>, GiveUp> {
        let header = self.header();
        let pid = sys::getpid();
        header.cutter_start.store(sys::process_start(pid).unwrap_or(0), Ordering::Release);
        header.cutter_pid.store(pid, Ordering::Release);
        let state = protocol::close(&header.state).ok_or(GiveUp::Lost)?;
        let closed = Closed { gate: self, state };
        let deadline = sys::monotonic_ns() + limit.as_nanos() as u64;
        // A slot claimed after this load belongs to a process that will see the gate closed.
        let used = header.slots_used.load(Ordering::SeqCst) as usize;
        for slot in self.slots().iter().take(used.min(SLOTS)) {
            self.drain(slot, deadline)?;
        }
        Ok(closed)
    }

    fn drain(&self, slot: &Slot, deadline: u64) -> std::result::Result<(), GiveUp> {
        let mut spins = 0u32;
        while !protocol::drained(&slot.depth) && !planted(Fault::DrainSkipped) {
            spins += 1;
            if spins < 200 {
                std::hint::spin_loop();
                continue;
            }
            let pid = slot.pid.load(Ordering::Acquire);
            let alive = pid != 0 && sys::process_start(pid) == Some(slot.start.load(Ordering::Acquire));
            if !alive && !planted(Fault::DeadWaitedFor) {
                // Whatever it was doing is over: a zombie makes no more calls.
                return Ok(());
            }
            if sys::monotonic_ns() > deadline {
                return Err(GiveUp::Busy(pid));
            }
            sys::sleep(Duration::from_micros(20));
        }
        Ok(())
    }

    /// Waits, with the gate open, while some process sits in one call for longer than `patience`,
    /// at most `limit`. Looking before closing spares the writers a useless stop.
    pub fn wait_for_quiet(&self, patience: Duration, limit: Duration) {
        let deadline = sys::monotonic_ns() + limit.as_nanos() as u64;
        let used = self.header().slots_used.load(Ordering::SeqCst) as usize;
        for slot in self.slots().iter().take(used.min(SLOTS)) {
            let entry = slot.entries.load(Ordering::Relaxed);
            let mut slept = Duration::ZERO;
            while !protocol::drained(&slot.depth)
                && slot.entries.load(Ordering::Relaxed) == entry
                && sys::monotonic_ns() < deadline
            {
                let pid = slot.pid.load(Ordering::Acquire);
                if slept >= patience && (pid == 0 || sys::process_start(pid).is_none()) {
                    break;
                }
                sys::sleep(Duration::from_micros(200));
                slept += Duration::from_micros(200);
            }
        }
    }

    /// Live owners of slots.
    pub fn owners(&self) -> Vec<u32> {
        let used = self.header().slots_used.load(Ordering::SeqCst) as usize;
        let pids = self.slots().iter().take(used.min(SLOTS)).map(|slot| slot.pid.load(Ordering::Acquire));
        pids.filter(|&pid| pid != 0).collect()
    }
}

impl Closed<'_> {
    /// Switches to the next layer and opens the gate, in one step. Returns the new top slot.
    ///
    /// # Errors
    /// [`GiveUp::Lost`] when the gate had been forced open: nothing was switched.
    pub fn switch(self) -> std::result::Result<u32, GiveUp> {
        let switched = protocol::switch(&self.gate.header().state, self.state);
        let top = switched.ok_or(GiveUp::Lost)?;
        Ok(top)
    }

    /// Opens the gate without a switch.
    ///
    /// # Errors
    /// [`GiveUp::Lost`] when the gate had been forced open: calls may have been inside since.
    pub fn reopen(self) -> std::result::Result<(), GiveUp> {
        let reopened = protocol::reopen(&self.gate.header().state, self.state);
        if reopened { Ok(()) } else { Err(GiveUp::Lost) }
    }
}

impl Drop for Closed<'_> {
    fn drop(&mut self) {
        protocol::reopen(&self.gate.header().state, self.state);
        self.gate.wake();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd;

    #[test]
    fn a_reset_gate_knows_nothing_of_the_last_incarnation() {
        let path = std::env::temp_dir().join(format!("gate-{}", std::process::id()));
        let file = std::fs::File::options().read(true).write(true).create_new(true).open(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        let gate = Gate::create(file.as_raw_fd(), 3, FLAG_FRESH).unwrap();
        let slot = gate.claim().unwrap();
        assert_eq!(gate.enter(slot), 3);
        gate.header().stream_mark.store(12_345, Ordering::Relaxed);
        let gate = Gate::create(file.as_raw_fd(), 4, 0).unwrap();
        let header = gate.header();
        assert_eq!(header.stream_mark.load(Ordering::Relaxed), 0);
        assert_eq!(header.flags.load(Ordering::Relaxed), 0);
        assert_eq!(gate.top_slot(), 4);
        assert_eq!(gate.owners(), []);
        let closed = gate.close(Duration::ZERO).unwrap();
        assert_eq!(closed.switch().unwrap(), 5);
    }
}
