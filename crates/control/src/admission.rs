//! Which computes may be awake at once on this host: the driver around [`queue`].
//!
//! Whoever wants to start a compute takes a ticket and waits for a [`Permit`]. While tickets are
//! waiting, one task turns the queue: it starts whose turn it is and suspends what has been idle for
//! longest. Memory bounds how many are awake, the number of processors how many start at once.

mod memory;
pub mod queue;

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, oneshot};

use crate::app::Control;
use crate::computes::{Cause, Slot};
use memory::Memory;
use queue::{Action, Bounds, Queue};

/// While somebody waits, the queue is looked at this often even when nothing was heard.
const TICK: Duration = Duration::from_millis(100);

/// One that was found in use is asked again after this.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// What the host gives to computes.
#[derive(Debug, Clone)]
pub struct Hosting {
    /// Memory for all computes together, bytes; none means what the host can spare.
    pub memory: Option<u64>,
    /// Computes that start at once; none means one for each processor.
    pub starts: Option<NonZeroUsize>,
    /// How long a connection waits for its turn.
    pub patience: Duration,
    /// Under pressure, connections that have done nothing for this long are given up with their
    /// compute. Computes without connections go at once.
    pub grace: Duration,
    /// Whether layers of branches that were cut often are merged in the background.
    pub compaction: bool,
}

impl Default for Hosting {
    fn default() -> Self {
        Hosting {
            memory: None,
            starts: None,
            patience: Duration::from_secs(120),
            grace: Duration::from_secs(10),
            compaction: true,
        }
    }
}

impl Hosting {
    /// Computes that start at once.
    pub(crate) fn starts(&self) -> usize {
        let processors = || std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
        self.starts.unwrap_or_else(processors).get()
    }

    fn bounds(&self, used: u64) -> Bounds {
        let memory = self.memory.unwrap_or_else(|| Memory::read().for_computes(used));
        Bounds { memory, starts: self.starts() }
    }
}

/// Room on the host as it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// Bytes that running computes are reckoned to take.
    pub used: u64,
    /// Bytes for all computes.
    pub memory: u64,
    /// Computes that take room.
    pub computes: usize,
    /// Computes that wait for room.
    pub waiting: usize,
}

/// The queue and those that wait in it. That a branch's compute runs, or does not, is told only by
/// whoever holds its turn.
pub(crate) struct Admission {
    state: Mutex<State>,
    /// Told when the queue should be looked at.
    pub changed: Arc<Notify>,
}

struct State {
    queue: Queue,
    waiting: HashMap<String, Ticket>,
    /// Whether a task turns the queue.
    turning: bool,
}

struct Ticket {
    grant: oneshot::Sender<()>,
    /// Nobody waits any more once this one counts no waiters. None: somebody always does.
    slot: Option<Arc<Slot>>,
}

