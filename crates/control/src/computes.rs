//! Computes of this home: one start for many waiters, counted connections.

mod pace;
mod probe;
mod resize;
mod size;
mod slot;
mod start;
mod suspend;

use std::collections::HashMap;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio::net::UnixStream;
use tokio::sync::{Notify, OwnedMutexGuard, watch};

use crate::app::{Control, key_of};
use crate::clock::Clock;
use crate::error::{ConnectError, Error};

pub use slot::ConnectionGuard;
use slot::Landing;
pub(crate) use slot::{Phase, Slot};
pub(crate) use suspend::Cause;

/// A compute may be suspended between its start and the connection to it; more than a few times in a
/// row is no chance any more.
const TRIES: usize = 5;
/// How long until a full queue of connections is tried again, the first and the later times.
const QUEUE_POLL: (Duration, Duration) = (Duration::from_millis(2), Duration::from_millis(200));

/// A connection to a branch's server that keeps count of itself. While `guard` lives, the branch
/// counts as connected.
pub struct Connection {
    /// To the server's socket; the start-up packet is still to be sent.
    pub stream: UnixStream,
    /// To be dropped when the client has gone.
    pub guard: ConnectionGuard,
}

/// What is known of the computes of this home.
pub(crate) struct Computes {
    slots: Mutex<HashMap<String, Arc<Slot>>>,
    clock: Arc<dyn Clock>,
    changed: Arc<Notify>,
}

/// A compute's times, as far as they are known.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ComputeTimes {
    /// When it was last in use.
    pub last_active: Option<Timestamp>,
    /// When it last got ready for connections.
    pub start: Option<Timestamp>,
    /// When it was last suspended.
    pub suspend: Option<Timestamp>,
}

impl Computes {
    /// `changed` is told whenever a compute may have come free for others.
    pub fn new(clock: Arc<dyn Clock>, changed: Arc<Notify>) -> Computes {
        Computes { slots: Mutex::default(), clock, changed }
    }

    pub fn slot(&self, branch: &str) -> Arc<Slot> {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(slots.entry(branch.to_owned()).or_insert_with(|| self.unknown()))
    }

    /// Counts as a connection for as long as the value lives.
    pub fn guard(&self, branch: &str) -> ConnectionGuard {
        ConnectionGuard::new(&self.slot(branch))
    }

    /// Those that run, by what this daemon did.
    pub fn awake(&self) -> Vec<(String, Arc<Slot>)> {
        let slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        let awake = slots.iter().filter(|(_, slot)| slot.phase() == Phase::Awake);
        awake.map(|(branch, slot)| (branch.clone(), Arc::clone(slot))).collect()
    }

    /// What is known of a compute, if anybody has ever wanted it.
    pub fn known(&self, branch: &str) -> Option<Arc<Slot>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner).get(branch).map(Arc::clone)
    }

    /// A compute of which nothing is known.
    pub fn unknown(&self) -> Arc<Slot> {
        Arc::new(Slot::new(Arc::clone(&self.clock), Arc::clone(&self.changed)))
    }

    /// All computes that anybody has ever wanted, by branch.
    pub fn all(&self) -> Vec<(String, Arc<Slot>)> {
        let slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        slots.iter().map(|(branch, slot)| (branch.clone(), Arc::clone(slot))).collect()
    }

    /// Branches whose compute does not just sleep, or that somebody is starting or stopping.
    pub fn stirring(&self) -> Vec<String> {
        let slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        let stirring = |slot: &Slot| slot.phase() != Phase::Asleep || slot.turn.try_lock().is_err();
        slots.iter().filter(|(_, slot)| stirring(slot)).map(|(branch, _)| branch.clone()).collect()
    }

    /// Forgets a branch that is gone.
    pub fn forget(&self, branch: &str) {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner).remove(branch);
    }

    /// Waits for the right to start or stop the compute; clients wait until it is given back.
    pub async fn turn(&self, branch: &str) -> OwnedMutexGuard<()> {
        let slot = self.slot(branch);
        let turn = Arc::clone(&slot.turn).lock_owned().await;
        slot.door.set(false);
        turn
    }

    /// When the compute was in use, started and suspended.
    pub fn times(&self, branch: &str) -> ComputeTimes {
        let Some(slot) = self.known(branch) else { return ComputeTimes::default() };
        let notes = slot.notes();
        ComputeTimes {
            last_active: notes.active.map(|moment| moment.wall),
            start: notes.started,
            suspend: notes.suspended,
        }
    }
}

