//! What programs that a superuser of one branch starts can reach of the others, and of the daemon.

use std::io::Write;
use std::path::{Path, PathBuf};

use compute::confinement::available;
use e2e::lab::{Lab, run, text};
use tokio_postgres::Client;

/// Whether nothing is confined here; then a line tells what was not tested. It goes around the test
/// harness, which would keep it to itself.
fn is_impossible(what: &str) -> bool {
    if available() {
        return false;
    }
    let line = format!("SKIPPED: {what}: this kernel has no Landlock\n");
    std::io::stderr().write_all(line.as_bytes()).unwrap();
    true
}

/// What a command said that the server ran for its superuser, with its exit code at the end.
async fn shell(client: &Client, command: &str) -> String {
    assert!(!command.contains('\''));
    run(client, "create temp table if not exists said(line text); truncate said").await;
    let copy = format!(
        "copy said from program '({command}) 2>&1; echo $?' with (format csv, delimiter E'\\x01', quote E'\\x02')"
    );
    run(client, &copy).await;
    text(client, "select string_agg(line, ' ') from said").await
}

async fn refused(client: &Client, command: &str) {
    let said = shell(client, command).await;
    assert!(said.contains("ermission denied") || said.contains("not permitted"), "{command}: {said}");
}

fn any_file_in(directory: &Path) -> PathBuf {
    let mut directories = vec![directory.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory).unwrap().map(Result::unwrap) {
            match entry.file_type().unwrap() {
                kind if kind.is_dir() => directories.push(entry.path()),
                _ => return entry.path(),
            }
        }
    }
    panic!("no file");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_superuser_of_one_branch_reaches_nothing_of_another() {
    if is_impossible("confinement of computes") {
        return;
    }
    let lab = Lab::with_main();
    run(
        &lab.connect("main").await,
        "create table secret as select repeat('s', 900) from generate_series(1, 100)",
    )
    .await;
    // So that a segment of the log is whole, and shared.
    run(&lab.connect("main").await, "checkpoint").await;
    run(&lab.connect("main").await, "create table filler as select 1; select pg_switch_wal()").await;
    run(&lab.connect("main").await, "insert into filler select 2").await;
    lab.branch("main", "dev");
    lab.branch("main", "other");
    lab.start("dev");
    let other = lab.start("other");
    run(&lab.connect("other").await, "update secret set repeat = 'hidden'; checkpoint").await;
    let dev = lab.connect("dev").await;

    let top = lab.layers("other").pop().unwrap();
    let hidden = [
        lab.data_directory("other").join("postmaster.pid"),
        lab.branch_directory("other").join("manifest"),
        lab.branch_directory("main").join("gate"),
        top.join("log"),
        any_file_in(&top.join("f")),
        any_file_in(&lab.layers("main").pop().unwrap()),
    ];
    for path in hidden {
        assert!(path.exists());
        refused(&dev, &format!("cat {}", path.display())).await;
        refused(&dev, &format!("echo x >> {}", path.display())).await;
    }
    for directory in [lab.home(), lab.home().join("branches"), lab.home().join("layers")] {
        refused(&dev, &format!("ls {}", directory.display())).await;
        refused(&dev, &format!("touch {}/new", directory.display())).await;
    }
    refused(&dev, &format!("cat /proc/{other}/environ")).await;
    refused(&dev, &format!("kill -0 {other}")).await;
    // What it shares it may read, not write; what the daemon trusts is not its own to write.
    let shared = any_file_in(&lab.layers("dev")[0].join("f"));
    refused(&dev, &format!("echo x >> {}", shared.display())).await;
    let shared = lab.shared_segments("dev");
    let (segment, (inode, before)) = shared.first_key_value().expect("no segment is shared");
    let segment = lab.data_directory("dev").join("pg_wal").join(segment);
    assert!(shell(&dev, &format!("cat {} > /dev/null", segment.display())).await.ends_with('0'));
    refused(&dev, &format!("echo x >> {}", segment.display())).await;
    refused(&dev, &format!("rm {}/wal/*", lab.branch_directory("dev").display())).await;
    let at_parent = &lab.shared_segments("main")[&segment.file_name().unwrap().to_str().unwrap().to_owned()];
    assert_eq!(at_parent, &(*inode, before.clone()), "a child changed its parent's log");
    for name in ["manifest", "server"] {
        let path = lab.branch_directory("dev").join(name);
        assert!(shell(&dev, &format!("cat {} > /dev/null", path.display())).await.ends_with('0'));
        refused(&dev, &format!("echo x >> {}", path.display())).await;
    }

    // Nor does the daemon reach them for it, through links that lie where it works.
    let manifest = lab.branch_directory("other").join("manifest");
    let before = std::fs::read(&manifest).unwrap();
    let trash = lab.layers("dev").pop().unwrap().join("trash");
    let links = format!(
        "rm -rf {trash}; ln -s {other} {trash}; ln -s {other}/manifest {own}/pg_wal/anabranch.zeros",
        trash = trash.display(),
        other = lab.branch_directory("other").display(),
        own = lab.data_directory("dev").display()
    );
    assert_eq!(shell(&dev, &links).await, "0");
    for _ in 0..3 {
        run(
            &dev,
            "create table if not exists wal(v text); insert into wal select repeat(md5(i::text), 50)
                   from generate_series(1, 4000) i",
        )
        .await;
        lab.engine.maintain().unwrap();
    }
    assert_eq!(std::fs::read(&manifest).unwrap(), before, "the daemon followed a link");
    assert_eq!(shell(&dev, &format!("rm {}", trash.display())).await, "0");

    // Its own it reaches, before and after cuts, and the rest of the machine as anybody does.
    let own = lab.data_directory("dev").join("postmaster.pid");
    assert!(shell(&dev, &format!("cat {}", own.display())).await.ends_with(" 0"));
    assert!(shell(&dev, "cat /etc/passwd > /dev/null").await.ends_with('0'));
    for child in ["one", "two"] {
        run(&dev, &format!("create table from_{child} as select i from generate_series(1, 1000) i")).await;
        lab.branch("dev", child);
        run(&dev, "checkpoint").await;
        lab.start(child);
        let client = lab.connect(child).await;
        assert_eq!(text(&client, &format!("select count(*) from from_{child}")).await, "1000");
        assert_eq!(text(&client, "select count(*) from secret").await, "100");
        refused(&client, &format!("ls {}", lab.branch_directory("dev").display())).await;
    }
}

#[cfg(debug_assertions)]
#[test]
fn planted_a_compute_that_is_not_confined() {
    if is_impossible("a compute that is not confined") {
        return;
    }
    let test = "a_superuser_of_one_branch_reaches_nothing_of_another";
    store::fault::must_be_noticed(store::fault::Fault::Unconfined, test, "postmaster.pid");
}
