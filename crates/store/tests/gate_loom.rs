//! The gate's protocol under a model checker: every interleaving of a few writers and cutters, with
//! the reorderings that the memory model allows. Faults are planted to show that it would notice.
#![allow(clippy::unwrap_used, missing_docs)]

use std::sync::Mutex as Log;

use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};
use loom::thread;
use store::gate::protocol::{self, Atomic, State};

/// Slot of the open layer at the start of each model.
const FIRST: u32 = 7;

macro_rules! checked_atomic {
    ($name:ident, $atomic:ty, $value:ty) => {
        struct $name($atomic);
        impl Atomic<$value> for $name {
            fn get(&self) -> $value {
                // The checker takes a sequentially consistent access for an acquire-release one.
                // This part of what is lost is what the protocol needs: a load does not overtake
                // an earlier change of another word.
                fence(Ordering::SeqCst);
                self.0.load(Ordering::SeqCst)
            }
            fn add(&self, value: $value) -> $value {
                self.0.fetch_add(value, Ordering::SeqCst)
            }
            fn exchange(&self, from: $value, to: $value) -> bool {
                self.0.compare_exchange(from, to, Ordering::SeqCst, Ordering::SeqCst).is_ok()
            }
        }
    };
}

checked_atomic!(Depth, AtomicU32, u32);
checked_atomic!(Word, AtomicU64, u64);

/// The protocol's functions, so that a model can be run with a broken one.
#[derive(Clone, Copy)]
struct Rules {
    enter: fn(&Depth, &Word) -> Result<State, State>,
    switch: fn(&Word, State) -> Option<u32>,
    reopen: fn(&Word, State) -> bool,
}

const REAL: Rules = Rules {
    enter: |depth, state| protocol::enter(depth, state),
    switch: |state, closed| protocol::switch(state, closed),
    reopen: |state, closed| protocol::reopen(state, closed),
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Event {
    /// A call began under this top slot.
    Entered(usize, u32),
    /// It is about to end.
    Leaving(usize, u32),
    /// The cutter that closed the gate over this top slot has seen every slot drained.
    Drained(usize, u32),
    /// That cutter's switch away from this top slot succeeded.
    Switched(usize, u32),
}

/// One branch: its gate, and what happened. The log is no part of the model: it adds no step, and a
/// call's lines stand between its first and its last step.
struct Branch {
    rules: Rules,
    state: Word,
    depths: Vec<Depth>,
    /// What each slot's calls write to the first layer.
    written: Vec<UnsafeCell<u32>>,
    log: Log<Vec<Event>>,
}

impl Branch {
    fn new(rules: Rules, slots: usize) -> Arc<Branch> {
        Arc::new(Branch {
            rules,
            state: Word(AtomicU64::new(State::open(FIRST, 0).word())),
            depths: (0..slots).map(|_| Depth(AtomicU32::new(0))).collect(),
            written: (0..slots).map(|_| UnsafeCell::new(0)).collect(),
            log: Log::new(Vec::new()),
        })
    }

    fn note(&self, event: Event) {
        self.log.lock().unwrap().push(event);
    }

    /// Tries to make one call that does `work` under the top slot it is given.
    fn call_with(&self, slot: usize, work: impl FnOnce(u32)) -> Result<u32, State> {
        let top = (self.rules.enter)(&self.depths[slot], &self.state)?.top_slot();
        self.note(Event::Entered(slot, top));
        work(top);
        self.note(Event::Leaving(slot, top));
        protocol::leave(&self.depths[slot]);
        Ok(top)
    }

    fn call(&self, slot: usize) -> Result<u32, State> {
        self.call_with(slot, |_| {})
    }

    /// A call that writes to the layer it finds on top.
    #[allow(unsafe_code)]
    fn writing_call(&self, slot: usize) -> Result<u32, State> {
        self.call_with(slot, |top| {
            if top == FIRST {
                // SAFETY: only calls of this slot write, one after the other; that nobody reads
                // meanwhile is what the checker is here to find out.
                self.written[slot].with_mut(|value| unsafe { *value += 1 });
            }
        })
    }

    /// A call that forces a closed gate open, once; whether it did.
    fn impatient_call(&self, slot: usize) -> bool {
        let forced = matches!(self.call(slot), Err(closed) if (self.rules.reopen)(&self.state, closed));
        if forced {
            // Open again: now it gets in, unless the next cut is quicker.
            let _ = self.call(slot);
        }
        forced
    }

    /// One attempt to cut. A slot that has not drained makes it give up at once: waiting would only
    /// repeat the same step.
    fn cut(&self, cutter: usize, while_closed: impl FnOnce()) -> Option<u32> {
        let closed = protocol::close(&self.state)?;
        if self.depths.iter().all(protocol::drained) {
            self.note(Event::Drained(cutter, closed.top_slot()));
            while_closed();
            if let Some(top) = (self.rules.switch)(&self.state, closed) {
                self.note(Event::Switched(cutter, closed.top_slot()));
                return Some(top);
            }
        }
        (self.rules.reopen)(&self.state, closed);
        None
    }

    /// Every call under a layer that was sealed had ended before its cutter saw the slots drained;
    /// nothing is left closed or counted in.
    fn check(&self) {
        let log = self.log.lock().unwrap();
        for event in log.iter() {
            let Event::Switched(cutter, top) = *event else { continue };
            let drained = log.iter().rposition(|e| *e == Event::Drained(cutter, top)).unwrap();
            let late = log.iter().skip(drained).any(
                |event| matches!(event, Event::Entered(_, under) | Event::Leaving(_, under) if *under == top),
            );
            assert!(!late, "a call was inside a sealed layer: {log:?}");
        }
        let switches = log.iter().filter(|event| matches!(event, Event::Switched(..))).count();
        let state = State::from(self.state.get());
        assert!(!state.is_closed(), "the gate stayed closed: {log:?}");
        assert_eq!(state.top_slot(), FIRST + switches as u32, "a switch was lost: {log:?}");
        assert!(self.depths.iter().all(protocol::drained), "a call was not counted out: {log:?}");
    }
}

/// Runs a model in every order with at most three switches that no thread asked for. All known faults
/// need two or fewer; without the bound the larger models take minutes.
fn explore(model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(model);
}

/// Runs `work` on a thread of the model.
fn spawn<T: 'static>(
    branch: &Arc<Branch>,
    work: impl FnOnce(&Branch) -> T + 'static,
) -> thread::JoinHandle<T> {
    let branch = Arc::clone(branch);
    thread::spawn(move || work(&branch))
}

