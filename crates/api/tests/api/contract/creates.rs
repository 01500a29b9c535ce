use super::{FOREVER, PRODUCTION, done, ids, refused};
use crate::world::World;
use serde_json::json;

pub async fn a_branch_comes_whole_and_once(world: &World) {
    let branches = "/projects/shop/branches";
    // To replace what is not there is to make it.
    let made = world.post(&format!("{branches}?branch_id=whole&replace_existing=true"), FOREVER).await;
    assert!(made.body["name"].as_str().unwrap().starts_with("projects/shop/branches/whole/operations/"));
    let first = done(&made).clone();
    assert!(ids(&world.get(branches).await, "branches").contains(&"whole".to_owned()));
    let endpoints = world.get(&format!("{branches}/whole/endpoints")).await;
    assert_eq!(ids(&endpoints, "endpoints"), ["primary"]);
    let endpoint = &endpoints.body["endpoints"][0];
    assert_eq!(endpoint["status"]["endpoint_type"], "ENDPOINT_TYPE_READ_WRITE");
    assert!(!endpoint["status"]["hosts"]["host"].as_str().unwrap().is_empty());
    // Since that one is always there, a client has no reason to make its own.
    let own = json!({"spec": {"endpoint_type": "ENDPOINT_TYPE_READ_WRITE"}}).to_string();
    let second = world.post(&format!("{branches}/whole/endpoints?endpoint_id=ep-whole"), &own).await;
    refused(&second, 400, "BAD_REQUEST", "has a read-write endpoint already");
    // A call that comes twice, because its answer was lost, does its work once.
    let twice = world.post(&format!("{branches}?branch_id=whole"), FOREVER).await;
    refused(&twice, 409, "ALREADY_EXISTS", "branch with such id already exists");
    // Replaced by hand: deleted, and at once made again.
    assert_eq!(world.delete(&format!("{branches}/whole")).await.body["done"], true);
    assert_ne!(world.branch("whole", FOREVER).await["uid"], first["uid"]);
}

pub async fn what_exists_is_adopted(world: &World) {
    let before = world.get(PRODUCTION).await.body;
    let adopt = "/projects/shop/branches?branch_id=production&replace_existing=true";
    let body = json!({"parent": "projects/shop", "spec": {"is_protected": true, "no_expiry": true}});
    let adopted = world.post(adopt, &body.to_string()).await;
    let branch = done(&adopted);
    for field in ["name", "uid", "create_time", "parent"] {
        assert_eq!(branch[field], before[field], "{field}");
    }
    assert_eq!(
        (&branch["status"]["is_protected"], &branch["status"]["default"]),
        (&json!(true), &json!(true))
    );
    refused(&world.delete(PRODUCTION).await, 400, "BAD_REQUEST", "cannot delete protected branch");
    // A specification that says less takes the protection away again; the branch is a root all the same.
    assert_eq!(done(&world.post(adopt, r#"{"spec":{}}"#).await)["status"]["is_protected"], false);
    let root = world.delete(PRODUCTION).await;
    refused(&root, 400, "BAD_REQUEST", "Cannot delete root branch 'projects/shop/branches/production'.");
    assert_eq!(root.body["details"][0]["metadata"]["declarative_context"], "MANAGED_BY_PARENT");
    let moved = json!({"spec": {"no_expiry": true, "source_branch": "projects/shop/branches/production"}});
    let answer = world.post(adopt, &moved.to_string()).await;
    refused(&answer, 400, "INVALID_PARAMETER_VALUE", "cannot be changed");

    let path = format!("{PRODUCTION}/endpoints");
    let before = world.get(&format!("{path}/primary")).await.body;
    let body = json!({"spec": {
        "endpoint_type": "ENDPOINT_TYPE_READ_WRITE", "autoscaling_limit_max_cu": 3,
        "suspend_timeout_duration": "600s", "disabled": true,
    }});
    let adopt = format!("{path}?endpoint_id=primary&replace_existing=true");
    let adopted = world.post(&adopt, &body.to_string()).await;
    let endpoint = done(&adopted);
    for field in ["name", "uid", "create_time"] {
        assert_eq!(endpoint[field], before[field], "{field}");
    }
    let status = &endpoint["status"];
    assert_eq!((&status["autoscaling_limit_max_cu"], &status["disabled"]), (&json!(3), &json!(true)));
    assert_eq!(status["suspend_timeout_duration"], "600s");
    let deleted = world.delete(&format!("{path}/primary")).await;
    refused(
        &deleted,
        400,
        "BAD_REQUEST",
        "Cannot delete read-write endpoint 'projects/shop/branches/production/endpoints/primary'. \
         Read-write endpoints cannot be deleted.",
    );
    let details = deleted.body["details"].as_array().unwrap();
    assert_eq!(
        details[0],
        json!({
            "@type": "type.googleapis.com/google.rpc.ErrorInfo",
            "domain": "databricks.com",
            "reason": "RESOURCE_CONFLICT",
            "metadata": {"declarative_context": "MANAGED_BY_PARENT"},
        })
    );
    assert_eq!(details[1]["@type"], "type.googleapis.com/google.rpc.RequestInfo");
    assert!(!details[1]["request_id"].as_str().unwrap().is_empty());
    let mask = "spec.disabled,spec.suspension,spec.autoscaling_limit_max_cu";
    done(&super::patch(world, &format!("{path}/primary"), mask, json!({})).await);
}
