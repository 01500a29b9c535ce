//! The contract, as its clients see it.

use crate::world::{Answer, OWNER, World};
use serde_json::{Value, json};

const FOREVER: &str = r#"{"spec":{"no_expiry":true}}"#;

fn assert_error(answer: &Answer, status: u16, code: &str, text: &str) {
    assert_eq!(answer.status, status, "{answer:?}");
    assert_eq!(answer.body["error_code"], code, "{answer:?}");
    assert!(answer.body["message"].as_str().unwrap().contains(text), "{answer:?}");
}

fn names(answer: &Answer, key: &str) -> Vec<String> {
    assert_eq!(answer.status, 200, "{answer:?}");
    let items = answer.body[key].as_array().unwrap();
    items.iter().map(|item| item["name"].as_str().unwrap().rsplit('/').next().unwrap().to_owned()).collect()
}

fn seconds(time: &Value) -> i64 {
    time.as_str().unwrap().parse::<jiff::Timestamp>().unwrap().as_second()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_project_comes_with_all_it_needs() {
    let world = World::new().await;
    assert_eq!(world.get("/projects").await.body, json!({"projects": []}));
    let spec = r#"{"spec":{"display_name":"Shop","pg_version":17,"unknown":1,"default_endpoint_settings":
        {"autoscaling_limit_min_cu":0.5,"autoscaling_limit_max_cu":4.0,"suspend_timeout_duration":"60s"}}}"#;
    let answer = world.post("/projects?project_id=shop", spec).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let operation = answer.body["name"].as_str().unwrap();
    assert!(operation.starts_with("projects/shop/operations/"), "{operation}");
    let polled = world.get(&format!("/{operation}")).await;
    assert_eq!(polled.body["done"], true, "{polled:?}");
    let project = &polled.body["response"];
    assert_eq!(project["name"], "projects/shop");
    assert_eq!(project.get("spec"), None);
    assert_eq!(project["status"]["default_branch"], "projects/shop/branches/production");
    assert_eq!(project["status"]["display_name"], "Shop");
    assert_eq!(project["status"]["owner"], OWNER);
    assert_eq!(project["status"]["pg_version"], 17);
    assert_eq!(project["status"]["default_endpoint_settings"]["suspend_timeout_duration"], "60s");

    let branches = world.get("/projects/shop/branches").await;
    assert_eq!(names(&branches, "branches"), ["production"]);
    let production = &branches.body["branches"][0];
    assert_eq!(production["status"]["default"], true);
    assert_eq!(production["status"].get("source_branch"), None);
    let endpoints = world.get("/projects/shop/branches/production/endpoints").await;
    assert_eq!(names(&endpoints, "endpoints"), ["primary"]);
    let endpoint = &endpoints.body["endpoints"][0];
    assert_eq!(endpoint["status"]["endpoint_type"], "ENDPOINT_TYPE_READ_WRITE");
    assert!(endpoint["status"]["hosts"]["host"].as_str().unwrap().starts_with("127."), "{endpoint}");
    assert_eq!(endpoint["status"].get("pending_state"), None);
    assert_eq!(endpoint["status"]["autoscaling_limit_max_cu"], 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_requests_are_refused_in_the_contracts_words() {
    let world = World::with_shop().await;
    let taken = world.post("/projects?project_id=shop", "{}").await;
    assert_error(&taken, 409, "ALREADY_EXISTS", "project with such id already exists in the workspace");
    let empty = world.post("/projects", "{}").await;
    assert_error(
        &empty,
        400,
        "INVALID_PARAMETER_VALUE",
        "Field 'project_id' is required, expected non-default value",
    );
    for (path, body) in [
        ("/projects?project_id=Bad_ID", "{}"),
        ("/projects?project_id=x", r#"{"spec":{"pg_version":9}}"#),
        ("/projects?project_id=x", r#"{"spec":{"display_name":""}}"#),
        (
            "/projects?project_id=x",
            r#"{"spec":{"default_endpoint_settings":{"autoscaling_limit_min_cu":0.1}}}"#,
        ),
        ("/projects?project_id=x", "{"),
        ("/projects/shop/branches?branch_id=x", "{}"),
        ("/projects/shop/branches?branch_id=", FOREVER),
        ("/projects/shop/branches?branch_id=x", r#"{"spec":{"no_expiry":false}}"#),
        ("/projects/shop/branches?branch_id=x", r#"{"spec":{"no_expiry":true,"ttl":"60s"}}"#),
        ("/projects/shop/branches?branch_id=x", r#"{"spec":{"expire_time":"2001-01-01T00:00:00Z"}}"#),
        ("/projects/shop/branches?branch_id=x", r#"{"spec":{"ttl":"60s","is_protected":true}}"#),
        (
            "/projects/shop/branches?branch_id=x",
            r#"{"spec":{"no_expiry":true,"source_branch":"production"}}"#,
        ),
        ("/projects/shop/branches/production/endpoints?endpoint_id=e", "{}"),
    ] {
        assert_error(&world.post(path, body).await, 400, "INVALID_PARAMETER_VALUE", "");
    }
    for (path, noun) in [
        ("/projects/none", "project"),
        ("/projects/none/branches", "project"),
        ("/projects/none/branches/x/endpoints", "project"),
        ("/projects/shop/branches/none", "branch"),
        ("/projects/shop/branches/none/endpoints", "branch"),
        ("/projects/shop/branches/production/endpoints/none", "endpoint"),
        ("/projects/shop/operations/none", "operation"),
    ] {
        assert_error(&world.get(path).await, 404, "NOT_FOUND", &format!("{noun} id not found [TraceId: "));
    }
    let source = r#"{"spec":{"no_expiry":true,"source_branch":"projects/shop/branches/none"}}"#;
    assert_error(
        &world.post("/projects/shop/branches?branch_id=x", source).await,
        404,
        "NOT_FOUND",
        "branch id",
    );
    assert_error(&world.get("/1234").await, 404, "NOT_FOUND", "resource not found");
    let past = r#"{"spec":{"no_expiry":true,"source_branch_time":"2001-01-01T00:00:00Z"}}"#;
    assert_error(&world.post("/projects/shop/branches?branch_id=x", past).await, 501, "NOT_IMPLEMENTED", "");
    // Nothing of all that left a trace.
    assert_eq!(names(&world.get("/projects").await, "projects"), ["shop"]);
    assert_eq!(names(&world.get("/projects/shop/branches").await, "branches"), ["production"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_branch_lives_and_goes() {
    let world = World::with_shop().await;
    let parent = world.connect("production").await;
    parent.batch_execute("CREATE TABLE t AS SELECT 1 AS a").await.unwrap();
    let ttl =
        r#"{"parent":"ignored","spec":{"source_branch":"projects/shop/branches/production","ttl":"3600s"}}"#;
    let dev = world.branch("dev", ttl).await;
    assert!(dev["uid"].as_str().unwrap().starts_with("br-"));
    assert_eq!(dev["status"]["source_branch"], "projects/shop/branches/production");
    assert!(dev["status"]["source_branch_lsn"].as_str().unwrap().contains('/'), "{dev}");
    assert_eq!(seconds(&dev["status"]["expire_time"]), seconds(&dev["create_time"]) + 3600);
    assert_eq!((&dev["status"]["default"], &dev["status"]["is_protected"]), (&json!(false), &json!(false)));

    let child = world.connect("dev").await;
    child.batch_execute("INSERT INTO t VALUES (2)").await.unwrap();
    parent.batch_execute("INSERT INTO t VALUES (3), (4)").await.unwrap();
    for (session, count) in [(&child, 2), (&parent, 3)] {
        assert_eq!(session.query_one("SELECT count(*) FROM t", &[]).await.unwrap().get::<_, i64>(0), count);
    }

    let again = world.post("/projects/shop/branches?branch_id=dev", FOREVER).await;
    assert_error(&again, 409, "ALREADY_EXISTS", "branch with such id already exists");
    let replaced = world.post("/projects/shop/branches?branch_id=dev&replace_existing=true", FOREVER).await;
    assert_eq!(replaced.body["response"]["uid"], dev["uid"]);
    assert_eq!(replaced.body["response"]["status"].get("expire_time"), None);

    let deleted = world.delete("/projects/shop/branches/dev").await;
    assert_eq!(deleted.body["response"], json!({"@type": "type.googleapis.com/google.protobuf.Empty"}));
    assert!(child.simple_query("SELECT 1").await.is_err(), "the connection outlived its branch");
    assert_error(&world.get("/projects/shop/branches/dev").await, 404, "NOT_FOUND", "branch id not found");
    let operation = world.get(&format!("/{}", deleted.body["name"].as_str().unwrap())).await;
    assert_eq!(operation.body["done"], true);
    assert_eq!(names(&world.get("/projects/shop/branches").await, "branches"), ["production"]);
    let all = world.get("/projects/shop/branches?show_deleted=true").await;
    let tombstone = &all.body["branches"][1]["status"];
    assert_eq!(tombstone["current_state"], "DELETED");
    assert!(seconds(&tombstone["purge_time"]) > seconds(&tombstone["delete_time"]));

    let back = world.post("/projects/shop/branches/dev/undelete", "{}").await;
    assert_eq!(back.body["done"], true, "{back:?}");
    assert_eq!(back.body["response"], json!({}));
    let child = world.connect("dev").await;
    assert_eq!(child.query_one("SELECT count(*) FROM t", &[]).await.unwrap().get::<_, i64>(0), 2);

    world.delete("/projects/shop/branches/dev").await;
    let second = world.branch("dev", FOREVER).await;
    assert_ne!(second["uid"], dev["uid"]);
    let taken = world.post("/projects/shop/branches/dev/undelete", "{}").await;
    assert_error(&taken, 409, "ALREADY_EXISTS", "");
    world.delete("/projects/shop/branches/dev?purge=true").await;
    let uid = compute::engine::BranchKey::new(second["uid"].as_str().unwrap()).unwrap();
    assert!(!world.engine.keys().unwrap().contains(&uid), "purged data is still there");

    let missing = world.delete("/projects/shop/branches/never").await;
    assert_error(&missing, 404, "NOT_FOUND", "branch id not found");
    let allowed = world.delete("/projects/shop/branches/never?allow_missing=true").await;
    let operation = world.get(&format!("/{}", allowed.body["name"].as_str().unwrap())).await;
    assert_eq!(operation.body["done"], true);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_must_not_be_deleted_is_not() {
    let world = World::with_shop().await;
    let root = world.delete("/projects/shop/branches/production").await;
    assert_error(&root, 400, "BAD_REQUEST", "Cannot delete root branch 'projects/shop/branches/production'.");
    let primary = world.delete("/projects/shop/branches/production/endpoints/primary").await;
    assert_error(&primary, 400, "BAD_REQUEST", "Cannot delete read-write endpoint");
    for answer in [&root, &primary] {
        let detail = &answer.body["details"][0];
        assert_eq!(detail["metadata"]["declarative_context"], "MANAGED_BY_PARENT", "{answer:?}");
        assert_eq!(detail["@type"], "type.googleapis.com/google.rpc.ErrorInfo");
    }
    world.branch("dev", r#"{"spec":{"ttl":"3600s"}}"#).await;
    let dev = "/projects/shop/branches/dev";
    let expiring = world
        .patch(&format!("{dev}?update_mask=spec.is_protected"), r#"{"spec":{"is_protected":true}}"#)
        .await;
    assert_error(&expiring, 400, "INVALID_PARAMETER_VALUE", "protected");
    let body = r#"{"spec":{"is_protected":true,"no_expiry":true}}"#;
    let protected =
        world.patch(&format!("{dev}?update_mask=spec.is_protected%2Cspec.expiration"), body).await;
    assert_eq!(protected.body["response"]["status"]["is_protected"], true, "{protected:?}");
    assert_eq!(protected.body["response"]["status"].get("expire_time"), None);
    assert_error(&world.delete(dev).await, 400, "BAD_REQUEST", "cannot delete protected branch");
    assert_error(&world.delete("/projects/shop").await, 400, "BAD_REQUEST", "protected");
    world.patch(&format!("{dev}?update_mask=spec.is_protected"), "{}").await;

    world.branch("kid", r#"{"spec":{"no_expiry":true,"source_branch":"projects/shop/branches/dev"}}"#).await;
    let parent = world.delete(dev).await;
    assert_error(&parent, 400, "BAD_REQUEST", "branch \"dev\" has 1 child (kid)");
    assert!(parent.body["details"][0]["links"][0]["description"].as_str().unwrap().contains("--cascade"));
    assert_eq!(world.delete(&format!("{dev}?cascade=true")).await.body["done"], true);
    assert_eq!(names(&world.get("/projects/shop/branches").await, "branches"), ["production"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_project_goes_with_everything() {
    let world = World::with_shop().await;
    world.branch("dev", FOREVER).await;
    world.delete("/projects/shop").await;
    assert_error(&world.get("/projects/shop").await, 404, "NOT_FOUND", "project id not found");
    assert_eq!(world.get("/projects").await.body, json!({"projects": []}));
    let all = world.get("/projects?show_deleted=true").await;
    assert!(
        seconds(&all.body["projects"][0]["purge_time"]) > seconds(&all.body["projects"][0]["delete_time"])
    );
    // The name is free at once.
    assert_eq!(world.post("/projects?project_id=shop", "{}").await.body["done"], true);
    let purged = world.delete("/projects/shop?purge=true").await;
    assert_eq!(purged.body["done"], true, "{purged:?}");
    assert_eq!(names(&world.get("/projects?show_deleted=true").await, "projects").len(), 1);
    assert_eq!(world.engine.keys().unwrap().len(), 2, "only the first project's data is left");
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_come_in_pages() {
    let world = World::with_shop().await;
    for number in 0..4 {
        world.branch(&format!("b{number}"), FOREVER).await;
    }
    let (mut seen, mut token, mut rounds) = (Vec::new(), String::new(), 0);
    loop {
        let path = format!("/projects/shop/branches?page_size=2&page_token={token}");
        let answer = world.get(&path).await;
        seen.extend(names(&answer, "branches"));
        rounds += 1;
        match answer.body.get("next_page_token") {
            Some(next) => token = next.as_str().unwrap().to_owned(),
            None => break,
        }
    }
    assert_eq!(seen, ["production", "b0", "b1", "b2", "b3"]);
    assert_eq!(rounds, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_endpoint_that_every_branch_has_can_be_adopted() {
    let world = World::with_shop().await;
    let path = "/projects/shop/branches/production/endpoints?endpoint_id=";
    let spec = r#"{"spec":{"endpoint_type":"ENDPOINT_TYPE_READ_WRITE","autoscaling_limit_max_cu":2,"no_suspension":true}}"#;
    assert_error(&world.post(&format!("{path}primary"), spec).await, 409, "ALREADY_EXISTS", "endpoint");
    assert_error(&world.post(&format!("{path}second"), spec).await, 400, "BAD_REQUEST", "already");
    let read_only = r#"{"spec":{"endpoint_type":"ENDPOINT_TYPE_READ_ONLY"}}"#;
    assert_error(&world.post(&format!("{path}ro"), read_only).await, 501, "NOT_IMPLEMENTED", "read-only");
    let adopted = world.post(&format!("{path}primary&replace_existing=true"), spec).await;
    let status = &adopted.body["response"]["status"];
    assert_eq!(status["autoscaling_limit_max_cu"], 2, "{adopted:?}");
    assert_eq!(status.get("suspend_timeout_duration"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_change_is_in_the_audit_log_with_who_asked() {
    let world = World::with_shop().await;
    world
        .call("POST", "/projects/shop/branches?branch_id=dev", FOREVER, "x-anabranch-agent: helper\r\n")
        .await;
    world.delete("/projects/shop/branches/production").await;
    let secret = world.credential("dev").await;
    let log = world.get("/api/anabranch/v1/audit").await;
    let lines: Vec<(String, String, String, String)> = log.body["entries"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| {
            let text = |key: &str| entry[key].as_str().unwrap().to_owned();
            (text("principal"), text("principal_kind"), text("action"), text("result"))
        })
        .collect();
    let line = |principal: &str, kind: &str, action: &str, result: &str| {
        (principal.to_owned(), kind.to_owned(), action.to_owned(), result.to_owned())
    };
    assert_eq!(
        lines,
        [
            line(OWNER, "human", "credential.issue", "done"),
            line(OWNER, "human", "branch.delete", "refused"),
            line(&format!("helper for {OWNER}"), "agent", "branch.create", "done"),
            line(OWNER, "human", "project.create", "done"),
        ]
    );
    assert!(!log.body.to_string().contains(&secret));
}
