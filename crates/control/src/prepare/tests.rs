//! Against a real server, without the preload library: none of this depends on it.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use compute::engine::DEFAULT_DATABASE;
use compute::initdb::initdb;
use compute::install::{self, Request};
use compute::machine::Machine;
use compute::os::User;
use compute::process::{self, SpawnSpec};
use compute::run_as;
use compute::server::{DEFAULT_MAJOR, Server};

use super::*;
use crate::app::FirstRole;
use crate::clock::SystemRandom;
use crate::keys::OwnerKind;
use crate::model::IdentityType;

const OWNER: &str = "ana@example.org";

fn secrets(word: &str) -> Secrets {
    Secrets::new(format!("admin-{word}"), OWNER.to_owned(), OwnerKind::User)
}

fn usual(secrets: &Secrets) -> First {
    First::usual(secrets.owner())
}

/// A running cluster; stopped and removed at the end.
struct Cluster {
    dir: PathBuf,
}

impl Cluster {
    fn start(name: &str, settings: &[(&str, &str)]) -> Cluster {
        let dir = std::env::temp_dir().join(format!("ana-prepare-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let user = user();
        if let Some(user) = &user {
            std::os::unix::fs::chown(&dir, Some(user.uid), Some(user.gid)).unwrap();
        }
        let cluster = Cluster { dir };
        let password = secrets("old").admin_password;
        initdb(&server(), &cluster.data(), BOOTSTRAP_ROLE, &password, user.as_ref()).unwrap();
        let socket_dir = ("unix_socket_directories".to_owned(), cluster.dir.display().to_string());
        let mut all = vec![socket_dir, ("listen_addresses".to_owned(), String::new())];
        all.push(("fsync".to_owned(), "off".to_owned()));
        all.extend(settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        let spec = SpawnSpec {
            server: server(),
            data_dir: cluster.data(),
            settings: all,
            env: Vec::new(),
            log: cluster.log(),
            run_as: user,
            confinement: None,
            limit: std::time::Duration::from_secs(60),
        };
        process::spawn(&spec).unwrap();
        cluster
    }

    fn data(&self) -> PathBuf {
        self.dir.join("data")
    }

    fn log(&self) -> PathBuf {
        self.dir.join("log")
    }

    async fn admin(&self, candidates: &[Secrets]) -> Result<Client, Error> {
        connect_admin(&self.dir, candidates).await
    }

    async fn login(
        &self,
        role: &str,
        password: &str,
        database: &str,
    ) -> Result<Client, tokio_postgres::Error> {
        let mut config = tokio_postgres::Config::new();
        config.host_path(&self.dir).user(role).password(password).dbname(database);
        let (client, connection) = config.connect(NoTls).await?;
        tokio::spawn(connection);
        Ok(client)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let _ = process::kill_all(&self.data());
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

fn user() -> Option<User> {
    run_as::choose(None).unwrap().map(|choice| choice.user)
}

/// The server that all tests of the workspace share.
fn server() -> Server {
    static SERVER: OnceLock<Server> = OnceLock::new();
    let find = || {
        let build = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/test-home");
        let shared = std::env::temp_dir().join("anabranch-test-home-0");
        let reached = |home: &PathBuf| {
            std::fs::create_dir_all(home).unwrap();
            user().is_none_or(|user| compute::os::as_user(&user, || home.join(".").exists()).unwrap())
        };
        let home = [build, shared].into_iter().find(reached).unwrap().canonicalize().unwrap();
        let request = Request { major: DEFAULT_MAJOR, bin_dir: None, home, archive: None };
        install::find_or_install(&Machine::this(), &request, &mut |note| eprintln!("{note}")).unwrap()
    };
    SERVER.get_or_init(find).clone()
}

#[tokio::test]
async fn a_root_may_begin_with_another_role_and_database() {
    let cluster = Cluster::start("first", &[]);
    let old = secrets("old");
    let wish = FirstRole {
        name: Some("reports".to_owned()),
        identity_type: Some(IdentityType::Group),
        createdb: Some(true),
        ..FirstRole::default()
    };
    let first = First::wished(&old.owner(), Some(wish), Some("Shop".to_owned())).unwrap();
    for _ in 0..2 {
        let mut client = cluster.admin(std::slice::from_ref(&old)).await.unwrap();
        prepare_root(&mut client, &old, &first, &SystemRandom).await.unwrap();
    }
    let password = crate::catalog::passwords::backend_password(&old, "reports");
    let role = cluster.login("reports", password.expose(), "Shop").await.unwrap();
    let row = role
        .query_one(
            "SELECT rolcreatedb, NOT rolcreaterole, NOT rolbypassrls, \
             NOT pg_has_role('databricks_superuser', 'member'), \
             (SELECT datdba = r.oid FROM pg_database WHERE datname = 'Shop'), \
             NOT EXISTS (SELECT FROM pg_database WHERE datname = 'databricks_postgres'), \
             NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'ana@example.org') \
             FROM pg_roles r WHERE rolname = current_user",
            &[],
        )
        .await
        .unwrap();
    let facts: Vec<bool> = (0..7).map(|place| row.get(place)).collect();
    assert_eq!(facts, [true; 7]);
    assert!(cluster.login(OWNER, &old.owner_password, "Shop").await.is_err());
}

#[tokio::test]
async fn a_root_gets_its_owner_and_may_be_prepared_again() {
    let cluster = Cluster::start("root", &[]);
    let old = secrets("old");
    for _ in 0..2 {
        let mut client = cluster.admin(std::slice::from_ref(&old)).await.unwrap();
        prepare_root(&mut client, &old, &usual(&old), &SystemRandom).await.unwrap();
    }
    let owner = cluster.login(OWNER, &old.owner_password, DEFAULT_DATABASE).await.unwrap();
    let row = owner
        .query_one(
            "SELECT rolsuper, rolcreatedb, rolcreaterole, pg_has_role('databricks_superuser', 'member'), \
             (SELECT rolname = current_user FROM pg_database d JOIN pg_roles r ON r.oid = datdba \
              WHERE datname = current_database()) FROM pg_roles WHERE rolname = current_user",
            &[],
        )
        .await
        .unwrap();
    let facts: Vec<bool> = (0..5).map(|place| row.get(place)).collect();
    assert_eq!(facts, [false, true, true, true, true]);
    owner
        .batch_execute("CREATE TABLE t (a int); CREATE ROLE app LOGIN; GRANT databricks_superuser TO app")
        .await
        .unwrap();
    // What reaches the host's files is not for owners.
    let error = owner.batch_execute("COPY t TO PROGRAM 'cat'").await.unwrap_err();
    assert_eq!(error.code(), Some(&SqlState::INSUFFICIENT_PRIVILEGE));
    assert!(cluster.login(OWNER, "wrong", DEFAULT_DATABASE).await.is_err());
}

#[tokio::test]
async fn a_child_gets_keys_of_its_own_and_loses_its_subscriptions() {
    // The noisiest settings a user can choose: still no verifier may be seen in the log.
    let noisy = [
        ("log_statement", "all"),
        ("log_min_duration_statement", "0"),
        ("log_min_error_statement", "debug5"),
        ("max_logical_replication_workers", "0"),
        ("wal_level", "logical"),
    ];
    let cluster = Cluster::start("child", &noisy);
    let (old, new) = (secrets("old"), secrets("new"));
    let mut client = cluster.admin(std::slice::from_ref(&old)).await.unwrap();
    prepare_root(&mut client, &old, &usual(&old), &SystemRandom).await.unwrap();
    client
        .batch_execute(
            "CREATE SUBSCRIPTION follower CONNECTION 'host=/nowhere dbname=x password=p' PUBLICATION p \
             WITH (connect = false, slot_name = 'parents_slot')",
        )
        .await
        .unwrap();
    client.batch_execute("ALTER SUBSCRIPTION follower ENABLE").await.unwrap();

    prepare_child(&mut client, &new, Renew::Identities, &SystemRandom).await.unwrap();
    drop(client);
    let mut client = cluster.admin(&[old.clone(), new.clone()]).await.unwrap();
    let row =
        client.query_one("SELECT subenabled, subslotname::text FROM pg_subscription", &[]).await.unwrap();
    assert_eq!((row.get(0), row.get(1)), (false, None::<String>), "the subscription is alive");
    // As after a crash between the change and its confirmation.
    prepare_child(&mut client, &new, Renew::Identities, &SystemRandom).await.unwrap();
    // Dropping it must not reach for the parent's slot.
    client.batch_execute("DROP SUBSCRIPTION follower").await.unwrap();

    assert!(cluster.admin(std::slice::from_ref(&old)).await.is_err());
    assert!(cluster.login(OWNER, &old.owner_password, DEFAULT_DATABASE).await.is_err());
    cluster.login(OWNER, &new.owner_password, DEFAULT_DATABASE).await.unwrap();
    let log = std::fs::read_to_string(cluster.log()).unwrap();
    assert!(log.contains("CREATE SUBSCRIPTION"), "the log is not as noisy as meant");
    assert!(!log.contains("SCRAM-SHA-256$"), "{log}");
}

#[tokio::test]
async fn a_child_without_its_owners_role_is_not_locked_up() {
    let cluster = Cluster::start("renamed", &[]);
    let (old, new) = (secrets("old"), secrets("new"));
    let mut client = cluster.admin(std::slice::from_ref(&old)).await.unwrap();
    prepare_root(&mut client, &old, &usual(&old), &SystemRandom).await.unwrap();
    client.batch_execute("ALTER ROLE \"ana@example.org\" RENAME TO other").await.unwrap();
    prepare_child(&mut client, &new, Renew::Identities, &SystemRandom).await.unwrap();
    cluster.admin(&[new]).await.unwrap();
}

#[cfg(debug_assertions)]
#[test]
fn planted_a_subscription_that_is_kept() {
    let test = "prepare::tests::a_child_gets_keys_of_its_own_and_loses_its_subscriptions";
    compute::fault::must_be_noticed(Fault::SubscriptionKept, test, "the subscription is alive");
}

#[tokio::test]
async fn no_secret_of_a_role_is_seen_in_the_log() {
    let noisy = [
        ("log_statement", "all"),
        ("log_min_duration_statement", "0"),
        ("log_min_error_statement", "debug5"),
        ("log_parameter_max_length", "-1"),
        ("log_parameter_max_length_on_error", "-1"),
        ("debug_print_plan", "on"),
        ("debug_print_parse", "on"),
        ("debug_print_rewritten", "on"),
    ];
    let cluster = Cluster::start("quiet", &noisy);
    let secrets = secrets("old");
    let mut client = cluster.admin(std::slice::from_ref(&secrets)).await.unwrap();
    prepare_root(&mut client, &secrets, &usual(&secrets), &SystemRandom).await.unwrap();
    let (password, verifier) = passwords::new_password(&SystemRandom).unwrap();
    let role = roles::NewRole {
        id: "app-role",
        name: "app",
        identity: None,
        can_login: true,
        attributes: crate::model::Attributes::default(),
        superuser_member: true,
        verifier: Some(&verifier),
        manager: Some(OWNER),
    };
    roles::create(&mut client, &role).await.unwrap();
    // Errors are logged with their statements, usually.
    roles::create(&mut client, &role).await.unwrap_err();
    cluster.login("app", password.expose(), DEFAULT_DATABASE).await.unwrap();
    let live = catalog::read(&client).await.unwrap();
    let (password, verifier) = passwords::new_password(&SystemRandom).unwrap();
    roles::set_verifier(&mut client, live.role("app-role").unwrap().oid, verifier).await.unwrap();
    cluster.login("app", password.expose(), DEFAULT_DATABASE).await.unwrap();
    prepare_child(&mut client, &secrets, Renew::Everything, &SystemRandom).await.unwrap();
    assert!(cluster.login("app", password.expose(), DEFAULT_DATABASE).await.is_err());
    cluster.login(OWNER, &secrets.owner_password, DEFAULT_DATABASE).await.unwrap();
    client.batch_execute("SELECT 'marker of the log'").await.unwrap();
    let log = std::fs::read_to_string(cluster.log()).unwrap();
    assert!(log.contains("marker of the log"), "the log is not as noisy as meant");
    for secret in ["SCRAM-SHA-256$", password.expose(), &secrets.owner_password, &secrets.admin_password] {
        assert!(!log.contains(secret), "{secret} is in the log: {log}");
    }
}

#[tokio::test]
async fn an_identity_is_marked_in_the_catalog_that_all_databases_share() {
    let cluster =
        Cluster::start("marks", &[("standard_conforming_strings", "off"), ("backslash_quote", "off")]);
    let secrets = secrets("old");
    let mut client = cluster.admin(std::slice::from_ref(&secrets)).await.unwrap();
    prepare_root(&mut client, &secrets, &usual(&secrets), &SystemRandom).await.unwrap();
    let name = "it's \\'; DROP ROLE \"ana@example.org\"; --";
    let identity = crate::model::Identity { name: name.to_owned(), kind: crate::model::IdentityType::Group };
    let role = roles::NewRole {
        id: "crew-role",
        name,
        identity: Some(&identity),
        can_login: true,
        attributes: crate::model::Attributes { createdb: true, ..Default::default() },
        superuser_member: false,
        verifier: None,
        manager: None,
    };
    roles::create(&mut client, &role).await.unwrap();
    let live = catalog::read(&client).await.unwrap();
    let names: Vec<&str> = live.roles.iter().map(|role| role.name.as_str()).collect();
    assert_eq!(names, [OWNER, name]);
    let found = live.role("crew-role").unwrap();
    assert_eq!(found.identity.as_ref(), Some(&identity));
    assert!(found.attributes.createdb && !found.has_password && !found.superuser_member);
    assert_eq!(live.role("ana-example-org").unwrap().identity, Some(secrets.owner()));
    assert_eq!(live.databases.len(), 1);
    assert_eq!(live.database("databricks-postgres").unwrap().name, DEFAULT_DATABASE);
}
