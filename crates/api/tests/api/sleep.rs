//! Scale to zero: what counts as use, who wakes a compute, and that nobody is lost in between.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use compute::engine::{BranchKey, ComputeState};
use tokio_postgres::error::SqlState;

use crate::world::World;

const FOREVER: &str = r#"{"spec":{"no_expiry":true}}"#;
const DAY: Duration = Duration::from_secs(86_400);
const MINUTE: Duration = Duration::from_secs(60);
const PRODUCTION: &str = "/api/anabranch/v1/projects/shop/branches/production/endpoints/primary";

async fn set_disabled(world: &World, disabled: bool) {
    let path = "/projects/shop/branches/production/endpoints/primary?update_mask=spec.disabled";
    let answer = world.patch(path, &format!(r#"{{"spec":{{"disabled":{disabled}}}}}"#)).await;
    assert_eq!(answer.response()["status"]["disabled"], disabled);
}

async fn key(world: &World, branch: &str) -> BranchKey {
    let body = world.get(&format!("/projects/shop/branches/{branch}")).await.body;
    BranchKey::new(body["uid"].as_str().unwrap()).unwrap()
}

async fn state(world: &World, branch: &str) -> String {
    let answer = world.get(&format!("/projects/shop/branches/{branch}/endpoints/primary")).await;
    assert_eq!(answer.body["status"].get("pending_state"), None, "{answer:?}");
    answer.body["status"]["current_state"].as_str().unwrap().to_owned()
}

/// Waits until the daemon has seen the end of every connection: that is activity, too.
async fn nobody_is_connected(world: &World) {
    let connected = async || {
        let status = world.get("/api/anabranch/v1/status").await.body;
        status["computes"].as_array().unwrap().iter().any(|compute| compute["connections"] != 0)
    };
    while connected().await {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A session whose end is told.
async fn session(
    world: &World,
    branch: &str,
) -> (tokio_postgres::Client, tokio::task::JoinHandle<Result<(), tokio_postgres::Error>>) {
    let (client, connection) = world.config(branch).await.connect(world.tls()).await.unwrap();
    (client, tokio::spawn(connection))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_compute_is_suspended_and_wakes_with_the_next_connection() {
    let world = World::with_shop().await;
    let (client, ended) = session(&world, "production").await;
    client.batch_execute("CREATE TABLE t AS SELECT 7 AS a; CREATE TEMP TABLE u ()").await.unwrap();
    assert_eq!(state(&world, "production").await, "ACTIVE");
    world.clock.pass(DAY - MINUTE);
    assert_eq!(world.control.suspend_idle().await.unwrap(), 0);
    world.clock.pass(2 * MINUTE);
    assert_eq!(world.control.suspend_idle().await.unwrap(), 1);
    assert_eq!(state(&world, "production").await, "IDLE");
    let error = ended.await.unwrap().unwrap_err();
    assert_eq!(error.code(), Some(&SqlState::ADMIN_SHUTDOWN), "{error}");
    assert_eq!(world.control.suspend_idle().await.unwrap(), 0);

    let client = world.connect("production").await;
    assert_eq!(client.query_one("SELECT a FROM t", &[]).await.unwrap().get::<_, i32>(0), 7);
    assert!(client.simple_query("SELECT * FROM u").await.is_err(), "it starts clean");
    assert_eq!(state(&world, "production").await, "ACTIVE");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_transaction_keeps_a_compute_awake_and_its_end_begins_the_idle_time() {
    let world = World::with_shop().await;
    let client = world.connect("production").await;
    client.batch_execute("BEGIN").await.unwrap();
    for _ in 0..3 {
        world.clock.pass(2 * DAY);
        assert_eq!(world.control.suspend_idle().await.unwrap(), 0);
    }
    client.batch_execute("COMMIT; SELECT 1").await.unwrap();
    world.clock.pass(DAY - MINUTE);
    assert_eq!(world.control.suspend_idle().await.unwrap(), 0);
    world.clock.pass(MINUTE);
    assert_eq!(world.control.suspend_idle().await.unwrap(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn replication_keeps_both_sides_awake() {
    let world = World::with_shop().await;
    world.branch("dev", FOREVER).await;
    let (from, to) = (key(&world, "production").await, key(&world, "dev").await);
    let source = world.superuser(&from, "databricks_postgres").await;
    source
        .batch_execute("CREATE TABLE t (a int PRIMARY KEY); CREATE PUBLICATION p FOR TABLE t")
        .await
        .unwrap();
    world.connect("dev").await.simple_query("SELECT 1").await.unwrap();
    // The first start of a child runs no workers of replication.
    let suspend = "/api/anabranch/v1/projects/shop/branches/dev/endpoints/primary/suspend";
    assert_eq!(world.post(suspend, "").await.status, 200);
    world.connect("dev").await.simple_query("SELECT 1").await.unwrap();
    let target = world.superuser(&to, "databricks_postgres").await;
    let conninfo = world.superuser_conninfo(&from, "databricks_postgres");
    target.batch_execute("CREATE TABLE t (a int PRIMARY KEY)").await.unwrap();
    target
        .batch_execute(&format!("CREATE SUBSCRIPTION s CONNECTION '{conninfo}' PUBLICATION p"))
        .await
        .unwrap();
    source.batch_execute("INSERT INTO t VALUES (1)").await.unwrap();
    while target.query("SELECT 1 FROM t", &[]).await.unwrap().is_empty() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    for _ in 0..3 {
        world.clock.pass(2 * DAY);
        assert_eq!(world.control.suspend_idle().await.unwrap(), 0);
    }
    target.batch_execute("DROP SUBSCRIPTION s").await.unwrap();
    world.clock.pass(2 * DAY);
    // A worker may need a moment to end.
    let mut suspended = 0;
    while suspended < 2 {
        world.clock.pass(2 * DAY);
        suspended += world.control.suspend_idle().await.unwrap();
    }
    assert_eq!(
        (state(&world, "production").await, state(&world, "dev").await),
        ("IDLE".into(), "IDLE".into())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn autovacuum_is_not_interrupted() {
    let world = World::with_shop().await;
    world.connect("production").await.simple_query("SELECT 1").await.unwrap();
    let admin = world.superuser(&key(&world, "production").await, "databricks_postgres").await;
    admin.batch_execute("ALTER SYSTEM SET autovacuum_naptime = '1s'").await.unwrap();
    admin.batch_execute("SELECT pg_reload_conf()").await.unwrap();
    admin
        .batch_execute(
            "CREATE TABLE t (a int) WITH (autovacuum_vacuum_cost_delay = 100, autovacuum_vacuum_cost_limit = 1, \
             autovacuum_vacuum_threshold = 0, autovacuum_vacuum_scale_factor = 0); \
             INSERT INTO t SELECT generate_series(1, 200000); DELETE FROM t WHERE a % 2 = 0",
        )
        .await
        .unwrap();
    // The one that is slow enough to be still there when it is looked for.
    let workers = "SELECT 1 FROM pg_stat_progress_vacuum WHERE relid = 't'::regclass";
    while admin.query(workers, &[]).await.unwrap().is_empty() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    world.clock.pass(2 * DAY);
    assert_eq!(world.control.suspend_idle().await.unwrap(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_daemons_own_look_is_no_use_of_a_compute() {
    let world = World::with_shop().await;
    world.connect("production").await.simple_query("SELECT 1").await.unwrap();
    nobody_is_connected(&world).await;
    world.clock.pass(DAY - MINUTE);
    for _ in 0..3 {
        assert_eq!(world.control.suspend_idle().await.unwrap(), 0);
        world.get("/api/anabranch/v1/status").await;
        world.get("/api/anabranch/v1/projects/shop/branches/production/usage").await;
    }
    world.clock.pass(MINUTE);
    assert_eq!(world.control.suspend_idle().await.unwrap(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn roles_of_a_suspended_compute_are_listed_as_they_were() {
    let world = World::with_shop().await;
    for role in ["while_idle", "by_hand"] {
        let (client, ended) = session(&world, "production").await;
        client.batch_execute(&format!("CREATE ROLE {role}")).await.unwrap();
        drop(client);
        ended.await.unwrap().unwrap();
        nobody_is_connected(&world).await;
        if role == "by_hand" {
            world.post(&format!("{PRODUCTION}/suspend"), "").await;
        } else {
            world.clock.pass(2 * DAY);
            assert_eq!(world.control.suspend_idle().await.unwrap(), 1);
        }
        let roles = world.get("/projects/shop/branches/production/roles").await.body;
        assert!(roles.to_string().contains(role), "{roles}");
        assert_eq!(state(&world, "production").await, "IDLE", "listing woke it");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_suspension_a_compute_stays() {
    let world = World::with_shop().await;
    let body = r#"{"spec":{"endpoint_type":"ENDPOINT_TYPE_READ_WRITE","no_suspension":true}}"#;
    let path = "/projects/shop/branches/production/endpoints?endpoint_id=primary&replace_existing=true";
    assert_eq!(world.post(path, body).await.status, 200);
    world.connect("production").await.simple_query("SELECT 1").await.unwrap();
    nobody_is_connected(&world).await;
    world.clock.pass(400 * DAY);
    assert_eq!(world.control.suspend_idle().await.unwrap(), 0);
    assert_eq!(state(&world, "production").await, "ACTIVE");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disabled_endpoint_sleeps_until_it_is_enabled() {
    let world = World::with_shop().await;
    let (_client, ended) = session(&world, "production").await;
    set_disabled(&world, true).await;
    assert_eq!(ended.await.unwrap().unwrap_err().code(), Some(&SqlState::ADMIN_SHUTDOWN));
    assert_eq!(state(&world, "production").await, "IDLE");
    let error = world.try_connect("production").await.err().unwrap();
    let db = error.as_db_error().unwrap();
    assert_eq!(db.code().code(), "55000");
    assert_eq!(db.message(), "the endpoint of branch \"shop/production\" is disabled");
    let answer = world.post(&format!("{PRODUCTION}/wake"), "").await;
    assert_eq!(
        (answer.status, answer.body["error_code"].as_str()),
        (400, Some("INVALID_STATE")),
        "{answer:?}"
    );
    let world = world.restart().await;
    assert!(world.try_connect("production").await.is_err());
    set_disabled(&world, false).await;
    // Beyond the moment in which waiters share a failure.
    tokio::time::sleep(Duration::from_millis(1100)).await;
    world.connect("production").await.simple_query("SELECT 1").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn suspending_and_waking_by_hand() {
    let world = World::with_shop().await;
    let (client, ended) = session(&world, "production").await;
    client.batch_execute("BEGIN").await.unwrap();
    let answer = world.post(&format!("{PRODUCTION}/suspend"), "").await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(ended.await.unwrap().unwrap_err().code(), Some(&SqlState::ADMIN_SHUTDOWN));
    let uid = key(&world, "production").await;
    assert_eq!(world.engine.state(&uid).unwrap(), ComputeState::Stopped);
    assert_eq!(world.post(&format!("{PRODUCTION}/suspend"), "").await.status, 200, "twice does no harm");
    let answer = world.post(&format!("{PRODUCTION}/wake"), "").await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert!(answer.body["duration_ms"].as_f64().unwrap() > 0.0);
    assert!(matches!(world.engine.state(&uid).unwrap(), ComputeState::Running { .. }));
    let missing = PRODUCTION.replace("primary", "other");
    assert_eq!(world.post(&format!("{missing}/wake"), "").await.status, 404);
    let log = world.get("/api/anabranch/v1/audit").await.body;
    let actions: Vec<_> =
        log["entries"].as_array().unwrap().iter().map(|entry| entry["action"].clone()).collect();
    assert_eq!(actions[0], "endpoint.wake");
    assert!(actions.contains(&"endpoint.suspend".into()), "{actions:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_compute_from_before_the_daemon_is_suspended_too() {
    let world = World::with_shop().await;
    world.connect("production").await.simple_query("SELECT 1").await.unwrap();
    nobody_is_connected(&world).await;
    world.clock.pass(DAY - MINUTE);
    let world = world.restart().await;
    world.clock.pass(2 * MINUTE);
    assert_eq!(world.control.suspend_idle().await.unwrap(), 0, "nobody was there to see whether it was used");
    world.clock.pass(DAY);
    assert_eq!(world.control.suspend_idle().await.unwrap(), 1);
    let path = "/projects/shop/branches/production/endpoints/primary";
    let before = world.get(path).await.body["status"]["last_active_time"].clone();
    assert!(before.is_string(), "{before}");
    let world = world.restart().await;
    let after = world.get(path).await.body["status"]["last_active_time"].clone();
    assert_eq!(after, before, "when it was last in use is remembered");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_compute_that_died_is_not_taken_for_awake() {
    let world = World::with_shop().await;
    world.connect("production").await.simple_query("SELECT 1").await.unwrap();
    assert_eq!(world.control.room().computes, 1);
    world.engine.stop(&key(&world, "production").await, compute::engine::StopMode::Kill).unwrap();
    world.control.compute_round().await.unwrap();
    assert_eq!(world.control.room().computes, 0);
    world.connect("production").await.simple_query("SELECT 1").await.unwrap();
    assert_eq!(world.control.room().computes, 1);
}

/// Clients come while the compute is being suspended for being idle, again and again: every one of
/// them is served, by the old compute or by the next.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nobody_is_lost_in_a_suspension() {
    const SUSPENSIONS: usize = 12;
    let world = Arc::new(World::with_shop().await);
    // Held shared from before a client comes until it has gone, and alone while time passes: idle is
    // only what no client is busy with.
    let time = Arc::new(tokio::sync::RwLock::new(()));
    let (done, served) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let clients: Vec<_> = (0..4)
        .map(|number| {
            let (world, time, done, served) = (world.clone(), time.clone(), done.clone(), served.clone());
            tokio::spawn(async move {
                while !done.load(Ordering::Relaxed) {
                    let turn = time.read().await;
                    let config = world.config("production").await;
                    let (client, connection) = config.connect(world.tls()).await.unwrap();
                    let connection = tokio::spawn(connection);
                    let row = client.query_one("SELECT $1::int", &[&number]).await.unwrap();
                    assert_eq!(row.get::<_, i32>(0), number);
                    drop(client);
                    connection.await.unwrap().unwrap();
                    served.fetch_add(1, Ordering::Relaxed);
                    drop(turn);
                    // Neither so often that the compute is never idle, nor in step with each other.
                    let pause = 20 + (served.load(Ordering::Relaxed) * 13 + number as usize * 29) % 60;
                    tokio::time::sleep(Duration::from_millis(pause as u64)).await;
                }
            })
        })
        .collect();
    let mut suspensions = 0;
    while suspensions < SUSPENSIONS {
        let alone = time.write().await;
        nobody_is_connected(&world).await;
        world.clock.pass(2 * DAY);
        drop(alone);
        suspensions += world.control.suspend_idle().await.unwrap();
    }
    done.store(true, Ordering::Relaxed);
    for client in clients {
        client.await.unwrap();
    }
    assert!(served.load(Ordering::Relaxed) >= SUSPENSIONS, "nobody came");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_branch_that_was_recovered_for_a_cut_sleeps_again() {
    let world = World::with_shop().await;
    world.branch("dev", FOREVER).await;
    world
        .branch("below", r#"{"spec":{"no_expiry":true,"source_branch":"projects/shop/branches/dev"}}"#)
        .await;
    let dev = key(&world, "dev").await;
    while world.engine.state(&dev).unwrap() != ComputeState::Stopped {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(state(&world, "dev").await, "IDLE");
    for branch in ["below", "dev"] {
        world.connect(branch).await.simple_query("SELECT 1").await.unwrap();
    }
}
