//! Changing what exists: projects, branches and endpoints by the commands for people.
#![allow(clippy::unwrap_used)]

mod desk;

use compute::run_as;
use desk::Desk;
use serde_json::Value;

fn json(desk: &Desk, arguments: &[&str]) -> Value {
    desk.json(&[arguments, &["--json"]].concat())
}

#[test]
fn what_exists_can_be_changed() {
    let desk = Desk::new("changes", run_as::choose(None).unwrap().map(|choice| choice.user));
    desk.succeed(&["up"]);
    desk.succeed(&["project", "create", "shop"]);
    desk.succeed(&["branch", "create", "dev", "--no-wait", "--ttl", "1h"]);

    assert!(desk.refused(&["project", "update"]).contains("nothing to change"));
    let update = ["--display-name", "The shop", "--cu", "0.5-4", "--suspend", "5m", "--history", "3d"];
    let more = ["--tag", "team=web", "--tag", "cost=", "--native-login"];
    desk.succeed(&[&["project", "update"], &update[..], &more[..]].concat());
    let status = json(&desk, &["project", "show"])["status"].clone();
    assert_eq!(status["display_name"], "The shop");
    assert_eq!(status["history_retention_duration"], "259200s");
    assert_eq!(status["enable_pg_native_login"], true);
    assert_eq!(status["custom_tags"].as_array().unwrap().len(), 2);
    assert_eq!(status["default_endpoint_settings"]["suspend_timeout_duration"], "300s");
    assert!(desk.succeed(&["project", "show"]).contains("team = web"));
    desk.succeed(&["project", "update", "shop", "--no-tags", "--no-native-login", "--suspend", "never"]);
    let status = json(&desk, &["project", "show", "shop"])["status"].clone();
    assert_eq!((status.get("custom_tags"), &status["enable_pg_native_login"]), (None, &Value::Bool(false)));
    assert_eq!(status["default_endpoint_settings"].get("suspend_timeout_duration"), None);
    assert_eq!(status["default_endpoint_settings"]["autoscaling_limit_max_cu"], 4);

    let hint = desk.refused(&["branch", "protect", "dev"]);
    assert!(hint.contains("ana branch expire dev --no-expiry"), "{hint}");
    assert!(desk.refused(&["branch", "set-default", "dev"]).contains("expires"));
    assert!(desk.refused(&["branch", "expire", "dev"]).contains("--ttl"));
    assert!(desk.succeed(&["branch", "expire", "dev", "--ttl", "2d"]).contains("expires in 2 days"));
    desk.succeed(&["branch", "expire", "dev", "--no-expiry"]);
    desk.succeed(&["branch", "protect", "dev"]);
    assert!(desk.refused(&["branch", "delete", "dev"]).contains("cannot delete protected branch"));
    desk.succeed(&["branch", "unprotect", "dev"]);
    desk.succeed(&["branch", "set-default", "dev"]);
    assert_eq!(json(&desk, &["branch", "show", "dev"])["branch"]["status"]["default"], true);
    assert!(desk.refused(&["branch", "set-default", "nobody"]).contains("there is no branch \"nobody\""));

    assert!(desk.refused(&["endpoint", "update", "dev"]).contains("nothing to change"));
    let settings = ["--set", "work_mem=64MB", "--set", "jit=off", "--disable"];
    desk.succeed(&[&["endpoint", "update", "dev", "--cu", "2", "--suspend", "1h"], &settings[..]].concat());
    desk.succeed(&["endpoint", "update", "dev", "--unset", "jit"]);
    let shown = desk.succeed(&["endpoint", "show", "dev"]);
    for line in ["2 CU", "after 60 minutes", "disabled", "work_mem = 64MB"] {
        assert!(shown.contains(line), "{shown}");
    }
    assert!(!shown.contains("jit"), "{shown}");
    assert!(desk.refused(&["endpoint", "update", "dev", "--set", "fsync=off"]).contains("\"fsync\""));
    assert!(desk.refused(&["endpoint", "show", "dev", "--endpoint", "x"]).contains("no endpoint \"x\""));
    desk.succeed(&["endpoint", "update", "dev", "--enable"]);
    assert_eq!(json(&desk, &["endpoint", "list"]).as_array().unwrap().len(), 2);
    assert_eq!(json(&desk, &["endpoint", "list", "--branch", "dev"])[0]["status"]["disabled"], false);

    desk.succeed(&["branch", "create", "old", "--no-wait"]);
    desk.succeed(&["branch", "delete", "old"]);
    assert_eq!(json(&desk, &["branch", "list"]).as_array().unwrap().len(), 2);
    let deleted = json(&desk, &["branch", "list", "--deleted"]);
    assert_eq!((deleted.as_array().unwrap().len(), &deleted[0]["branch_id"]), (1, &Value::from("old")));
    let shown = desk.succeed(&["branch", "list", "--deleted"]);
    assert!(shown.contains("old") && shown.contains("ago") && shown.contains("in 24 hours"), "{shown}");
    assert_eq!(json(&desk, &["project", "list", "--deleted"]), Value::Array(Vec::new()));

    assert!(desk.succeed(&["project", "delete", "shop"]).contains("ana project undelete shop"));
    assert_eq!(json(&desk, &["project", "list"]), Value::Array(Vec::new()));
    assert_eq!(json(&desk, &["project", "list", "--deleted"])[0]["project_id"], "shop");
    let shown = desk.succeed(&["project", "list", "--deleted"]);
    assert!(shown.contains("shop") && shown.contains("ago") && shown.contains("in 24 hours"), "{shown}");
    desk.succeed(&["project", "undelete", "shop"]);
    assert_eq!(json(&desk, &["branch", "list", "--project", "shop"]).as_array().unwrap().len(), 2);
    assert!(desk.refused(&["project", "undelete", "shop"]).contains("is not deleted"));
    desk.succeed(&["project", "delete", "shop", "--purge"]);
    assert!(desk.refused(&["project", "undelete", "shop"]).contains("can come back"));
}
