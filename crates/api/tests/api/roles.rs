//! Roles, as the contract has them.

use serde_json::{Value, json};

use crate::world::{OWNER, World};

const ROLES: &str = "/projects/shop/branches/production/roles";
const INVALID: &str = "INVALID_PARAMETER_VALUE";

fn role_spec(name: &str) -> String {
    json!({"spec": {"postgres_role": name}}).to_string()
}

/// Identifiers of a list of roles.
fn ids(roles: &Value) -> Vec<&str> {
    roles["roles"].as_array().unwrap().iter().map(|role| role["role_id"].as_str().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_project_begins_with_its_makers_role_and_database() {
    let world = World::with_shop().await;
    let roles = world.get(ROLES).await.body;
    assert_eq!(ids(&roles), ["ana-example-org"]);
    let role = &roles["roles"][0];
    assert_eq!(role["name"], "projects/shop/branches/production/roles/ana-example-org");
    assert_eq!(
        role["status"],
        json!({
            "role_id": "ana-example-org",
            "postgres_role": OWNER,
            "identity_type": "USER",
            "auth_method": "LAKEBASE_OAUTH_V1",
            "membership_roles": ["DATABRICKS_SUPERUSER"],
            "attributes": {"bypassrls": true, "createdb": true, "createrole": true},
        })
    );
    assert_eq!(role.get("spec"), None);
    assert_eq!(world.get(&format!("{ROLES}/ana-example-org")).await.body, *role);
    let databases = world.get("/projects/shop/branches/production/databases").await.body;
    assert_eq!(databases["databases"].as_array().unwrap().len(), 1);
    assert_eq!(
        databases["databases"][0]["status"],
        json!({
            "database_id": "databricks-postgres",
            "postgres_database": "databricks_postgres",
            "role": "projects/shop/branches/production/roles/ana-example-org",
        })
    );
    // An agent makes projects for its person.
    world.call("POST", "/projects?project_id=second", "{}", "x-anabranch-agent: helper\r\n").await;
    let roles = world.get("/projects/second/branches/production/roles").await.body;
    assert_eq!(roles["roles"][0]["status"]["postgres_role"], OWNER);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_project_begins_with_another_role_and_database_where_its_maker_says_so() {
    let world = World::new().await;
    let body = json!({
        "initial_database_spec": {"postgres_database": "app_data"},
        "initial_role_spec": {"postgres_role": "app_owner", "attributes": {"createdb": true}},
    });
    world.post("/projects?project_id=shop", &body.to_string()).await.response();
    let roles = world.get(ROLES).await.body;
    assert_eq!(ids(&roles), ["app-owner"]);
    assert_eq!(
        roles["roles"][0]["status"],
        json!({
            "role_id": "app-owner",
            "postgres_role": "app_owner",
            "identity_type": "IDENTITY_TYPE_UNSPECIFIED",
            "auth_method": "PG_PASSWORD_SCRAM_SHA_256",
            "attributes": {"bypassrls": false, "createdb": true, "createrole": false},
        })
    );
    let databases = world.get("/projects/shop/branches/production/databases").await.body;
    assert_eq!(databases["databases"].as_array().unwrap().len(), 1);
    assert_eq!(
        databases["databases"][0]["status"],
        json!({
            "database_id": "app-data",
            "postgres_database": "app_data",
            "role": "projects/shop/branches/production/roles/app-owner",
        })
    );
    // A branch takes both along, and the creator may add the usual role.
    world.branch("dev", r#"{"spec":{"no_expiry":true}}"#).await;
    let spec = json!({"spec": {"postgres_role": OWNER, "identity_type": "USER"}}).to_string();
    let on_dev = ROLES.replace("production", "dev");
    world.post(&on_dev, &spec).await.response();
    assert_eq!(ids(&world.get(&on_dev).await.body), ["app-owner", "ana-example-org"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_role_is_follows_from_what_was_asked() {
    let world = World::with_shop().await;
    for (id, spec, identity_type, auth_method, rolcanlogin) in [
        ("plain", json!({}), "IDENTITY_TYPE_UNSPECIFIED", "PG_PASSWORD_SCRAM_SHA_256", true),
        ("user", json!({"identity_type": "USER"}), "USER", "LAKEBASE_OAUTH_V1", true),
        (
            "service",
            json!({"identity_type": "SERVICE_PRINCIPAL"}),
            "SERVICE_PRINCIPAL",
            "LAKEBASE_OAUTH_V1",
            true,
        ),
        ("group", json!({"identity_type": "GROUP"}), "GROUP", "LAKEBASE_OAUTH_V1", true),
        ("bundle", json!({"auth_method": "NO_LOGIN"}), "IDENTITY_TYPE_UNSPECIFIED", "NO_LOGIN", false),
        ("none", json!({"identity_type": "GROUP", "auth_method": "NO_LOGIN"}), "GROUP", "NO_LOGIN", false),
    ] {
        let mut spec = spec;
        spec["postgres_role"] = json!(format!("the {id}"));
        let answer =
            world.post(&format!("{ROLES}?role_id=role-{id}"), &json!({"spec": spec}).to_string()).await;
        let role = answer.response();
        assert_eq!(role["status"]["identity_type"], identity_type, "{role}");
        assert_eq!(role["status"]["auth_method"], auth_method, "{role}");
        assert_eq!(
            role["status"]["attributes"],
            json!({"bypassrls": false, "createdb": false, "createrole": false})
        );
        assert_eq!(role["status"].get("membership_roles"), None);
        assert_eq!(role["name"], format!("projects/shop/branches/production/roles/role-{id}"));
        let operation = answer.body["name"].as_str().unwrap();
        assert!(operation.starts_with(&format!("{}/role-{id}/operations/", &ROLES[1..])), "{operation}");
        assert_eq!(world.get(&format!("/{operation}")).await.body, answer.body);
        let type_name = "type.googleapis.com/databricks.postgres.v1.RoleOperationMetadata";
        assert_eq!(answer.body["metadata"]["@type"], type_name);
        let session = world.connect("production").await;
        let row = session
            .query_one("SELECT rolcanlogin FROM pg_roles WHERE rolname = $1", &[&format!("the {id}")])
            .await
            .unwrap();
        assert_eq!(row.get::<_, bool>(0), rolcanlogin, "{id}");
    }
    let spec = json!({"spec": {
        "postgres_role": "full", "membership_roles": ["DATABRICKS_SUPERUSER"],
        "attributes": {"createdb": true, "bypassrls": true},
    }});
    let full = world.post(&format!("{ROLES}?role_id=full-role"), &spec.to_string()).await;
    let status = &full.response()["status"];
    assert_eq!(status["attributes"], json!({"bypassrls": true, "createdb": true, "createrole": false}));
    assert_eq!(status["membership_roles"], json!(["DATABRICKS_SUPERUSER"]));
    let session = world.connect("production").await;
    let sql = "SELECT rolcreatedb, rolbypassrls, rolcreaterole, pg_has_role(rolname, 'databricks_superuser', 'usage') \
               FROM pg_roles WHERE rolname = 'full'";
    let row = session.query_one(sql, &[]).await.unwrap();
    let facts: Vec<bool> = (0..4).map(|place| row.get(place)).collect();
    assert_eq!(facts, [true, true, false, true]);
}

#[tokio::test(flavor = "multi_thread")]
async fn identifiers_are_made_where_none_is_given() {
    let world = World::with_shop().await;
    let made = world.post(ROLES, &role_spec("one")).await;
    let id = made.response()["role_id"].as_str().unwrap().to_owned();
    assert!(id.len() == 13 && id.starts_with("role-"), "{id}");
    let bob = r#"{"spec":{"postgres_role":"bob@example.org","identity_type":"USER"}}"#;
    assert_eq!(world.post(ROLES, bob).await.response()["role_id"], "bob-example-org");
    let similar = r#"{"spec":{"postgres_role":"bob-example.org","identity_type":"USER"}}"#;
    let id = world.post(ROLES, similar).await.response()["role_id"].as_str().unwrap().to_owned();
    assert!(id.starts_with("role-"), "{id}");
    // Identities may be called by their own names.
    for name in ["eve@example.org", "7d5b1a6e-1111-4222-8333-000000000000"] {
        let body = json!({"spec": {"postgres_role": name, "identity_type": "USER"}}).to_string();
        let made = world.post(&format!("{ROLES}?role_id={name}"), &body).await;
        assert_eq!(made.response()["role_id"], name);
        assert_eq!(world.get(&format!("{ROLES}/{name}")).await.body["status"]["postgres_role"], name);
    }
    // Older clients send nothing but the identifier.
    let old = world.post(&format!("{ROLES}?role_id=old-client"), "{}").await;
    assert_eq!(old.response()["status"]["postgres_role"], "old-client");
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_roles_are_refused_and_leave_nothing() {
    let world = World::with_shop().await;
    world.post(&format!("{ROLES}?role_id=app-role"), &role_spec("app_role")).await.response();
    let taken = "role with that name already exists";
    world.post(&format!("{ROLES}?role_id=app-role"), &role_spec("other")).await.refuses(
        400,
        "BAD_REQUEST",
        taken,
    );
    world.post(&format!("{ROLES}?role_id=other"), &role_spec("app_role")).await.refuses(
        400,
        "BAD_REQUEST",
        taken,
    );
    for system in ["databricks_superuser", "anabranch"] {
        world.post(ROLES, &role_spec(system)).await.refuses(400, "BAD_REQUEST", taken);
    }
    for id in ["abc", "Role", "1role", "a_role", "ana@example.org", &"a".repeat(64)] {
        let answer = world.post(&format!("{ROLES}?role_id={id}"), &role_spec("x")).await;
        answer.refuses(
            400,
            INVALID,
            "Field 'role_id' must be 4-63 characters, start with a lowercase letter",
        );
    }
    for (spec, text) in [
        (json!({}), "Field 'role.spec.postgres_role' is required, expected non-default value (not \"\")!"),
        (json!({"postgres_role": "a".repeat(64)}), "postgres_role"),
        (json!({"postgres_role": "a\u{0}b"}), "postgres_role"),
        (json!({"postgres_role": "pg_mine"}), "pg_mine"),
        (json!({"postgres_role": "none"}), "none"),
        (json!({"postgres_role": "x", "identity_type": "ROBOT"}), "identity_type"),
        (json!({"postgres_role": "x", "auth_method": "TRUST"}), "auth_method"),
        (json!({"postgres_role": "x", "auth_method": "LAKEBASE_OAUTH_V1"}), "auth_method"),
        (
            json!({"postgres_role": "x", "identity_type": "USER", "auth_method": "PG_PASSWORD_SCRAM_SHA_256"}),
            "auth_method",
        ),
        (json!({"postgres_role": "x", "membership_roles": ["pg_monitor"]}), "membership_roles"),
    ] {
        world.post(ROLES, &json!({"spec": spec}).to_string()).await.refuses(400, INVALID, text);
    }
    world.post(ROLES, "{").await.refuses(400, INVALID, "");
    for (path, noun) in [
        ("/projects/none/branches/production/roles", "project"),
        ("/projects/shop/branches/none/roles", "branch"),
    ] {
        let text = format!("{noun} id not found [TraceId: ");
        world.get(path).await.refuses(404, "NOT_FOUND", &text);
        world.post(path, &role_spec("x")).await.refuses(404, "NOT_FOUND", &text);
    }
    let missing = format!("{ROLES}/missing");
    for answer in [
        world.get(&missing).await,
        world.patch(&format!("{missing}?update_mask=spec.attributes"), "{}").await,
        world.delete(&missing).await,
    ] {
        answer.refuses(404, "NOT_FOUND", "role id not found [TraceId: ");
    }
    assert_eq!(ids(&world.get(ROLES).await.body), ["ana-example-org", "app-role"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn masks_change_leaves() {
    let world = World::with_shop().await;
    let spec = r#"{"spec":{"postgres_role":"app","attributes":{"createrole":true},"membership_roles":["DATABRICKS_SUPERUSER"]}}"#;
    let made = world.post(&format!("{ROLES}?role_id=app-role"), spec).await;
    let made = made.response().clone();
    let role = format!("{ROLES}/app-role");
    let full = r#"{"name":"ignored","spec":{"postgres_role":"app","attributes":{"createdb":true}}}"#;
    let changed = world.patch(&format!("{role}?update_mask=spec.attributes.createdb"), full).await;
    let changed = changed.response();
    assert_eq!(
        changed["status"]["attributes"],
        json!({"bypassrls": false, "createdb": true, "createrole": true})
    );
    assert_eq!(changed["status"]["membership_roles"], json!(["DATABRICKS_SUPERUSER"]));
    assert_eq!(changed["create_time"], made["create_time"]);
    assert_ne!(changed["update_time"], made["update_time"]);
    // The same again changes nothing but the time.
    let again = world.patch(&format!("{role}?update_mask=spec.attributes.createdb"), full).await;
    assert_eq!(again.response()["status"], changed["status"]);
    assert_ne!(again.response()["update_time"], changed["update_time"]);
    // Python cannot send an empty list: a mask without a value clears.
    let cleared = world.patch(&format!("{role}?update_mask=spec.membership_roles"), r#"{"spec":{}}"#).await;
    assert_eq!(cleared.response()["status"].get("membership_roles"), None);
    let whole = world.patch(&format!("{role}?update_mask=spec"), full).await;
    assert_eq!(
        whole.response()["status"]["attributes"],
        json!({"bypassrls": false, "createdb": true, "createrole": true})
    );
    let all = world.patch(&format!("{role}?update_mask=spec.attributes"), full).await;
    assert_eq!(
        all.response()["status"]["attributes"],
        json!({"bypassrls": false, "createdb": true, "createrole": false})
    );
    for field in ["spec.postgres_role", "spec.auth_method", "spec.identity_type", "s%2Cp%2Ce%2Cc"] {
        let answer = world.patch(&format!("{role}?update_mask={field}"), full).await;
        answer.refuses(400, INVALID, "Unknown field path in update_mask");
    }
    let renamed = r#"{"spec":{"postgres_role":"other"}}"#;
    world.patch(&format!("{role}?update_mask=spec"), renamed).await.refuses(400, INVALID, "postgres_role");
}

#[tokio::test(flavor = "multi_thread")]
async fn replacing_overwrites_and_adopts() {
    let world = World::with_shop().await;
    let spec = r#"{"spec":{"postgres_role":"app","attributes":{"createdb":true},"membership_roles":["DATABRICKS_SUPERUSER"]}}"#;
    let path = format!("{ROLES}?role_id=app-role&replace_existing=true");
    let made = world.post(&path, spec).await.response().clone();
    let bare = r#"{"spec":{"postgres_role":"app","attributes":{"bypassrls":true}}}"#;
    let replaced = world.post(&path, bare).await.response().clone();
    assert_eq!(
        replaced["status"]["attributes"],
        json!({"bypassrls": true, "createdb": false, "createrole": false})
    );
    assert_eq!(replaced["status"].get("membership_roles"), None, "what is left out is removed");
    assert_eq!((&replaced["name"], &replaced["create_time"]), (&made["name"], &made["create_time"]));
    world.post(&path, &role_spec("other")).await.refuses(400, INVALID, "spec.postgres_role");
    let kind = r#"{"spec":{"postgres_role":"app","identity_type":"USER"}}"#;
    world.post(&path, kind).await.refuses(400, INVALID, "spec.identity_type");
    // An inherited one collides, and is adopted in the same way.
    world.branch("dev", r#"{"spec":{"no_expiry":true}}"#).await;
    let inherited = "/projects/shop/branches/dev/roles?role_id=app-role";
    world.post(inherited, spec).await.refuses(400, "BAD_REQUEST", "role with that name already exists");
    let adopted = world.post(&format!("{inherited}&replace_existing=true"), spec).await;
    assert_eq!(adopted.response()["name"], "projects/shop/branches/dev/roles/app-role");
    assert_eq!(adopted.response()["status"]["membership_roles"], json!(["DATABRICKS_SUPERUSER"]));
    let parents = world.get(&format!("{ROLES}/app-role")).await.body;
    assert_eq!(parents["status"].get("membership_roles"), None, "the parent's role changed with its child's");
    // By its name, where no identifier is given.
    let body = json!({"spec": {"postgres_role": OWNER, "identity_type": "USER",
        "membership_roles": ["DATABRICKS_SUPERUSER"], "attributes": {"createdb": true}}});
    let owner = world.post(&format!("{ROLES}?replace_existing=true"), &body.to_string()).await;
    assert_eq!(owner.response()["role_id"], "ana-example-org");
    assert_eq!(owner.response()["status"]["attributes"]["createrole"], false);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_is_deleted_only_with_an_heir() {
    let world = World::with_shop().await;
    for role in ["old", "heir"] {
        world.post(&format!("{ROLES}?role_id=the-{role}"), &role_spec(role)).await.response();
    }
    let owner = world.connect("production").await;
    // The table's new owner must be able to make one here.
    owner.batch_execute("GRANT CREATE ON SCHEMA public TO old; GRANT old TO CURRENT_USER").await.unwrap();
    owner.batch_execute("CREATE TABLE kept AS SELECT 7 AS a; ALTER TABLE kept OWNER TO old").await.unwrap();
    let body =
        r#"{"spec":{"postgres_database":"olds","role":"projects/shop/branches/production/roles/the-old"}}"#;
    world.post("/projects/shop/branches/production/databases?database_id=olds", body).await.response();
    let password = world.post(&format!("/api/anabranch/v1{ROLES}/the-old/reset-password"), "{}").await;
    let password = password.body["password"].as_str().unwrap().to_owned();
    let session = world.connect_as("production", "old", &password, "olds").await.unwrap();
    session.batch_execute("CREATE SCHEMA s; CREATE TABLE s.t (a int)").await.unwrap();

    let role = format!("{ROLES}/the-old");
    let refused = world.delete(&role).await;
    refused.refuses(400, "BAD_REQUEST", "cannot be dropped because some objects depend on it");
    assert!(refused.body.to_string().contains("reassign_owned_to"), "{refused:?}");
    let to = |heir: &str| format!("{role}?reassign_owned_to=projects/shop/branches/production/roles/{heir}");
    world.delete(&to("nobody")).await.refuses(
        404,
        "NOT_FOUND",
        "role not found; role_id:\"nobody\" [TraceId: ",
    );
    world.delete(&to("the-old")).await.refuses(400, INVALID, "another role");
    let bare = format!("{role}?reassign_owned_to=the-heir");
    world.delete(&bare).await.refuses(400, INVALID, "reassign_owned_to");
    session.simple_query("SELECT 1").await.unwrap();

    let deleted = world.delete(&to("the-heir")).await;
    assert_eq!(*deleted.response(), json!({"@type": "type.googleapis.com/google.protobuf.Empty"}));
    let operation = world.get(&format!("/{}", deleted.body["name"].as_str().unwrap())).await;
    assert_eq!(operation.body, deleted.body);
    assert!(session.simple_query("SELECT 1").await.is_err(), "the session outlived its role");
    world.get(&role).await.refuses(404, "NOT_FOUND", "role id not found");
    let sql = "SELECT tableowner FROM pg_tables WHERE tablename = 'kept'";
    assert_eq!(owner.query_one(sql, &[]).await.unwrap().get::<_, &str>(0), "heir");
    let database = world.get("/projects/shop/branches/production/databases/olds").await.body;
    assert_eq!(database["status"]["role"], "projects/shop/branches/production/roles/the-heir");
    // One that owns nothing needs nobody.
    world.post(&format!("{ROLES}?role_id=free-role"), &role_spec("free")).await.response();
    world.delete(&format!("{ROLES}/free-role")).await.response();
    assert_eq!(ids(&world.get(ROLES).await.body), ["ana-example-org", "the-heir"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_makes_a_role_may_manage_it_in_sql() {
    let world = World::with_shop().await;
    world.post(&format!("{ROLES}?role_id=app-role"), &role_spec("app")).await.response();
    let owner = world.connect("production").await;
    owner.batch_execute("ALTER ROLE app PASSWORD 'of my choice'; GRANT app TO CURRENT_USER").await.unwrap();
    world.connect_as("production", "app", "of my choice", "databricks_postgres").await.unwrap();
    // A new one from the API takes its place, and is told once.
    let path = format!("/api/anabranch/v1{ROLES}/app-role/reset-password");
    let answer = world.post(&path, "{}").await;
    let password = answer.body["password"].as_str().unwrap().to_owned();
    world.connect_as("production", "app", &password, "databricks_postgres").await.unwrap();
    assert!(world.connect_as("production", "app", "of my choice", "databricks_postgres").await.is_err());
    let owners = format!("/api/anabranch/v1{ROLES}/ana-example-org/reset-password");
    world.post(&owners, "{}").await.refuses(400, "BAD_REQUEST", "nobody logs in to role");
    let missing = format!("/api/anabranch/v1{ROLES}/missing/reset-password");
    world.post(&missing, "{}").await.refuses(404, "NOT_FOUND", "role id not found");
    owner.batch_execute("DROP ROLE app").await.unwrap();
    let log = world.get("/api/anabranch/v1/audit").await.body;
    assert!(!log.to_string().contains(&password));
    let told: Vec<(&str, &str)> = log["entries"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| (entry["action"].as_str().unwrap(), entry["result"].as_str().unwrap()))
        .filter(|(action, _)| action.starts_with("role."))
        .collect();
    assert_eq!(
        told,
        [
            ("role.reset-password", "refused"),
            ("role.reset-password", "refused"),
            ("role.reset-password", "done"),
            ("role.create", "done"),
        ]
    );
}
