//! Sizes: what a compute gets, and that a change is felt at once and by nobody's connection.

use std::io::Write;
use std::time::Duration;

use compute::engine::BranchKey;
use serde_json::Value;

use crate::world::World;

const PRIMARY: &str =
    "/projects/shop/branches/production/endpoints?endpoint_id=primary&replace_existing=true";

async fn resize(world: &World, min: f64, max: f64) {
    let body = format!(
        r#"{{"spec":{{"endpoint_type":"ENDPOINT_TYPE_READ_WRITE","autoscaling_limit_min_cu":{min},"autoscaling_limit_max_cu":{max}}}}}"#
    );
    let answer = world.post(PRIMARY, &body).await;
    assert_eq!(answer.status, 200, "{answer:?}");
}

async fn compute(world: &World) -> (Value, Value) {
    let body = world.get("/api/anabranch/v1/status").await.body;
    (body["host"].clone(), body["computes"][0].clone())
}

async fn key(world: &World) -> BranchKey {
    let body = world.get("/projects/shop/branches/production").await.body;
    BranchKey::new(body["uid"].as_str().unwrap()).unwrap()
}

/// Two sessions that would take two processors for as long as they are let.
async fn work(world: &World) -> Vec<(tokio_postgres::Client, tokio::task::JoinHandle<()>)> {
    let mut sessions = Vec::new();
    for _ in 0..2 {
        let client = world.connect("production").await;
        let worker = world.connect("production").await;
        let pid: i32 = worker.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0);
        let busy = tokio::spawn(async move {
            let loops = "DO $$ BEGIN LOOP PERFORM 1; END LOOP; END $$";
            assert!(worker.batch_execute(loops).await.is_err(), "it ends only when it is cancelled");
            assert_eq!(worker.query_one("SELECT 1", &[]).await.unwrap().get::<_, i32>(0), 1);
        });
        client.batch_execute(&format!("CREATE TEMP TABLE worker AS SELECT {pid} AS pid")).await.unwrap();
        sessions.push((client, busy));
    }
    sessions
}

#[tokio::test(flavor = "multi_thread")]
async fn half_a_unit_is_half_a_processor_and_a_larger_one_is_felt_at_once() {
    let world = World::with_shop().await;
    resize(&world, 0.5, 0.5).await;
    let sessions = work(&world).await;
    let (host, line) = compute(&world).await;
    assert_eq!((line["cu"].as_f64(), line["max_cu"].as_f64()), (Some(0.5), Some(0.5)), "{line}");
    if host["sizes_enforced"] == true {
        let key = key(&world).await;
        let load = || world.engine.load(&key).unwrap();
        let (before, begin) = (load(), std::time::Instant::now());
        wait_for(|| load().throttled >= before.throttled + 8).await;
        let (after, elapsed) = (load(), begin.elapsed().as_micros() as u64);
        // What was saved up over two periods of 0.1 s may come on top.
        let allowed = elapsed / 2 + 200_000;
        assert!(after.used_us - before.used_us <= allowed, "{before:?} {after:?} in {elapsed} µs");

        // Four times as much, without a new connection.
        resize(&world, 2.0, 2.0).await;
        assert_eq!(compute(&world).await.1["cu"], 2);
        let held = load();
        wait_for(|| load().used_us >= held.used_us + 500_000).await;
        let processors = std::thread::available_parallelism().unwrap().get();
        if processors <= 2 {
            assert!(load().throttled <= held.throttled + 1, "still held back");
        }
    } else {
        let line = b"SKIPPED: sizes of computes: this machine gives no control groups to this user\n";
        std::io::stderr().write_all(line).unwrap();
    }
    for (client, busy) in sessions {
        client.query("SELECT pg_cancel_backend(pid) FROM worker", &[]).await.unwrap();
        busy.await.unwrap();
    }
}

async fn wait_for(done: impl Fn() -> bool) {
    while !done() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_size_is_given_to_the_compute_that_runs() {
    let world = World::with_shop().await;
    let client = world.connect("production").await;
    let started = "SELECT pg_postmaster_start_time()::text";
    let before: String = client.query_one(started, &[]).await.unwrap().get(0);
    for cu in [0.5, 1.0, 2.0, 4.0, 64.0] {
        let path = "/projects/shop/branches/production/endpoints/primary?update_mask=\
                    spec.autoscaling_limit_min_cu,spec.autoscaling_limit_max_cu";
        let spec =
            format!(r#"{{"spec":{{"autoscaling_limit_min_cu":{cu},"autoscaling_limit_max_cu":{cu}}}}}"#);
        world.patch(path, &spec).await.response();
        assert_eq!(compute(&world).await.1["cu"].as_f64(), Some(cu));
    }
    assert_eq!(client.query_one(started, &[]).await.unwrap().get::<_, String>(0), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn work_makes_a_compute_grow_inside_its_range() {
    let world = World::with_shop().await;
    resize(&world, 0.5, 2.0).await;
    let sessions = work(&world).await;
    let (host, line) = compute(&world).await;
    assert_eq!(line["cu"].as_f64(), Some(1.0), "a range around its size changes nothing");
    if host["sizes_enforced"] == true {
        let mut cu = 1.0;
        while cu < 2.0 {
            tokio::time::sleep(Duration::from_millis(1100)).await;
            world.control.compute_round().await.unwrap();
            cu = compute(&world).await.1["cu"].as_f64().unwrap();
        }
    }
    for (client, busy) in sessions {
        client.query("SELECT pg_cancel_backend(pid) FROM worker", &[]).await.unwrap();
        busy.await.unwrap();
    }
    world.post("/api/anabranch/v1/projects/shop/branches/production/endpoints/primary/suspend", "").await;
    world.connect("production").await.simple_query("SELECT 1").await.unwrap();
    assert_eq!(compute(&world).await.1["cu"].as_f64(), Some(0.5), "it starts at the smallest");
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_go_by_the_largest_size() {
    let world = World::with_shop().await;
    let show = "SHOW max_connections";
    let client = world.connect("production").await;
    assert_eq!(client.query_one(show, &[]).await.unwrap().get::<_, &str>(0), "209");
    resize(&world, 0.5, 4.0).await;
    world.branch("dev", r#"{"spec":{"no_expiry":true}}"#).await;
    world.post("/api/anabranch/v1/projects/shop/branches/production/endpoints/primary/suspend", "").await;
    let client = world.connect("production").await;
    assert_eq!(client.query_one(show, &[]).await.unwrap().get::<_, &str>(0), "839");
}
