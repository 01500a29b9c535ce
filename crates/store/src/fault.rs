//! Faults planted on purpose, so that tests can show that they would notice them.
//!
//! Only in debug builds and with the feature `plant`; elsewhere every question is a constant `false`.

/// Names the planted faults, separated by commas, in the environment.
pub const VARIABLE: &str = "ANABRANCH_PLANT";

/// What may be planted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Sealed layers are called durable without a sync.
    SealedUnsynced,
    /// The map log names blocks before their data is durable.
    LogBeforeData,
    /// The parent's manifest with the next layer is not made durable before the switch.
    ManifestLate,
    /// Directories of a layer are not synced.
    DirectoriesUnsynced,
}

impl Fault {
    /// Its name in [`VARIABLE`].
    pub fn name(self) -> &'static str {
        match self {
            Fault::SealedUnsynced => "sealed-unsynced",
            Fault::LogBeforeData => "log-before-data",
            Fault::ManifestLate => "manifest-late",
            Fault::DirectoriesUnsynced => "directories-unsynced",
        }
    }
}

/// Whether the environment asked for the fault when this process first looked.
#[cfg(any(debug_assertions, feature = "plant"))]
pub fn planted(fault: Fault) -> bool {
    static PLANTED: std::sync::OnceLock<String> = std::sync::OnceLock::new();
    let names = PLANTED.get_or_init(|| std::env::var(VARIABLE).unwrap_or_default());
    names.split(',').any(|name| name == fault.name())
}

/// Nothing is ever planted in this build.
#[cfg(not(any(debug_assertions, feature = "plant")))]
#[inline]
pub const fn planted(_: Fault) -> bool {
    false
}
