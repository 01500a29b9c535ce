//! Many branches on a small host: computes take turns, and every client gets its own.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use compute::engine::ComputeState;
use control::Hosting;

use crate::world::World;

const FOREVER: &str = r#"{"spec":{"no_expiry":true}}"#;

/// As one compute of the default size is reckoned before it was measured.
const COMPUTE: u64 = 160 << 20;

/// No server takes less, bytes.
const LEAST: u64 = 32 << 20;

fn room_for(computes: u64) -> Hosting {
    Hosting { memory: Some(computes * COMPUTE), ..Hosting::default() }
}

/// The postmasters that run, looked at one after the other.
fn postmasters(world: &World) -> HashSet<i32> {
    let pid = |key: &_| match world.engine.state(key).unwrap() {
        ComputeState::Running { pid } => Some(pid),
        _ => None,
    };
    world.engine.keys().unwrap().iter().filter_map(pid).collect()
}

fn awake(world: &World) -> usize {
    postmasters(world).len()
}

/// What is reckoned, held against the processes. The postmasters of two looks ran at the moment between
/// them, when the reckoning was read: how long a look takes does not matter.
fn reckoned(world: &World) -> usize {
    let before = postmasters(world);
    let room = world.control.room();
    let ran = before.intersection(&postmasters(world)).count();
    assert!(ran <= room.computes, "{ran} computes ran, and {} were known of", room.computes);
    assert!(room.used <= room.memory, "{} of {} bytes were given out", room.used, room.memory);
    // At first by the default size; a compute that was measured takes less, and then more of them fit.
    assert!(room.used >= room.computes as u64 * LEAST, "{} bytes for {} computes", room.used, room.computes);
    ran
}

/// Ends the watcher with the test, however that ends: the runtime waits for it.
struct Ended(Arc<AtomicBool>);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sixty_branches_for_sixty_clients_with_room_for_four() {
    const BRANCHES: usize = 60;
    // However slow the machine: who waits too long is another test's.
    let hosting = Hosting { patience: Duration::from_secs(1800), ..room_for(4) };
    let world = Arc::new(World::hosted(hosting).await.shop().await);
    let mut configs = Vec::new();
    for number in 0..BRANCHES {
        world.branch(&format!("b{number}"), FOREVER).await;
        configs.push(world.config(&format!("b{number}")).await);
    }
    let done = Arc::new(AtomicBool::new(false));
    let _ended = Ended(Arc::clone(&done));
    let watcher = {
        let (world, done) = (Arc::clone(&world), Arc::clone(&done));
        tokio::task::spawn_blocking(move || {
            let mut most = 0;
            while !done.load(Ordering::Relaxed) {
                most = most.max(reckoned(&world));
                std::thread::sleep(Duration::from_millis(5));
            }
            most
        })
    };
    let clients: Vec<_> = configs
        .into_iter()
        .enumerate()
        .map(|(number, config)| {
            let tls = world.tls();
            tokio::spawn(async move {
                let (client, connection) = config.connect(tls).await.unwrap();
                let connection = tokio::spawn(connection);
                let text = format!("CREATE TABLE mine AS SELECT {number} AS a");
                client.batch_execute(&text).await.unwrap();
                let row = client.query_one("SELECT a FROM mine", &[]).await.unwrap();
                assert_eq!(row.get::<_, i32>(0), number as i32);
                drop(client);
                connection.await.unwrap().unwrap();
            })
        })
        .collect();
    for client in clients {
        client.await.unwrap();
    }
    done.store(true, Ordering::Relaxed);
    let most = watcher.await.unwrap();
    assert!(most >= 2, "{most} computes were awake at once");
    assert_eq!(world.control.room().waiting, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_host_says_so_after_a_while_and_goes_on() {
    let hosting = Hosting { patience: Duration::from_millis(300), ..room_for(1) };
    let world = World::hosted(hosting).await.shop().await;
    let busy = world.connect("production").await;
    busy.batch_execute("BEGIN").await.unwrap();
    world.branch("dev", FOREVER).await;
    let error = world.try_connect("dev").await.err().unwrap();
    let db = error.as_db_error().unwrap();
    assert_eq!((db.severity(), db.code().code()), ("FATAL", "57P03"));
    assert!(
        db.message().starts_with("branch \"shop/dev\" cannot be reached: this host has no room"),
        "{}",
        db.message()
    );
    assert!(db.hint().unwrap().contains("--memory"));
    let wake = "/api/anabranch/v1/projects/shop/branches/dev/endpoints/primary/wake";
    let answer = world.post(wake, "").await;
    assert_eq!((answer.status, answer.body["error_code"].as_str()), (503, Some("TEMPORARILY_UNAVAILABLE")));
    assert_eq!(
        busy.query_one("SELECT 1", &[]).await.unwrap().get::<_, i32>(0),
        1,
        "the busy one was left alone"
    );
    busy.batch_execute("COMMIT").await.unwrap();
    drop(busy);
    // Its connection may take a moment to end, and this host is impatient.
    while world.try_connect("dev").await.is_err() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(awake(&world), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_that_do_nothing_make_room_after_the_grace_time() {
    let world = World::hosted(room_for(1)).await.shop().await;
    let idle = world.connect("production").await;
    idle.simple_query("SELECT 1").await.unwrap();
    world.branch("dev", FOREVER).await;
    let config = world.config("dev").await;
    let tls = world.tls();
    let waiting = tokio::spawn(async move {
        let (client, connection) = config.connect(tls).await.unwrap();
        tokio::spawn(connection);
        client.simple_query("SELECT 1").await.unwrap();
    });
    while world.control.room().waiting == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    idle.simple_query("SELECT 1").await.unwrap();
    world.clock.pass(Duration::from_secs(11));
    waiting.await.unwrap();
    assert!(idle.simple_query("SELECT 1").await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_for_a_branch_that_is_deleted_is_told() {
    let world = World::hosted(room_for(1)).await.shop().await;
    let busy = world.connect("production").await;
    busy.batch_execute("BEGIN").await.unwrap();
    world.branch("dev", FOREVER).await;
    let config = world.config("dev").await;
    let tls = world.tls();
    let waiting = tokio::spawn(async move { config.connect(tls).await.err().unwrap() });
    while world.control.room().waiting == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    world.delete("/projects/shop/branches/dev?purge=true").await.response();
    let error = waiting.await.unwrap();
    assert!(error.as_db_error().unwrap().message().ends_with("was deleted"), "{error:?}");
    assert_eq!(world.control.room().waiting, 0);
}
