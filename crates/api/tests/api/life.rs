//! Expiry, crashes, keys and waking: what goes on behind the calls.

use std::time::Duration;

use crate::world::World;
use compute::engine::{BranchKey, ComputeState, StopMode};
use jiff::SignedDuration;
use serde_json::Value;

const FOREVER: &str = r#"{"spec":{"no_expiry":true}}"#;
const HOUR: Duration = Duration::from_secs(3600);

async fn ids(world: &World) -> Vec<String> {
    let answer = world.get("/projects/shop/branches").await;
    let branches = answer.body["branches"].as_array().unwrap();
    branches.iter().map(|branch| branch["branch_id"].as_str().unwrap().to_owned()).collect()
}

fn key(branch: &Value) -> BranchKey {
    BranchKey::new(branch["uid"].as_str().unwrap()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_branch_vanishes_and_its_data_later() {
    let world = World::with_shop().await;
    let dev = world.branch("dev", r#"{"spec":{"ttl":"7200s"}}"#).await;
    let spec = r#"{"spec":{"no_expiry":true,"source_branch":"projects/shop/branches/dev"}}"#;
    world.branch("kid", spec).await;
    let session = world.connect("dev").await;
    session.batch_execute("CREATE TABLE t (a int)").await.unwrap();

    world.clock.pass(HOUR);
    world.control.round().await.unwrap();
    assert_eq!(ids(&world).await, ["production", "dev", "kid"]);
    world.clock.pass(HOUR);
    world.control.round().await.unwrap();
    assert_eq!(ids(&world).await, ["production", "kid"]);
    assert!(session.simple_query("SELECT 1").await.is_err(), "the connection outlived its branch");
    assert_eq!(world.engine.state(&key(&dev)).unwrap(), ComputeState::Stopped);
    assert!(world.engine.keys().unwrap().contains(&key(&dev)), "the data goes only after the grace time");
    let kid = world.get("/projects/shop/branches/kid").await.body;
    assert_eq!(kid["anabranch"]["source_fate"], "expired");
    assert_eq!(kid["status"]["source_branch"], "projects/shop/branches/dev");

    world.clock.pass(HOUR + Duration::from_secs(1));
    world.control.round().await.unwrap();
    assert!(!world.engine.keys().unwrap().contains(&key(&dev)), "the data is still there");
    let session = world.try_connect("kid").await.expect("the child of an expired branch");
    session.batch_execute("CREATE TABLE u AS SELECT 1").await.unwrap();
}

/// Each of these faults makes the test above fail.
#[cfg(debug_assertions)]
mod planted {
    use compute::fault::{Fault, must_be_noticed};

    const TEST: &str = "life::an_expired_branch_vanishes_and_its_data_later";

    #[test]
    fn data_that_goes_without_grace() {
        must_be_noticed(Fault::GraceIgnored, TEST, "the data goes only after the grace time");
    }

    #[test]
    fn data_that_goes_under_an_open_child() {
        must_be_noticed(Fault::CollectedWhileShared, TEST, "the child of an expired branch");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn expiry_is_kept_across_restarts_and_does_not_follow_a_clock_that_jumps() {
    let world = World::with_shop().await;
    world.branch("dev", r#"{"spec":{"ttl":"7200s"}}"#).await;
    let world = world.restart().await;
    world.clock.jump(SignedDuration::from_hours(24 * 365));
    world.control.round().await.unwrap();
    assert_eq!(ids(&world).await, ["production", "dev"], "a wrong clock ended a branch");
    world.clock.jump(-SignedDuration::from_hours(24 * 365));
    world.control.round().await.unwrap();
    world.clock.pass(HOUR);
    world.control.round().await.unwrap();
    assert_eq!(ids(&world).await, ["production", "dev"]);
    world.clock.pass(HOUR);
    let world = world.restart().await;
    world.control.round().await.unwrap();
    assert_eq!(ids(&world).await, ["production"], "its time ran out while no daemon looked");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_machines_own_clock_ends_a_branch_too() {
    let world = World::with_shop().await;
    world.branch("brief", r#"{"spec":{"ttl":"3s"}}"#).await;
    world.control.round().await.unwrap();
    assert_eq!(ids(&world).await, ["production", "brief"]);
    tokio::time::sleep(Duration::from_millis(3100)).await;
    world.control.round().await.unwrap();
    assert_eq!(ids(&world).await, ["production"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_daemon_takes_running_computes_over() {
    let world = World::with_shop().await;
    world.branch("dev", FOREVER).await;
    let session = world.connect("dev").await;
    session.batch_execute("CREATE TABLE t AS SELECT 7 AS a").await.unwrap();
    let dev = world.get("/projects/shop/branches/dev").await.body;
    let before = world.engine.state(&key(&dev)).unwrap();
    assert!(matches!(before, ComputeState::Running { .. }));
    let connection = world.connection("dev").await;

    let world = world.restart().await;
    assert_eq!(world.engine.state(&key(&dev)).unwrap(), before);
    assert_eq!(world.connection("dev").await, connection, "the address stays");
    let session = world.connect("dev").await;
    assert_eq!(session.query_one("SELECT a FROM t", &[]).await.unwrap().get::<_, i32>(0), 7);
    assert_eq!(world.engine.state(&key(&dev)).unwrap(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_compute_is_back_with_the_next_connection_for_many_at_once() {
    let world = World::with_shop().await;
    let session = world.connect("production").await;
    session.batch_execute("CREATE TABLE t AS SELECT 7 AS a").await.unwrap();
    let production = world.get("/projects/shop/branches/production").await.body;
    world.engine.stop(&key(&production), StopMode::Kill).unwrap();
    assert!(session.simple_query("SELECT 1").await.is_err());

    let config = world.config("production").await;
    let waiters = (0..20).map(|_| {
        let (config, tls) = (config.clone(), world.tls());
        tokio::spawn(async move {
            let (client, connection) = config.connect(tls).await.unwrap();
            tokio::spawn(connection);
            client.query_one("SELECT a FROM t", &[]).await.unwrap().get::<_, i32>(0)
        })
    });
    for waiter in waiters.collect::<Vec<_>>() {
        assert_eq!(waiter.await.unwrap(), 7);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_compute_that_does_not_start_says_so_to_its_client() {
    let world = World::with_shop().await;
    let production = world.get("/projects/shop/branches/production").await.body;
    world.engine.stop(&key(&production), StopMode::Fast).unwrap();
    let conf =
        world.dir.join("home/branches").join(key(&production).as_str()).join("pgdata/postgresql.auto.conf");
    let sound = std::fs::read_to_string(&conf).unwrap();
    std::fs::write(&conf, "work_mem = 'a lot'\n").unwrap();
    let error = match world.try_connect("production").await {
        Ok(_) => panic!("a broken configuration did not stop the server"),
        Err(error) => error,
    };
    let db = error.as_db_error().unwrap();
    assert_eq!((db.severity(), db.code().code()), ("FATAL", "57P03"));
    assert!(db.message().starts_with("branch \"shop/production\" cannot be reached"), "{}", db.message());
    std::fs::write(&conf, sound).unwrap();
    // Beyond the moment in which waiters share a failure.
    tokio::time::sleep(Duration::from_millis(1100)).await;
    world.connect("production").await.simple_query("SELECT 1").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn every_branch_has_keys_of_its_own() {
    let world = World::with_shop().await;
    world.branch("dev", FOREVER).await;
    let dev = world.get("/projects/shop/branches/dev").await.body;
    let file = world.dir.join("home/keys").join(format!("{}.json", key(&dev)));
    let candidates = || {
        let text = std::fs::read_to_string(&file).unwrap();
        serde_json::from_str::<Value>(&text).unwrap()["candidates"].as_array().unwrap().len()
    };
    assert_eq!(candidates(), 2, "until its first start it answers to its parent's keys");
    world.connect("dev").await;
    assert_eq!(candidates(), 1);

    let mut config = world.config("dev").await;
    config.password(world.credential("production").await);
    let error = match config.connect(world.tls()).await {
        Ok(_) => panic!("the parent's token opens the child"),
        Err(error) => error,
    };
    assert_eq!(error.as_db_error().unwrap().code().code(), "28P01");
    // A grandchild made before its parent was ever started answers to keys of two generations.
    let spec = |source: &str| {
        format!(r#"{{"spec":{{"no_expiry":true,"source_branch":"projects/shop/branches/{source}"}}}}"#)
    };
    world.branch("asleep", FOREVER).await;
    world.branch("below", &spec("asleep")).await;
    world.connect("below").await.simple_query("SELECT 1").await.unwrap();
    world.connect("asleep").await.simple_query("SELECT 1").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_crash_left_is_swept_up() {
    let world = World::with_shop().await;
    let production = world.get("/projects/shop/branches/production").await.body;
    // As if the row's transaction had been lost: data and keys that no row asks for.
    let stray = BranchKey::new("br-stray").unwrap();
    world.engine.create_child(&key(&production), &stray).unwrap();
    let keys = world.dir.join("home/keys");
    std::fs::copy(keys.join(format!("{}.json", key(&production))), keys.join("br-stray.json")).unwrap();
    let world = world.restart().await;
    assert_eq!(world.engine.keys().unwrap(), [key(&production)]);
    assert!(!keys.join("br-stray.json").exists());
    world.connect("production").await.simple_query("SELECT 1").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_is_a_plain_data_directory() {
    let world = World::with_shop().await;
    world.connect("production").await.batch_execute("CREATE TABLE t AS SELECT 7 AS a").await.unwrap();
    let dir = world.dir.join("export");
    let client_socket = world.dir.join("api.sock");
    let body = format!(r#"{{"dir":"{}"}}"#, dir.display());
    let request = format!(
        "POST /api/anabranch/v1/projects/shop/branches/production/export HTTP/1.1\r\nHost: localhost\r\n\
         Connection: close\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let request = crate::world::with_key(&client_socket, &request);
    let text = tokio::task::spawn_blocking(move || {
        use std::io::{Read, Write};
        let mut stream = std::os::unix::net::UnixStream::connect(client_socket).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    })
    .await
    .unwrap();
    assert!(text.contains(r#"{"finished":true}"#), "{text}");
    assert!(dir.join("global/pg_control").metadata().unwrap().len() > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_says_what_each_branch_occupies_and_pages_follow_one_another() {
    let world = World::with_shop().await;
    for id in ["dev", "test"] {
        world.branch(id, FOREVER).await;
    }
    let session = world.connect("dev").await;
    session.batch_execute("CREATE TABLE t AS SELECT generate_series(1, 20000) i; CHECKPOINT").await.unwrap();
    drop(session);
    world.post("/projects/shop/branches/dev/endpoints/primary/suspend", "").await;
    let mut listed = Vec::new();
    let mut path = "/projects/shop/branches?page_size=2".to_owned();
    loop {
        let page = world.get(&path).await.body;
        listed.extend(page["branches"].as_array().unwrap().clone());
        let Some(token) = page["next_page_token"].as_str() else { break };
        path = format!("/projects/shop/branches?page_size=2&page_token={token}");
    }
    let names: Vec<&str> = listed.iter().map(|branch| branch["branch_id"].as_str().unwrap()).collect();
    assert_eq!(names, ["production", "dev", "test"]);
    let number = |value: &Value| value.as_u64().unwrap_or_else(|| panic!("{value} is no number"));
    let [production, dev, test] = [0, 1, 2].map(|place: usize| {
        let (status, own) = (&listed[place]["status"], &listed[place]["anabranch"]);
        [&own["own_bytes"], &own["shared_bytes"], &status["logical_size_bytes"]].map(number)
    });
    // Own, shared, logical.
    assert!(dev[0] > test[0] + 500_000 && dev[2] > test[2] + 500_000, "{dev:?} {test:?}");
    assert!([production[1], dev[1], test[1]].iter().all(|shared| *shared > 1 << 20), "{listed:?}");
    let usage = world.get("/api/anabranch/v1/projects/shop/branches/dev/usage").await.body;
    assert_eq!(["own_bytes", "shared_bytes", "logical_bytes"].map(|name| number(&usage[name])), dev);

    for id in ["dev", "test"] {
        world.delete(&format!("/projects/shop/branches/{id}?purge=true")).await;
    }
    let usage = world.get("/api/anabranch/v1/projects/shop/branches/production/usage").await.body;
    assert_eq!(usage["shared_bytes"], 0, "nobody else is there");
    let metrics = world.control.metrics_text().await.unwrap();
    for name in ["anabranch_branch_shared_bytes 0", "anabranch_process_open_fds", "anabranch_process_threads"]
    {
        assert!(metrics.contains(name), "{name}: {metrics}");
    }
}
