//! Backups of a home with a real daemon, under load; restored into other homes.
#![allow(clippy::unwrap_used, missing_docs)]

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use client::{BackupReport, Client, Remote};
use e2e::daemon::{Daemon, Home, PATIENCE, PROJECT};
use e2e::lab::{run, text};
use e2e::processes::Random;
use e2e::tpcb::{self, Load};
use serde_json::{Value, json};

const CLIENTS: usize = 2;
const SCALE: i32 = 1;

fn new_home() -> Home {
    Home::new(Path::new(env!("CARGO_BIN_EXE_ana")))
}

fn create(daemon: &Daemon, id: &str, parent: &str) -> String {
    let path = format!("/projects/{PROJECT}/branches?branch_id={id}");
    let source = format!("projects/{PROJECT}/branches/{parent}");
    let spec = json!({"spec": {"no_expiry": true, "source_branch": source}});
    let made = daemon.call("POST", &path, &spec.to_string());
    assert!(made.is_success(), "{made:?}");
    daemon.listed(id).unwrap().uid
}

fn suspend(daemon: &Daemon, id: &str) {
    let path = format!("/api/anabranch/v1/projects/{PROJECT}/branches/{id}/endpoints/primary/suspend");
    let answer = daemon.call("POST", &path, "");
    assert_eq!(answer.status, 200, "{answer:?}");
}

fn make_project(daemon: &Daemon) -> String {
    let made = daemon.call("POST", &format!("/projects?project_id={PROJECT}"), "{}");
    assert!(made.is_success(), "{made:?} {:#?}", daemon.said());
    daemon.listed("production").unwrap().uid
}

/// Backs up by the command.
fn back_up(home: &Home, dir: &Path) -> BackupReport {
    let (code, printed, said) = home.ana(&["backup", dir.to_str().unwrap(), "--json"]);
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("keys and passwords"), "{said}");
    serde_json::from_str(&printed).unwrap()
}

/// Restores into the new home `to`.
fn restore(to: &Home, dir: &Path) {
    let (code, _, said) = to.ana(&["backup", "restore", dir.to_str().unwrap()]);
    assert_eq!(code, 0, "{said}");
}

/// A copy of a backup as it is now: ordinary files only, so `cp` does.
fn copy_of(dir: &Path, name: &str) -> PathBuf {
    let to = dir.with_file_name(name);
    let status = std::process::Command::new("cp").arg("-R").arg(dir).arg(&to).status().unwrap();
    assert!(status.success());
    to
}

async fn mark(home: &Home, daemon: &Daemon, id: &str, value: i32) {
    daemon.wake(id);
    let admin = home.connect_as_admin(&daemon.listed(id).unwrap().uid).await;
    run(&admin, "create table if not exists mark (value int)").await;
    run(&admin, &format!("insert into mark values ({value})")).await;
    run(&admin, &format!("update accounts set filler = 'own {value}' where aid <= 500")).await;
}

async fn marks(home: &Home, daemon: &Daemon, id: &str) -> String {
    daemon.wake(id);
    let admin = home.connect_as_admin(&daemon.listed(id).unwrap().uid).await;
    let filler = "select count(*) from accounts where filler like 'own%'";
    let own = text(&admin, filler).await;
    assert_eq!(own, "500", "{id}");
    text(&admin, "select string_agg(value::text, ' ' order by value) from mark").await
}

/// What the root of a backup that began after `least` and ended before `most` must hold.
struct Bounds {
    least: Vec<u64>,
    most: Vec<u64>,
}

async fn check(home: &Home, daemon: &Daemon, id: &str, bounds: &Bounds) {
    daemon.wake(id);
    let admin = home.connect_as_admin(&daemon.listed(id).unwrap().uid).await;
    tpcb::check(&admin, &bounds.least, &bounds.most).await;
    // As any client comes: address, certificate, role and token.
    let owner = daemon.connect(id).await;
    assert_eq!(text(&owner, "select 41 + 1").await, "42");
}

