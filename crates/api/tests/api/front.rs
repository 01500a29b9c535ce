//! The front door: who gets in, what the API tells of it, and the way around it.

use serde_json::{Value, json};
use tokio_postgres::{Client, Error, NoTls};

use crate::web::Web;
use crate::world::{OWNER, World};

const OWN_BRANCH: &str = "/api/anabranch/v1/projects/shop/branches/production";
const EVE: &str = "eve@example.org";

async fn log_in(world: &World, role: &str, password: &str) -> Result<Client, Error> {
    let mut config = world.config("production").await;
    config.user(role).password(password);
    let (client, connection) = config.connect(world.tls()).await?;
    tokio::spawn(connection);
    Ok(client)
}

async fn refused(world: &World, role: &str, password: &str) {
    let error = log_in(world, role, password).await.err().unwrap_or_else(|| panic!("{role} was let in"));
    let db = error.as_db_error().unwrap_or_else(|| panic!("{role}: {error:?}"));
    assert_eq!(db.code().code(), "28P01", "{role}: {db:?}");
    assert_eq!(db.message(), format!("password authentication failed for user \"{role}\""));
}

async fn allow(world: &World, principal: &str) {
    let right = format!("/api/anabranch/v1/projects/shop/permissions/{principal}");
    let granted = world.call("PUT", &right, r#"{"permission_level":"CAN_USE"}"#, "").await;
    assert_eq!(granted.status, 200, "{granted:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_passwords_and_bring_their_holder_a_role() {
    let world = World::with_shop().await;
    let web = Web::open(&world).await;
    let owner = world.connect("production").await;
    owner.batch_execute("CREATE TABLE mine AS SELECT 1 AS a").await.unwrap();

    // Without a right on the project a good token is worth as much as a bad one.
    let eve = world.user(EVE).await;
    refused(&world, EVE, &eve).await;
    allow(&world, EVE).await;
    let roles = || async { world.get("/projects/shop/branches/production/roles").await.body.to_string() };
    assert!(!roles().await.contains(EVE));
    let session = log_in(&world, EVE, &eve).await.unwrap();
    let powers = "SELECT session_user::text, rolcreatedb OR rolcreaterole OR rolbypassrls OR rolreplication, \
                  pg_has_role('databricks_superuser', 'MEMBER') FROM pg_roles WHERE rolname = session_user";
    let row = session.query_one(powers, &[]).await.unwrap();
    assert_eq!((row.get::<_, &str>(0), row.get(1), row.get(2)), (EVE, false, false));
    let denied = session.simple_query("SELECT * FROM mine").await.unwrap_err();
    assert_eq!(denied.code().unwrap().code(), "42501");
    let role = world.get("/projects/shop/branches/production/roles/eve-example-org").await;
    assert_eq!(role.body["status"]["identity_type"], "USER", "{role:?}");
    assert_eq!(role.body["status"].get("membership_roles"), None, "{role:?}");
    log_in(&world, EVE, &eve).await.unwrap();

    // A token for the endpoint is as good; nobody logs in as somebody else with either.
    let body = json!({"endpoint": "projects/shop/branches/production/endpoints/primary"}).to_string();
    let issued = web.post(&eve, "/api/2.0/postgres/credentials", &body).await;
    let issued = issued.body["token"].as_str().unwrap().to_owned();
    log_in(&world, EVE, &issued).await.unwrap();
    for role in [OWNER, "anabranch", "databricks_superuser", "nobody@example.org"] {
        refused(&world, role, &eve).await;
        refused(&world, role, &issued).await;
    }
    refused(&world, EVE, "wrong").await;
    let backend = world.control.backend_password(&world.uid("production").await, OWNER).unwrap();
    refused(&world, OWNER, backend.expose()).await;

    // A role that SQL made is nobody's, whatever it is called.
    let max = world.user("max@example.org").await;
    allow(&world, "max@example.org").await;
    owner.batch_execute("CREATE ROLE \"max@example.org\" LOGIN PASSWORD 'known'").await.unwrap();
    refused(&world, "max@example.org", &max).await;

    // Rights count at the login; who is in stays in.
    let right = format!("/api/anabranch/v1/projects/shop/permissions/{EVE}");
    assert_eq!(world.delete(&right).await.status, 200);
    refused(&world, EVE, &eve).await;
    refused(&world, EVE, &issued).await;
    session.simple_query("SELECT 1").await.unwrap();

    let log = world.get("/api/anabranch/v1/audit").await.body;
    let made: Vec<&Value> = log["entries"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|entry| entry["action"] == "role.create" && entry["detail"] == "first login")
        .collect();
    assert_eq!(made.len(), 1, "{made:?}");
    assert_eq!(made[0]["principal"], EVE);
    assert_eq!(made[0]["target"], "projects/shop/branches/production/roles/eve-example-org");
    assert!(!log.to_string().contains(&issued) && !log.to_string().contains(&eve));
}

#[tokio::test(flavor = "multi_thread")]
async fn many_first_logins_at_once_make_one_role() {
    let world = World::with_shop().await;
    let eve = world.user(EVE).await;
    allow(&world, EVE).await;
    let mut config = world.config("production").await;
    config.user(EVE).password(&eve);
    let logins = (0..10).map(|_| {
        let (config, tls) = (config.clone(), world.tls());
        tokio::spawn(async move { config.connect(tls).await.map(drop) })
    });
    for login in logins.collect::<Vec<_>>() {
        login.await.unwrap().unwrap();
    }
    let log = world.get("/api/anabranch/v1/audit").await.body.to_string();
    assert_eq!(log.matches("first login").count(), 1, "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn members_log_in_as_their_group() {
    let world = World::with_shop().await;
    let web = Web::open(&world).await;
    let eve = world.user(EVE).await;
    allow(&world, EVE).await;
    world.principal("analysts", "group").await;
    let member = format!("/api/anabranch/v1/groups/analysts/members/{EVE}");
    assert_eq!(world.call("PUT", &member, "", "").await.status, 200);
    let endpoint = "projects/shop/branches/production/endpoints/primary";
    let body = json!({"endpoint": endpoint, "group_name": "analysts"}).to_string();
    let issued = web.post(&eve, "/api/2.0/postgres/credentials", &body).await;
    let token = issued.body["token"].as_str().unwrap();
    log_in(&world, "analysts", token).await.unwrap();
    refused(&world, EVE, token).await;
    let role = world.get("/projects/shop/branches/production/roles/analysts").await;
    assert_eq!(role.body["status"]["identity_type"], "GROUP", "{role:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn passwords_of_postgres_count_where_the_project_says_so() {
    let world = World::with_shop().await;
    let owner = world.connect("production").await;
    owner
        .batch_execute("CREATE ROLE app LOGIN PASSWORD 'known'; CREATE ROLE idle PASSWORD 'known'")
        .await
        .unwrap();
    refused(&world, "app", "known").await;
    let switch = "/projects/shop?update_mask=spec.enable_pg_native_login";
    world.patch(switch, r#"{"spec":{"enable_pg_native_login":true}}"#).await.response();
    let session = log_in(&world, "app", "known").await.unwrap();
    assert_eq!(session.query_one("SELECT session_user::text", &[]).await.unwrap().get::<_, &str>(0), "app");
    for (role, password) in [("app", "wrong"), ("idle", "known"), ("nobody", "known"), ("anabranch", "known")]
    {
        refused(&world, role, password).await;
    }
    // Roles of principals go on to want tokens.
    world.connect("production").await;
    owner.batch_execute("ALTER ROLE CURRENT_USER PASSWORD 'mine'").await.unwrap();
    refused(&world, OWNER, "mine").await;
    world.connect("production").await;
    world.patch(switch, r#"{"spec":{"enable_pg_native_login":false}}"#).await.response();
    refused(&world, "app", "known").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_owner_in_person_becomes_superuser_and_it_is_recorded() {
    let world = World::with_shop().await;
    let web = Web::open(&world).await;
    let superuser = format!("{OWN_BRANCH}/superuser");
    let agent = world.call("POST", &superuser, "", "x-anabranch-agent: helper\r\n").await;
    assert_eq!((agent.status, agent.body["error_code"].as_str()), (403, Some("PERMISSION_DENIED")));
    let owner = world.token(json!({})).await;
    let remote = web.post(&owner, &superuser, "").await;
    assert_eq!(remote.status, 403, "not over the network, whoever asks: {remote:?}");
    let access = world.post(&superuser, "").await;
    assert_eq!(access.status, 200, "{access:?}");
    let text = |key: &str| access.body[key].as_str().unwrap().to_owned();
    let mut config = tokio_postgres::Config::new();
    config.host_path(text("socket_dir")).user(text("role")).dbname(text("database"));
    config.password(text("password"));
    let (client, connection) = config.connect(NoTls).await.unwrap();
    tokio::spawn(connection);
    let row = client.query_one("SHOW is_superuser", &[]).await.unwrap();
    assert_eq!(row.get::<_, String>(0), "on");

    // The front door does not let it in.
    refused(&world, &text("role"), &text("password")).await;

    let log = world.get("/api/anabranch/v1/audit").await;
    let entries: Vec<(String, String)> = log.body["entries"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|entry| entry["action"] == "branch.superuser")
        .map(|entry| {
            let text = |key: &str| entry[key].as_str().unwrap().to_owned();
            (text("principal"), text("result"))
        })
        .collect();
    let expected =
        [(OWNER.to_owned(), "done".to_owned()), (format!("helper for {OWNER}"), "refused".to_owned())];
    assert_eq!(entries, expected);
    assert!(!log.body.to_string().contains(&text("password")));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_certificate_by_which_servers_are_known() {
    let world = World::with_shop().await;
    let answer = world.get("/api/anabranch/v1/ca").await;
    let (pem, file) = world.certificates.authority().unwrap();
    assert_eq!(answer.body["certificate"].as_str(), Some(pem));
    assert_eq!(answer.body["file"].as_str(), file.to_str());
    let connection = world.connection("production").await;
    assert_eq!(connection["ca_file"].as_str(), file.to_str());
    assert_eq!(connection["role"], OWNER);
    assert_eq!(connection.get("password"), None, "{connection}");
    let mut elsewhere = world.config("production").await;
    elsewhere.ssl_mode(tokio_postgres::config::SslMode::Disable);
    let error = elsewhere.connect(NoTls).await.err().unwrap();
    assert_eq!(error.code().unwrap().code(), "28000");
}

#[tokio::test(flavor = "multi_thread")]
async fn everybody_who_may_connect_learns_how() {
    let world = World::with_shop().await;
    let web = Web::open(&world).await;
    let eve = world.user(EVE).await;
    let path = format!("{OWN_BRANCH}/connection");
    assert_eq!(web.get(&eve, &path).await.status, 404);
    allow(&world, EVE).await;
    let told = web.get(&eve, &path).await;
    assert_eq!((told.status, &told.body["role"]), (200, &json!(EVE)), "{told:?}");
    let narrow = world.token(json!({"principal": EVE, "scopes": ["read"]})).await;
    assert_eq!(web.get(&narrow, &path).await.status, 403);
}
