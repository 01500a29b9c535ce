use super::{FOREVER, done, empty, ids, patch, refused, seconds};
use crate::world::World;
use serde_json::json;

pub async fn branches_come_and_go(world: &World) {
    let branches = "/projects/shop/branches";
    let path = "/projects/shop/branches/fleeting";
    let first = world.branch("fleeting", r#"{"spec":{"ttl":"7200s"}}"#).await;
    assert_eq!(seconds(&first["status"]["expire_time"]), seconds(&first["create_time"]) + 7200);
    let deleted = world.delete(path).await;
    assert_eq!(done(&deleted), &empty());
    assert_eq!(
        deleted.body["metadata"]["@type"],
        "type.googleapis.com/databricks.postgres.v1.BranchOperationMetadata"
    );
    refused(&world.get(path).await, 404, "NOT_FOUND", "branch id not found");
    // What became of it can be asked under the old name.
    let operation = world.get(&format!("/{}", deleted.body["name"].as_str().unwrap())).await;
    assert_eq!(done(&operation), &empty());
    assert!(!ids(&world.get(branches).await, "branches").contains(&"fleeting".to_owned()));
    let all = world.get(&format!("{branches}?show_deleted=true")).await;
    let tombstone =
        all.body["branches"].as_array().unwrap().iter().find(|branch| branch["uid"] == first["uid"]);
    let status = &tombstone.unwrap()["status"];
    assert_eq!(status["current_state"], "DELETED");
    assert!(seconds(&status["purge_time"]) > seconds(&status["delete_time"]));

    let back = world.post(&format!("{path}/undelete"), "{}").await;
    assert_eq!(done(&back), &json!({}));
    assert_eq!(world.get(path).await.body["uid"], first["uid"]);
    refused(&world.post(&format!("{path}/undelete"), "{}").await, 400, "BAD_REQUEST", "is not deleted");
    world.delete(path).await;
    let second = world.branch("fleeting", FOREVER).await;
    assert_ne!(second["uid"], first["uid"], "the name is free at once");
    refused(&world.post(&format!("{path}/undelete"), "{}").await, 409, "ALREADY_EXISTS", "already exists");

    assert_eq!(done(&world.delete(&format!("{path}?purge=true")).await), &empty());
    let all = world.get(&format!("{branches}?show_deleted=true")).await;
    assert!(!all.body["branches"].as_array().unwrap().iter().any(|branch| branch["uid"] == second["uid"]));
    // What comes back now is the one before it; then nothing is left.
    assert_eq!(done(&world.post(&format!("{path}/undelete"), "{}").await), &json!({}));
    assert_eq!(world.get(path).await.body["uid"], first["uid"]);
    world.delete(&format!("{path}?purge=true")).await;
    refused(&world.post(&format!("{path}/undelete"), "{}").await, 404, "NOT_FOUND", "branch id not found");

    refused(&world.delete(path).await, 404, "NOT_FOUND", "branch id not found");
    let allowed = world.delete(&format!("{path}?allow_missing=true")).await;
    assert_eq!(done(&allowed), &empty());
    let operation = world.get(&format!("/{}", allowed.body["name"].as_str().unwrap())).await;
    assert_eq!(done(&operation), &empty());
    refused(
        &world.delete("/projects/none/branches/x?allow_missing=true").await,
        404,
        "NOT_FOUND",
        "project id",
    );
}

pub async fn what_must_stay_stays(world: &World) {
    let path = "/projects/shop/branches/kept";
    world.branch("kept", r#"{"spec":{"no_expiry":true,"is_protected":true}}"#).await;
    refused(&world.delete(path).await, 400, "BAD_REQUEST", "cannot delete protected branch");
    refused(&world.delete("/projects/shop").await, 400, "BAD_REQUEST", "branch 'kept' is protected");
    refused(&world.delete("/projects/shop?purge=true").await, 400, "BAD_REQUEST", "protected");
    refused(&world.delete(&format!("{path}/endpoints/primary")).await, 400, "BAD_REQUEST", "Cannot delete");
    done(&patch(world, path, "spec.is_protected", json!({})).await);
    world.branch("kid", r#"{"spec":{"no_expiry":true,"source_branch":"projects/shop/branches/kept"}}"#).await;
    refused(&world.delete(path).await, 400, "BAD_REQUEST", "branch \"kept\" has 1 child (kid)");
    // A child that is gone keeps nobody.
    world.delete("/projects/shop/branches/kid").await;
    assert_eq!(done(&world.delete(path).await), &empty());
    // Order of the reasons: not there, protected, a root.
    let root = "/projects/shop/branches/production";
    done(&patch(world, root, "spec.is_protected", json!({"spec": {"is_protected": true}})).await);
    refused(&world.delete(root).await, 400, "BAD_REQUEST", "cannot delete protected branch");
    done(&patch(world, root, "spec.is_protected", json!({})).await);
}
