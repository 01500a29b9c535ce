use control::model::{AuthMethod, IdentityType};
use serde_json::json;

use super::*;

fn spec(json: Value) -> ProjectSpec {
    serde_json::from_value(json).unwrap()
}

fn update(mask: &str, body: Value) -> Option<UpdateProject> {
    masked_update("shop", mask, spec(body)).ok()
}

fn full() -> Value {
    json!({
        "display_name": "Shop",
        "pg_version": 17,
        "history_retention_duration": "259200s",
        "custom_tags": [{"key": "team", "value": "web"}],
        "enable_pg_native_login": true,
        "budget_policy_id": "b",
        "compute_provisioner": "c",
        "default_branch": "projects/shop/branches/dev",
        "default_endpoint_settings": {
            "autoscaling_limit_min_cu": 2,
            "autoscaling_limit_max_cu": 8.5,
            "no_suspension": true,
            "pg_settings": {"work_mem": "8MB"},
        },
    })
}

#[test]
fn a_leaf_mask_takes_one_field_of_a_full_body() {
    let changes = [
        (
            "spec.display_name",
            UpdateProject { display_name: Change::Set("Shop".into()), ..Default::default() },
        ),
        (
            "spec.default_branch",
            UpdateProject { default_branch: Change::Set("dev".into()), ..Default::default() },
        ),
        (
            "spec.history_retention_duration",
            UpdateProject { history_seconds: Change::Set(259_200.0), ..Default::default() },
        ),
        (
            "spec.enable_pg_native_login",
            UpdateProject { native_login: Change::Set(true), ..Default::default() },
        ),
        (
            "spec.budget_policy_id",
            UpdateProject { budget_policy_id: Change::Set("b".into()), ..Default::default() },
        ),
        (
            "spec.compute_provisioner",
            UpdateProject { compute_provisioner: Change::Set("c".into()), ..Default::default() },
        ),
    ];
    for (mask, wanted) in changes {
        assert_eq!(update(mask, full()), Some(wanted), "{mask}");
    }
    let pair = update("spec.project_default_settings.suspension", full()).unwrap();
    assert_eq!(pair.compute.suspend_seconds, Change::Set(None));
    assert_eq!((pair.compute.min_cu, pair.display_name), (Change::Keep, Change::Keep));
    let limit = update("spec.default_endpoint_settings.autoscaling_limit_max_cu", full()).unwrap();
    assert_eq!((limit.compute.min_cu, limit.compute.max_cu), (Change::Keep, Change::Set(8.5)));
}

#[test]
fn wide_masks_take_all_that_is_given() {
    for mask in ["spec", "*", "", "initial_branch_spec,initial_endpoint_spec,spec"] {
        let all = update(mask, full()).unwrap();
        assert_eq!(all.display_name, Change::Set("Shop".into()), "{mask}");
        assert_eq!(all.custom_tags, Change::Set(vec![Tag { key: "team".into(), value: "web".into() }]));
        assert_eq!(all.compute.suspend_seconds, Change::Set(None), "{mask}");
        assert_eq!(
            all.compute.pg_settings,
            Change::Set([("work_mem".into(), "8MB".into())].into()),
            "{mask}"
        );
        assert_eq!(all.pg_version, Some(17), "{mask}");
        assert_eq!(update(mask, json!({})), Some(UpdateProject::default()), "{mask}");
    }
    assert_eq!(update("initial_branch_spec", full()), Some(UpdateProject::default()));
}

#[test]
fn what_is_named_and_absent_is_cleared() {
    let cleared =
        update("spec.custom_tags,spec.display_name,spec.enable_pg_native_login", json!({})).unwrap();
    assert_eq!(cleared.custom_tags, Change::Reset);
    assert_eq!((cleared.display_name, cleared.native_login), (Change::Reset, Change::Reset));
    assert_eq!(update("spec.default_endpoint_settings", json!({})).unwrap().compute, reset_compute());
    let within = update("spec.default_endpoint_settings", json!({"default_endpoint_settings": {}})).unwrap();
    assert_eq!(within, UpdateProject::default());
    let settings = update("spec.default_endpoint_settings.pg_settings", json!({})).unwrap();
    assert_eq!(settings.compute.pg_settings, Change::Reset);
}

#[test]
fn an_empty_list_of_tags_clears_them_except_with_a_star() {
    let empty = json!({"custom_tags": []});
    assert_eq!(update("*", empty.clone()).unwrap().custom_tags, Change::Keep);
    for mask in ["spec", "", "spec.custom_tags"] {
        let tags = update(mask, empty.clone()).unwrap().custom_tags;
        assert_eq!(tags, Change::Set(Vec::new()), "{mask}");
    }
}

#[test]
fn what_cannot_change_is_refused() {
    for mask in ["spec.pg_version", "s,p,e,c", "spec.unknown", "display_name", "spec.status", "name"] {
        assert_eq!(update(mask, full()), None, "{mask}");
    }
    for name in ["dev", "projects/other/branches/dev", "projects/shop/branches/"] {
        assert_eq!(update("spec.default_branch", json!({"default_branch": name})), None, "{name}");
    }
}

#[test]
fn the_first_role_is_read_as_any_other() {
    let read = |spec: Value| first_role(serde_json::from_value(spec).unwrap()).ok();
    assert_eq!(read(json!({})), Some(FirstRole::default()));
    let all = json!({
        "postgres_role": "app", "identity_type": "GROUP", "auth_method": "NO_LOGIN",
        "membership_roles": [], "attributes": {"createdb": true, "bypassrls": false},
    });
    let expected = FirstRole {
        name: Some("app".to_owned()),
        identity_type: Some(IdentityType::Group),
        auth_method: Some(AuthMethod::NoLogin),
        bypassrls: Some(false),
        createdb: Some(true),
        createrole: None,
        superuser_member: Some(false),
    };
    assert_eq!(read(all), Some(expected));
    for wrong in [json!({"identity_type": "x"}), json!({"membership_roles": ["postgres"]})] {
        assert_eq!(read(wrong.clone()), None, "{wrong}");
    }
}