impl Control {
    /// Connects to a branch's server; starts it first where needed, in its turn.
    ///
    /// # Errors
    /// The endpoint is disabled, the host has no room for too long, or the server does not start.
    pub async fn connect(self: &Arc<Self>, branch: &str) -> Result<Connection, ConnectError> {
        let outcome = self.reach(branch).await;
        match &outcome {
            Ok(_) => {
                self.metrics.connections.fetch_add(1, Ordering::Relaxed);
            }
            Err(error) => self.metrics.count_refusal(error),
        }
        outcome
    }

    async fn reach(self: &Arc<Self>, branch: &str) -> Result<Connection, ConnectError> {
        let slot = self.computes.slot(branch);
        let path = self.socket_path(branch)?;
        let guard = self.computes.guard(branch);
        for _ in 0..TRIES {
            // Noted before the look at the door: a suspension that begins now finds out.
            slot.touch();
            if slot.door.enter() {
                if let Ok(stream) = connect_in_queue(&path, self.settings.hosting.patience).await {
                    return Ok(Connection { stream, guard });
                }
                slot.door.set(false);
            }
            self.awake(branch).await?;
        }
        let failed = std::io::Error::other("it was suspended again each time");
        Err(Error::io(format!("cannot reach the server of branch {branch}"), failed).into())
    }

    fn socket_path(&self, branch: &str) -> Result<std::path::PathBuf, Error> {
        Ok(self.engine.socket_dir(&key_of(branch)?).join(".s.PGSQL.5432"))
    }

    /// Returns once the branch's compute runs and may be used.
    pub(crate) async fn awake(self: &Arc<Self>, branch: &str) -> Result<(), ConnectError> {
        let slot = self.computes.slot(branch);
        let _waiting = slot.wait();
        let deadline = tokio::time::Instant::now() + self.settings.hosting.patience;
        loop {
            let mut flight = self.flight(branch, &slot);
            let landed = tokio::time::timeout_at(deadline, landing_of(&mut flight)).await;
            let landing = match landed {
                Ok(landing) => landing,
                Err(_) if slot.phase() == Phase::Waiting => {
                    return Err(ConnectError::TooManyWaiting { waited: self.settings.hosting.patience });
                }
                // It has its turn; starting takes what it takes.
                Err(_) => landing_of(&mut flight).await,
            };
            match landing {
                Some(Landing::Done(outcome)) => return outcome,
                Some(Landing::Abandoned) => {}
                None => return Err(Error::Internal("a start ended early".to_owned()).into()),
            }
        }
    }

    /// The start under way, or a new one. It is nobody's own: a client that hangs up leaves no start
    /// half-way.
    fn flight(self: &Arc<Self>, branch: &str, slot: &Arc<Slot>) -> slot::Flight {
        let mut current = slot.flight.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(flight) = &*current
            && flight.borrow().is_none()
            && flight.has_changed().is_ok()
        {
            return flight.clone();
        }
        let (landing, flight) = watch::channel(None);
        *current = Some(flight.clone());
        let (control, branch, slot) = (Arc::clone(self), branch.to_owned(), Arc::clone(slot));
        tokio::spawn(async move {
            let outcome = control.start_in_turn(&branch, &slot).await;
            landing.send_replace(Some(outcome));
        });
        flight
    }
}

/// Connects to a server's socket. A full queue says nothing about the server but that it has much to do: it
/// is asked again for as long as `patience`.
async fn connect_in_queue(path: &Path, patience: Duration) -> std::io::Result<UnixStream> {
    let (begin, mut pause) = (Instant::now(), QUEUE_POLL.0);
    loop {
        match UnixStream::connect(path).await {
            Err(error) if error.kind() == ErrorKind::WouldBlock && begin.elapsed() < patience => {
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(QUEUE_POLL.1);
            }
            other => return other,
        }
    }
}

/// None where the start ended without a word.
async fn landing_of(flight: &mut slot::Flight) -> Option<Landing> {
    flight.wait_for(Option::is_some).await.ok()?.clone()
}