fn ended<T>(thread: thread::JoinHandle<T>) {
    assert!(thread.join().is_ok());
}

/// Two processes that write, and a cutter.
#[allow(unsafe_code)]
fn writers_and_cutter(rules: Rules) {
    explore(move || {
        let branch = Branch::new(rules, 2);
        let writers: Vec<_> =
            (0..2).map(|slot| spawn(&branch, move |branch| branch.writing_call(slot).is_ok())).collect();
        let switched = branch.cut(0, || {
            for written in &branch.written {
                // SAFETY: a read; the checker fails the model if a write may run meanwhile.
                written.with(|value| assert!(unsafe { *value } <= 1));
            }
        });
        writers.into_iter().for_each(ended);
        // Whoever was held back by the switch, and whoever comes after it, sees the new top.
        let top = switched.unwrap_or(FIRST);
        assert_eq!(top, if switched.is_some() { FIRST + 1 } else { FIRST });
        for slot in 0..2 {
            assert_eq!(branch.call(slot), Ok(top));
        }
        branch.check();
    });
}

#[test]
fn nobody_is_inside_while_the_top_is_switched() {
    writers_and_cutter(REAL);
}

/// Two threads of one process share a slot; so do a call and a signal handler that interrupts it.
fn two_calls_in_one_slot(rules: Rules) {
    explore(move || {
        let branch = Branch::new(rules, 1);
        let calls: Vec<_> = (0..2).map(|_| spawn(&branch, |branch| branch.call(0).is_ok())).collect();
        branch.cut(0, || {});
        calls.into_iter().for_each(ended);
        branch.check();
    });
}

#[test]
fn calls_that_share_a_slot_do_not_let_each_other_in() {
    two_calls_in_one_slot(REAL);
}

