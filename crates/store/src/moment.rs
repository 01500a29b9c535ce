//! Moments in the life of a branch at which tests let the daemon stand still, to kill it there.
//!
//! Only in debug builds and with the feature `plant`; elsewhere [`reached`] is nothing.

/// Names a moment, in the environment: `settled` or, for the third time that it is reached,
/// `layer-made:3`. While the variable is set, even to nothing, each moment that is reached is told in
/// a line on standard error.
pub const VARIABLE: &str = "ANABRANCH_STAND_STILL";
/// Such a line begins with this; the moment follows.
pub const REACHED: &str = "moment reached: ";
/// The line of a thread that goes no further begins with this.
pub const STANDING: &str = "standing still: ";

macro_rules! moments {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// A moment: what lies before it has been done, what follows has not.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Moment {
            $($(#[$doc])* $variant,)*
        }

        impl Moment {
            /// All of them.
            pub const ALL: &[Moment] = &[$(Moment::$variant,)*];

            /// Its name in [`VARIABLE`].
            pub fn name(self) -> &'static str {
                match self {
                    $(Moment::$variant => $name,)*
                }
            }
        }
    };
}

moments! {
    /// The row that asks for a new branch is committed.
    CreateAsked = "create-asked",
    /// A branch's keys lie beside the place where they belong.
    KeysBeside = "keys-beside",
    /// A branch's keys are in place.
    KeysWritten = "keys-written",
    /// The new branch's endpoint has an address.
    EndpointOpen = "endpoint-open",
    /// The new branch's directories are there, under a temporary name.
    SkeletonMade = "skeleton-made",
    /// An empty layer is there, named by nothing.
    LayerMade = "layer-made",
    /// A manifest or index lies beside the place where it belongs.
    RecordBeside = "record-beside",
    /// The parent's manifest names the layer that its writers will go to.
    CutPrepared = "cut-prepared",
    /// The parent's writers wait.
    GateClosed = "gate-closed",
    /// The parent's writers go to their next layer.
    GateSwitched = "gate-switched",
    /// The child has the log of its parent.
    LogAssembled = "log-assembled",
    /// The child has the configuration of its parent.
    SettingsCopied = "settings-copied",
    /// The child is complete but for its manifest and its name.
    ServerRecorded = "server-recorded",
    /// A branch's directory has its new name, which is not durable yet.
    BranchRenamed = "branch-renamed",
    /// All parts of the new branch are there.
    BranchMade = "branch-made",
    /// The new branch is whole, its caller waits for the answer.
    CreateSettled = "create-settled",
    /// A sealed layer is durable and has no index.
    LayerSynced = "layer-synced",
    /// A sealed layer has its index and what that replaces.
    LayerIndexed = "layer-indexed",
    /// A merged layer is whole and durable, named by nothing.
    LayerMerged = "layer-merged",
    /// The manifest names a merged layer; what it replaces is still there.
    MergeNamed = "merge-named",
    /// The row that says that a branch is to go is committed.
    DeleteAsked = "delete-asked",
    /// Nobody can connect to the branch any more.
    EndpointClosed = "endpoint-closed",
    /// The compute of a branch that goes has ended.
    ComputeEnded = "compute-ended",
    /// The branch has nothing in memory and no sockets.
    MemoryFreed = "memory-freed",
    /// A layer that nothing names is removed.
    LayerRemoved = "layer-removed",
    /// A directory of something that goes is empty.
    DirectoryEmptied = "directory-emptied",
    /// The store has nothing of the branch any more.
    DataRemoved = "data-removed",
    /// The branch has no keys any more.
    KeysRemoved = "keys-removed",
    /// The branch has no row any more.
    RowRemoved = "row-removed",
    /// The delete is done, its caller waits for the answer.
    DeleteSettled = "delete-settled",
}

/// Stands still for good where the environment asked for this moment.
#[cfg(any(debug_assertions, feature = "plant"))]
pub fn reached(moment: Moment) {
    use std::collections::BTreeMap;
    use std::sync::{Mutex, OnceLock, PoisonError};

    static ASKED: OnceLock<Option<String>> = OnceLock::new();
    static COUNTS: Mutex<BTreeMap<Moment, u32>> = Mutex::new(BTreeMap::new());
    let Some(asked) = ASKED.get_or_init(|| std::env::var(VARIABLE).ok()) else { return };
    let count = {
        let mut counts = COUNTS.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(moment).or_insert(0);
        *count += 1;
        *count
    };
    let name = moment.name();
    eprintln!("{REACHED}{name}");
    let (wanted, number) = asked.split_once(':').unwrap_or((asked, "1"));
    if wanted == name && number.parse() == Ok(count) {
        eprintln!("{STANDING}{name}");
        loop {
            std::thread::park();
        }
    }
}

/// Nothing stands still in this build.
#[cfg(not(any(debug_assertions, feature = "plant")))]
#[inline]
pub const fn reached(_: Moment) {}
