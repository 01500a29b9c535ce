//! A scrub beside everything that goes on: no page that PostgreSQL wrote is taken for damage, and no layer
//! that comes, is sealed or goes meanwhile.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use compute::engine::{ScrubEvent, ScrubFinding, ScrubTotals, StopMode};
use e2e::lab::{Lab, key, run};
use e2e::tpcb;

fn scrub(lab: &Lab) -> (Vec<ScrubFinding>, ScrubTotals) {
    let mut found = Vec::new();
    let totals = lab.engine.scrub(&mut |event| {
        if let ScrubEvent::Found(finding) = event {
            found.push(finding);
        }
        true
    });
    (found, totals.unwrap())
}

/// Pages of every kind that a server writes.
const EVERYTHING: &str = "
    create table t(i int, v text, p point, a int[]) with (fillfactor=50);
    insert into t select i, repeat(md5(i::text), 10), point(i, i), array[i] from generate_series(1, 3000) i;
    create index on t(i); create index on t using hash(i); create index on t using brin(i);
    create index on t using gin(a); create index on t using gist(p); create index on t using spgist(p);
    insert into t select i, string_agg(md5((i * j)::text), ''), point(i, i), array[i]
        from generate_series(1, 20) i, generate_series(1, 2000) j group by i;
    create unlogged table u as select * from generate_series(1, 1000);
    create table emptied as select * from generate_series(1, 5000);
    truncate emptied;
    create table shorter as select i from generate_series(1, 20000) i;
    delete from shorter where i > 100;
    create sequence s; select nextval('s')";

#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_a_server_writes_is_taken_for_damage() {
    let lab = Lab::with_main();
    let main = lab.connect("main").await;
    run(&main, EVERYTHING).await;
    run(&main, "vacuum").await;
    run(&main, "create database other").await;
    run(&main, "checkpoint").await;
    lab.branch("main", "dev");
    let dev = lab.connect("dev").await;
    run(&dev, "update t set i = i + 1 where i % 7 = 0; delete from t where i % 5 = 0").await;
    run(&dev, "vacuum full t").await;
    run(&dev, "vacuum shorter").await;
    run(&dev, "reindex table t; drop table emptied").await;
    run(&dev, "drop database other").await;
    run(&dev, "checkpoint").await;
    lab.branch("dev", "grandchild");
    // Killed, recovered, and cut again.
    drop(dev);
    lab.engine.stop(&key("dev"), StopMode::Kill).unwrap();
    lab.engine.create_child(&key("dev"), &key("later")).unwrap();
    lab.engine.maintain().unwrap();
    let (found, totals) = scrub(&lab);
    assert_eq!(found, []);
    assert!(totals.sealed >= 4 && totals.branches == 4, "{totals:?}");
    // What the listener does not want goes no further.
    let mut asked = 0;
    let stopped = lab.engine.scrub(&mut |_| {
        asked += 1;
        false
    });
    assert!(stopped.unwrap().bytes < totals.bytes && asked == 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scrub_beside_cuts_and_deletes_under_load_finds_nothing() {
    let lab = Lab::new();
    lab.engine.create_root(&key("main"), &lab.server, e2e::lab::PASSWORD).unwrap();
    lab.start_with("main", &[("shared_buffers", "16MB"), ("checkpoint_timeout", "30s")]);
    let main = lab.connect("main").await;
    tpcb::fill(&main, 1).await;
    run(&main, "checkpoint").await;
    let load = tpcb::start(&lab.engine.socket_dir(&key("main")), 2, 1, 0).await;
    let done = AtomicBool::new(false);
    let scrubs = std::thread::scope(|scope| {
        let scrubbing = scope.spawn(|| {
            let mut scrubs = 0;
            while !done.load(Ordering::Relaxed) {
                assert_eq!(scrub(&lab).0, []);
                scrubs += 1;
            }
            scrubs
        });
        for number in 0..12 {
            let child = |number: i32| key(&format!("child-{number}"));
            lab.engine.create_child(&key("main"), &child(number)).unwrap();
            if number % 3 == 2 {
                lab.engine.create_child(&child(number), &key(&format!("deep-{number}"))).unwrap();
            }
            lab.engine.maintain().unwrap();
            if number >= 2 {
                lab.engine.delete(&child(number - 2)).unwrap();
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        done.store(true, Ordering::Relaxed);
        scrubbing.join().unwrap()
    });
    load.stop().await;
    assert!(scrubs > 0);
    assert_eq!(scrub(&lab).0, []);
}
