//! Who may do what, call by call.

use api::route_rules;
use control::app::Action;
use serde_json::json;

use crate::web::{Reply, Web};
use crate::world::{OWNER, World};

/// One letter for an answer: allowed, denied, hidden, unknown caller.
fn letter(reply: &Reply) -> char {
    match reply.status {
        401 => 'u',
        403 => 'd',
        404 if reply.message().starts_with("project id not found") => 'h',
        _ => 'a',
    }
}

/// What a stranger, one who may use, one who may manage, the project's owner and the home's owner get.
fn expected(needs: Option<Action>) -> &'static str {
    match needs {
        None | Some(Action::Know | Action::ChangeSelf | Action::CreateProject) => "aaaaa",
        Some(Action::View | Action::Connect | Action::Use) => "haaaa",
        Some(Action::Manage) => "hdaaa",
        Some(Action::Observe | Action::Administer) => "dddda",
    }
}

fn fill(template: &str) -> String {
    template
        .replace("{project}", "bobs")
        .replace("{branch}", "production")
        .replace("{endpoint}", "primary")
        .replace("{operation}", "00000000-0000-4000-8000-000000000000")
        .replace("{principal}", "nobody@example.org")
        .replace("{group}", "nobodies")
        .replace(['{', '}'], "")
}

/// Bob owns project `bobs`, whose only branch is protected, so that nothing below destroys it.
async fn world_of_bob() -> (World, Web, [String; 5]) {
    let world = World::new().await;
    let web = Web::open(&world).await;
    let stranger = world.user("eve@example.org").await;
    let user = world.user("uma@example.org").await;
    let manager = world.user("max@example.org").await;
    let bob = world.user("bob@example.org").await;
    let owner = world.token(json!({})).await;
    let body = r#"{"initial_branch_spec":{"is_protected":true}}"#;
    let made = web.post(&bob, "/api/2.0/postgres/projects?project_id=bobs", body).await;
    assert_eq!(made.status, 200, "{made:?}");
    assert_eq!(made.body["response"]["status"]["owner"], "bob@example.org", "{made:?}");
    let list = json!({"access_control_list": [
        {"user_name": "uma@example.org", "permission_level": "CAN_USE"},
        {"user_name": "max@example.org", "permission_level": "CAN_MANAGE"},
    ]});
    let path = "/api/2.0/permissions/database-projects/bobs";
    let set = web.call(&bob, "PATCH", path, &list.to_string()).await;
    assert_eq!(set.status, 200, "{set:?}");
    (world, web, [stranger, user, manager, bob, owner])
}

#[tokio::test(flavor = "multi_thread")]
async fn every_call_is_open_to_those_who_may_and_to_nobody_else() {
    let (world, web, tokens) = world_of_bob().await;
    let read = world.token(json!({"principal": OWNER, "scopes": ["read"]})).await;
    for mut rule in route_rules() {
        let path = fill(rule.template);
        if rule.method == "*" {
            rule.method = "POST";
        }
        // Not JSON: who gets past the gate does no harm.
        let body = if matches!(rule.method, "GET" | "DELETE") { "" } else { "{" };
        let known = web.call(&tokens[4], rule.method, &path, body).await;
        if known.message() == "resource not found" {
            continue; // A rule for a route to come.
        }
        let mut got = String::new();
        for token in &tokens {
            got.push(letter(&web.call(token, rule.method, &path, body).await));
        }
        // Never over the network.
        let at_the_host = ["/superuser", "/backup"].iter().any(|end| rule.template.ends_with(end));
        assert_eq!(got, if at_the_host { "ddddd" } else { expected(rule.needs) }, "{rule:?}");
        let nobody = web.call("", rule.method, &path, body).await;
        assert_eq!(
            nobody.status == 401 && nobody.code() == "UNAUTHENTICATED",
            rule.needs.is_some(),
            "{rule:?}"
        );
        let narrow = letter(&web.call(&read, rule.method, &path, body).await);
        let reads = matches!(rule.needs, None | Some(Action::Know | Action::View | Action::Observe));
        assert_eq!(narrow, if reads { 'a' } else { 'd' }, "{rule:?} with a token that may only read");
    }
    let project = web.get(&tokens[3], "/api/2.0/postgres/projects/bobs").await;
    assert_eq!(project.status, 200, "still there: {project:?}");
}

