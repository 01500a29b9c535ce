//! Databases, as the contract has them.

use serde_json::{Value, json};

use crate::world::World;

const BRANCH: &str = "/projects/shop/branches/production";
const INVALID: &str = "INVALID_PARAMETER_VALUE";

fn spec(name: &str, role: &str) -> String {
    let role = format!("{}/roles/{role}", &BRANCH[1..]);
    json!({"spec": {"postgres_database": name, "role": role}}).to_string()
}

fn ids(databases: &Value) -> Vec<&str> {
    let all = databases["databases"].as_array().unwrap();
    all.iter().map(|database| database["database_id"].as_str().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_lives_and_goes() {
    let world = World::with_shop().await;
    let role = r#"{"spec":{"postgres_role":"app"}}"#;
    world.post(&format!("{BRANCH}/roles?role_id=app-role"), role).await.response();
    let databases = format!("{BRANCH}/databases");
    let answer = world.post(&format!("{databases}?database_id=app-db"), &spec("app_db", "app-role")).await;
    let made = answer.response().clone();
    assert_eq!(made["name"], "projects/shop/branches/production/databases/app-db");
    let owner = "projects/shop/branches/production/roles/app-role";
    assert_eq!(
        made["status"],
        json!({"database_id": "app-db", "postgres_database": "app_db", "role": owner})
    );
    let operation = answer.body["name"].as_str().unwrap();
    assert!(operation.starts_with(&format!("{}/app-db/operations/", &databases[1..])), "{operation}");
    assert_eq!(world.get(&format!("/{operation}")).await.body, answer.body);
    let type_name = "type.googleapis.com/databricks.postgres.v1.DatabaseOperationMetadata";
    assert_eq!(answer.body["metadata"]["@type"], type_name);

    let password =
        world.post(&format!("/api/anabranch/v1{BRANCH}/roles/app-role/reset-password"), "{}").await;
    let password = password.body["password"].as_str().unwrap();
    let session = world.connect_as("production", "app", password, "app_db").await.unwrap();
    session.batch_execute("CREATE SCHEMA s; CREATE TABLE s.t AS SELECT 7 AS a").await.unwrap();

    let item = format!("{databases}/app-db");
    let rename = r#"{"spec":{"postgres_database":"renamed"}}"#;
    let busy = world.patch(&format!("{item}?update_mask=spec.postgres_database"), rename).await;
    busy.refuses(400, "BAD_REQUEST", "being accessed by other users");
    drop(session);
    let renamed = loop {
        // The server notices in its own time that the session has ended.
        let answer = world.patch(&format!("{item}?update_mask=spec.postgres_database"), rename).await;
        if answer.status == 200 {
            break answer;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    };
    assert_eq!(renamed.response()["status"]["postgres_database"], "renamed");
    assert_eq!(renamed.response()["name"], made["name"]);
    assert_eq!(renamed.response()["create_time"], made["create_time"]);
    assert_ne!(renamed.response()["update_time"], made["update_time"]);
    let session = world.connect_as("production", "app", password, "renamed").await.unwrap();
    assert_eq!(session.query_one("SELECT a FROM s.t", &[]).await.unwrap().get::<_, i32>(0), 7);

    let given =
        world.patch(&format!("{item}?update_mask=spec.role"), &spec("ignored", "ana-example-org")).await;
    assert!(given.response()["status"]["role"].as_str().unwrap().ends_with("/ana-example-org"));
    assert_eq!(given.response()["status"]["postgres_database"], "renamed");
    let replace = format!("{databases}?database_id=app-db&replace_existing=true");
    session.simple_query("SELECT 1").await.unwrap();
    let replaced = world.post(&replace, &spec("renamed", "app-role")).await;
    assert!(replaced.response()["status"]["role"].as_str().unwrap().ends_with("/app-role"));
    assert_eq!(replaced.response()["create_time"], made["create_time"]);

    let deleted = world.delete(&item).await;
    assert_eq!(*deleted.response(), json!({"@type": "type.googleapis.com/google.protobuf.Empty"}));
    assert!(session.simple_query("SELECT 1").await.is_err(), "the session outlived its database");
    world.get(&item).await.refuses(404, "NOT_FOUND", "database id not found [TraceId: ");
    let operation = world.get(&format!("/{}", deleted.body["name"].as_str().unwrap())).await;
    assert_eq!(operation.body, deleted.body);
    // The same identifier at once, as programs do that replace what cannot be changed.
    world.post(&format!("{databases}?database_id=app-db"), &spec("app_db", "app-role")).await.response();
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_databases_are_refused_and_leave_nothing() {
    let world = World::with_shop().await;
    let databases = format!("{BRANCH}/databases");
    let owner = "ana-example-org";
    world.post(&format!("{databases}?database_id=app"), &spec("app", owner)).await.response();
    let taken = "database with that name already exists";
    world.post(&format!("{databases}?database_id=app"), &spec("x", owner)).await.refuses(
        400,
        "BAD_REQUEST",
        taken,
    );
    for name in ["app", "postgres", "template1"] {
        let answer = world.post(&format!("{databases}?database_id=x"), &spec(name, owner)).await;
        answer.refuses(400, "BAD_REQUEST", taken);
    }
    let no_role = r#"{"spec":{"postgres_database":"x"}}"#;
    let text = "Field 'database.spec.role' is required, expected non-default value (not \"\")!";
    world.post(&format!("{databases}?database_id=x"), no_role).await.refuses(400, INVALID, text);
    world.post(&format!("{databases}?database_id=x"), "{}").await.refuses(400, INVALID, text);
    let answer = world.post(&format!("{databases}?database_id=x"), &spec("x", "nobody")).await;
    answer.refuses(404, "NOT_FOUND", "role not found; role_id:\"nobody\" [TraceId: ");
    let elsewhere = r#"{"spec":{"postgres_database":"x","role":"projects/shop/branches/dev/roles/r"}}"#;
    world.post(&databases, elsewhere).await.refuses(400, INVALID, "database.spec.role");
    for id in ["App", "1app", "app-", "a_b", &"a".repeat(64)] {
        let answer = world.post(&format!("{databases}?database_id={id}"), &spec("x", owner)).await;
        let text =
            format!("Field database_id must match pattern ^[a-z]([a-z0-9-]{{0,61}}[a-z0-9])?$, got '{id}'.");
        answer.refuses(400, INVALID, &text);
    }
    for name in ["", &"a".repeat(64), "a\nb"] {
        world.post(&databases, &spec(name, owner)).await.refuses(400, INVALID, "postgres_database");
    }
    let item = format!("{databases}/app");
    for (mask, body, text) in [
        ("spec.owner", "{}", "Unknown field path in update_mask"),
        ("spec.role", "{}", "database.spec.role"),
        ("spec.postgres_database", "{}", "database.spec.postgres_database"),
        ("spec", r#"{"spec":{"postgres_database":"a\nb"}}"#, "postgres_database"),
    ] {
        world.patch(&format!("{item}?update_mask={mask}"), body).await.refuses(400, INVALID, text);
    }
    let answer = world.patch(&format!("{item}?update_mask=spec.role"), &spec("x", "nobody")).await;
    answer.refuses(404, "NOT_FOUND", "role not found");
    let answer =
        world.patch(&format!("{item}?update_mask=spec.postgres_database"), &spec("postgres", owner)).await;
    answer.refuses(400, "BAD_REQUEST", taken);
    for (path, noun) in [
        ("/projects/none/branches/production/databases", "project"),
        ("/projects/shop/branches/none/databases", "branch"),
    ] {
        world.get(path).await.refuses(404, "NOT_FOUND", &format!("{noun} id not found"));
        world.post(path, &spec("x", owner)).await.refuses(404, "NOT_FOUND", &format!("{noun} id not found"));
    }
    for answer in [
        world.get(&format!("{databases}/postgres")).await,
        world.delete(&format!("{databases}/missing")).await,
        world
            .patch(&format!("{databases}/missing?update_mask=spec.postgres_database"), &spec("x", owner))
            .await,
    ] {
        answer.refuses(404, "NOT_FOUND", "database id not found");
    }
    let listed = world.get(&databases).await.body;
    assert_eq!(ids(&listed), ["databricks-postgres", "app"]);
    assert_eq!(listed["databases"][1]["status"]["postgres_database"], "app");
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_come_in_pages() {
    let world = World::with_shop().await;
    for number in 0..3 {
        let path = format!("{BRANCH}/roles?role_id=role-{number}");
        world
            .post(&path, &json!({"spec": {"postgres_role": format!("r{number}")}}).to_string())
            .await
            .response();
    }
    let (mut seen, mut token, mut rounds) = (Vec::new(), String::new(), 0);
    loop {
        let page = world.get(&format!("{BRANCH}/roles?page_size=2&page_token={token}")).await.body;
        seen.extend(
            page["roles"].as_array().unwrap().iter().map(|role| role["role_id"].as_str().unwrap().to_owned()),
        );
        rounds += 1;
        match page.get("next_page_token") {
            Some(next) => token = next.as_str().unwrap().to_owned(),
            None => break,
        }
    }
    assert_eq!(seen, ["ana-example-org", "role-0", "role-1", "role-2"]);
    assert_eq!(rounds, 2);
}
