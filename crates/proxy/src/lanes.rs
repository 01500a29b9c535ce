//! Threads of their own for the connections of clients.
//!
//! Each has an event loop of its own, and a connection stays on one for life. After every byte that passed
//! a thread looks for the next one for a moment before it sleeps: being put to sleep and woken, twice for
//! each query, cost more than passing its bytes (`docs/proxy.md`, *Threads*).

use std::cell::Cell;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::runtime::{Builder, Handle};
use tokio::sync::{Notify, oneshot};

/// More gain nothing: at this many, PostgreSQL needs the rest of the machine.
const MOST: usize = 16;

/// How long a thread looks for more after the last bytes before it sleeps. Longer than a short query
/// takes; meanwhile it gives way to others that want the processor.
const WATCHFUL: Duration = Duration::from_micros(200);

thread_local! {
    static TRAFFIC: Traffic = Traffic::default();
}

/// What passes on this thread.
#[derive(Default)]
struct Traffic {
    moves: Cell<u64>,
    moved: Arc<Notify>,
}

/// Says that bytes passed on this thread.
pub fn note_traffic() {
    TRAFFIC.with(|traffic| {
        traffic.moves.set(traffic.moves.get().wrapping_add(1));
        traffic.moved.notify_one();
    });
}

/// The threads. They end when this is dropped, and the connections with them.
pub struct Lanes {
    all: Vec<Lane>,
}

struct Lane {
    handle: Handle,
    /// Connections on it.
    load: Arc<AtomicUsize>,
    /// Ends the thread when it is dropped.
    _end: oneshot::Sender<()>,
}

impl Lanes {
    /// One for every two processors: one keeps up with what the queries of two can answer.
    ///
    /// # Errors
    /// The system has no threads left.
    pub fn start() -> std::io::Result<Lanes> {
        let wanted = std::thread::available_parallelism().map_or(1, |processors| processors.get() / 2);
        Lanes::of(wanted.clamp(1, MOST))
    }

    fn of(count: usize) -> std::io::Result<Lanes> {
        Ok(Lanes { all: (0..count).map(Lane::start).collect::<Result<_, _>>()? })
    }

    /// Runs `serve` on the thread that has the fewest connections.
    pub fn run(&self, serve: impl Future<Output = ()> + Send + 'static) {
        let Some(lane) = self.all.iter().min_by_key(|lane| lane.load.load(Ordering::Relaxed)) else { return };
        let counted = Counted::new(&lane.load);
        // In a box: it would lie in the task twice, as what is waited for and as what was handed over.
        let serve = Box::pin(serve);
        lane.handle.spawn(async move {
            let _counted = counted;
            serve.await;
        });
    }
}

impl Lane {
    fn start(number: usize) -> std::io::Result<Lane> {
        // New events, and what comes from other threads, are looked for after each step: while the thread
        // watches, there is always a next one.
        let runtime =
            Builder::new_current_thread().enable_all().event_interval(1).global_queue_interval(1).build()?;
        let handle = runtime.handle().clone();
        let (end, ended) = oneshot::channel();
        std::thread::Builder::new().name(format!("lane-{number}")).spawn(move || {
            runtime.spawn(watch());
            // Nobody ever sends: it ends with the sender.
            let _ = runtime.block_on(ended);
        })?;
        Ok(Lane { handle, load: Arc::default(), _end: end })
    }
}

/// Keeps the thread awake for a while after each traffic.
async fn watch() {
    let moved = TRAFFIC.with(|traffic| Arc::clone(&traffic.moved));
    loop {
        moved.notified().await;
        let moves = || TRAFFIC.with(|traffic| traffic.moves.get());
        let (mut seen, mut last) = (moves(), Instant::now());
        while last.elapsed() < WATCHFUL {
            std::thread::yield_now();
            // The event loop looks for events, and comes back at once if there are none.
            tokio::task::yield_now().await;
            if moves() != seen {
                (seen, last) = (moves(), Instant::now());
            }
        }
    }
}

/// One more connection for as long as it lives.
struct Counted(Arc<AtomicUsize>);

impl Counted {
    fn new(load: &Arc<AtomicUsize>) -> Counted {
        load.fetch_add(1, Ordering::Relaxed);
        Counted(Arc::clone(load))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Processor time of the calling thread, in ticks of 10 ms.
    fn ticks() -> u64 {
        let stat = std::fs::read_to_string("/proc/thread-self/stat").unwrap();
        let fields: Vec<&str> = stat.rsplit(") ").next().unwrap().split(' ').collect();
        fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
    }

    #[tokio::test]
    async fn a_thread_sleeps_when_nothing_passes_any_more() {
        let lanes = Lanes::of(1).unwrap();
        let (said, mut hears) = tokio::sync::mpsc::unbounded_channel();
        lanes.run(async move {
            note_traffic();
            tokio::time::sleep(WATCHFUL * 50).await;
            let before = ticks();
            tokio::time::sleep(Duration::from_millis(400)).await;
            said.send(ticks() - before).unwrap();
        });
        let busy = hears.recv().await.unwrap();
        assert!(busy < 20, "it was awake for {busy} of 40 ticks");
    }

    #[tokio::test]
    async fn connections_are_spread_and_end_with_the_lanes() {
        let lanes = Lanes::of(3).unwrap();
        let (started, mut starts) = tokio::sync::mpsc::unbounded_channel();
        for _ in 0..lanes.all.len() {
            let started = started.clone();
            lanes.run(async move {
                started.send(std::thread::current().id()).unwrap();
                std::future::pending::<()>().await;
            });
        }
        drop(started);
        let mut threads = std::collections::HashSet::new();
        for _ in 0..lanes.all.len() {
            threads.insert(starts.recv().await.unwrap());
        }
        assert_eq!(threads.len(), lanes.all.len());
        assert!(!threads.contains(&std::thread::current().id()));
        let loads: Vec<_> = lanes.all.iter().map(|lane| Arc::clone(&lane.load)).collect();
        drop(lanes);
        while loads.iter().any(|load| load.load(Ordering::Relaxed) > 0) {
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
        assert_eq!(starts.recv().await, None);
    }
}
