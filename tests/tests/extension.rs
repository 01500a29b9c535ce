//! The extension `databricks_auth` on every server of this machine, in whose directories none of its
//! files are and where the servers' user may not write.
#![allow(clippy::unwrap_used, missing_docs)]

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use compute::engine::StartOptions;
use compute::machine::Machine;
use compute::server::{self, Server};
use e2e::lab::{Lab, PASSWORD, key, run, text};
use tokio_postgres::{Client, NoTls};

const FILES: [(&str, &str); 2] = [
    (
        "databricks_auth.control",
        include_str!("../../crates/control/src/catalog/extension/databricks_auth.control"),
    ),
    (
        "databricks_auth--1.0.sql",
        include_str!("../../crates/control/src/catalog/extension/databricks_auth--1.0.sql"),
    ),
];

/// The default server, and those that the machine has in other versions.
fn servers(default: &Server) -> Vec<Server> {
    let others = server::SUPPORTED.filter(|major| *major != default.major);
    let found = others.filter_map(|major| server::find_on(&Machine::this(), major, &mut |_| {}));
    std::iter::once(default.clone()).chain(found).collect()
}

async fn login(lab: &Lab, branch: &str, role: &str) -> Client {
    let mut config = tokio_postgres::Config::new();
    config.host_path(lab.engine.socket_dir(&key(branch))).user(role).password("x").dbname("app");
    let (client, connection) = config.connect(NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

async fn share_directory(client: &Client) -> String {
    text(client, "SELECT setting FROM pg_config() WHERE name = 'SHAREDIR'").await
}

#[tokio::test(flavor = "multi_thread")]
async fn every_server_has_it_without_a_file_of_its_own() {
    let lab = Lab::new();
    let directory = lab.path.join("extensions");
    std::fs::create_dir(&directory).unwrap();
    for (name, content) in FILES {
        std::fs::write(directory.join(name), content).unwrap();
    }
    lab.engine.offer_extensions(&directory);
    let mut seen = Vec::new();
    for server in servers(&lab.server) {
        let branch = format!("pg{}", server.major);
        lab.engine.create_root(&key(&branch), &server, PASSWORD).unwrap();
        lab.engine.start(&key(&branch), &server, &StartOptions::default()).unwrap();
        let admin = lab.connect(&branch).await;
        let share = share_directory(&admin).await;
        let own = Path::new(&share).join("extension");
        assert!(!own.join(FILES[0].0).exists(), "{} is installed here", own.display());
        let mode = own.metadata().unwrap().permissions().mode();
        println!("PostgreSQL {}: {} ({:o})", server.version(), own.display(), mode & 0o777);
        run(&admin, "CREATE ROLE databricks_superuser").await;
        run(&admin, "CREATE ROLE member LOGIN PASSWORD 'x' IN ROLE databricks_superuser").await;
        run(&admin, "CREATE DATABASE app").await;
        run(&admin, "GRANT CREATE ON DATABASE app TO databricks_superuser").await;
        let member = login(&lab, &branch, "member").await;
        let listed = "SELECT count(*), count(*) FILTER (WHERE name = 'databricks_auth'), bool_or(name = 'plpgsql') \
                      FROM pg_available_extensions";
        let row = member.query_one(listed, &[]).await.unwrap();
        let (all, ours): (i64, i64) = (row.get(0), row.get(1));
        assert!(ours == 1 && row.get(2), "{all} extensions, {ours} of ours");
        // Its own are all still there.
        let controls = std::fs::read_dir(&own).unwrap().flatten();
        let controls = controls.filter(|entry| entry.path().extension().is_some_and(|end| end == "control"));
        assert_eq!(all, controls.count() as i64 + 1);
        run(&member, "CREATE EXTENSION databricks_auth").await;
        run(&member, "SELECT databricks_create_role('bob@example.org', 'USER')").await;
        let sql = "SELECT array_to_string(setconfig, ' ') FROM pg_db_role_setting s JOIN pg_roles r ON r.oid = setrole \
                   WHERE rolname = 'bob@example.org'";
        assert_eq!(
            text(&admin, sql).await,
            "anabranch.identity_type=USER anabranch.identity_name=bob@example.org"
        );
        let error =
            member.batch_execute("ALTER ROLE member SET anabranch.identity_name = 'bob@example.org'").await;
        assert_eq!(error.unwrap_err().code().unwrap().code(), "42501", "PostgreSQL {}", server.version());
        // It goes with the data, and back and forth between writing to it and taking it away.
        lab.engine.create_child(&key(&branch), &key(&format!("{branch}-child"))).unwrap();
        lab.engine.start(&key(&format!("{branch}-child")), &server, &StartOptions::default()).unwrap();
        let child = login(&lab, &format!("{branch}-child"), "member").await;
        run(&child, "SELECT databricks_create_role('carol', 'group')").await;
        run(&child, "DROP EXTENSION databricks_auth; CREATE EXTENSION databricks_auth SCHEMA public").await;
        assert!(!own.join(FILES[0].0).exists());
        seen.push(server.major);
    }
    assert!(seen.contains(&lab.server.major));
}
