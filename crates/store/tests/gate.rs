//! The gate between real processes: who waits for whom, and for whom nobody waits. Its protocol is
//! checked in every order by `gate_loom.rs`.
#![allow(clippy::unwrap_used)]

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use store::Errno;
use store::gate::{Gate, GiveUp, SLOTS, protocol};

/// Slot of the open layer at the start of each test.
const TOP: u32 = 7;
/// Longer than anything takes that is not stuck.
const PATIENCE: Duration = Duration::from_secs(6);
/// Where the slots begin in the gate's file, and how long each is.
const FIRST_SLOT: u64 = 4096;
const SLOT: usize = 64;

struct Place {
    path: PathBuf,
    file: File,
    gate: Gate,
}

impl Place {
    fn new(name: &str) -> Place {
        let path = std::env::temp_dir().join(format!("ana-gate-{name}-{}", std::process::id()));
        let file = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
        let gate = Gate::create(file.as_raw_fd(), TOP, 0).unwrap();
        Place { path, file, gate }
    }

    /// A process that does `job` at the gate and dies of SIGKILL before it can end it.
    fn killed_in(&self, job: &str) {
        let mut helper = Helper::start(job, &self.path);
        assert_eq!(helper.hear(), "done");
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// This program once more, running its ignored test `helper`. Killed when dropped.
struct Helper {
    process: Child,
}

const JOB: &str = "STORE_GATE_JOB";

impl Helper {
    fn start(job: &str, gate: &Path) -> Helper {
        let process = Command::new("/proc/self/exe")
            .args(["--ignored", "--exact", "helper", "--nocapture"])
            .env(JOB, format!("{job} {}", gate.display()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        Helper { process }
    }

    fn hear(&mut self) -> String {
        let lines = BufReader::new(self.process.stdout.take().unwrap()).lines();
        let mut said = lines.filter_map(|line| line.unwrap().strip_prefix("helper: ").map(str::to_owned));
        said.next().expect("the helper ended")
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// What runs in a [`Helper`].
#[test]
#[ignore = "the other tests start it in a process of its own, to kill it"]
fn helper() {
    let Ok(job) = std::env::var(JOB) else { return };
    let (job, path) = job.split_once(' ').unwrap();
    let file = File::options().read(true).write(true).open(path).unwrap();
    let gate = Gate::open(file.as_raw_fd()).unwrap();
    let end = || {
        println!("\nhelper: done");
        // Ends when the test does, if that does not kill it first.
        std::io::stdin().read_line(&mut String::new()).unwrap();
    };
    match job {
        "call" => {
            gate.enter(gate.claim().unwrap());
            end();
        }
        "cut" => {
            let _closed = gate.close(Duration::ZERO).unwrap();
            end();
        }
        _ => panic!("no such job: {job}"),
    }
}

#[test]
fn a_switch_never_happens_under_a_call() {
    let place = Place::new("held");
    let slot = place.gate.claim().unwrap();
    // The call waits, loses its patience and forces the gate open.
    let closed = place.gate.close(Duration::ZERO).unwrap();
    let top = place.gate.enter(slot);
    let switched = closed.switch();
    assert_eq!((top, switched), (TOP, Err(GiveUp::Lost)), "switched under a call that had entered");
    // A call that has begun holds the cut up until it ends.
    let busy = place.gate.close(Duration::ZERO).err();
    assert_eq!(busy, Some(GiveUp::Busy(std::process::id())), "the gate closed over a running call");
    place.gate.leave(slot);
    assert_eq!(place.gate.close(Duration::ZERO).unwrap().switch(), Ok(TOP + 1));
    assert_eq!(place.gate.enter(slot), TOP + 1);
}

#[test]
fn a_call_of_a_dead_process_holds_no_cut_up() {
    let place = Place::new("dead");
    place.killed_in("call");
    assert_ne!(place.gate.owners(), [], "the process did not get as far");
    let switched = place.gate.close(Duration::from_millis(250)).and_then(|closed| closed.switch());
    assert_eq!(switched, Ok(TOP + 1), "the cut waited for a dead process");
}

#[test]
fn slots_of_dead_processes_are_used_again() {
    let place = Place::new("slots");
    place.killed_in("call");
    // As if it had been all of them, one after the other.
    let mut slot = [0; SLOT];
    place.file.read_exact_at(&mut slot, FIRST_SLOT).unwrap();
    place.file.write_all_at(&slot.repeat(SLOTS), FIRST_SLOT).unwrap();
    let claimed = place.gate.claim();
    assert_ne!(claimed, Err(Errno(libc::ENFILE)), "dead processes fill the gate");
    // What the dead owner had counted in is gone.
    place.gate.enter(claimed.unwrap());
    place.gate.leave(claimed.unwrap());
    assert!(place.gate.close(Duration::ZERO).is_ok());
}

#[test]
fn calls_pass_a_gate_whose_cutter_died() {
    let place = Place::new("cutter");
    let slot = place.gate.claim().unwrap();
    place.killed_in("cut");
    assert!(place.gate.state().is_closed());
    let (say, hear) = std::sync::mpsc::channel();
    let heard = std::thread::scope(|scope| {
        scope.spawn(|| say.send(place.gate.enter(slot)));
        let heard = hear.recv_timeout(PATIENCE);
        // Lets a call go that nobody else would.
        protocol::reopen(&place.gate.header().state, place.gate.state());
        heard
    });
    assert_eq!(heard, Ok(TOP), "calls wait for a dead cutter");
}

/// Each of these faults makes one of the tests above fail.
#[cfg(debug_assertions)]
mod planted {
    use store::fault::{Fault, must_be_noticed};

    #[test]
    fn calls_that_enter_a_closed_gate() {
        let why = "switched under a call that had entered";
        must_be_noticed(Fault::GateUnheld, "a_switch_never_happens_under_a_call", why);
    }

    #[test]
    fn a_cut_that_does_not_wait_for_calls() {
        let why = "the gate closed over a running call";
        must_be_noticed(Fault::DrainSkipped, "a_switch_never_happens_under_a_call", why);
    }

    #[test]
    fn waiting_for_the_dead() {
        let why = "the cut waited for a dead process";
        must_be_noticed(Fault::DeadWaitedFor, "a_call_of_a_dead_process_holds_no_cut_up", why);
    }

    #[test]
    fn slots_that_are_never_given_back() {
        let why = "dead processes fill the gate";
        must_be_noticed(Fault::SlotsLost, "slots_of_dead_processes_are_used_again", why);
    }

    #[test]
    fn trust_in_a_dead_cutter() {
        let why = "calls wait for a dead cutter";
        must_be_noticed(Fault::CutterTrusted, "calls_pass_a_gate_whose_cutter_died", why);
    }
}
