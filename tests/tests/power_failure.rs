//! The power fails while branches are loaded, cut, checkpointed, indexed and deleted: whatever was
//! acknowledged is there afterwards, on parents and children; and so again after a second failure.
//!
//! `ANABRANCH_POWER_CUTS` cuts of each kind are tried (few, to be quick), chosen by
//! `ANABRANCH_POWER_SEED`. No two runs are alike: to try a run again, keep its recording
//! (`ANABRANCH_POWER_KEEP=DIR`), then replay it (`ANABRANCH_POWER_REPLAY=DIR`) with its seed.

mod power;

use e2e::lab::Lab;
use power::{Cut, Run, cuts, number, telling_cuts};

#[tokio::test(flavor = "multi_thread")]
async fn nothing_acknowledged_is_lost() {
    let lab = Lab::new();
    let seed = number("ANABRANCH_POWER_SEED").unwrap_or_else(|| u64::from(std::process::id()));
    let count = number("ANABRANCH_POWER_CUTS").unwrap_or(2) as usize;
    let run = Run::record(&lab, None, "");
    try_some(&run, count, seed).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nor_by_a_second_failure() {
    let lab = Lab::new();
    let seed = number("ANABRANCH_POWER_SEED").unwrap_or_else(|| u64::from(std::process::id()));
    let count = number("ANABRANCH_POWER_CUTS").unwrap_or(2) as usize;
    let run = Run::record(&lab, None, "");
    let first: Cut = cuts(&run.events(), 1, seed)[0];
    println!("the first failure: {first:?}");
    try_some(&run.again(first), count, seed).await;
}

async fn try_some(run: &Run<'_>, count: usize, seed: u64) {
    let events = run.events();
    let mut chosen = cuts(&events, count, seed);
    chosen.extend(telling_cuts(run, count.div_ceil(2), seed));
    println!("{} events, {} cuts, ANABRANCH_POWER_SEED={seed}", events.len(), chosen.len());
    let found = run.try_all(&chosen, false).await;
    let what: Vec<String> = found.iter().map(|(cut, what)| format!("{cut:?}: {what}")).collect();
    assert!(found.is_empty(), "ANABRANCH_POWER_SEED={seed}\n{}", what.join("\n"));
}
