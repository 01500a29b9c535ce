//! The power fails while branches are loaded, cut, checkpointed, indexed and deleted: whatever was
//! acknowledged is there afterwards, on parents and children.
//!
//! `ANABRANCH_POWER_CUTS` cuts are tried (few, to be quick), chosen by `ANABRANCH_POWER_SEED`.

mod power;

use e2e::power::Survival;
use power::{Cut, Run, after_marks, cuts, marked, number};

#[tokio::test(flavor = "multi_thread")]
async fn nothing_acknowledged_is_lost() {
    let run = Run::record(None, "");
    let seed = number("ANABRANCH_POWER_SEED").unwrap_or_else(|| u64::from(std::process::id()));
    let count = number("ANABRANCH_POWER_CUTS").unwrap_or(4) as usize;
    let events = run.events();
    println!("{} events, {count} cuts, ANABRANCH_POWER_SEED={seed}", events.len());
    let mut chosen = cuts(&events, count, seed);
    // Where the planted faults of `power_faults` show.
    let targets = [
        (run.before_syncs_of("pg_xact/"), Survival::Metadata),
        (after_marks(&events, "checkpointed"), Survival::Nothing),
        (after_marks(&events, "created"), Survival::Nothing),
    ];
    for (places, survival) in targets {
        let first = marked(&events, "created first");
        let places: Vec<usize> = places.into_iter().filter(|&at| at >= first).collect();
        let share = (count / 4).clamp(1, places.len());
        let step = places.len() / share;
        let offset = seed as usize % step.max(1);
        chosen.extend(places.iter().skip(offset).step_by(step.max(1)).take(share).map(|&after| Cut {
            after,
            survival,
            seed,
        }));
    }
    let found = run.try_all(&chosen, false).await;
    let what: Vec<String> = found.iter().map(|(cut, what)| format!("{cut:?}: {what}")).collect();
    assert!(found.is_empty(), "ANABRANCH_POWER_SEED={seed}\n{}", what.join("\n"));
}
