//! The gate's protocol on its atomics, nothing else.
//!
//! Promise: between a successful [`close`] with every depth [`drained`] and the matching [`switch`],
//! no call is inside; and a switch that succeeds proves that the gate was closed all that time.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// The few operations that the protocol needs of an atomic integer.
pub trait Atomic<T> {
    /// Sequentially consistent load.
    fn get(&self) -> T;
    /// Sequentially consistent fetch-and-add (wrapping); returns the old value.
    fn add(&self, value: T) -> T;
    /// Sequentially consistent compare-and-exchange; whether it happened.
    fn exchange(&self, from: T, to: T) -> bool;
}

impl Atomic<u32> for AtomicU32 {
    fn get(&self) -> u32 {
        self.load(Ordering::SeqCst)
    }
    fn add(&self, value: u32) -> u32 {
        self.fetch_add(value, Ordering::SeqCst)
    }
    fn exchange(&self, from: u32, to: u32) -> bool {
        self.compare_exchange(from, to, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }
}

impl Atomic<u64> for AtomicU64 {
    fn get(&self) -> u64 {
        self.load(Ordering::SeqCst)
    }
    fn add(&self, value: u64) -> u64 {
        self.fetch_add(value, Ordering::SeqCst)
    }
    fn exchange(&self, from: u64, to: u64) -> bool {
        self.compare_exchange(from, to, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }
}

/// The state word: top slot (high 32 bits), generation (31 bits), closed (lowest bit). The
/// generation changes whenever the gate opens, so that no exchange confuses two closings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct State(u64);

impl From<u64> for State {
    fn from(word: u64) -> State {
        State(word)
    }
}

impl State {
    /// An open gate.
    pub fn open(top_slot: u32, generation: u32) -> State {
        State(u64::from(top_slot) << 32 | u64::from(generation << 1))
    }

    /// The word as stored.
    pub fn word(self) -> u64 {
        self.0
    }

    /// Slot of the open layer.
    #[inline]
    pub fn top_slot(self) -> u32 {
        (self.0 >> 32) as u32
    }

    fn generation(self) -> u32 {
        (self.0 as u32) >> 1
    }

    /// Whether mutating calls have to wait.
    #[inline]
    pub fn is_closed(self) -> bool {
        self.0 & 1 == 1
    }

    fn closed(self) -> State {
        State(self.0 | 1)
    }
}

/// Part of a depth that counts the calls that are inside. The other half counts those that are still
/// looking: such a call keeps the cutter waiting but lets no other call in, for it may be about to
/// turn back.
const INSIDE: u32 = 1;
const LOOKING: u32 = 1 << 16;

/// Counts a call in. `Err` with the state when the gate is closed: the call is not inside and must
/// wait. A nested call (one of the same slot is inside) never waits.
#[inline]
pub fn enter(depth: &impl Atomic<u32>, state: &impl Atomic<u64>) -> Result<State, State> {
    let others = depth.add(LOOKING);
    let now = State(state.get());
    if now.is_closed() && others.is_multiple_of(LOOKING) {
        depth.add(LOOKING.wrapping_neg());
        return Err(now);
    }
    depth.add(INSIDE.wrapping_sub(LOOKING));
    Ok(now)
}

/// Counts a call out.
#[inline]
pub fn leave(depth: &impl Atomic<u32>) {
    depth.add(INSIDE.wrapping_neg());
}

/// Closes an open gate; `None` when it is closed already.
pub fn close(state: &impl Atomic<u64>) -> Option<State> {
    let now = State(state.get());
    (!now.is_closed() && state.exchange(now.word(), now.closed().word())).then_some(now.closed())
}

/// Whether no call of this slot is inside or on its way.
pub fn drained(depth: &impl Atomic<u32>) -> bool {
    depth.get() == 0
}

/// Moves to the next top slot and opens, if the gate is still closed as `closed` says.
pub fn switch(state: &impl Atomic<u64>, closed: State) -> Option<u32> {
    let top = closed.top_slot() + 1;
    let next = State::open(top, closed.generation().wrapping_add(1) & (u32::MAX >> 1));
    state.exchange(closed.word(), next.word()).then_some(top)
}

/// Opens without a switch, if the gate is still closed as `closed` says.
pub fn reopen(state: &impl Atomic<u64>, closed: State) -> bool {
    let next = State::open(closed.top_slot(), closed.generation().wrapping_add(1) & (u32::MAX >> 1));
    state.exchange(closed.word(), next.word())
}