/// What a role or database may be made like is more than the gate can see.
#[tokio::test(flavor = "multi_thread")]
async fn only_managers_make_roles_with_power_and_replace_what_exists() {
    let (_world, web, tokens) = world_of_bob().await;
    let branch = "/api/2.0/postgres/projects/bobs/branches/production";
    let role = |spec: serde_json::Value| json!({"spec": spec}).to_string();
    let power = [
        json!({"membership_roles": ["DATABRICKS_SUPERUSER"]}),
        json!({"attributes": {"createrole": true}}),
        json!({"attributes": {"bypassrls": true}}),
        json!({"membership_roles": ["DATABRICKS_SUPERUSER"], "identity_type": "USER"}),
    ];
    for (number, spec) in power.into_iter().enumerate() {
        let mut got = String::new();
        for (place, token) in tokens.iter().enumerate() {
            let mut spec = spec.clone();
            spec["postgres_role"] = json!(format!("role{number}{place}"));
            got.push(letter(&web.post(token, &format!("{branch}/roles"), &role(spec)).await));
        }
        assert_eq!(got, "hdaaa", "{spec}");
    }
    let [_, user, manager, ..] = &tokens;
    let plain = role(json!({"postgres_role": "plain", "attributes": {"createdb": true}}));
    let made = web.post(user, &format!("{branch}/roles?role_id=plain"), &plain).await;
    assert_eq!(made.status, 200, "{made:?}");

    // Replacing is changing, which the user may not do by its own name either.
    let spec = role(json!({"postgres_role": "plain"}));
    let replace = format!("{branch}/roles?role_id=plain&replace_existing=true");
    let grow = role(json!({"membership_roles": ["DATABRICKS_SUPERUSER"]}));
    let change = format!("{branch}/roles/plain?update_mask=spec.membership_roles");
    let owner = format!("{}/roles/plain", branch.trim_start_matches("/api/2.0/postgres/"));
    let database = role(json!({"postgres_database": "databricks_postgres", "role": owner}));
    let take = format!("{branch}/databases?database_id=databricks-postgres&replace_existing=true");
    for (method, path, body) in
        [("POST", &replace, &spec), ("PATCH", &change, &grow), ("POST", &take, &database)]
    {
        let reply = web.call(user, method, path, body).await;
        let code = match reply.status {
            200 => reply.body["error"]["error_code"].as_str().unwrap_or_default().to_owned(),
            _ => reply.code().to_owned(),
        };
        assert_eq!(code, "PERMISSION_DENIED", "{method} {path}: {reply:?}");
        let reply = web.call(manager, method, path, body).await;
        assert_eq!((reply.status, reply.body.get("error")), (200, None), "{method} {path}: {reply:?}");
    }
    let new = format!("{branch}/roles?role_id=newer&replace_existing=true");
    let made = web.post(user, &new, &role(json!({"postgres_role": "newer"}))).await;
    assert_eq!((made.status, made.body.get("error")), (200, None), "there was nothing to replace: {made:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_show_what_the_caller_may_see() {
    let (world, web, [stranger, user, manager, bob, owner]) = world_of_bob().await;
    for (token, expected) in [(&stranger, 0), (&user, 1), (&manager, 1), (&bob, 1), (&owner, 1)] {
        let list = web.get(token, "/api/2.0/postgres/projects").await;
        assert_eq!(list.body["projects"].as_array().unwrap().len(), expected, "{list:?}");
    }
    assert_eq!(world.get("/projects").await.body["projects"].as_array().unwrap().len(), 1, "local socket");

    // Through a group, and no longer once out of it.
    world.principal("team", "group").await;
    let member = "/api/anabranch/v1/groups/team/members/eve@example.org";
    assert_eq!(web.call(&owner, "PUT", member, "").await.status, 200);
    let grant = "/api/anabranch/v1/projects/bobs/permissions/team";
    let granted = web.call(&bob, "PUT", grant, r#"{"permission_level":"CAN_USE"}"#).await;
    assert_eq!(granted.status, 200, "{granted:?}");
    let seen = async || web.get(&stranger, "/api/2.0/postgres/projects/bobs").await.status;
    assert_eq!(seen().await, 200);
    assert_eq!(web.call(&owner, "DELETE", member, "").await.status, 200);
    assert_eq!(seen().await, 404);

    // A confined token sees its project alone.
    let mine = web.post(&stranger, "/api/2.0/postgres/projects?project_id=eves", "{}").await;
    assert_eq!(mine.status, 200, "{mine:?}");
    let confined = web.post(&stranger, "/api/anabranch/v1/tokens", r#"{"projects":["eves"]}"#).await;
    let confined = confined.body["token"].as_str().unwrap();
    assert_eq!(web.get(confined, "/api/2.0/postgres/projects/eves").await.status, 200);
    let more = web.post(confined, "/api/2.0/postgres/projects?project_id=more", "{}").await;
    assert_eq!(more.status, 403, "{more:?}");
    let another = web.post(confined, "/api/anabranch/v1/tokens", "{}").await;
    assert_eq!(another.status, 403, "a narrow token does not make a wide one: {another:?}");
    let foreign = web.post(&stranger, "/api/anabranch/v1/tokens", r#"{"projects":["bobs"]}"#).await;
    assert_eq!(foreign.status, 404, "{foreign:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn permissions_are_shown_and_changed_in_the_vendors_form() {
    let (_world, web, [stranger, user, _, bob, owner]) = world_of_bob().await;
    let path = "/api/2.0/permissions/database-projects/bobs";
    let shown = web.get(&user, path).await;
    assert_eq!(shown.body["object_id"], "/database-projects/bobs");
    assert_eq!(shown.body["object_type"], "database-projects");
    let entries = shown.body["access_control_list"].as_array().unwrap();
    assert_eq!(entries.len(), 3, "{shown:?}");
    assert_eq!(
        entries[0],
        json!({"user_name": "bob@example.org", "display_name": "bob@example.org",
               "all_permissions": [{"inherited": false, "permission_level": "CAN_MANAGE"}]})
    );
    let levels = web.get(&bob, &format!("{path}/permissionLevels")).await;
    assert_eq!(levels.body["permission_levels"][0]["permission_level"], "CAN_USE", "{levels:?}");

    let list = |user: &str, level: &str| {
        json!({"access_control_list": [{"user_name": user, "permission_level": level}]}).to_string()
    };
    let replaced = web.call(&bob, "PUT", path, &list("eve@example.org", "CAN_USE")).await;
    assert_eq!(replaced.body["access_control_list"].as_array().unwrap().len(), 2, "{replaced:?}");
    assert_eq!(web.get(&user, path).await.status, 404, "lost it");
    assert_eq!(web.get(&stranger, path).await.status, 200, "got it");
    let merged = web.call(&owner, "PATCH", path, &list("uma@example.org", "CAN_USE")).await;
    assert_eq!(merged.body["access_control_list"].as_array().unwrap().len(), 3, "{merged:?}");
    for (body, status) in [
        (list("nobody@example.org", "CAN_USE"), 404),
        (list("eve@example.org", "CAN_CREATE"), 400),
        (list("", "CAN_USE"), 400),
        (json!({"access_control_list": [{"group_name": "eve@example.org", "permission_level": "CAN_USE"}]}).to_string(), 404),
        ("[".to_owned(), 400),
    ] {
        let refused = web.call(&bob, "PATCH", path, &body).await;
        assert_eq!(refused.status, status, "{body}: {refused:?}");
    }
    let revoke = "/api/anabranch/v1/projects/bobs/permissions/eve@example.org";
    assert_eq!(web.call(&bob, "DELETE", revoke, "").await.status, 200);
    assert_eq!(web.call(&bob, "DELETE", revoke, "").await.status, 400, "only once");
    assert_eq!(web.get(&stranger, path).await.status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operation_can_be_asked_after_by_whoever_began_it() {
    let (_world, web, [stranger, user, _, bob, _]) = world_of_bob().await;
    let unprotect = web
        .call(
            &bob,
            "PATCH",
            "/api/2.0/postgres/projects/bobs/branches/production?update_mask=spec.is_protected",
            r#"{"spec":{"is_protected":false}}"#,
        )
        .await;
    assert_eq!(unprotect.status, 200, "{unprotect:?}");
    let deleted = web.call(&bob, "DELETE", "/api/2.0/postgres/projects/bobs?purge=true", "").await;
    assert_eq!(deleted.status, 200, "{deleted:?}");
    let operation = format!("/api/2.0/postgres/{}", deleted.body["name"].as_str().unwrap());
    let asked = web.get(&bob, &operation).await;
    assert_eq!(asked.status, 200, "{asked:?}");
    assert_eq!(web.get(&stranger, &operation).await.status, 404);
    let deleted = web.get(&bob, "/api/2.0/postgres/projects/bobs").await;
    assert!(deleted.message().starts_with("project id not found"), "{deleted:?}");
    assert_eq!(web.get(&user, "/api/2.0/postgres/projects/bobs").await.status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_can_leave() {
    let (world, web, [_, _, manager, bob, owner]) = world_of_bob().await;
    let path = "/api/anabranch/v1/principals/bob@example.org";
    let refused = web.call(&owner, "DELETE", path, "").await;
    assert_eq!(refused.status, 400, "{refused:?}");
    assert!(refused.message().contains("bobs"), "{refused:?}");
    let heir = format!("{path}?reassign_to=max@example.org");
    assert_eq!(web.call(&owner, "DELETE", &heir, "").await.status, 200);
    assert_eq!(web.get(&bob, "/api/2.0/postgres/projects").await.status, 401);
    let project = web.get(&manager, "/api/2.0/postgres/projects/bobs").await;
    assert_eq!(project.body["status"]["owner"], "max@example.org", "{project:?}");
    // Somebody new of the same name is somebody else.
    let again = world.user("bob@example.org").await;
    assert_eq!(web.get(&again, "/api/2.0/postgres/projects/bobs").await.status, 404);
    let owner_row = "/api/anabranch/v1/principals/ana@example.org";
    assert_eq!(web.call(&owner, "DELETE", owner_row, "").await.status, 400);
}
