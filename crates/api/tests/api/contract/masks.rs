use super::{PRODUCTION, done, patch, refused};
use crate::world::World;
use serde_json::json;

pub async fn branches(world: &World) {
    let dev = world.branch("masked", r#"{"spec":{"ttl":"3600s"}}"#).await;
    let path = "/projects/shop/branches/masked";
    let expires = dev["status"]["expire_time"].clone();
    // The body carries all that is wanted; the mask takes one of it.
    let whole = json!({"name": "projects/shop/branches/masked", "spec": {
        "source_branch": "projects/shop/branches/production", "is_protected": true, "no_expiry": true,
    }});
    let forever = patch(world, path, "spec.expiration", whole.clone()).await;
    assert_eq!(done(&forever)["status"].get("expire_time"), None);
    assert_eq!(done(&forever)["status"]["is_protected"], false);
    assert_eq!(done(&forever)["uid"], dev["uid"]);
    assert!(done(&forever)["update_time"].as_str() > dev["update_time"].as_str(), "every change shows");
    let protected = patch(world, path, "spec.is_protected", whole.clone()).await;
    assert_eq!(done(&protected)["status"]["is_protected"], true);
    // Wide masks mind what cannot change only where it would.
    for mask in ["spec", "*", ""] {
        assert_eq!(done(&patch(world, path, mask, whole.clone()).await)["status"]["is_protected"], true);
    }
    let moved = json!({"spec": {"source_branch": "projects/shop/branches/other"}});
    refused(&patch(world, path, "spec", moved).await, 400, "INVALID_PARAMETER_VALUE", "cannot be changed");
    // A name without a value takes the value away.
    done(&patch(world, path, "spec.is_protected", json!({"spec": {}})).await);
    let again = patch(world, path, "spec.expire_time", json!({"spec": {"expire_time": expires}})).await;
    assert_eq!(done(&again)["status"]["expire_time"], dev["status"]["expire_time"]);
    for (mask, body) in [
        ("spec.expiration", json!({"spec": {"ttl": "60s", "no_expiry": true}})),
        ("spec.expiration", json!({"spec": {"no_expiry": false}})),
        ("spec.source_branch", json!({})),
        ("s,p,e,c", json!({})),
    ] {
        refused(&patch(world, path, mask, body).await, 400, "INVALID_PARAMETER_VALUE", "");
    }
}

pub async fn endpoints(world: &World) {
    world.branch("sized", super::FOREVER).await;
    let path = "/projects/shop/branches/sized/endpoints/primary";
    let whole = json!({"spec": {
        "endpoint_type": "ENDPOINT_TYPE_READ_WRITE", "autoscaling_limit_min_cu": 0.5,
        "autoscaling_limit_max_cu": 2, "no_suspension": true, "disabled": true,
        "settings": {"pg_settings": {"work_mem": "8MB"}}, "group": {"min": 1, "max": 1},
    }});
    let larger = patch(world, path, "spec.autoscaling_limit_max_cu", whole.clone()).await;
    let status = &done(&larger)["status"];
    assert_eq!(
        (&status["autoscaling_limit_min_cu"], &status["autoscaling_limit_max_cu"]),
        (&json!(1), &json!(2))
    );
    assert_eq!((&status["disabled"], &status["suspend_timeout_duration"]), (&json!(false), &json!("86400s")));
    let awake = patch(world, path, "spec.suspension", whole.clone()).await;
    assert_eq!(done(&awake)["status"].get("suspend_timeout_duration"), None);
    let all = patch(world, path, "spec", whole).await;
    let status = &done(&all)["status"];
    assert_eq!((&status["disabled"], &status["autoscaling_limit_min_cu"]), (&json!(true), &json!(0.5)));
    assert_eq!(status["settings"], json!({"pg_settings": {"work_mem": "8MB"}}));
    let mask =
        "spec.disabled,spec.suspension,spec.settings.pg_settings,spec.group.enable_readable_secondaries";
    let body = json!({"spec": {"group": {"enable_readable_secondaries": true}}});
    let status = done(&patch(world, path, mask, body).await)["status"].clone();
    assert_eq!((&status["disabled"], &status["settings"]), (&json!(false), &json!({})));
    assert_eq!(status["suspend_timeout_duration"], "86400s");
    assert_eq!(status["group"]["enable_readable_secondaries"], true);
    for (mask, spec) in [
        ("spec.autoscaling_limit_min_cu", json!({"autoscaling_limit_min_cu": 0.1})),
        ("spec.autoscaling_limit_max_cu", json!({"autoscaling_limit_max_cu": 64})),
        ("spec.autoscaling_limit_max_cu", json!({"autoscaling_limit_max_cu": 0.25})),
        ("spec.suspension", json!({"suspend_timeout_duration": "59s"})),
        ("spec.suspension", json!({"suspend_timeout_duration": "604801s"})),
        ("spec.suspension", json!({"suspend_timeout_duration": "300s", "no_suspension": true})),
        ("spec.suspension", json!({"no_suspension": false})),
        ("spec.settings.pg_settings", json!({"settings": {"pg_settings": {"fsync": "off"}}})),
        ("spec.settings.pg_settings", json!({"settings": {"pg_settings": {"work_mem": "a lot"}}})),
        ("spec.settings.pg_settings", json!({"settings": {"pg_settings": {"no_such_setting": "1"}}})),
        ("spec.group.min,spec.group.max", json!({"group": {"min": 1, "max": 2}})),
        ("spec.endpoint_type", json!({"endpoint_type": "ENDPOINT_TYPE_READ_WRITE"})),
        ("spec", json!({"endpoint_type": "ENDPOINT_TYPE_READ_ONLY"})),
        ("spec.hosts", json!({})),
    ] {
        let answer = patch(world, path, mask, json!({"spec": spec})).await;
        refused(&answer, 400, "INVALID_PARAMETER_VALUE", "");
    }
    let group = json!({"spec": {"group": {"min": 2, "max": 2}}});
    refused(
        &patch(world, path, "spec.group.min,spec.group.max", group).await,
        501,
        "NOT_IMPLEMENTED",
        "groups",
    );
    let top = json!({"spec": {"autoscaling_limit_min_cu": 48, "autoscaling_limit_max_cu": 64}});
    assert_eq!(done(&patch(world, path, "spec", top).await)["status"]["autoscaling_limit_max_cu"], 64);
    refused(
        &patch(world, &format!("{path}x"), "spec.disabled", json!({})).await,
        404,
        "NOT_FOUND",
        "endpoint id",
    );
}

pub async fn projects(world: &World) {
    let path = "/projects/shop";
    let before = world.get(path).await.body;
    let whole = json!({"name": "projects/shop", "spec": {
        "display_name": "A shop", "pg_version": 17, "history_retention_duration": "259200s",
        "custom_tags": [{"key": "team", "value": "web"}], "enable_pg_native_login": true,
        "budget_policy_id": "b1", "compute_provisioner": "p1",
        "default_endpoint_settings": {
            "autoscaling_limit_min_cu": 2, "autoscaling_limit_max_cu": 4, "no_suspension": true,
        },
    }});
    let named = patch(world, path, "spec.display_name", whole.clone()).await;
    let status = done(&named)["status"].clone();
    assert_eq!((&status["display_name"], status.get("custom_tags")), (&json!("A shop"), None));
    assert_eq!(status["history_retention_duration"], before["status"]["history_retention_duration"]);
    let awake = patch(world, path, "spec.project_default_settings.suspension", whole.clone()).await;
    let settings = done(&awake)["status"]["default_endpoint_settings"].clone();
    assert_eq!((settings.get("suspend_timeout_duration"), &settings["no_suspension"]), (None, &json!(true)));
    assert_eq!(settings["autoscaling_limit_min_cu"], 1);
    let all = patch(world, path, "initial_branch_spec,initial_endpoint_spec,spec", whole.clone()).await;
    let status = done(&all)["status"].clone();
    assert_eq!(status["custom_tags"], json!([{"key": "team", "value": "web"}]));
    assert_eq!((&status["budget_policy_id"], &status["compute_provisioner"]), (&json!("b1"), &json!("p1")));
    assert_eq!(
        (&status["enable_pg_native_login"], &status["history_retention_duration"]),
        (&json!(true), &json!("259200s"))
    );
    assert_eq!(status["default_endpoint_settings"]["autoscaling_limit_max_cu"], 4);
    assert_eq!((&done(&all)["uid"], &done(&all)["create_time"]), (&before["uid"], &before["create_time"]));

    // New endpoints begin with it, those that were there stay.
    let branch = world.branch("after-defaults", super::FOREVER).await;
    let endpoint = world.get(&format!("/{}/endpoints/primary", branch["name"].as_str().unwrap())).await.body;
    assert_eq!(endpoint["status"]["autoscaling_limit_min_cu"], 2);
    let older = world.get(&format!("{PRODUCTION}/endpoints/primary")).await.body;
    assert_eq!(older["status"]["autoscaling_limit_min_cu"], 1);

    let star = patch(world, path, "*", json!({"spec": {"custom_tags": []}})).await;
    assert_eq!(done(&star)["status"]["custom_tags"][0]["key"], "team", "`*` skips what is empty");
    let default = json!({"spec": {"default_branch": "projects/shop/branches/after-defaults"}});
    let moved = patch(world, path, "spec.default_branch", default).await;
    assert_eq!(done(&moved)["status"]["default_branch"], "projects/shop/branches/after-defaults");
    assert_eq!(world.get(PRODUCTION).await.body["status"]["default"], false);
    refused(
        &world.delete("/projects/shop/branches/after-defaults").await,
        400,
        "BAD_REQUEST",
        "cannot delete default branch",
    );
    let expiring = json!({"spec": {"ttl": "3600s"}});
    let answer = patch(world, "/projects/shop/branches/after-defaults", "spec.expiration", expiring).await;
    refused(&answer, 400, "INVALID_PARAMETER_VALUE", "default branch");

    let cleared = "spec.custom_tags,spec.display_name,spec.default_endpoint_settings,\
                   spec.enable_pg_native_login,spec.history_retention_duration,spec.budget_policy_id,\
                   spec.compute_provisioner,spec.default_branch";
    let body = json!({"spec": {"default_branch": "projects/shop/branches/production"}});
    let status = done(&patch(world, path, cleared, body).await)["status"].clone();
    assert_eq!((status.get("custom_tags"), status.get("budget_policy_id")), (None, None));
    assert_eq!((&status["display_name"], &status["enable_pg_native_login"]), (&json!("shop"), &json!(false)));
    assert_eq!(status["history_retention_duration"], "604800s");
    assert_eq!(status["default_endpoint_settings"], before["status"]["default_endpoint_settings"]);

    world.branch("brief", r#"{"spec":{"ttl":"3600s"}}"#).await;
    for (mask, spec) in [
        ("spec.pg_version", json!({"pg_version": 17})),
        ("spec", json!({"pg_version": 16})),
        ("spec.display_name", json!({"display_name": ""})),
        ("spec.history_retention_duration", json!({"history_retention_duration": "172799s"})),
        ("spec.history_retention_duration", json!({"history_retention_duration": "3024001s"})),
        ("spec.custom_tags", json!({"custom_tags": [{"key": "a"}, {"key": "a"}]})),
        ("spec.default_branch", json!({"default_branch": "projects/other/branches/production"})),
        ("spec.default_branch", json!({"default_branch": "projects/shop/branches/brief"})),
        ("spec.default_branch", json!({})),
        (
            "spec.default_endpoint_settings",
            json!({"default_endpoint_settings": {"autoscaling_limit_max_cu": 80}}),
        ),
        (
            "spec.default_endpoint_settings.pg_settings",
            json!({"default_endpoint_settings": {"pg_settings": {"port": "1"}}}),
        ),
        ("spec.owner", json!({})),
    ] {
        refused(&patch(world, path, mask, json!({"spec": spec})).await, 400, "INVALID_PARAMETER_VALUE", "");
    }
    let nobody = json!({"spec": {"default_branch": "projects/shop/branches/none"}});
    refused(
        &patch(world, path, "spec.default_branch", nobody).await,
        404,
        "NOT_FOUND",
        "branch id not found",
    );
    refused(
        &patch(world, "/projects/none", "spec.display_name", json!({})).await,
        404,
        "NOT_FOUND",
        "project id",
    );
}
