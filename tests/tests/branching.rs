//! Branches of a running server: made, isolated, deleted.

use e2e::lab::{Lab, key, run, text};

#[tokio::test(flavor = "multi_thread")]
async fn a_child_has_what_the_parent_had_and_goes_its_own_way() {
    let lab = Lab::with_main();
    let main = lab.connect("main").await;
    run(&main, "create table t(i int primary key, v text); insert into t select i, 'main' from generate_series(1, 1000) i").await;
    lab.branch("main", "dev");
    let dev = lab.connect("dev").await;
    assert_eq!(text(&dev, "select count(*) from t").await, "1000");
    run(&dev, "update t set v = 'dev' where i <= 500; create table only_dev(i int)").await;
    run(&dev, "vacuum t").await;
    run(&main, "delete from t where i > 900").await;
    assert_eq!(
        text(&main, "select count(*) filter (where v = 'dev') || ' ' || count(*) from t").await,
        "0 900"
    );
    assert_eq!(
        text(&dev, "select count(*) filter (where v = 'dev') || ' ' || count(*) from t").await,
        "500 1000"
    );
    lab.branch("dev", "grandchild");
    let grandchild = lab.connect("grandchild").await;
    assert_eq!(
        text(&grandchild, "select count(*) filter (where v = 'dev') || ' ' || count(*) from t").await,
        "500 1000"
    );
    assert_eq!(text(&grandchild, "select count(*) from only_dev").await, "0");
    drop((dev, grandchild));
    lab.stop("dev");
    lab.start("dev");
    let dev = lab.connect("dev").await;
    assert_eq!(
        text(&dev, "select count(*) filter (where v = 'dev') || ' ' || count(*) from t").await,
        "500 1000"
    );
    assert!(lab.engine.usage(&key("dev")).unwrap().own_bytes > 0);
}
