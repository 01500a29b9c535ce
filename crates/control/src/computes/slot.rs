//! What the daemon knows of one compute without asking it.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use compute::limits::Limits;
use jiff::Timestamp;
use tokio::sync::{Notify, watch};

use super::pace::Pace;
use crate::clock::Clock;
use crate::error::ConnectError;

/// What a compute is doing, as far as this daemon brought it about.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Nothing runs.
    #[default]
    Asleep,
    /// Somebody wants it, and it waits for room on this host.
    Waiting,
    /// It is being started.
    Starting,
    /// It runs.
    Awake,
    /// It is being shut down.
    Suspending,
}

impl Phase {
    pub const ALL: [Phase; 5] =
        [Phase::Asleep, Phase::Waiting, Phase::Starting, Phase::Awake, Phase::Suspending];

    /// The word in a status and in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Phase::Asleep => "asleep",
            Phase::Waiting => "waiting",
            Phase::Starting => "starting",
            Phase::Awake => "awake",
            Phase::Suspending => "suspending",
        }
    }
}

/// A moment by both clocks: one to show, one to reckon with.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Moment {
    pub wall: Timestamp,
    pub steady: Duration,
}

impl Moment {
    pub fn now(clock: &dyn Clock) -> Moment {
        Moment { wall: clock.now(), steady: clock.steady() }
    }
}

/// Whether clients may go straight in, and how many ever came.
///
/// Who enters counts itself first and looks at the door then; who shuts it shuts first and looks at
/// the count then. So of two that meet, at least one sees the other.
#[derive(Default)]
pub(crate) struct Door {
    open: AtomicBool,
    arrivals: AtomicU64,
}

impl Door {
    /// Somebody comes; whether the door is open.
    pub fn enter(&self) -> bool {
        self.arrivals.fetch_add(1, Ordering::SeqCst);
        self.open.load(Ordering::SeqCst)
    }

    /// How many have come.
    pub fn arrivals(&self) -> u64 {
        self.arrivals.load(Ordering::SeqCst)
    }

    pub fn set(&self, open: bool) {
        self.open.store(open, Ordering::SeqCst);
    }

    pub fn is_open(&self) -> bool {
        self.open.load(Ordering::SeqCst)
    }

    /// Shuts the door unless somebody came after `seen` was read; then it stays as it was.
    pub fn shut_unless_entered(&self, seen: u64) -> bool {
        let was = self.open.swap(false, Ordering::SeqCst);
        if self.arrivals() == seen {
            return true;
        }
        self.open.store(was, Ordering::SeqCst);
        false
    }
}

/// How a start ended, for all who waited for it.
#[derive(Debug, Clone)]
pub(crate) enum Landing {
    /// It was made, or failed.
    Done(Result<(), ConnectError>),
    /// It was not begun, since for a moment nobody waited for it.
    Abandoned,
}

/// A start under way.
pub(crate) type Flight = watch::Receiver<Option<Landing>>;

/// One compute.
pub(crate) struct Slot {
    pub door: Door,
    /// Held by whoever starts or stops it.
    pub turn: Arc<tokio::sync::Mutex<()>>,
    /// The start under way, or the last one.
    pub flight: Mutex<Option<Flight>>,
    open: AtomicUsize,
    waiting: AtomicUsize,
    notes: Mutex<Notes>,
    clock: Arc<dyn Clock>,
    /// Told when a connection ends: its compute may be what somebody waits for.
    left: Arc<Notify>,
}

/// What is remembered of a compute.
#[derive(Default)]
pub(crate) struct Notes {
    pub phase: Phase,
    pub failure: Option<(Instant, ConnectError)>,
    /// When it was last in use.
    pub active: Option<Moment>,
    /// Since when (by the steady clock) we look whether it is used.
    pub watched: Duration,
    /// When it last got ready.
    pub started: Option<Timestamp>,
    /// When it was last suspended.
    pub suspended: Option<Timestamp>,
    /// Its size.
    pub pace: Option<Pace>,
    /// What it was given last.
    pub limits: Option<Limits>,
    /// Whether giving it its size failed last time.
    pub resize_failed: bool,
    /// Memory it was found to take, bytes.
    pub memory: Option<u64>,
    /// When that was, by the steady clock.
    pub measured: Option<Duration>,
    /// Why the last attempt to suspend it was dropped.
    pub kept_by: Option<&'static str>,
}

impl Slot {
    pub fn new(clock: Arc<dyn Clock>, left: Arc<Notify>) -> Slot {
        Slot {
            door: Door::default(),
            turn: Arc::default(),
            flight: Mutex::default(),
            open: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
            notes: Mutex::default(),
            clock,
            left,
        }
    }