fn address(daemon: &Daemon) -> String {
    let status = daemon.call("GET", "/api/anabranch/v1/status", "");
    format!("http://{}", status.body["http"].as_str().unwrap())
}

/// The daemon as somebody with a token finds it.
fn remote(daemon: &Daemon, token: &str) -> Client {
    Client::at(Remote::new(&address(daemon), Some(token.to_owned())).unwrap())
}

/// Directories of branches that only a backup knows.
fn left_over(home: &Home) -> Vec<String> {
    let names = fs::read_dir(home.data().join("branches")).unwrap();
    let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.starts_with("backup-")).collect()
}

struct Shop {
    home: Home,
    daemon: Daemon,
    production: String,
    load: Load,
    token: String,
}

/// A root under load, a child with writes of its own, one that sleeps, one that was never started, one that
/// was deleted and can come back.
async fn shop() -> Shop {
    let home = new_home();
    let daemon = home.start(None);
    let production = make_project(&daemon);
    let admin = home.connect_as_admin(&production).await;
    tpcb::fill(&admin, SCALE).await;
    for (id, value) in [("awake", 1), ("asleep", 2), ("gone", 3)] {
        create(&daemon, id, "production");
        mark(&home, &daemon, id, value).await;
    }
    suspend(&daemon, "asleep");
    let deleted = daemon.call("DELETE", &format!("/projects/{PROJECT}/branches/gone"), "");
    assert!(deleted.is_success(), "{deleted:?}");
    let password = home.admin_password(&production);
    let load = tpcb::start_with(&home.sockets(&production), &password, CLIENTS, SCALE, 0).await;
    while load.acknowledged().iter().any(|count| *count < 20) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    create(&daemon, "never", "production");
    let token = daemon.call("POST", "/api/anabranch/v1/tokens", r#"{"name": "kept"}"#);
    let token = token.body["token"].as_str().unwrap_or_else(|| panic!("{token:?}")).to_owned();
    Shop { home, daemon, production, load, token }
}

/// Everything of the backup `dir` is as it was, in a home made of it.
async fn check_restored(dir: &Path, bounds: &Bounds, awake: &str, token: &str, ca: &[u8]) -> (Home, Daemon) {
    let other = new_home();
    restore(&other, dir);
    // On another machine the server may lie elsewhere.
    for branch in fs::read_dir(other.data().join("branches")).unwrap() {
        let path = branch.unwrap().path().join("server");
        let mut record: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        record["bin_dir"] = json!("/nowhere/bin");
        fs::write(&path, record.to_string()).unwrap();
    }
    let daemon = other.start(None);
    // Cut before it was ever started here: it is recovered with the server of this machine.
    create(&daemon, "fresh", "production");
    for id in ["production", "never", "fresh"] {
        let bounds =
            if id == "never" { &Bounds { least: vec![0; CLIENTS], ..*bounds_of(bounds) } } else { bounds };
        check(&other, &daemon, id, bounds).await;
    }
    assert_eq!(marks(&other, &daemon, "awake").await, awake);
    assert_eq!(marks(&other, &daemon, "asleep").await, "2");
    assert!(daemon.listed("gone").is_none());
    let back = daemon.call("POST", &format!("/projects/{PROJECT}/branches/gone/undelete"), "");
    assert!(back.is_success(), "{back:?}");
    assert_eq!(marks(&other, &daemon, "gone").await, "3");
    remote(&daemon, token).status().await.unwrap();
    assert_eq!(fs::read(other.data().join("keys/ca.pem")).unwrap(), ca);
    other.assert_tidy(&daemon.rows());
    (other, daemon)
}

fn bounds_of(bounds: &Bounds) -> Box<Bounds> {
    Box::new(Bounds { least: bounds.least.clone(), most: bounds.most.clone() })
}

#[tokio::test(flavor = "multi_thread")]
async fn every_branch_comes_back_as_of_its_cut_and_what_did_not_change_is_copied_once() {
    let Shop { home, daemon, production, load, token } = shop().await;
    let dir = home.path.join("backup");
    let back_up_between = || {
        let least = load.acknowledged();
        let report = back_up(&home, &dir);
        (report, Bounds { least, most: load.sent() })
    };

    let (first, bounds) = back_up_between();
    assert_eq!((first.number, first.branches, first.branches_copied), (1, 5, 5));
    assert_eq!(first.layers_copied, first.layers);
    assert_eq!(left_over(&home), Vec::<String>::new());
    for (path, mode) in [("", 0o700), ("backup.json", 0o600), ("layers", 0o700), ("branches", 0o700)] {
        let facts = fs::metadata(dir.join(path)).unwrap();
        assert_eq!(facts.permissions().mode() & 0o777, mode, "{path}");
    }
    for place in ["layers", "branches"] {
        for file in fs::read_dir(dir.join(place)).unwrap() {
            let facts = file.unwrap().metadata().unwrap();
            assert!(facts.is_file() && facts.nlink() == 1 && facts.mode() & 0o777 == 0o600);
        }
    }
    let kept = copy_of(&dir, "kept");

    mark(&home, &daemon, "awake", 10).await;
    let (second, later_bounds) = back_up_between();
    assert_eq!((second.number, second.branches), (2, 5));
    // The root under load and the child that was written to have a layer more each; the others none.
    assert_eq!((second.branches_copied, second.layers_copied), (2, 2), "{second:?}");
    assert_eq!(second.layers, first.layers + 2);
    let later = copy_of(&dir, "later");
    load.stop().await;

    let ca = fs::read(home.data().join("keys/ca.pem")).unwrap();
    let refused = remote(&daemon, &token).backup(&dir, |_, _| {}).await.unwrap_err().to_string();
    assert!(refused.contains("own host"), "{refused}");
    let audit = daemon.call("GET", "/api/anabranch/v1/audit?action=backup", "");
    let said: Vec<&str> =
        audit.body["entries"].as_array().unwrap().iter().map(|row| row["result"].as_str().unwrap()).collect();
    assert_eq!(said, ["done", "done"], "{audit:?}");
    home.assert_tidy(&daemon.rows());

    // They run and rest, but for what a server does by itself now and then.
    let rests = || back_up(&home, &dir).layers_copied == 0;
    assert!((0..20).any(|_| rests()), "each backup gives a running branch another layer");
    assert_eq!(marks(&home, &daemon, "awake").await, "1 10");

    // Nothing runs and nothing is written: nothing is sealed and nothing copied but rows and keys.
    suspend(&daemon, "production");
    suspend(&daemon, "awake");
    let third = back_up(&home, &dir);
    let manifest = home.data().join("branches").join(&production).join("manifest");
    let before = fs::read(&manifest).unwrap();
    let fourth = back_up(&home, &dir);
    assert_eq!((fourth.branches_copied, fourth.layers_copied), (0, 0), "{third:?} {fourth:?}");
    assert!(fs::read(&manifest).unwrap() == before, "a backup of a branch at rest gave it another layer");

    // A purged branch: what only it needed leaves the backup.
    let purged = daemon.call("DELETE", &format!("/projects/{PROJECT}/branches/asleep?purge=true"), "");
    assert!(purged.is_success(), "{purged:?}");
    let fifth = back_up(&home, &dir);
    assert_eq!((fifth.branches, fifth.layers_copied), (4, 0));
    assert!(fifth.layers < fourth.layers, "{fourth:?} {fifth:?}");
    let files = fs::read_dir(dir.join("layers")).unwrap().count() as u64;
    assert_eq!(files, fifth.layers);
    drop(daemon);

    let (other, restored) = check_restored(&kept, &bounds, "1", &token, &ca).await;
    // The restored home knows its layers again, so a backup of it copies what is new.
    let again = back_up(&other, &kept);
    assert!(again.number == 2 && again.layers_copied < again.layers, "{again:?}");
    drop(restored);
    drop(other);
    let (verified, _, said) = home.ana(&["backup", "verify", dir.to_str().unwrap()]);
    assert_eq!(verified, 0, "{said}");
    check_restored(&later, &later_bounds, "1 10", &token, &ca).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_damaged_or_in_the_way_is_refused() {
    let home = new_home();
    let daemon = home.start(None);
    let production = make_project(&daemon);
    let admin = home.connect_as_admin(&production).await;
    run(&admin, "create table ledger as select generate_series(1, 1000) i").await;
    let dir = home.path.join("backup");
    let refused = |arguments: &[&str]| {
        let (code, _, said) = home.ana(arguments);
        assert_eq!(code, 2, "{arguments:?}: {said}");
        said
    };
    let to_backup = dir.to_str().unwrap();
    let inside = home.data().join("backup");
    assert!(refused(&["backup", inside.to_str().unwrap()]).contains("lies in the home"));
    let foreign = home.path.join("foreign");
    fs::create_dir(&foreign).unwrap();
    fs::write(foreign.join("thesis.txt"), "precious").unwrap();
    assert!(refused(&["backup", foreign.to_str().unwrap()]).contains("thesis.txt"));
    back_up(&home, &dir);
    {
        // As another backup into it would.
        let held = File::options().write(true).open(dir.join("backup.lock")).unwrap();
        held.lock().unwrap();
        assert!(refused(&["backup", to_backup]).contains("another command"));
        assert!(refused(&["backup", "verify", to_backup]).contains("another command"));
    }
    assert!(refused(&["backup", "restore", to_backup]).contains("not empty"));

    let other = new_home();
    let in_other = |arguments: &[&str]| {
        let (code, _, said) = other.ana(arguments);
        assert_eq!(code, 2, "{arguments:?}: {said}");
        said
    };
    let mut files = Vec::new();
    for place in ["layers", "branches", "."] {
        for entry in fs::read_dir(dir.join(place)).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            if name.ends_with(".layer") || name.ends_with(".pack") {
                files.push(dir.join(place).join(name));
            }
        }
    }
    assert!(files.len() >= 3, "{files:?}");
    let mut random = Random::new();
    for path in &files {
        let name = path.file_name().unwrap().to_str().unwrap();
        let at = random.below(fs::metadata(path).unwrap().len());
        let file = File::options().read(true).write(true).open(path).unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[byte[0] ^ 0x20], at).unwrap();
        let said = in_other(&["backup", "restore", to_backup]);
        assert!(said.contains(name) && said.contains("damaged"), "byte {at} of {name}: {said}");
        assert!(!other.data().exists(), "half a home");
        let said = in_other(&["backup", "verify", to_backup]);
        assert!(said.contains(name), "{said}");
        file.write_all_at(&byte, at).unwrap();
    }
    // A file that is missing.
    let aside = home.path.join("aside");
    fs::rename(&files[0], &aside).unwrap();
    let said = in_other(&["backup", "restore", to_backup]);
    assert!(said.contains(files[0].file_name().unwrap().to_str().unwrap()), "{said}");
    fs::rename(&aside, &files[0]).unwrap();
    restore(&other, &dir);
    let restored = other.start(None);
    restored.wake("production");
    let admin = other.connect_as_admin(&production).await;
    assert_eq!(text(&admin, "select sum(i) from ledger").await, "500500");
    // Another home's backup is not written into.
    let stranger = new_home();
    let its = stranger.start(None);
    make_project(&its);
    let (code, _, said) = stranger.ana(&["backup", to_backup]);
    assert!(code == 2 && said.contains("another home"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_backup_leaves_the_one_before_and_the_next_goes_on() {
    let Shop { home, mut daemon, production, load, .. } = shop().await;
    let dir = home.path.join("backup");
    let mut random = Random::new();
    let measured = || {
        let begin = Instant::now();
        back_up(&home, &dir);
        begin.elapsed()
    };
    let all = measured();
    let changes = measured();
    let mut number = 2;
    let mut killed = 0;
    for round in 0..8 {
        // Into a directory of its own half of the time, where everything is still to be copied.
        let fresh = home.path.join(format!("fresh-{round}"));
        let (target, usually) = if round % 2 == 0 { (&fresh, all) } else { (&dir, changes) };
        let body = json!({"dir": target}).to_string();
        let after = Duration::from_micros(random.below(usually.as_micros() as u64));
        let coming = daemon.begin_call("POST", "/api/anabranch/v1/backup", &body);
        tokio::time::sleep(after).await;
        daemon.kill();
        // A stream that was cut off is no answer.
        drop(coming);
        let done = fs::read(target.join("backup.json")).ok().map(|text| {
            let manifest: Value = serde_json::from_slice(&text).unwrap();
            manifest["number"].as_u64().unwrap()
        });
        println!("round {round}: killed after {after:?} of {usually:?}, then there is {done:?}");
        if target == &dir {
            assert!(done == Some(number) || done == Some(number + 1), "{done:?} after {number}");
            killed += u32::from(done == Some(number));
        } else {
            killed += u32::from(done.is_none());
        }
        if done.is_some() {
            let (code, _, said) = home.ana(&["backup", "verify", target.to_str().unwrap()]);
            assert_eq!(code, 0, "{said}");
        }
        daemon = home.start(None);
        assert_eq!(left_over(&home), Vec::<String>::new());
        home.assert_tidy(&daemon.rows());
        let least = load.acknowledged();
        let report = back_up(&home, target);
        let bounds = Bounds { least, most: load.sent() };
        assert_eq!(report.number, done.unwrap_or(0) + 1);
        if target == &dir {
            number = report.number;
        }
        // What a killed backup left is not taken for whole by the next one.
        if round < 2 {
            let other = new_home();
            restore(&other, target);
            let restored = other.start(None);
            check(&other, &restored, "production", &bounds).await;
        }
        // Layers, packs, lock and manifest: nothing else stays.
        let parts = fs::read_dir(target).unwrap().chain(fs::read_dir(target.join("layers")).unwrap());
        let parts: Vec<_> = parts.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        assert!(parts.iter().all(|name| !name.ends_with(".part")), "{parts:?}");
    }
    assert!(killed > 0, "no backup was cut short");
    load.stop().await;
    let admin = home.connect_as_admin(&production).await;
    assert_eq!(text(&admin, "select 1").await, "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn branches_that_come_and_go_meanwhile_are_whole_or_not_there() {
    let home = new_home();
    let daemon = home.start(None);
    make_project(&daemon);
    let dir = home.path.join("backup");
    create(&daemon, "stays", "production");
    let other = new_home();
    for round in 0..3 {
        let path = |id: &str| format!("/projects/{PROJECT}/branches/{id}");
        for n in 0..4 {
            create(&daemon, &format!("goes-{round}-{n}"), "production");
        }
        let body = json!({"dir": dir}).to_string();
        let coming = daemon.begin_call("POST", "/api/anabranch/v1/backup", &body);
        for n in 0..4 {
            let purged =
                daemon.call("DELETE", &format!("{}?purge=true", path(&format!("goes-{round}-{n}"))), "");
            assert!(purged.is_success(), "{purged:?}");
            create(&daemon, &format!("comes-{round}-{n}"), "stays");
        }
        // The answer is a stream of lines, which ends with the backup.
        let _ = coming.recv_timeout(PATIENCE).unwrap();
        let manifest: Value = serde_json::from_slice(&fs::read(dir.join("backup.json")).unwrap()).unwrap();
        assert_eq!(manifest["number"], round + 1, "{:#?}", daemon.said());
    }
    restore(&other, &dir);
    let restored = other.start(None);
    let rows = restored.rows();
    assert!(rows.len() >= 2 + 2 * 4, "{rows:?}");
    other.assert_tidy(&rows);
    for row in rows.iter().filter(|row| row.live) {
        restored.wake(&row.id);
        let owner = restored.connect(&row.id).await;
        assert_eq!(text(&owner, "select 41 + 1").await, "42");
        drop(owner);
        suspend(&restored, &row.id);
    }
}