impl Admission {
    pub fn new(hosting: &Hosting) -> Admission {
        let state = State { queue: Queue::new(hosting.bounds(0)), waiting: HashMap::new(), turning: false };
        Admission { state: Mutex::new(state), changed: Arc::default() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A compute that runs without having asked.
    pub fn adopt(&self, branch: &str, cost: u64) {
        self.lock().queue.adopt(branch, cost);
    }

    /// A compute does not run any more.
    pub fn gone(&self, branch: &str) {
        self.lock().queue.gone(branch);
        self.changed.notify_one();
    }

    /// What a running compute takes was measured.
    pub fn set_cost(&self, branch: &str, cost: u64) {
        self.lock().queue.set_cost(branch, cost);
    }

    pub fn room(&self) -> Room {
        let state = self.lock();
        Room {
            used: state.queue.used(),
            memory: state.queue.bounds().memory,
            computes: state.queue.len(),
            waiting: state.queue.waiting(),
        }
    }

    /// Takes a branch out of the queue; whoever waits for its permit gets none.
    pub fn cancel(&self, branch: &str) {
        let mut state = self.lock();
        state.queue.withdraw(branch);
        state.waiting.remove(branch);
    }
}

/// The right to start one compute. Dropped without [`Permit::awake`], its room is free again.
pub(crate) struct Permit {
    control: Arc<Control>,
    branch: String,
    awake: bool,
}

impl Permit {
    /// It runs: the room stays taken until [`Admission::gone`].
    pub fn awake(mut self) {
        self.control.admission.lock().queue.started(&self.branch);
        self.awake = true;
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if !self.awake {
            self.control.admission.gone(&self.branch);
        }
        self.control.admission.changed.notify_one();
    }
}

impl Control {
    /// Room on the host.
    pub fn room(&self) -> Room {
        self.admission.room()
    }

    /// Waits until a compute that takes `cost` bytes may start. None where nobody waits for it any
    /// more, by the count of `slot`, or the daemon ends.
    pub(crate) async fn admit(
        self: &Arc<Self>,
        branch: &str,
        cost: u64,
        slot: Option<Arc<Slot>>,
    ) -> Option<Permit> {
        let (grant, granted) = oneshot::channel();
        let turn = {
            let mut state = self.admission.lock();
            state.queue.request(branch, cost);
            state.waiting.insert(branch.to_owned(), Ticket { grant, slot });
            !std::mem::replace(&mut state.turning, true)
        };
        if turn {
            tokio::spawn(Arc::clone(self).turn_queue());
        } else {
            self.admission.changed.notify_one();
        }
        granted.await.ok()?;
        Some(Permit { control: Arc::clone(self), branch: branch.to_owned(), awake: false })
    }

    /// Turns the queue until nobody waits.
    async fn turn_queue(self: Arc<Self>) {
        while self.turn_once(true) {
            let _ = tokio::time::timeout(TICK, self.admission.changed.notified()).await;
        }
    }

    /// Suspends idle computes where the host carries less than it did.
    pub(crate) fn shed(self: &Arc<Self>) {
        self.turn_once(false);
    }

    /// One look at the queue; whether somebody waits on. `ends`: the caller is the task that turns
    /// it, and ends with the last ticket.
    fn turn_once(self: &Arc<Self>, ends: bool) -> bool {
        let mut state = self.admission.lock();
        let bounds = self.settings.hosting.bounds(state.queue.used());
        state.queue.set_bounds(bounds);
        let ending = self.watch.is_stopped();
        let lost: Vec<String> = state
            .waiting
            .iter()
            .filter(|(_, ticket)| ending || ticket.slot.as_ref().is_some_and(|slot| slot.waiting() == 0))
            .map(|(branch, _)| branch.clone())
            .collect();
        for branch in lost {
            state.queue.withdraw(&branch);
            state.waiting.remove(&branch);
        }
        let actions = state.queue.plan(self.clock.steady(), |branch| self.may_go(branch));
        for action in actions {
            match action {
                Action::Start(branch) => {
                    let granted =
                        state.waiting.remove(&branch).is_some_and(|ticket| ticket.grant.send(()).is_ok());
                    if !granted {
                        state.queue.gone(&branch);
                    }
                }
                Action::Suspend(branch) => {
                    tokio::spawn(Arc::clone(self).make_room(branch));
                }
            }
        }
        if ends {
            state.turning = state.queue.waiting() > 0;
        }
        state.turning
    }

    /// How long a compute has been idle, where it may be suspended for another one.
    fn may_go(&self, branch: &str) -> Option<Duration> {
        let slot = self.computes.slot(branch);
        let idle = slot.idle_for();
        (slot.waiting() == 0 && (slot.connections() == 0 || idle >= self.settings.hosting.grace))
            .then_some(idle)
    }

    async fn make_room(self: Arc<Self>, branch: String) {
        let outcome = self.suspend(&branch, Cause::Pressure).await;
        match outcome {
            Ok(true) => {}
            Ok(false) => self.keep(&branch),
            Err(error) => {
                tracing::warn!(branch, %error, "a compute could not be suspended to make room");
                self.keep(&branch);
            }
        }
    }

    fn keep(&self, branch: &str) {
        let until = self.clock.steady() + ASK_AGAIN;
        self.admission.lock().queue.kept(branch, until);
        self.admission.changed.notify_one();
    }
}