#[test]
fn a_nested_call_never_waits_and_keeps_the_top_of_the_outer_one() {
    explore(|| {
        let branch = Branch::new(REAL, 1);
        let cutter = spawn(&branch, |branch| branch.cut(0, || {}));
        // The cutter may close the gate in between; a nested call that waited would never end.
        let outer = branch.call_with(0, |top| assert_eq!(branch.call(0), Ok(top)));
        ended(cutter);
        assert!(outer.is_ok_and(|top| top == FIRST || top == FIRST + 1) || outer.is_err());
        branch.check();
    });
}

/// Two writers that lose their patience against the cutter's switch.
fn forced_open(rules: Rules) {
    explore(move || {
        let branch = Branch::new(rules, 2);
        let writers: Vec<_> =
            (0..2).map(|slot| spawn(&branch, move |branch| branch.impatient_call(slot))).collect();
        let switched = branch.cut(0, || {}).is_some();
        let forced: Vec<bool> = writers.into_iter().map(|writer| writer.join().unwrap()).collect();
        assert_ne!(forced, [true, true], "one closing was forced open twice");
        let both = switched && forced.contains(&true);
        assert!(!both, "the switch took place although the gate had been forced open");
        branch.check();
    });
}

#[test]
fn a_switch_succeeds_only_if_the_gate_was_closed_all_along() {
    forced_open(REAL);
}

/// Two cutters, and a writer that forces the gate open: the second closing differs from the first
/// in nothing but its generation.
fn two_cutters(rules: Rules) {
    explore(move || {
        let branch = Branch::new(rules, 1);
        let other = spawn(&branch, |branch| branch.cut(1, || {}));
        let writer = spawn(&branch, |branch| branch.impatient_call(0));
        let tops = (branch.cut(0, || {}), other.join().unwrap());
        ended(writer);
        if let (Some(one), Some(other)) = tops {
            assert_ne!(one, other, "two cutters switched to the same layer");
        }
        branch.check();
    });
}

#[test]
fn two_cutters_never_share_a_closing() {
    two_cutters(REAL);
}

// Planted faults: each of them must be found.

#[test]
#[should_panic(expected = "a call was inside a sealed layer")]
fn entering_a_closed_gate_is_found() {
    fn enter(depth: &Depth, state: &Word) -> Result<State, State> {
        depth.add(1);
        Ok(State::from(state.get()))
    }
    two_calls_in_one_slot(Rules { enter, ..REAL });
}

#[test]
#[should_panic(expected = "a call was inside a sealed layer")]
fn looking_before_counting_in_is_found() {
    fn enter(depth: &Depth, state: &Word) -> Result<State, State> {
        let now = State::from(state.get());
        if now.is_closed() { Err(now) } else { protocol::enter(depth, &Word(AtomicU64::new(now.word()))) }
    }
    two_calls_in_one_slot(Rules { enter, ..REAL });
}

#[test]
#[should_panic(expected = "a call was inside a sealed layer")]
fn taking_a_call_that_still_looks_for_one_inside_is_found() {
    fn enter(depth: &Depth, state: &Word) -> Result<State, State> {
        let others = depth.add(1);
        let now = State::from(state.get());
        if others > 0 || !now.is_closed() {
            return Ok(now);
        }
        depth.add(u32::MAX);
        Err(now)
    }
    two_calls_in_one_slot(Rules { enter, ..REAL });
}

#[test]
#[should_panic(expected = "the switch took place although the gate had been forced open")]
fn switching_without_comparing_is_found() {
    fn switch(state: &Word, closed: State) -> Option<u32> {
        let top = closed.top_slot() + 1;
        state.exchange(state.get(), State::open(top, 1).word()).then_some(top)
    }
    forced_open(Rules { switch, ..REAL });
}

#[test]
#[should_panic(expected = "a call was inside a sealed layer")]
fn opening_without_a_new_generation_is_found() {
    fn reopen(state: &Word, closed: State) -> bool {
        state.exchange(closed.word(), closed.word() & !1)
    }
    two_cutters(Rules { reopen, ..REAL });
}
