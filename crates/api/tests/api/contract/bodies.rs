use super::{PRODUCTION, done};
use crate::world::World;
use serde_json::json;

pub async fn resources_are_bare_and_status_is_whole(world: &World) {
    // As engines send it that repeat in the body what stands in the address, and know newer fields.
    let body = json!({
        "parent": "projects/shop", "branch_id": "bare", "name": "projects/shop/branches/bare", "uid": "mine",
        "create_time": "2001-01-01T00:00:00Z", "tomorrow": {"a": 1},
        "status": {"is_protected": true},
        "spec": {"no_expiry": true, "tomorrow": 1, "ttl": null},
    });
    let made = world.post("/projects/shop/branches?branch_id=bare", &body.to_string()).await;
    let branch = done(&made);
    assert_eq!(branch["branch_id"], "bare");
    assert!(branch["uid"].as_str().unwrap().starts_with("br-"));
    assert!(branch["create_time"].as_str().unwrap() > "2020");
    assert_eq!(branch.get("spec"), None);
    let status = &branch["status"];
    assert_eq!((&status["default"], &status["is_protected"]), (&json!(false), &json!(false)));
    assert!(status["logical_size_bytes"].as_u64().unwrap() > 1 << 20, "{status}");
    assert!(status["state_change_time"].as_str().unwrap().ends_with('Z'));

    let endpoint = format!("{PRODUCTION}/endpoints/primary");
    let body = json!({"spec": {"suspend_timeout_duration": "300.50s"}});
    let changed = world.patch(&format!("{endpoint}?update_mask=spec.suspension"), &body.to_string()).await;
    let status = &done(&changed)["status"];
    assert_eq!(status["suspend_timeout_duration"], "300.500s");
    assert_eq!((&status["disabled"], &status["settings"]), (&json!(false), &json!({})));
    assert_eq!(status["group"], json!({"min": 1, "max": 1, "enable_readable_secondaries": false}));
    world.patch(&format!("{endpoint}?update_mask=spec.suspension"), "{}").await;

    let project = world.get("/projects/shop").await.body;
    assert_eq!(project.get("spec"), None);
    for field in [
        "branch_logical_size_limit_bytes",
        "default_branch",
        "default_endpoint_settings",
        "display_name",
        "enable_pg_native_login",
        "history_retention_duration",
        "owner",
        "pg_version",
        "project_id",
        "synthetic_storage_size_bytes",
    ] {
        assert!(project["status"].get(field).is_some(), "{field} is missing in {project}");
    }
    assert_eq!(project["status"]["enable_pg_native_login"], false);
    assert!(project["status"]["branch_logical_size_limit_bytes"].is_i64());

    let document = world.get("/api/anabranch/v1/openapi.json").await.body;
    assert_eq!(document, api::openapi::document());

    // JSON also where nothing of ours was reached; the reader of answers insists on it.
    assert_eq!(world.get("/projects?page_size=many").await.status, 400);
    assert_eq!(world.get("/projects/%ff").await.status, 400);
    assert_eq!(world.call("PUT", "/projects/shop", "{}", "").await.status, 405);
    assert_eq!(world.get("/api/nothing").await.status, 404);
}
