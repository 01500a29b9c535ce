//! Whose roles are whose: what the proxy asks, and what nobody can talk PostgreSQL into.

use control::app::RoleLogin;
use control::model::IdentityType;
use serde_json::json;
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use crate::world::{OWNER, World};

const ROLES: &str = "/projects/shop/branches/production/roles";
const DATABASE: &str = "databricks_postgres";

fn user(name: &str) -> RoleLogin {
    RoleLogin::Identity { name: name.to_owned(), kind: IdentityType::User }
}

async fn make(world: &World, spec: serde_json::Value) {
    world.post(ROLES, &json!({"spec": spec}).to_string()).await.response();
}

async fn login(world: &World, branch: &str, role: &str) -> RoleLogin {
    world.control.role_login(&world.uid(branch).await, role).await.unwrap()
}

fn code(outcome: Result<(), tokio_postgres::Error>) -> String {
    match outcome {
        Ok(()) => "done".to_owned(),
        Err(error) => error.code().map_or_else(|| error.to_string(), |code| code.code().to_owned()),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_proxy_learns_how_somebody_logs_in() {
    let world = World::with_shop().await;
    make(&world, json!({"postgres_role": "bob@example.org", "identity_type": "USER"})).await;
    make(&world, json!({"postgres_role": "crew", "identity_type": "GROUP"})).await;
    make(&world, json!({"postgres_role": "app"})).await;
    make(&world, json!({"postgres_role": "bundle", "auth_method": "NO_LOGIN"})).await;
    assert_eq!(login(&world, "production", OWNER).await, user(OWNER));
    assert_eq!(login(&world, "production", "bob@example.org").await, user("bob@example.org"));
    let crew = RoleLogin::Identity { name: "crew".to_owned(), kind: IdentityType::Group };
    assert_eq!(login(&world, "production", "crew").await, crew);
    assert_eq!(login(&world, "production", "app").await, RoleLogin::Password);
    assert_eq!(login(&world, "production", "bundle").await, RoleLogin::NoLogin);
    for system in ["anabranch", "databricks_superuser", "pg_monitor", "nobody", "", "public"] {
        assert_eq!(login(&world, "production", system).await, RoleLogin::Unknown, "{system}");
    }
    // Bad news is looked up anew, so what SQL made a moment ago is known.
    let owner = world.connect("production").await;
    owner
        .batch_execute("CREATE ROLE fresh LOGIN; GRANT bundle TO CURRENT_USER; ALTER ROLE bundle LOGIN")
        .await
        .unwrap();
    assert_eq!(login(&world, "production", "fresh").await, RoleLogin::Password);
    assert_eq!(login(&world, "production", "bundle").await, RoleLogin::Password);
    // Good news ages.
    owner.batch_execute("DROP ROLE fresh").await.unwrap();
    world.clock.pass(std::time::Duration::from_secs(61));
    assert_eq!(login(&world, "production", "fresh").await, RoleLogin::Unknown);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_daemon_logs_in_for_identities_with_secrets_of_each_branch() {
    let world = World::with_shop().await;
    make(&world, json!({"postgres_role": "bob@example.org", "identity_type": "USER"})).await;
    make(&world, json!({"postgres_role": "app"})).await;
    for role in [OWNER, "bob@example.org"] {
        let session = world.connect_for_identity("production", role).await.unwrap();
        let row = session.query_one("SELECT current_user::text, session_user::text", &[]).await.unwrap();
        assert_eq!((row.get::<_, String>(0), row.get::<_, String>(1)), (role.to_owned(), role.to_owned()));
    }
    assert!(
        world.connect_for_identity("production", "app").await.is_err(),
        "a plain role has its own password"
    );
    world.branch("dev", r#"{"spec":{"no_expiry":true}}"#).await;
    world
        .branch("below", r#"{"spec":{"no_expiry":true,"source_branch":"projects/shop/branches/dev"}}"#)
        .await;
    let parents = world.control.backend_password(&world.uid("production").await, "bob@example.org").unwrap();
    for branch in ["below", "dev"] {
        world.connect_for_identity(branch, "bob@example.org").await.unwrap();
        world.connect_for_identity(branch, OWNER).await.unwrap();
        let error =
            world.connect_as(branch, "bob@example.org", parents.expose(), DATABASE).await.err().unwrap();
        assert_eq!(error.code(), Some(&SqlState::INVALID_PASSWORD), "the parent's secret opens {branch}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_password_of_an_identity_is_repaired() {
    let world = World::with_shop().await;
    make(&world, json!({"postgres_role": "bob@example.org", "identity_type": "USER"})).await;
    make(&world, json!({"postgres_role": "app"})).await;
    let bob = world.connect_for_identity("production", "bob@example.org").await.unwrap();
    bob.batch_execute("ALTER ROLE CURRENT_USER PASSWORD 'mine'").await.unwrap();
    let error = world.connect_for_identity("production", "bob@example.org").await.err().unwrap();
    assert_eq!(error.code(), Some(&SqlState::INVALID_PASSWORD));
    let uid = world.uid("production").await;
    world.control.repair_role_password(&uid, "bob@example.org").await.unwrap();
    world.connect_for_identity("production", "bob@example.org").await.unwrap();
    // What belongs to nobody is left alone.
    for role in ["app", "nobody", "anabranch", "databricks_superuser"] {
        let error = world.control.repair_role_password(&uid, role).await.unwrap_err().to_string();
        assert!(error.contains("does not belong to an identity"), "{error}");
    }
    // A role of the same name that SQL made instead is not the identity's, whatever is remembered.
    assert_eq!(login(&world, "production", "bob@example.org").await, user("bob@example.org"));
    let owner = world.connect("production").await;
    owner
        .batch_execute("DROP ROLE \"bob@example.org\"; CREATE ROLE \"bob@example.org\" LOGIN PASSWORD 'x'")
        .await
        .unwrap();
    assert!(world.control.repair_role_password(&uid, "bob@example.org").await.is_err());
    world.connect_as("production", "bob@example.org", "x", DATABASE).await.unwrap();
    assert_eq!(login(&world, "production", "bob@example.org").await, RoleLogin::Password);
}

/// Everything short of a real superuser: the owner of the project tries to take a role over, and to
/// make roles somebody's.
#[tokio::test(flavor = "multi_thread")]
async fn nobody_becomes_somebody_else() {
    let world = World::with_shop().await;
    make(&world, json!({"postgres_role": "bob@example.org", "identity_type": "USER", "membership_roles": ["DATABRICKS_SUPERUSER"]})).await;
    make(&world, json!({"postgres_role": "mallory", "identity_type": "USER", "attributes": {"createrole": true}, "membership_roles": ["DATABRICKS_SUPERUSER"]})).await;
    let owner = world.connect("production").await;
    let mallory = world.connect_for_identity("production", "mallory").await.unwrap();
    owner.batch_execute("GRANT CREATE ON DATABASE databricks_postgres TO mallory").await.unwrap();
    for (who, session) in [("the owner", &owner), ("mallory", &mallory)] {
        for sql in [
            "ALTER ROLE CURRENT_USER SET anabranch.identity_name = 'bob@example.org'",
            "ALTER ROLE CURRENT_USER SET \"AnaBranch.Identity_Name\" = 'bob@example.org'",
            "ALTER ROLE CURRENT_USER SET anabranch.identity_type = 'GROUP'",
            "ALTER ROLE CURRENT_USER SET anabranch.role_id = 'role-00000000'",
            "ALTER ROLE CURRENT_USER RESET anabranch.identity_type",
            "ALTER ROLE \"bob@example.org\" RESET anabranch.identity_name",
            "ALTER DATABASE databricks_postgres SET anabranch.database_id = 'x'",
            "ALTER DATABASE databricks_postgres RESET anabranch.database_id",
            "ALTER ROLE CURRENT_USER IN DATABASE databricks_postgres SET anabranch.identity_name = 'x'",
            "SET anabranch.identity_name = 'x'; ALTER ROLE CURRENT_USER SET anabranch.identity_name FROM CURRENT",
            "GRANT SET ON PARAMETER anabranch.identity_name TO mallory",
            "ALTER SYSTEM SET anabranch.identity_name = 'x'",
            "UPDATE pg_db_role_setting SET setconfig = NULL",
            "UPDATE pg_authid SET rolsuper = true WHERE rolname = 'mallory'",
            "ALTER ROLE CURRENT_USER SUPERUSER",
            "SET SESSION AUTHORIZATION \"bob@example.org\"",
            "SET ROLE anabranch",
            "GRANT anabranch TO CURRENT_USER",
        ] {
            let outcome = code(session.batch_execute(sql).await);
            assert!(["42501", "42602"].contains(&outcome.as_str()), "{who}: {sql}: {outcome}");
        }
        // Allowed, and without effect: such settings stay.
        session.batch_execute("ALTER ROLE CURRENT_USER RESET ALL").await.unwrap();
        session.batch_execute("SET anabranch.identity_name = 'bob@example.org'").await.unwrap();
    }
    for sql in [
        "SET ROLE \"bob@example.org\"",
        "GRANT \"bob@example.org\" TO mallory",
        "ALTER ROLE \"bob@example.org\" PASSWORD 'x'",
        "ALTER ROLE \"bob@example.org\" RENAME TO other",
        "DROP ROLE \"bob@example.org\"",
    ] {
        assert_eq!(code(mallory.batch_execute(sql).await), "42501", "{sql}");
    }
    assert_eq!(login(&world, "production", "mallory").await, user("mallory"));
    assert_eq!(login(&world, "production", "bob@example.org").await, user("bob@example.org"));
    assert_eq!(login(&world, "production", OWNER).await, user(OWNER));

    // A name that comes free is no way in: the role stays its principal's.
    owner.batch_execute("ALTER ROLE \"bob@example.org\" RENAME TO \"carol@example.org\"").await.unwrap();
    world.clock.pass(std::time::Duration::from_secs(61));
    assert_eq!(login(&world, "production", "carol@example.org").await, user("bob@example.org"));
    assert_eq!(login(&world, "production", "bob@example.org").await, RoleLogin::Unknown);
    let uid = world.uid("production").await;
    world.control.repair_role_password(&uid, "carol@example.org").await.unwrap();
    world.connect_for_identity("production", "carol@example.org").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn identities_survive_what_happens_to_branches() {
    let world = World::with_shop().await;
    make(&world, json!({"postgres_role": "bob@example.org", "identity_type": "USER"})).await;
    world
        .connect("production")
        .await
        .batch_execute("ALTER ROLE \"bob@example.org\" RENAME TO robert")
        .await
        .unwrap();
    world.branch("dev", r#"{"spec":{"no_expiry":true}}"#).await;
    let world = world.restart_asleep().await;
    world.connect("dev").await.simple_query("SELECT 1").await.unwrap();
    for branch in ["dev", "production"] {
        world.connect(branch).await.simple_query("SELECT 1").await.unwrap();
        assert_eq!(login(&world, branch, "robert").await, user("bob@example.org"), "{branch}");
        let roles = world.get(&format!("/projects/shop/branches/{branch}/roles")).await.body;
        let bob = &roles["roles"][1];
        assert_eq!(bob["role_id"], "bob-example-org");
        assert_eq!(
            (&bob["status"]["identity_type"], &bob["status"]["postgres_role"]),
            (&json!("USER"), &json!("robert"))
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sql_makes_roles_for_identities() {
    let world = World::with_shop().await;
    let owner = world.connect("production").await;
    let available = "SELECT default_version FROM pg_available_extensions WHERE name = 'databricks_auth'";
    assert_eq!(owner.query_one(available, &[]).await.unwrap().get::<_, &str>(0), "1.0");
    owner.batch_execute("CREATE EXTENSION IF NOT EXISTS databricks_auth").await.unwrap();
    owner.batch_execute("SELECT databricks_create_role('bob@example.org', 'USER')").await.unwrap();
    let robot = "7d5b1a6e-1111-4222-8333-000000000000";
    owner.execute("SELECT databricks_create_role($1, 'service_principal')", &[&robot]).await.unwrap();
    owner.batch_execute("SELECT databricks_create_role('Data Team', 'GROUP')").await.unwrap();
    assert_eq!(login(&world, "production", "bob@example.org").await, user("bob@example.org"));
    let kind = IdentityType::ServicePrincipal;
    assert_eq!(
        login(&world, "production", robot).await,
        RoleLogin::Identity { name: robot.to_owned(), kind }
    );
    for role in ["bob@example.org", robot, "Data Team"] {
        world.connect_for_identity("production", role).await.unwrap();
    }
    // What the vendor's guides do next.
    owner
        .batch_execute(
            "GRANT CONNECT ON DATABASE databricks_postgres TO \"bob@example.org\"; \
             GRANT CREATE, USAGE ON SCHEMA public TO \"bob@example.org\"; \
             GRANT databricks_superuser TO \"bob@example.org\"",
        )
        .await
        .unwrap();
    // A member of the group who owns nothing, in a database of its own and in this one.
    let bob = world.connect_for_identity("production", "bob@example.org").await.unwrap();
    bob.batch_execute("SELECT databricks_create_role('carol@example.org', 'USER')").await.unwrap();
    bob.batch_execute("DROP EXTENSION databricks_auth").await.unwrap_err();
    let roles = world.get(ROLES).await.body;
    let carol = roles["roles"]
        .as_array()
        .unwrap()
        .iter()
        .find(|role| role["status"]["postgres_role"] == "carol@example.org");
    assert_eq!(carol.unwrap()["status"]["auth_method"], "LAKEBASE_OAUTH_V1");
    assert_eq!(carol.unwrap()["status"].get("membership_roles"), None);
    // It goes with the data.
    world.branch("dev", r#"{"spec":{"no_expiry":true}}"#).await;
    let dev = world.connect("dev").await;
    dev.batch_execute("SELECT databricks_create_role('dave@example.org', 'USER')").await.unwrap();
    assert_eq!(login(&world, "dev", "dave@example.org").await, user("dave@example.org"));
    assert_eq!(login(&world, "production", "dave@example.org").await, RoleLogin::Unknown);

    for (call, expected) in [
        ("'bob@example.org', 'USER'", "42710"),
        ("'databricks_superuser', 'USER'", "42710"),
        ("'anabranch', 'USER'", "42710"),
        ("'pg_mine', 'USER'", "42939"),
        ("'x', 'ROBOT'", "22023"),
        ("'', 'USER'", "42602"),
        ("repeat('a', 64), 'USER'", "42602"),
        ("E'a\\nb', 'USER'", "42602"),
    ] {
        let outcome = code(owner.batch_execute(&format!("SELECT databricks_create_role({call})")).await);
        assert_eq!(outcome, expected, "{call}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn making_roles_for_identities_is_not_for_everybody() {
    let world = World::with_shop().await;
    make(&world, json!({"postgres_role": "mallory", "identity_type": "USER"})).await;
    make(
        &world,
        json!({"postgres_role": "maker", "identity_type": "USER", "attributes": {"createrole": true}}),
    )
    .await;
    make(&world, json!({"postgres_role": "member", "identity_type": "USER", "membership_roles": ["DATABRICKS_SUPERUSER"]})).await;
    let owner = world.connect("production").await;
    let as_role = async |role: &str| world.connect_for_identity("production", role).await.unwrap();
    let (mallory, maker, member) =
        (as_role("mallory").await, as_role("maker").await, as_role("member").await);
    let create = "CREATE EXTENSION databricks_auth";
    assert_eq!(code(mallory.batch_execute(create).await), "42501");
    member.batch_execute(create).await.unwrap();
    let call = async |session: &Client, name: &str| {
        code(session.batch_execute(&format!("SELECT databricks_create_role('{name}', 'USER')")).await)
    };
    assert_eq!(call(&mallory, "m1").await, "42501");
    assert_eq!(call(&member, "b1").await, "done");
    assert_eq!(call(&maker, "c1").await, "done");
    // Whoever acts as somebody lesser has no more rights than that one.
    owner.batch_execute("CREATE ROLE lesser; GRANT lesser TO CURRENT_USER; SET ROLE lesser").await.unwrap();
    assert_eq!(call(&owner, "o1").await, "42501");
    owner.batch_execute("RESET ROLE").await.unwrap();
    // The maker may manage what it made, as after CREATE ROLE; a mere member may not.
    maker.batch_execute("COMMENT ON ROLE c1 IS 'mine'; DROP ROLE c1").await.unwrap();
    assert_eq!(code(member.batch_execute("DROP ROLE b1").await), "42501");
    assert_eq!(code(member.batch_execute("GRANT b1 TO member").await), "42501");
    // The function's owner cannot be talked into running something else.
    for sql in [
        "CREATE OR REPLACE FUNCTION databricks_create_role(identity_name text, identity_type text) RETURNS void \
         LANGUAGE sql AS 'ALTER ROLE mallory SUPERUSER'",
        "ALTER FUNCTION databricks_create_role(text, text) SET search_path = mine",
        "ALTER FUNCTION databricks_create_role(text, text) OWNER TO member",
    ] {
        assert_eq!(code(member.batch_execute(sql).await), "42501", "{sql}");
    }
    owner
        .batch_execute(
            "CREATE SCHEMA mine; \
             CREATE FUNCTION mine.upper(text) RETURNS text LANGUAGE plpgsql AS \
                 'BEGIN ALTER ROLE mallory SUPERUSER; RETURN $1; END'; \
             CREATE FUNCTION mine.format(text, VARIADIC text[]) RETURNS text LANGUAGE plpgsql AS \
                 'BEGIN ALTER ROLE mallory SUPERUSER; RETURN $1; END'; \
             SET search_path = mine, pg_temp, public, pg_catalog; \
             SELECT public.databricks_create_role('o2', 'USER')",
        )
        .await
        .unwrap();
    let name = "x\"; ALTER ROLE mallory SUPERUSER; --";
    owner.execute("SELECT public.databricks_create_role($1, 'USER')", &[&name]).await.unwrap();
    let superusers = "SELECT count(*) FROM pg_catalog.pg_roles WHERE rolsuper";
    assert_eq!(owner.query_one(superusers, &[]).await.unwrap().get::<_, i64>(0), 1);
    assert_eq!(login(&world, "production", name).await, user(name));
}

#[tokio::test(flavor = "multi_thread")]
async fn passwords_of_a_protected_branch_do_not_open_its_children() {
    let world = World::with_shop().await;
    let owner = world.connect("production").await;
    owner.batch_execute("CREATE ROLE app LOGIN PASSWORD 'known'; CREATE ROLE bare LOGIN").await.unwrap();
    world.branch("before", r#"{"spec":{"no_expiry":true}}"#).await;
    world.connect_as("before", "app", "known", DATABASE).await.unwrap();
    let protect = r#"{"spec":{"is_protected":true}}"#;
    world.patch("/projects/shop/branches/production?update_mask=spec.is_protected", protect).await.response();
    world.branch("after", r#"{"spec":{"no_expiry":true}}"#).await;
    // Made before its parent was ever awake: what is in it are the protected one's passwords.
    world
        .branch("below", r#"{"spec":{"no_expiry":true,"source_branch":"projects/shop/branches/after"}}"#)
        .await;
    world.connect_as("production", "app", "known", DATABASE).await.unwrap();
    for branch in ["below", "after"] {
        let error = world.connect_as(branch, "app", "known", DATABASE).await.err().unwrap();
        assert_eq!(error.code(), Some(&SqlState::INVALID_PASSWORD), "{branch}");
        let session = world.connect(branch).await;
        // Once, at the first start: passwords given since are kept.
        session.batch_execute("ALTER ROLE app PASSWORD 'new'").await.unwrap();
        world.connect_as(branch, "app", "new", DATABASE).await.unwrap();
    }
    let spec = r#"{"spec":{"no_expiry":true,"source_branch":"projects/shop/branches/after"}}"#;
    world.branch("grandchild", spec).await;
    world.connect_as("grandchild", "app", "new", DATABASE).await.unwrap();
    let world = world.restart_asleep().await;
    world.connect_as("after", "app", "new", DATABASE).await.unwrap();
}
