//! Where there are no control groups: who goes first.

use crate::os;

/// A compute of this weight runs with the priority that everybody has; lighter ones step back.
const FOREMOST: f64 = 10_000.0;

/// Less of a difference than the weights have: priorities are set against everything else on the machine,
/// and an ordinary compute must not come last behind all of it.
const STEP: f64 = 1.6;

/// Niceness that stands for a weight.
pub(super) fn niceness(weight: u32) -> i32 {
    let steps = (FOREMOST / f64::from(weight.max(1))).ln() / STEP.ln();
    (steps.round() as i32).clamp(0, 19)
}

/// Level of disk priority that goes with a niceness: 4 is everybody's, 7 comes last.
pub(super) fn disk_level(niceness: i32) -> i32 {
    (4 + niceness / 4).clamp(4, 7)
}

/// Gives a process the priority of its compute. An ordinary user may only lower one: then the higher
/// one comes with the next start.
pub(super) fn set(pid: i32, weight: u32) {
    let niceness = niceness(weight);
    // It may have ended, or been lower before.
    let _ = os::set_niceness(pid, niceness);
    let _ = os::set_disk_level(pid, disk_level(niceness));
}
