use super::{FOREVER, done, empty, ids, refused, seconds};
use crate::world::World;
use serde_json::json;

pub async fn come_and_go(world: &World) {
    let body = json!({
        "initial_branch_spec": {"is_protected": false},
        "initial_endpoint_spec": {
            "autoscaling_limit_min_cu": 2, "autoscaling_limit_max_cu": 3, "no_suspension": true,
            "group": {"min": 1, "max": 1, "enable_readable_secondaries": true},
        },
        "initial_database_spec": {"postgres_database": "databricks_postgres"},
        "initial_role_spec": {"identity_type": "USER", "membership_roles": ["DATABRICKS_SUPERUSER"]},
        "spec": {"custom_tags": [{"key": "a"}], "enable_pg_native_login": true},
    });
    let made = world.post("/projects?project_id=second", &body.to_string()).await;
    let first = done(&made).clone();
    assert_eq!(first["status"]["custom_tags"], json!([{"key": "a", "value": ""}]));
    assert_eq!(first["status"]["enable_pg_native_login"], true);
    assert_eq!(first["status"]["display_name"], "second");
    let settings = &first["status"]["default_endpoint_settings"];
    assert_eq!(
        (&settings["autoscaling_limit_min_cu"], &settings["suspend_timeout_duration"]),
        (&json!(1), &json!("86400s"))
    );
    let endpoint = world.get("/projects/second/branches/production/endpoints/primary").await.body;
    let status = &endpoint["status"];
    assert_eq!(
        (&status["autoscaling_limit_min_cu"], status.get("suspend_timeout_duration")),
        (&json!(2), None)
    );
    assert_eq!(status["group"]["enable_readable_secondaries"], true);

    for id in ["lives", "gone"] {
        done(&world.post(&format!("/projects/second/branches?branch_id={id}"), FOREVER).await);
    }
    world.delete("/projects/second/branches/gone").await;
    refused(&world.post("/projects/second/undelete", "{}").await, 400, "BAD_REQUEST", "is not deleted");
    let deleted = world.delete("/projects/second").await;
    assert_eq!(done(&deleted), &empty());
    refused(&world.get("/projects/second").await, 404, "NOT_FOUND", "project id not found");
    refused(&world.get("/projects/second/branches").await, 404, "NOT_FOUND", "project id not found");
    let operation = world.get(&format!("/{}", deleted.body["name"].as_str().unwrap())).await;
    assert_eq!(done(&operation), &empty());
    assert!(!ids(&world.get("/projects").await, "projects").contains(&"second".to_owned()));
    let all = world.get("/projects?show_deleted=true").await.body;
    let tombstone = all["projects"].as_array().unwrap().iter().find(|project| project["uid"] == first["uid"]);
    let tombstone = tombstone.unwrap();
    assert!(seconds(&tombstone["purge_time"]) > seconds(&tombstone["delete_time"]));
    assert_eq!(tombstone["status"]["default_branch"], "projects/second/branches/production");

    let back = world.post("/projects/second/undelete", "{}").await;
    assert_eq!(done(&back), &json!({}));
    assert_eq!(
        back.body["metadata"]["@type"],
        "type.googleapis.com/databricks.postgres.v1.ProjectOperationMetadata"
    );
    let project = world.get("/projects/second").await.body;
    assert_eq!((&project["uid"], project.get("delete_time")), (&first["uid"], None));
    assert_eq!(ids(&world.get("/projects/second/branches").await, "branches"), ["production", "lives"]);
    let host = world.get("/projects/second/branches/lives/endpoints/primary").await.body;
    assert!(!host["status"]["hosts"]["host"].as_str().unwrap().is_empty());

    // The name is free at once; then the one before cannot come back.
    world.delete("/projects/second").await;
    let second = done(&world.post("/projects?project_id=second", "{}").await).clone();
    assert_ne!(second["uid"], first["uid"]);
    refused(&world.post("/projects/second/undelete", "{}").await, 409, "ALREADY_EXISTS", "already exists");
    assert_eq!(done(&world.delete("/projects/second?purge=true").await), &empty());
    assert_eq!(done(&world.post("/projects/second/undelete", "{}").await), &json!({}));
    assert_eq!(world.get("/projects/second").await.body["uid"], first["uid"]);
    assert_eq!(done(&world.delete("/projects/second?purge=true").await), &empty());
    refused(&world.post("/projects/second/undelete", "{}").await, 404, "NOT_FOUND", "project id not found");
    assert_eq!(ids(&world.get("/projects?show_deleted=true").await, "projects"), ["shop"]);
}
