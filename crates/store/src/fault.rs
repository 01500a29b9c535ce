//! Faults planted on purpose: each takes one safety mechanism away, so that a test can be seen to
//! notice. `docs/store.md` lists them with the tests that find them.
//!
//! Only in debug builds and with the feature `plant`; elsewhere every question is a constant `false`.

/// Names the planted faults, separated by commas, in the environment.
pub const VARIABLE: &str = "ANABRANCH_PLANT";

macro_rules! faults {
    ($($(#[$text:meta])+ $fault:ident = $name:literal,)+) => {
        /// What may be planted.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Fault { $($(#[$text])+ $fault,)+ }

        impl Fault {
            /// All of them.
            pub const ALL: &[Fault] = &[$(Fault::$fault),+];

            /// Its name in [`VARIABLE`].
            pub const fn name(self) -> &'static str {
                match self { $(Fault::$fault => $name,)+ }
            }
        }
    };
}

faults! {
    /// Sealed layers are called durable without a sync.
    SealedUnsynced = "sealed-unsynced",
    /// The map log names blocks before their data is durable.
    LogBeforeData = "log-before-data",
    /// The parent's manifest with the next layer is not made durable before the switch.
    ManifestLate = "manifest-late",
    /// Directories of a layer are not synced.
    DirectoriesUnsynced = "directories-unsynced",

    /// Calls enter a closed gate.
    GateUnheld = "gate-unheld",
    /// A cut does not wait for the calls that are inside.
    DrainSkipped = "drain-skipped",
    /// A cut waits for calls of processes that are dead.
    DeadWaitedFor = "dead-waited-for",
    /// Slots of dead processes are never used again.
    SlotsLost = "slots-lost",
    /// A closed gate is left to its cutter, dead or hung.
    CutterTrusted = "cutter-trusted",
    /// A process goes on writing to the layer that was open when it attached.
    SwitchUnseen = "switch-unseen",

    /// Writes to a file of a lower layer go to that layer.
    WriteBelow = "write-below",
    /// Blocks are read from the lowest layer that has them.
    NewestUnread = "newest-unread",
    /// Removed names of lower layers stay visible.
    WhiteoutIgnored = "whiteout-ignored",
    /// Where a file was cut off is forgotten.
    FloorForgotten = "floor-forgotten",
    /// A process does not hear of merged layers.
    MergeUnseen = "merge-unseen",
    /// A merged layer forgets what its parts removed.
    MergeForgetsRemovals = "merge-forgets-removals",
    /// A merged layer is named before it is durable.
    MergeUnsynced = "merge-unsynced",
    /// Layers of a removed branch go although other branches need them.
    CollectedWhileShared = "collected-while-shared",
    /// Layers that nobody references stay.
    NeverCollected = "never-collected",

    /// Layers are collected although a manifest that may name them does not read back.
    UnreadableCollected = "unreadable-collected",
    /// Branches are started and cut without a look at what they stand on.
    DamageOverlooked = "damage-overlooked",
    /// Blocks of sealed layers are read by a scrub and not judged.
    PagesUnjudged = "pages-unjudged",

    /// Processes that outlive their postmaster, and memory that they have attached, stop no start.
    OrphanOverlooked = "orphan-overlooked",
    /// A server counts as running as long as its lock file says that it is ready.
    ReadyBelieved = "ready-believed",
    /// The real directory of a branch holds what a server without the preload library can start on.
    SkeletonReadable = "skeleton-readable",

    /// Programs that a branch starts reach files of the others.
    Unconfined = "unconfined",

    /// Subscriptions that came with a child's data stay enabled, with the parent's slot.
    SubscriptionKept = "subscription-kept",
    /// Logical replication workers run at a child's first start.
    WorkersAtFirstStart = "workers-at-first-start",
    /// A child gets copies of its parent's replication slots.
    SlotsInherited = "slots-inherited",
    /// A child archives its WAL as its parent was told to.
    ArchiveInherited = "archive-inherited",

    /// A child's WAL ends inside the last record of the cut.
    EndEarly = "end-early",
    /// A child's WAL ends where writing stopped, whole record or not.
    EndLate = "end-late",
    /// A child shares the WAL segment that its parent still writes to.
    TailShared = "tail-shared",

    /// Deleted data is freed at once.
    GraceIgnored = "grace-ignored",
    /// A wall clock that jumped is believed.
    ClockBelieved = "clock-believed",
}

/// Whether the environment asked for the fault when this process first looked.
#[cfg(any(debug_assertions, feature = "plant"))]
pub fn planted(fault: Fault) -> bool {
    static PLANTED: std::sync::OnceLock<u64> = std::sync::OnceLock::new();
    let all = PLANTED.get_or_init(|| {
        let names = std::env::var(VARIABLE).unwrap_or_default();
        let asked = Fault::ALL.iter().filter(|fault| names.split(',').any(|name| name == fault.name()));
        asked.fold(0, |all, fault| all | 1 << *fault as u32)
    });
    all & 1 << fault as u32 != 0
}

/// Nothing is ever planted in this build.
#[cfg(not(any(debug_assertions, feature = "plant")))]
#[inline]
pub const fn planted(_: Fault) -> bool {
    false
}

/// How long a test with a fault in it may take before it counts as hung.
#[cfg(debug_assertions)]
const LIMIT: std::time::Duration = std::time::Duration::from_secs(300);

/// Runs `test` of the calling test program once more, in a process of its own with the fault planted.
///
/// # Panics
/// It passes, there is no such test, it does not end, or its output does not hold `why`: then it failed
/// for another reason.
#[cfg(debug_assertions)]
pub fn must_be_noticed(fault: Fault, test: &str, why: &str) {
    let (status, said) =
        run_with(fault, test).unwrap_or_else(|error| panic!("could not run {test}: {error}"));
    let name = fault.name();
    assert!(said.contains("running 1 test"), "there is no test {test}: {said}");
    let Some(status) = status else { panic!("{test} did not end with {name}: {said}") };
    assert!(!status.success(), "{test} passes with {name}: {said}");
    assert!(said.contains(why), "{test} fails with {name}, but it does not say \"{why}\": {said}");
}

#[cfg(debug_assertions)]
fn run_with(fault: Fault, test: &str) -> std::io::Result<(Option<std::process::ExitStatus>, String)> {
    use std::io::Read;

    let (mut reader, writer) = std::io::pipe()?;
    // By this name the program is found even where its directory is closed to the user we became.
    let mut child = std::process::Command::new("/proc/self/exe")
        .args(["--exact", test, "--nocapture"])
        .env(VARIABLE, fault.name())
        .stdin(std::process::Stdio::null())
        .stdout(writer.try_clone()?)
        .stderr(writer)
        .spawn()?;
    let output = std::thread::spawn(move || {
        let mut bytes = Vec::new();
        reader.read_to_end(&mut bytes).map(|_| String::from_utf8_lossy(&bytes).into_owned())
    });
    let begin = std::time::Instant::now();
    let status = loop {
        match child.try_wait()? {
            Some(status) => break Some(status),
            None if begin.elapsed() > LIMIT => {
                child.kill()?;
                child.wait()?;
                break None;
            }
            None => std::thread::sleep(std::time::Duration::from_millis(5)),
        }
    };
    let said = output.join().unwrap_or_else(|_| Ok(String::new()))?;
    Ok((status, said))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fault_has_its_own_name_and_stands_in_the_documentation() {
        let table = include_str!("../../../docs/store.md");
        for (at, fault) in Fault::ALL.iter().enumerate() {
            assert!(Fault::ALL[..at].iter().all(|other| other.name() != fault.name()), "{fault:?}");
            assert!(table.contains(&format!("`{}`", fault.name())), "{fault:?}");
        }
    }

    #[test]
    fn nothing_is_planted_unless_asked_for() {
        assert!(Fault::ALL.iter().all(|fault| !planted(*fault)));
    }
}
