//! Roles and databases that the API did not make, and listing without waking.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::world::{OWNER, World};

const BRANCH: &str = "/projects/shop/branches/production";

async fn list(world: &World, branch: &str, kind: &str) -> Vec<Value> {
    let answer = world.get(&format!("/projects/shop/branches/{branch}/{kind}")).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.body[kind].as_array().unwrap().clone()
}

/// Identifier by name in PostgreSQL.
fn by_name(items: &[Value]) -> BTreeMap<String, String> {
    let text = |item: &Value, key: &str| item[key].as_str().map(str::to_owned);
    items
        .iter()
        .map(|item| {
            let name =
                text(&item["status"], "postgres_role").or_else(|| text(&item["status"], "postgres_database"));
            (name.unwrap(), text(item, "role_id").or_else(|| text(item, "database_id")).unwrap())
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_sql_made_is_listed_under_identifiers_that_stay() {
    let world = World::with_shop().await;
    let owner = world.connect("production").await;
    owner
        .batch_execute(
            "CREATE ROLE app LOGIN CREATEDB; CREATE ROLE bundle; GRANT databricks_superuser TO app",
        )
        .await
        .unwrap();
    owner.batch_execute("CREATE DATABASE app_db").await.unwrap();
    let roles = list(&world, "production", "roles").await;
    let names = by_name(&roles);
    assert_eq!(names.keys().collect::<Vec<_>>(), [OWNER, "app", "bundle"]);
    let app = roles.iter().find(|role| role["status"]["postgres_role"] == "app").unwrap();
    assert_eq!(app["status"]["auth_method"], "PG_PASSWORD_SCRAM_SHA_256");
    assert_eq!(app["status"]["identity_type"], "IDENTITY_TYPE_UNSPECIFIED");
    assert_eq!(
        app["status"]["attributes"],
        json!({"bypassrls": false, "createdb": true, "createrole": false})
    );
    assert_eq!(app["status"]["membership_roles"], json!(["DATABRICKS_SUPERUSER"]));
    let bundle = roles.iter().find(|role| role["status"]["postgres_role"] == "bundle").unwrap();
    assert_eq!(bundle["status"]["auth_method"], "NO_LOGIN");
    let databases = by_name(&list(&world, "production", "databases").await);
    let id = names["app"].clone();
    assert!(id.len() == 13 && id.starts_with("role-"), "{id}");

    // They stay after a rename, on a child, and when nothing is known but what PostgreSQL says.
    owner
        .batch_execute("ALTER ROLE app RENAME TO service; ALTER DATABASE app_db RENAME TO service_db")
        .await
        .unwrap();
    assert_eq!(by_name(&list(&world, "production", "roles").await)["service"], id);
    assert_eq!(by_name(&list(&world, "production", "databases").await)["service_db"], databases["app_db"]);
    world.branch("dev", r#"{"spec":{"no_expiry":true}}"#).await;
    assert_eq!(by_name(&list(&world, "dev", "roles").await)["service"], id);
    world.connect("dev").await.simple_query("SELECT 1").await.unwrap();
    assert_eq!(by_name(&list(&world, "dev", "roles").await)["service"], id);
    assert_eq!(by_name(&list(&world, "dev", "databases").await)["service_db"], databases["app_db"]);
    // And they are as good as any other.
    let path = format!("{BRANCH}/roles/{id}?update_mask=spec.attributes.createdb");
    let changed = world.patch(&path, "{}").await;
    assert_eq!(changed.response()["status"]["attributes"]["createdb"], false);
    let path = format!("{BRANCH}/databases/{}", databases["app_db"]);
    world.delete(&path).await.response();
    owner.batch_execute("DROP ROLE bundle").await.unwrap();
    assert_eq!(by_name(&list(&world, "production", "roles").await).len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_lets_a_branch_sleep_and_a_change_wakes_it() {
    let world = World::with_shop().await;
    // Nobody has listed this one before its child is made.
    world.connect("production").await.batch_execute("CREATE ROLE seen_by_nobody").await.unwrap();
    world.branch("dev", r#"{"spec":{"no_expiry":true}}"#).await;
    for kind in ["roles", "databases"] {
        let (parents, childs) = (list(&world, "production", kind).await, list(&world, "dev", kind).await);
        assert_eq!(by_name(&parents), by_name(&childs));
    }
    world.get("/projects/shop/branches/dev/roles/ana-example-org").await;
    world.get("/projects/shop/branches/dev/databases/databricks-postgres").await;
    assert!(!world.is_awake("dev").await, "listing woke the branch");
    let body = r#"{"spec":{"postgres_role":"app"}}"#;
    world.post("/projects/shop/branches/dev/roles?role_id=app-role", body).await.response();
    assert!(world.is_awake("dev").await);

    // What was done last is known after the computes have ended, too.
    world.connect("dev").await.batch_execute("CREATE ROLE last_minute").await.unwrap();
    let world = world.restart_asleep().await;
    let names = by_name(&list(&world, "dev", "roles").await);
    assert!(names.contains_key("last_minute") && names.contains_key("app"), "{names:?}");
    assert!(!world.is_awake("dev").await);
    let path = "/projects/shop/branches/dev/roles/app-role";
    world.delete(path).await.response();
    assert!(world.is_awake("dev").await);
}

/// Small, seeded, replayable.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

/// One random change, by the API or by SQL. Some are refused, since they make no sense; both sides
/// must then agree that nothing happened.
async fn change(world: &World, owner: &tokio_postgres::Client, random: &mut Random) -> String {
    let (name, other) = (random.below(4), random.below(4));
    let id = format!("role-{name}-by-api");
    let sql = match random.below(12) {
        0 => format!("CREATE ROLE r{name} LOGIN"),
        1 => format!("ALTER ROLE r{name} RENAME TO r{other}"),
        2 => format!("ALTER ROLE r{name} NOLOGIN CREATEDB"),
        3 => format!("GRANT databricks_superuser TO r{name}"),
        4 => format!("REVOKE databricks_superuser FROM r{name}"),
        5 => format!("DROP ROLE r{name}"),
        6 => format!("CREATE DATABASE d{name}"),
        7 => format!("DROP DATABASE d{name}"),
        8 => format!("ALTER DATABASE d{name} RENAME TO d{other}"),
        9 => {
            let body = json!({"spec": {"postgres_role": format!("r{other}"), "identity_type": "USER"}});
            let path = format!("{BRANCH}/roles?role_id={id}&replace_existing=true");
            return format!("make {id} r{other}: {}", world.post(&path, &body.to_string()).await.status);
        }
        10 => return format!("delete {id}: {}", world.delete(&format!("{BRANCH}/roles/{id}")).await.status),
        _ => {
            let path = format!("{BRANCH}/roles/{id}?update_mask=spec.attributes.bypassrls");
            let body = r#"{"spec":{"attributes":{"bypassrls":true}}}"#;
            return format!("change {id}: {}", world.patch(&path, body).await.status);
        }
    };
    let outcome = owner.batch_execute(&sql).await;
    format!("{sql}: {}", outcome.map_or_else(|error| error.to_string(), |()| "done".to_owned()))
}

/// What PostgreSQL itself says, asked in another way than the daemon does.
async fn truth(owner: &tokio_postgres::Client) -> (Vec<String>, Vec<String>) {
    let roles = "SELECT concat_ws(' ', rolname, rolcanlogin, rolbypassrls, rolcreatedb, rolcreaterole, \
                 (SELECT true FROM pg_auth_members WHERE member = r.oid \
                  AND roleid = 'databricks_superuser'::regrole LIMIT 1)) \
                 FROM pg_roles r WHERE rolname !~ '^pg_' AND rolname NOT IN ('anabranch', 'databricks_superuser') \
                 ORDER BY rolname COLLATE \"C\"";
    let databases = "SELECT concat_ws(' ', datname, pg_get_userbyid(datdba)) FROM pg_database \
                     WHERE datname NOT IN ('template0', 'template1', 'postgres') ORDER BY datname COLLATE \"C\"";
    let texts = |rows: Vec<tokio_postgres::Row>| rows.iter().map(|row| row.get(0)).collect();
    (texts(owner.query(roles, &[]).await.unwrap()), texts(owner.query(databases, &[]).await.unwrap()))
}

/// The same of what the API lists.
fn told(roles: &[Value], databases: &[Value]) -> (Vec<String>, Vec<String>) {
    let flag = |value: bool| if value { "t" } else { "f" };
    let mut first: Vec<String> = roles
        .iter()
        .map(|role| {
            let status = &role["status"];
            let attribute = |name: &str| flag(status["attributes"][name].as_bool().unwrap());
            let member = if status["membership_roles"].is_array() { " t" } else { "" };
            format!(
                "{} {} {} {} {}{member}",
                status["postgres_role"].as_str().unwrap(),
                flag(status["auth_method"] != "NO_LOGIN"),
                attribute("bypassrls"),
                attribute("createdb"),
                attribute("createrole")
            )
        })
        .collect();
    let owner = |name: &Value| {
        let owner = roles.iter().find(|role| role["name"] == *name).unwrap();
        owner["status"]["postgres_role"].as_str().unwrap().to_owned()
    };
    let mut second: Vec<String> = databases
        .iter()
        .map(|database| {
            let status = &database["status"];
            format!("{} {}", status["postgres_database"].as_str().unwrap(), owner(&status["role"]))
        })
        .collect();
    first.sort();
    second.sort();
    (first, second)
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_of_a_branch_awake_and_asleep_are_what_postgres_says() {
    let seed = std::env::var("ANA_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(|| {
        u64::from(std::process::id()) ^ std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64 | 1
    });
    println!("ANA_SEED={seed}");
    let mut random = Random(seed);
    let mut world = World::with_shop().await;
    for _ in 0..3 {
        let owner = world.connect("production").await;
        let mut done = Vec::new();
        for _ in 0..25 {
            done.push(change(&world, &owner, &mut random).await);
            if random.below(3) == 0 {
                let (roles, databases) = (
                    list(&world, "production", "roles").await,
                    list(&world, "production", "databases").await,
                );
                assert_eq!(told(&roles, &databases), truth(&owner).await, "{done:#?}");
            }
        }
        let truth = truth(&owner).await;
        drop(owner);
        let awake =
            (list(&world, "production", "roles").await, list(&world, "production", "databases").await);
        world = world.restart_asleep().await;
        let asleep =
            (list(&world, "production", "roles").await, list(&world, "production", "databases").await);
        assert_eq!(awake, asleep, "{done:#?}");
        assert_eq!(told(&asleep.0, &asleep.1), truth, "{done:#?}");
        assert!(!world.is_awake("production").await);
    }
}

/// Names that would do something else if they were taken for a part of a statement.
const HOSTILE: [&str; 9] = [
    "x\"; DROP ROLE victim; --",
    "x'; DROP ROLE victim; --",
    "x\\'; DROP ROLE victim; --",
    "x\\\"; DROP ROLE victim; --",
    "$$; DROP ROLE victim; $$",
    "a b/c%2F?d=e&f#g",
    "x LOGIN SUPERUSER",
    "größe 日本",
    "\"\"",
];

#[tokio::test(flavor = "multi_thread")]
async fn names_are_names_whatever_stands_in_them() {
    let world = World::with_shop().await;
    let owner = world.connect("production").await;
    owner.batch_execute("CREATE ROLE victim; CREATE ROLE heir").await.unwrap();
    let heir = by_name(&list(&world, "production", "roles").await)["heir"].clone();
    let owner_role = format!("{}/roles/ana-example-org", &BRANCH[1..]);
    for (number, name) in HOSTILE.iter().enumerate() {
        let body = json!({"spec": {"postgres_role": name, "identity_type": "USER", "membership_roles": ["DATABRICKS_SUPERUSER"]}});
        let path = format!("{BRANCH}/roles?role_id=role-{number}");
        let made = world.post(&path, &body.to_string()).await;
        assert_eq!(made.response()["status"]["postgres_role"], *name);
        let body = json!({"spec": {"postgres_database": name, "role": format!("{}/roles/role-{number}", &BRANCH[1..])}});
        let made =
            world.post(&format!("{BRANCH}/databases?database_id=db-{number}"), &body.to_string()).await;
        assert_eq!(made.response()["status"]["postgres_database"], *name);
        let row = owner
            .query_one("SELECT rolsuper, rolcreaterole FROM pg_roles WHERE rolname = $1", &[name])
            .await
            .unwrap();
        assert_eq!((row.get(0), row.get(1)), (false, false), "{name}");
        world.connect_for_identity("production", name).await.unwrap();
        let path = format!("{BRANCH}/roles/role-{number}?update_mask=spec.membership_roles");
        world.patch(&path, "{}").await.response();
        let path = format!("{BRANCH}/databases/db-{number}?update_mask=spec.postgres_database,spec.role");
        let body = json!({"spec": {"postgres_database": format!("{name}!"), "role": owner_role}});
        world.patch(&path, &body.to_string()).await.response();
        world.delete(&format!("{BRANCH}/databases/db-{number}")).await.response();
        let path = format!("{BRANCH}/roles/role-{number}?reassign_owned_to={}/roles/{heir}", &BRANCH[1..]);
        world.delete(&path).await.response();
    }
    let left = by_name(&list(&world, "production", "roles").await);
    assert_eq!(left.keys().collect::<Vec<_>>(), [OWNER, "heir", "victim"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_the_daemon_did_not_survive_is_aborted() {
    use control::model::{Kind, Operation, Outcome, Principal, Verb};
    let world = World::with_shop().await;
    let resource = format!("{}/roles/ana-example-org", &BRANCH[1..]);
    // As a daemon leaves it that ends in the middle of a delete.
    let db = control::db::Db::open(&world.dir.join("home/meta.db")).unwrap();
    let operation = Operation {
        uid: "unfinished".into(),
        resource: resource.clone(),
        kind: Kind::Role,
        target: format!("{}/ana-example-org", world.uid("production").await),
        verb: Verb::Delete,
        principal: Principal::daemon(),
        outcome: Outcome::Running,
        create_time: world.control.now(),
    };
    db.write(|tx| control::db::operations::insert(tx, &operation)).unwrap();
    drop(db);
    // While a daemon lives it is that daemon's to finish.
    world.control.round().await.unwrap();
    let path = format!("/{resource}/operations/unfinished");
    assert_eq!(world.get(&path).await.body["done"], false);
    let world = world.restart().await;
    let ended = world.get(&path).await.body;
    assert_eq!((&ended["done"], &ended["error"]["error_code"]), (&json!(true), &json!("ABORTED")), "{ended}");
    world.get(&format!("/{resource}")).await.body["status"]["role_id"].as_str().unwrap();
}
