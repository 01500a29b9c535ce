//! Seeing and steering what runs: status, sleep, logs, figures, audit, the end of the daemon.
#![allow(clippy::unwrap_used)]

mod desk;

use compute::run_as;
use desk::Desk;
use serde_json::Value;

/// The compute of branch `dev`, as the status has it.
fn dev(desk: &Desk) -> Value {
    let output = desk.ana(&["status", "--json"]);
    let status: Value = serde_json::from_slice(&output.stdout).unwrap();
    let computes = status["computes"].as_array().unwrap();
    computes.iter().find(|compute| compute["branch"] == "dev").unwrap().clone()
}

#[test]
fn what_runs_can_be_seen_and_steered() {
    let desk = Desk::new("operations", run_as::choose(None).unwrap().map(|choice| choice.user));
    desk.succeed(&["up"]);
    desk.succeed(&["project", "create", "shop"]);
    desk.succeed(&["branch", "create", "dev", "--no-wait", "--no-expiry"]);
    assert_eq!(dev(&desk)["state"], "asleep");
    assert_eq!(desk.succeed(&["logs", "dev"]), "");

    assert!(desk.succeed(&["endpoint", "wake", "dev"]).contains("branch dev answers, after "));
    let awake = dev(&desk);
    assert_eq!((&awake["state"], &awake["parent"]), (&"awake".into(), &"production".into()));
    assert!(awake["pid"].as_i64().unwrap() > 1 && awake["cu"].as_f64() == Some(1.0), "{awake}");
    let drawn = desk.succeed(&["status"]);
    for text in ["└─ production", "   └─ dev", "memory for computes", "sizes: "] {
        assert!(drawn.contains(text), "{drawn}");
    }
    assert!(desk.succeed(&["logs", "dev", "-n", "1000"]).contains("ready to accept connections"));
    desk.succeed(&["branch", "protect", "dev"]);
    desk.succeed(&["branch", "unprotect", "dev"]);
    let figures = desk.succeed(&["metrics"]);
    for line in [
        "anabranch_operations_total{kind=\"branch\",verb=\"update\",outcome=\"done\"} 2",
        "anabranch_computes{state=\"awake\"} 2",
        "anabranch_branches 2",
        "anabranch_projects 1",
    ] {
        assert!(figures.contains(line), "{line}: {figures}");
    }

    assert!(desk.succeed(&["endpoint", "suspend", "dev"]).contains("suspended"));
    assert_eq!(dev(&desk)["state"], "asleep");
    let audit = desk.succeed(&["audit", "list", "--action", "endpoint", "--since", "1h"]);
    assert!(audit.contains("endpoint.wake") && audit.contains("endpoint.suspend"), "{audit}");
    assert!(!audit.contains("branch.create"), "{audit}");
    assert!(!desk.succeed(&["audit", "list", "--principal", "nobody"]).contains("endpoint"));

    desk.succeed(&["endpoint", "wake", "dev"]);
    let before = dev(&desk)["pid"].clone();
    assert!(desk.succeed(&["down", "--keep-computes"]).contains("run on"));
    desk.succeed(&["up"]);
    assert_eq!(dev(&desk)["pid"], before, "the next daemon takes it over");
    assert!(desk.succeed(&["down"]).contains("computes stopped"));
    desk.succeed(&["up", "--log-format", "json"]);
    assert_eq!(dev(&desk)["state"], "asleep");
    let log = std::fs::read_to_string(desk.path.join("data/daemon.log")).unwrap();
    let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let told = lines.filter(|line| line["level"] == "INFO" && line["timestamp"].is_string());
    assert!(told.filter(|line| line["message"].is_string()).count() > 0, "{log}");
    let told = desk.succeed(&["doctor"]);
    for check in ["system", "disk", "daemon", "server", "isolation", "sizes"] {
        assert!(told.lines().any(|line| line.split_whitespace().nth(1) == Some(check)), "{check}: {told}");
    }
    let findings: Value = serde_json::from_slice(&desk.ana(&["doctor", "--json"]).stdout).unwrap();
    let server = findings.as_array().unwrap().iter().find(|finding| finding["check"] == "server").unwrap();
    assert!(
        server["verdict"] == "ok" && server["found"].as_str().unwrap().contains("PostgreSQL 17"),
        "{server}"
    );
    let unit = desk.succeed(&["service", "install", "--print"]);
    assert!(unit.contains("serve --keep-computes") && unit.contains("KillMode=process"), "{unit}");
}
