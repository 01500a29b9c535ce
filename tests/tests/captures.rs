//! Branches held still for a backup: what a capture holds, and what it leaves as it was.

use e2e::lab::{Lab, key, run, text};
use store::manifest::Manifest;

fn layers(lab: &Lab, branch: &str) -> usize {
    let bytes = std::fs::read(lab.branch_directory(branch).join("manifest")).unwrap();
    Manifest::decode(&bytes).unwrap().entries.len()
}

/// Starts a capture as if it were a branch: what it shows is what a restored home would.
async fn value(lab: &Lab, held: &str) -> String {
    lab.start(held);
    let value = text(&lab.connect(held).await, "select value from ledger").await;
    lab.engine.delete(&key(held)).unwrap();
    value
}

#[tokio::test(flavor = "multi_thread")]
async fn a_capture_holds_what_is_only_in_the_log() {
    let lab = Lab::with_main();
    let main = lab.connect("main").await;
    run(&main, "create table ledger as select 0 as value; checkpoint").await;
    lab.engine.capture(&key("main"), &key("first")).unwrap();
    let mut spared = 0;
    for round in 1..=5 {
        run(&main, &format!("update ledger set value = {round}")).await;
        let before = layers(&lab, "main");
        let held = format!("held-{round}");
        lab.engine.capture(&key("main"), &key(&held)).unwrap();
        spared += usize::from(layers(&lab, "main") == before);
        run(&main, "update ledger set value = -1").await;
        assert_eq!(value(&lab, &held).await, round.to_string());
        // The next change is not of this capture's making.
        assert_eq!(text(&main, "select value from ledger").await, "-1");
    }
    assert!(spared > 0, "changes that only the log had added a layer each time");
    assert_eq!(value(&lab, "first").await, "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_branch_at_rest_and_one_never_started_stay_as_they_are() {
    let lab = Lab::with_main();
    let main = lab.connect("main").await;
    run(&main, "create table ledger as select 7 as value").await;
    lab.engine.create_child(&key("main"), &key("never")).unwrap();
    run(&main, "update ledger set value = 8").await;
    drop(main);
    lab.stop("main");
    // Seals what was written since the child was made.
    lab.engine.capture(&key("main"), &key("first")).unwrap();
    let before = [layers(&lab, "main"), layers(&lab, "never")];
    let prints = ["a", "b"].map(|round| {
        ["main", "never"].map(|branch| {
            let held = key(&format!("{branch}-{round}"));
            lab.engine.capture(&key(branch), &held).unwrap();
            lab.engine.held(&held).unwrap().fingerprint
        })
    });
    assert_eq!(prints[0], prints[1]);
    assert_eq!(before, [layers(&lab, "main"), layers(&lab, "never")]);
    assert!(!lab.branch_directory("never").join("gate").exists(), "it was started for a backup");
    assert_eq!(value(&lab, "main-a").await, "8");
    assert_eq!(value(&lab, "never-a").await, "7");
    assert_eq!(value(&lab, "first").await, "8");
    lab.start("main");
    run(&lab.connect("main").await, "update ledger set value = 9").await;
    assert_eq!(value(&lab, "main-b").await, "8");
    assert_eq!(value(&lab, "never-b").await, "7");
}
