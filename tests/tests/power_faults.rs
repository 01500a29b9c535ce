//! Faults planted in store and shim are noticed by the power-failure harness.
//!
//! Release builds hold no faults (see `store::fault`), so this runs in debug builds, with a preload
//! library of its own.
#![cfg(debug_assertions)]

mod power;

use std::path::Path;

use e2e::lab::Lab;
use e2e::power::{Random, Survival};
use power::{Cut, Run, after_marks, marked};
use store::fault::Fault;

fn planted_shim() -> &'static Path {
    e2e::planted::library(Path::new(env!("CARGO_TARGET_TMPDIR")))
}

fn lab() -> Lab {
    planted_shim();
    Lab::new()
}

fn record(lab: &Lab, fault: Fault) -> Run<'_> {
    Run::record(lab, Some(planted_shim()), fault.name())
}

async fn must_notice(run: &Run<'_>, cuts: &[Cut]) {
    assert!(!cuts.is_empty());
    let found = run.try_all(cuts, true).await;
    assert!(!found.is_empty(), "{} cuts, and nothing was noticed", cuts.len());
}

/// After checkpoints that follow the first cut.
fn after_checkpoints(run: &Run<'_>, survival: Survival, each: u64) -> Vec<Cut> {
    let events = run.events();
    let first = marked(&events, "created first");
    let mut random = Random::new(1);
    let places = after_marks(&events, "checkpointed").into_iter().filter(|&at| at > first);
    places
        .flat_map(|after| (0..each).map(move |_| after))
        .map(|after| Cut { after, survival, seed: random.draw() })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn sealed_layers_that_nobody_syncs() {
    let lab = lab();
    let run = record(&lab, Fault::SealedUnsynced);
    must_notice(&run, &after_checkpoints(&run, Survival::Nothing, 1)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_map_log_that_runs_ahead_of_the_data() {
    let lab = lab();
    let run = record(&lab, Fault::LogBeforeData);
    let first = marked(&run.events(), "created first");
    let places = run.before_syncs_of("pg_xact/").into_iter().filter(|&at| at > first);
    let cuts: Vec<Cut> = places.map(|after| Cut { after, survival: Survival::Metadata, seed: 1 }).collect();
    must_notice(&run, &cuts).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_that_is_durable_too_late() {
    let lab = lab();
    let run = record(&lab, Fault::ManifestLate);
    must_notice(&run, &after_checkpoints(&run, Survival::Nothing, 1)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn directories_that_nobody_syncs() {
    let lab = lab();
    let run = record(&lab, Fault::DirectoriesUnsynced);
    must_notice(&run, &after_checkpoints(&run, Survival::Scattered(50), 2)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn merged_layers_that_nobody_syncs() {
    let lab = lab();
    let run = record(&lab, Fault::MergeUnsynced);
    let places = after_marks(&run.events(), "merged");
    let cuts: Vec<Cut> =
        places.into_iter().map(|after| Cut { after, survival: Survival::Nothing, seed: 1 }).collect();
    must_notice(&run, &cuts).await;
}