    pub fn notes(&self) -> MutexGuard<'_, Notes> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn phase(&self) -> Phase {
        self.notes().phase
    }

    pub fn set_phase(&self, phase: Phase) {
        self.notes().phase = phase;
    }

    /// It is in use now.
    pub fn touch(&self) {
        let now = Moment::now(&*self.clock);
        let mut notes = self.notes();
        notes.active = Some(now);
        notes.kept_by = None;
    }

    /// It was in use at `wall`, which is in the past; an earlier use changes nothing.
    pub fn touch_at(&self, wall: Timestamp) {
        let now = Moment::now(&*self.clock);
        let ago = Duration::try_from(now.wall.duration_since(wall)).unwrap_or_default();
        let steady = now.steady.saturating_sub(ago);
        let mut notes = self.notes();
        if notes.active.is_none_or(|active| active.steady < steady) {
            notes.active = Some(Moment { wall: wall.min(now.wall), steady });
        }
    }

    /// Nobody was there until now to see whether it is used.
    pub fn watch(&self) {
        self.notes().watched = self.clock.steady();
    }

    /// How long nobody has used it, as far as we have looked.
    pub fn idle_for(&self) -> Duration {
        let notes = self.notes();
        let last = notes.active.map_or(Duration::ZERO, |active| active.steady).max(notes.watched);
        self.clock.steady().saturating_sub(last)
    }

    /// Connections handed out and not ended.
    pub fn connections(&self) -> usize {
        self.open.load(Ordering::SeqCst)
    }

    /// Connections that wait for it to wake.
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::SeqCst)
    }

    /// Counts somebody who waits, for as long as the value lives.
    pub fn wait(self: &Arc<Self>) -> Waiting {
        self.waiting.fetch_add(1, Ordering::SeqCst);
        Waiting(Arc::clone(self))
    }
}

/// Somebody waits for the compute.
pub(crate) struct Waiting(Arc<Slot>);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::SeqCst);
        self.0.left.notify_one();
    }
}

/// Counts as one connection of its branch for as long as it lives. Its beginning and its end are
/// activity; how long it then does nothing is measured inside PostgreSQL.
pub struct ConnectionGuard {
    slot: Arc<Slot>,
}

impl ConnectionGuard {
    pub(crate) fn new(slot: &Arc<Slot>) -> ConnectionGuard {
        slot.open.fetch_add(1, Ordering::SeqCst);
        ConnectionGuard { slot: Arc::clone(slot) }
    }
}

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        self.slot.touch();
        self.slot.open.fetch_sub(1, Ordering::SeqCst);
        self.slot.left.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SystemClock;

    #[test]
    fn a_door_shuts_only_when_nobody_came() {
        let door = Door::default();
        assert!(!door.enter());
        door.set(true);
        let seen = door.arrivals();
        assert!(door.enter());
        assert!(!door.shut_unless_entered(seen));
        assert!(door.is_open());
        assert!(door.shut_unless_entered(door.arrivals()));
        assert!(!door.enter());
    }

    /// Whoever found the door open is seen by the one that shuts it.
    #[test]
    fn nobody_is_shut_in() {
        for _ in 0..2_000 {
            let door = Arc::new(Door::default());
            door.set(true);
            let seen = door.arrivals();
            let guest = {
                let door = Arc::clone(&door);
                std::thread::spawn(move || door.enter())
            };
            let shut = door.shut_unless_entered(seen);
            assert!(!(guest.join().unwrap() && shut), "a guest went in and the door was shut behind him");
        }
    }

    #[test]
    fn connections_and_waiters_are_counted() {
        let slot = Arc::new(Slot::new(Arc::new(SystemClock::new()), Arc::default()));
        let (guard, waiter) = (ConnectionGuard::new(&slot), slot.wait());
        assert_eq!((slot.connections(), slot.waiting()), (1, 1));
        drop((guard, waiter));
        assert_eq!((slot.connections(), slot.waiting()), (0, 0));
        assert!(slot.notes().active.is_some(), "the end of a connection is activity");
    }

    #[test]
    fn an_earlier_use_changes_nothing() {
        let slot = Slot::new(Arc::new(SystemClock::new()), Arc::default());
        slot.touch();
        let before = slot.notes().active.unwrap();
        slot.touch_at(Timestamp::UNIX_EPOCH);
        assert_eq!(slot.notes().active.unwrap().steady, before.steady);
        slot.touch_at(Timestamp::now() + jiff::SignedDuration::from_hours(1));
        assert!(slot.idle_for() < Duration::from_secs(60));
    }
}
