//! `ana role` and `ana database` against a daemon of their own.
#![allow(clippy::unwrap_used)]

mod desk;

use compute::run_as;
use desk::Desk;

#[test]
fn roles_and_databases_by_hand() {
    let user = run_as::choose(None).unwrap().map(|choice| choice.user);
    let desk = Desk::new("roles", user);
    desk.succeed(&["up"]);
    desk.succeed(&["project", "create", "shop"]);
    desk.succeed(&["branch", "create", "dev", "--no-wait"]);

    let made = desk.json(&["role", "create", "app", "--branch", "dev", "--createdb", "--json"]);
    assert_eq!(made["status"]["postgres_role"], "app");
    assert_eq!(made["status"]["attributes"]["createdb"], true);
    let password = desk.succeed(&["role", "password", "app", "-b", "dev"]);
    assert_eq!(password.trim().len(), 64);
    desk.succeed(&["role", "create", "bob@example.org", "--kind", "user", "--superuser", "-b", "dev"]);
    let list = desk.succeed(&["role", "list", "-b", "dev"]);
    for text in
        ["app", "password", "createdb", "bob@example.org", "bob-example-org", "user", "token", "superuser"]
    {
        assert!(list.contains(text), "{text}: {list}");
    }
    let roles = desk.json(&["role", "list", "--json"]);
    assert_eq!(roles.as_array().unwrap().len(), 1, "the default branch is another one");
    let changed =
        desk.json(&["role", "update", "bob-example-org", "--superuser", "false", "-b", "dev", "--json"]);
    assert_eq!(changed["status"]["membership_roles"], serde_json::json!([]));
    assert!(desk.refused(&["role", "update", "app", "-b", "dev"]).contains("nothing to change"));
    let shown = desk.succeed(&["role", "show", "app", "-b", "dev"]);
    assert!(shown.contains("plain"), "{shown}");

    desk.succeed(&["database", "create", "app_db", "--owner", "app", "-b", "dev"]);
    let own = desk.json(&["database", "create", "mine", "-b", "dev", "--json"]);
    assert!(own["status"]["role"].as_str().unwrap().contains("/roles/"), "{own}");
    let list = desk.succeed(&["database", "list", "-b", "dev"]);
    assert!(list.contains("app_db") && list.contains("databricks_postgres"), "{list}");
    let moved =
        ["database", "update", "app_db", "--rename", "renamed", "--owner", "bob@example.org", "-b", "dev"];
    desk.succeed(&moved);
    let shown = desk.succeed(&["database", "show", "renamed", "-b", "dev"]);
    assert!(shown.contains("bob-example-org"), "{shown}");

    let text = desk.refused(&["role", "delete", "bob@example.org", "-b", "dev"]);
    assert!(text.contains("depend on it") && text.contains("reassign_owned_to"), "{text}");
    desk.succeed(&["role", "delete", "bob@example.org", "--reassign-owned-to", "app", "-b", "dev"]);
    desk.succeed(&["database", "delete", "renamed", "-b", "dev"]);
    for (arguments, text) in [
        (["role", "show", "nobody"], "there is no role \"nobody\" on branch production"),
        (["database", "show", "nothing"], "there is no database \"nothing\" on branch production"),
        (["role", "list", "-bnone"], "there is no branch \"none\" in project shop"),
        (["role", "create", "databricks_superuser"], "role with that name already exists"),
    ] {
        let error = desk.refused(&arguments);
        assert!(error.contains(text), "{error}");
    }
}
